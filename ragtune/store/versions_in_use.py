"""The versions that a running experiment or shadow deployment needs, so that nobody deletes them."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ragtune.settings import Settings
from ragtune.store.experiments import ExperimentStore
from ragtune.store.shadows import ShadowStore

_SQLITE = "sqlite:///"


def versions_in_use(settings: Settings) -> frozenset[str]:
    """Return the versions of the running experiment and of the running shadow deployment."""
    url = settings.feedback_url
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).is_file():
        return frozenset()
    kinds: tuple[Callable[[str], ExperimentStore | ShadowStore], ...] = (ExperimentStore, ShadowStore)
    versions: set[str] = set()
    for kind in kinds:
        with closing(kind(url)) as store:
            running = store.running()
            versions |= set(running.design.versions) if running else set()
    return frozenset(versions)
