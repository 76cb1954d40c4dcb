"""The resources of assets: settings, the artefact store, and the back ends that `catalog` chooses.

Everything heavy is built when a step first asks for it. Tests pass their own dictionary with the
same keys.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from ragtune.errors import RegistryError
from ragtune.records import ArtifactRef
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets import tracking
from ragtune_assets.exclusive_executor import end_with_the_run


class ArtifactIO(dg.IOManager):
    """Hands references from asset to asset; the data stays where the store put it."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    def handle_output(self, context: dg.OutputContext, obj: ArtifactRef) -> None:
        """Make the reference the newest of its asset."""
        if obj.name != context.asset_key.to_user_string():
            raise RegistryError(f"Asset {context.asset_key.to_user_string()} returned an artefact named '{obj.name}'.")
        self.store.set_current(obj)

    def load_input(self, context: dg.InputContext) -> ArtifactRef:
        """Return the newest reference; raise RegistryError if the asset was never built."""
        name = context.asset_key.to_user_string()
        ref = self.store.current(name)
        if ref is None:
            raise RegistryError(
                f"Asset '{name}' has no artefact yet.", fix=f"run `ragtune materialize --select {name}`"
            )
        self.store.folder(ref)
        return ref


def artifact_io(store: ArtifactStore) -> ArtifactIO:
    """Return the IO manager of a step; every step has one, so this is also where its process is tied to the run."""
    end_with_the_run()
    return ArtifactIO(store)


def build_resources(settings: Settings) -> dict[str, Any]:
    """Return the resources of the code location."""
    store = ArtifactStore(settings.home / "artifacts")
    return {
        "io_manager": dg.IOManagerDefinition(lambda _context: artifact_io(store)),
        "settings": settings,
        "home": settings.home,
        "store": store,
        "embedder": _lazy(lambda: _catalog().embedder_from(settings)),
        "index": _lazy(lambda: _index(settings)),
        "retriever": _lazy(lambda: _retriever(settings)),
        "similarity": _lazy(lambda: _catalog().line_similarity_from(settings)),
        "tokens": _lazy(lambda: _catalog().token_embedder_from(settings)),
        "evidence": _lazy(lambda: _catalog().evidence_from(settings)),
        "engine": _lazy(lambda: _catalog().engine_from(settings)),
        "registry": _lazy(lambda: _registry(settings)),
        "warehouse": _lazy(lambda: _warehouse(settings)),
        "feedback_log": _lazy(lambda: _feedback_log(settings)),
        "reviews": _lazy(lambda: _reviews(settings)),
        "experiments": _lazy(lambda: _experiments(settings)),
        "shadows": _lazy(lambda: _shadows(settings)),
        "studies": _lazy(lambda: _studies(settings)),
        tracking.RESOURCE: tracking.resource(settings, store),
    }


def _lazy(build: Callable[[], Any]) -> dg.ResourceDefinition:
    return dg.ResourceDefinition(lambda _context: build())


def _catalog() -> Any:
    from ragtune.backends import catalog

    return catalog


def _index(settings: Settings) -> Any:
    catalog = _catalog()
    return catalog.search_index_from(settings, catalog.embedder_from(settings))


def _retriever(settings: Settings) -> Any:
    """Return a retriever without a search log, which is for questions of users, not of training and tests."""
    catalog = _catalog()
    return catalog.retriever_over(_index(settings), catalog.embedder_from(settings), settings)


def _registry(settings: Settings) -> Any:
    from ragtune.store.registry import ModelRegistry

    return ModelRegistry(settings)


def _warehouse(settings: Settings) -> Any:
    from ragtune.store.warehouse import Warehouse

    return Warehouse(settings.home / "warehouse.duckdb")


def _feedback_log(settings: Settings) -> Any:
    from ragtune.store.feedback import FeedbackLog

    return FeedbackLog(settings.feedback_url)


def _reviews(settings: Settings) -> Any:
    from ragtune.dataset.reviews.store import ReviewStore

    return ReviewStore(settings.feedback_url)


def _experiments(settings: Settings) -> Any:
    from ragtune.store.experiments import ExperimentStore

    return ExperimentStore(settings.feedback_url)


def _shadows(settings: Settings) -> Any:
    from ragtune.store.shadows import ShadowStore

    return ShadowStore(settings.feedback_url)


def _studies(settings: Settings) -> Any:
    from ragtune.evaluation.studies.store import StudyStore

    return StudyStore(settings.feedback_url)
