"""A home whose dataset is built in the process of a test, without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.backends.lance_index import LanceIndex
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import QAPair, SplitItem
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets import dataset, feedback, knowledge
from ragtune_assets.materialize import materialize
from ragtune_assets.resources import build_resources
from tests.support.counting_embedder import CountingEmbedder


class Home:
    """A home whose graph up to the published dataset is built in this process, with a quick embedder."""

    def __init__(self, folder: Path, sources: Sequence[str] = ("package:filelock",), **changes: Any) -> None:
        self.settings = load_settings({"home": folder, "sources": sources, "dataset": changes})
        self.store = ArtifactStore(self.settings.home / "artifacts")
        self.reviews = ReviewStore(self.settings.feedback_url)
        self.instance = dg.DagsterInstance.ephemeral()
        embedder = CountingEmbedder()
        index = LanceIndex(self.settings.home / "index", embedder.name, embedder.dimension)
        resources = {"embedder": embedder, "index": index, "reviews": self.reviews}
        resources["retriever"] = Retriever(index, embedder, self.settings.index)
        self.definitions = dg.Definitions(
            assets=dg.load_assets_from_modules([knowledge, dataset, feedback]),
            resources={**build_resources(self.settings), **resources},
        )

    def run(self) -> list[str]:
        """Build what is stale and return the names of the assets."""
        return materialize(self.definitions, self.store, self.instance)

    def pairs(self, name: str = "qa_dataset") -> list[QAPair]:
        """Return the pairs of an asset."""
        return self.store.read_records(self.store.current(name), QAPair)

    def items(self) -> list[SplitItem]:
        """Return the pairs with their splits."""
        return self.store.read_records(self.store.current("qa_splits"), SplitItem)

    def splits(self) -> dict[str, str]:
        """Return {document id: split}."""
        return {item.pair.document_id: item.split for item in self.items()}

    def metadata(self, name: str) -> dict[str, Any]:
        """Return what the page of an asset shows."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(name))
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def close(self) -> None:
        """Close the databases."""
        self.reviews.close()
        self.instance.dispose()
