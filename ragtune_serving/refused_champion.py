"""Says whether the gateway refuses the champion: its files fail verification or its engine does not start.

Another model answers then. Metrics and alerts show it, and a tag of the version in the registry shows it to MLflow and
to the asset graph. The gateway tries the champion again once it was fixed.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragtune.errors import RegistryError
from ragtune.store.registry import ModelRegistry

_STARTS = 2
"""Failed starts after which a champion counts as refused. Chosen by hand: the first may fail because the old engine
takes the memory, and then the new one takes its place."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RefusedChampion:
    """The version that the registry names, the one that answers instead, and why."""

    version: str
    served: str
    reason: str


def refused_champion(status: Mapping[str, Any]) -> RefusedChampion | None:
    """Return the champion that is not served, or None if it is served or on its way; `status` is that of `Engines`."""
    champion, coming = status.get("champion"), status.get("next") or {}
    serving = status.get("live") or coming
    if not champion or not serving or serving["version"] == champion:
        return None
    if coming.get("version") == champion:
        failed = coming["restarts"] >= _STARTS and coming["error"]
        reason = f"Its engine does not start: {coming['error']}" if failed else ""
    else:
        reason = status.get("error") or ""
    return RefusedChampion(champion, serving["version"], reason) if reason else None


class RefusalNote:
    """Keeps the registry's note about the champion up to date.

    It is written if the champion becomes refused, or is refused no longer. A registry that cannot be written to is an
    error in the log and is tried again: it must not keep anybody from being served.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._written: tuple[str, bool] | None = None
        self._error = ""

    def update(self, status: Mapping[str, Any]) -> None:
        """Write the note if what it says has changed."""
        refused, champion = refused_champion(status), status["champion"]
        if champion is None or (champion, refused is not None) == self._written:
            return
        try:
            self._registry.refuse(champion, refused.reason if refused else "")
        except (RegistryError, OSError) as error:
            if str(error) != self._error:
                logger.error("the registry cannot note whether version %s is refused: %s", champion, error)
            self._error = str(error)
            return
        self._written, self._error = (champion, refused is not None), ""
