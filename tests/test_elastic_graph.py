"""The whole path over a real Elasticsearch: every asset, an update, a swap of the index, and `ragtune ask`."""

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ragtune.backends.catalog import embedder_from, retriever_over, search_index_from
from ragtune.backends.elastic_index import ElasticIndex
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Chunk, RetrievalRow
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_assets import dataset, feedback, knowledge
from ragtune_assets.evaluation import retrieval_scores
from ragtune_assets.materialize import materialize
from ragtune_assets.resources import build_resources
from tests import test_graph
from tests.support.counting_embedder import CountingEmbedder
from tests.support.elastic import elastic_url
from tests.support.fake_engine import RunningFake
from tests.support.gateway_process import Gateway

pytestmark = pytest.mark.elasticsearch

BELL = "The harbour bell rings {} times before the ferry leaves.\n"


@dataclass
class Home:
    """A home whose graph was built up to `retrieval_scores`, and the folder of its own documents."""

    settings: Settings
    docs: Path
    instance: dg.DagsterInstance
    assets: dg.Definitions

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.settings.home / "artifacts")

    def build(self, *select: str) -> None:
        materialize(self.assets, self.store, self.instance, *([list(select)] if select else []))

    def metadata(self, name: str) -> dict[str, object]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(name))
        return {key: value.value for key, value in event.asset_materialization.metadata.items()}

    def passages(self) -> list[Chunk]:
        chunks = self.store.read_records(self.store.current("chunks"), Chunk)
        return [chunk for chunk in chunks if not chunk.duplicate_of]


def index_behind(url: str, alias: str) -> str:
    """Return the one index that readers of the alias see."""
    from elasticsearch import Elasticsearch

    with Elasticsearch(url) as client:
        (index,) = client.indices.get_alias(name=alias)
    return index


def existing_indices(url: str, alias: str) -> set[str]:
    """Return the indices that hold passages for the alias."""
    from elasticsearch import Elasticsearch

    with Elasticsearch(url) as client:
        return {index for index in client.indices.get(index=f"{alias}-*") if not index.endswith("-writer")}


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    """A name for the index, unused before and after."""
    from elasticsearch import Elasticsearch

    url, name = elastic_url(), f"test-{uuid.uuid4().hex[:8]}"
    yield name
    with Elasticsearch(url) as client:
        client.indices.delete(index=[*client.indices.get(index=f"{name}*")] or "none", ignore_unavailable=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("elastic")
    docs = folder / "docs"
    docs.mkdir()
    (docs / "bell.txt").write_text(BELL.format("three"))
    (docs / "gate.txt").write_text("The north gate is locked at dusk by the caretaker.\n")
    settings = load_settings(
        {
            "home": folder / "home",
            "sources": ["package:filelock", f"folder:{docs}"],
            "index": {"backend": "elasticsearch", "url": elastic_url(), "name": name},
            "dataset": {"min_pairs": 50},
        }
    )
    embedder = embedder_from(settings)
    index = search_index_from(settings, embedder)
    reviews, feedback_log = ReviewStore(settings.feedback_url), FeedbackLog(settings.feedback_url)
    own = {"index": index, "retriever": retriever_over(index, embedder, settings)}
    own |= {"reviews": reviews, "feedback_log": feedback_log}
    assets = dg.Definitions(
        assets=[*dg.load_assets_from_modules([knowledge, dataset, feedback]), retrieval_scores],
        resources={**build_resources(settings), **own},
    )
    with (
        closing(index),
        closing(reviews),
        closing(feedback_log),
        dg.DagsterInstance.ephemeral() as instance,
    ):
        built = Home(settings, docs, instance, assets)
        built.build()
        yield built


def test_the_graph_is_built_and_its_retrieval_measured(home: Home) -> None:
    (row,) = home.store.read_records(home.store.current("retrieval_scores"), RetrievalRow)
    assert row.chunks == len(home.passages()) == home.metadata("search_index")["rows"]
    assert home.metadata("search_index")["back end"] == "elasticsearch"
    assert row.n > 0
    # Of 40 questions about the pages of a small package at most a few are missed; without a hit it would be 0.
    assert row.recall_10 > 0.8
    assert row.index_bytes > 0


def asked(gateway: Gateway, question: str) -> dict[str, Any]:
    """Return what `ragtune ask --json` prints."""
    done = gateway.cli("ask", question, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ask_answers_and_follows_an_update_of_one_document(home: Home, tmp_path: Path) -> None:
    index = home.settings.index
    engine = RunningFake("fake", tmp_path / "engine.log")
    gateway = Gateway(
        home.settings.home,
        RAGTUNE_INDEX__BACKEND="elasticsearch",
        RAGTUNE_INDEX__URL=index.url,
        RAGTUNE_INDEX__NAME=index.name,
        RAGTUNE_ENGINE__BACKEND="openai",
        RAGTUNE_ENGINE__URL=f"{engine.url}/v1",
        RAGTUNE_ENGINE__API_KEY=engine.api_key,
        RAGTUNE_ENGINE__MODEL="fake",
    )
    question = "How often does the harbour bell ring before the ferry leaves?"
    try:
        gateway.wait()
        before = asked(gateway, question)
        assert "rings three times" in before["answer"]
        (citation,) = before["citations"]
        assert citation["source"] == "bell.txt"
        (home.docs / "bell.txt").write_text(BELL.format("seven"))
        home.build("raw_documents", "chunks", "search_index")
        assert home.metadata("search_index")["embedded"] == 1
        after = asked(gateway, question)
        assert "rings seven times" in after["answer"]
        assert (after["citations"][0]["page"], after["citations"][0]["start"]) == (0, 0)
    finally:
        gateway.kill()
        engine.stop()


def test_a_new_embedder_gets_an_index_of_its_own_which_replaces_the_old_one_in_one_step(
    home: Home, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings, name = home.settings, f"{home.settings.index.name}-swap"
    own = settings.model_copy(update={"index": settings.index.model_copy(update={"name": name}), "home": tmp_path})
    embedder, other = embedder_from(own), CountingEmbedder("other")
    old = search_index_from(own, embedder)
    new = ElasticIndex(own.index.url, "", name, other.name, other.dimension, scratch=tmp_path / "other")
    request.addfinalizer(new.close)
    request.addfinalizer(old.close)
    passages = home.passages()
    update_index(old, embedder, passages)
    before = index_behind(own.index.url, name)
    seen: list[int] = []

    def look(what: str, done: int, total: int) -> None:
        seen.append(len(old.search_text("north gate", 1)))

    update_index(new, other, passages, look)
    after = index_behind(own.index.url, name)
    assert set(seen[:-1]) == {1}, "readers of the old index find passages while the new one is written"
    assert before != after
    assert old.versions() == {}
    (hit,) = Retriever(new, other, own.index).search("Who locks the north gate?", 1, "text")
    assert hit.chunk in passages
    assert hit.chunk.origin == "gate.txt"
    update_index(new, other, passages[1:])
    assert existing_indices(own.index.url, name) == {after}, "the next update removes the old index"


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.engine
@pytest.mark.skipif(not test_graph.ENGINE.is_file(), reason=f"there is no engine environment at {test_graph.ENGINE}")
def test_every_asset_is_built(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{name}-whole"
    over = {"RAGTUNE_INDEX__BACKEND": "elasticsearch", "RAGTUNE_INDEX__URL": elastic_url(), "RAGTUNE_INDEX__NAME": own}
    for variable, value in {**test_graph.SMALL, **over, "RAGTUNE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(variable, value)
    whole = test_graph.Home(load_settings(), child_environment())
    assert len(test_graph.built(whole.materialize())) == 37
    chunks = whole.store.read_records(whole.ref("chunks"), Chunk)
    embedder = embedder_from(whole.settings)
    with closing(search_index_from(whole.settings, embedder)) as index:
        assert set(index.versions()) == {chunk.id for chunk in chunks if not chunk.duplicate_of}
    assert not list((tmp_path / "index").rglob("*.lance")), "nothing is in the embedded index"
    assert len(whole.registry.versions()) == 1
