"""A home with a tiny base model and a small dataset, in which the assets that are tracked in MLflow really run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.answer.lines import LineSimilarity
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.records import ArtifactRef, SplitItem
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.definitions import MODULES
from ragtune_assets.materialize import materialize
from ragtune_assets.resources import build_resources
from tests.support.answering_fakes import ListRetriever, WordEvidence
from tests.support.api_pages import articles, chunk, shop
from tests.support.counting_embedder import CountingEmbedder
from tests.support.tiny_llama import make_tiny_llama

ASSETS = dg.load_assets_from_modules(MODULES)
TRAINING = {
    "minutes": 5,
    "max_steps": 12,
    "batch_size": 2,
    "together": 1,
    "rank": 4,
    "alpha": 8,
    "learning_rate": 0.01,
    "max_tokens": 4096,
    "replay_share": 0,
    "checkpoint_every": 4,
    "validation_examples": 2,
}


class Searches(ListRetriever):
    """Finds passages by shared words, for several questions at once."""

    def search_many(self, texts: Sequence[str], limit: int) -> list[list[Any]]:
        return [self.search(text, limit) for text in texts]


class TrackedHome:
    """A home whose dataset and base model are artefacts already, so that `run` builds what follows them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        chosen: dict[str, Any] = {
            "home": folder,
            "threads": 1,
            "device": "cpu",
            "training": TRAINING,
            "quantization": {"group_size": 32, "calibration_samples": 4, "serve": "w8a8"},
            "answer": {"passages": 1, "shown_words": 20, "pointed_out": 0},
        }
        self.settings = load_settings({**chosen, **settings})
        self.store = ArtifactStore(self.settings.home / "artifacts")
        self.instance = dg.DagsterInstance.ephemeral()
        chunks = [chunk(page) for page in [*shop(), *articles(30)]]
        splits = ("train", "train", "train", "validation", "test", "gate")
        pairs = ExtractiveWriter(4).write(chunks)[:36]
        items = [SplitItem(pair, splits[place % 6], pair.document_id) for place, pair in enumerate(pairs)]
        for name, records in (
            ("chunks", chunks),
            ("qa_splits", items),
            ("replay_questions", []),
            ("preference_examples", []),
        ):
            self.store.set_current(self.store.write_records(name, records))
        with self.store.stage("base_model") as scratch:
            make_tiny_llama(scratch)
            self.store.set_current(self.store.commit("base_model", scratch))
        self.resources = {
            **build_resources(self.settings),
            "retriever": Searches(chunks),
            "similarity": LineSimilarity(CountingEmbedder()),
            "evidence": WordEvidence(),
        }

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.settings.tracking_url)

    def run(self, *names: str) -> str:
        """Build these assets again, whatever their state, and return the id of the last run of Dagster."""
        definitions = dg.Definitions(ASSETS, resources=self.resources)
        materialize(definitions, self.store, self.instance, names, force=True)
        return self.instance.get_runs(limit=1)[0].run_id

    def ref(self, name: str) -> ArtifactRef:
        ref = self.store.current(name)
        assert ref is not None, name
        return ref

    def runs(self, condition: str = "") -> list[Any]:
        """Return the runs of MLflow that fulfil the condition, the newest first."""
        experiment = self.client.get_experiment_by_name(self.settings.tracking.experiment)
        return list(self.client.search_runs([experiment.experiment_id], condition))

    def newest(self, asset: str) -> Any:
        """Return the newest run of an asset."""
        return self.runs(f"tags.`ragtune.asset` = '{asset}'")[0]

    def files(self, run_id: str) -> Path:
        """Return the folder with the files of a run."""
        return self.settings.home / "mlflow" / "runs" / run_id / "artifacts"
