"""How retrieval is scored and measured, against numbers worked out by hand."""

import math
from pathlib import Path

import pytest

from ragtune.backends.lance_index import LanceIndex
from ragtune.evaluation.retrieval import RetrievalRun, measure_retrieval, passage_gains, ranking_metrics
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Chunk, Hit, QAPair
from ragtune.settings import IndexSettings
from tests.support.counting_embedder import CountingEmbedder


def chunk(name: str, text: str, document: str = "") -> Chunk:
    return Chunk(
        id=name, document_id=document or name, source="folder:docs", title=name, heading_path=(), text=text, position=0
    )


def pair(question: str, answer: str, chunk_id: str, document: str = "", answerable: bool = True) -> QAPair:
    return QAPair(
        id=question,
        question=question,
        answer=answer,
        kind="kind",
        document_id=document or chunk_id,
        chunk_id=chunk_id,
        answerable=answerable,
    )


def test_a_single_right_passage_at_rank_three_counts_a_third_and_half() -> None:
    scores = ranking_metrics([0, 0, 1, 0], [1])
    assert (scores["recall_1"], scores["recall_5"], scores["recall_10"]) == (0, 1, 1)
    assert scores["mrr_10"] == pytest.approx(1 / 3)
    assert scores["ndcg_10"] == pytest.approx(1 / math.log2(4))


def test_graded_relevance_is_discounted_against_the_best_order() -> None:
    scores = ranking_metrics([1, 0, 3], [3, 1, 2])
    best = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert scores["ndcg_10"] == pytest.approx((1 + 3 / math.log2(4)) / best)
    assert scores["recall_10"] == pytest.approx(2 / 3)
    assert ranking_metrics([3, 2, 1], [1, 2, 3])["ndcg_10"] == pytest.approx(1)


def test_what_ranks_below_the_tenth_place_does_not_count() -> None:
    assert set(ranking_metrics([*[0] * 10, 1], [1]).values()) == {0.0}


def test_only_the_first_passage_with_the_answer_counts() -> None:
    hits = [
        Hit(chunk("x", "Nothing."), 3),
        Hit(chunk("b2", "It lasts thirty minutes.", "b"), 2),
        Hit(chunk("b1", "x", "b"), 1),
    ]
    assert passage_gains(pair("How long?", "thirty minutes", "b1", "b"), hits) == [0, 1, 0]


CHUNKS = [chunk("cart", "The cart adds up the prices."), chunk("login", "A session lasts thirty minutes.")]
RUN = RetrievalRun("r", "i", "d")
LIMIT = 5


@pytest.fixture
def retriever(tmp_path: Path) -> Retriever:
    index, embedder = LanceIndex(tmp_path / "index", "words", 32), CountingEmbedder()
    assert index.size_bytes() == 0
    update_index(index, embedder, CHUNKS)
    return Retriever(index, embedder, IndexSettings())


def test_a_measurement_counts_the_pairs_whose_passage_is_in_the_index(retriever: Retriever) -> None:
    pairs = [
        pair("How long does a session last?", "thirty minutes", "login"),
        pair("What adds up prices?", "cart", "cart"),
        pair("What is gone?", "it", "vanished"),
        pair("What is the weather?", "", "cart", answerable=False),
    ]
    row = measure_retrieval(retriever, CHUNKS, pairs, RUN, LIMIT)
    assert (row.n, row.chunks, row.dataset_sha256) == (2, 2, "d")
    assert (row.recall_10, row.recall_1) == (1.0, 1.0)
    assert 0 < row.p50_ms <= row.p95_ms
    assert row.index_bytes == sum(p.stat().st_size for p in Path(retriever.index.location).rglob("*") if p.is_file())


def test_without_test_questions_there_are_times_but_no_metrics(retriever: Retriever) -> None:
    row = measure_retrieval(retriever, CHUNKS, [], RUN, LIMIT)
    assert (row.n, row.dataset_sha256) == (0, "")
    assert math.isnan(row.recall_10)
    assert row.p50_ms > 0


def test_a_measurement_asks_a_fixed_number_of_questions_that_can_be_answered(retriever: Retriever) -> None:
    unanswerable = pair("What is the weather?", "", "cart", answerable=False)
    pairs = [unanswerable, *(pair(f"What adds up prices {number}?", "cart", "cart") for number in range(9))]
    assert measure_retrieval(retriever, CHUNKS, pairs, RUN, LIMIT).n == 5
