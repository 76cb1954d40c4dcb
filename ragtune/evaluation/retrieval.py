"""Measures retrieval: how high the right passages are ranked, and how long a search takes."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from ragtune.evaluation.benchmark import percentile
from ragtune.evaluation.metrics import holds_answer
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Chunk, Hit, QAPair, RetrievalRow

DEPTH = 10
"""Hits of a search that are scored: the deepest rank of the metrics below."""
# Titles that are searched for if there are no test questions, so that at least the times are measured. Chosen by hand.
_TITLES = 50

RANKING_METRICS = ("recall_1", "recall_5", "recall_10", "mrr_10", "ndcg_10")


@dataclass(frozen=True, slots=True)
class RetrievalRun:
    """What a measurement of retrieval belongs to: the run, and the hashes of the index and the dataset."""

    run_id: str
    index_sha256: str
    dataset_sha256: str


def ranking_metrics(gains: Sequence[float], ideal: Sequence[float]) -> dict[str, float]:
    """Return recall at 1, 5 and 10, reciprocal rank and nDCG of the first ten hits, each from 0 to 1.

    nDCG is that of Järvelin and Kekäläinen 2002 with linear gains, as trec_eval computes it.

    Args:
        gains: relevance of each hit, best hit first; 0 for an irrelevant one.
        ideal: relevance of every relevant passage, at least one, in any order.
    """
    first_rank = next((rank for rank, gain in enumerate(gains[:DEPTH], 1) if gain > 0), 0)
    best = _discounted_sum(sorted(ideal, reverse=True))
    recalls = {f"recall_{k}": sum(gain > 0 for gain in gains[:k]) / len(ideal) for k in (1, 5, 10)}
    return {**recalls, "mrr_10": 1 / first_rank if first_rank else 0.0, "ndcg_10": _discounted_sum(gains) / best}


def passage_gains(pair: QAPair, hits: Sequence[Hit]) -> list[float]:
    """Return 1 for the first hit that holds the pair's answer and 0 for the others, because one passage is enough."""
    matches = [holds_answer(pair, hit.chunk.document_id, hit.chunk.id, hit.chunk.text) for hit in hits]
    return [float(match and not any(matches[:index])) for index, match in enumerate(matches)]


def measure_retrieval(
    retriever: Retriever,
    chunks: Sequence[Chunk],
    pairs: Sequence[QAPair],
    run: RetrievalRun,
    limit: int,
) -> RetrievalRow:
    """Return how well and how fast the index finds the passages of the first `limit` pairs that it can answer.

    Unanswerable pairs and pairs whose passage is no longer in the index do not count. If none remain, titles are
    searched for instead; n is then 0 and the metrics are NaN. Each time is that of one search with the embedding of
    its question. A first search is not measured, because it also loads the embedder.
    """
    present = {chunk.id for chunk in chunks}
    usable = (pair for pair in pairs if pair.answerable and pair.chunk_id in present)
    scored_pairs = list(islice(usable, limit))
    questions = [pair.question for pair in scored_pairs] or [chunk.title for chunk in chunks[:_TITLES]]
    retriever.search("warm up", DEPTH)
    times: list[float] = []
    scores: list[dict[str, float]] = []
    for position, question in enumerate(questions):
        started = time.perf_counter()
        hits = retriever.search(question, DEPTH)
        times.append((time.perf_counter() - started) * 1000)
        if scored_pairs:
            scores.append(ranking_metrics(passage_gains(scored_pairs[position], hits), [1.0]))
    means = {
        metric: sum(score[metric] for score in scores) / len(scores) if scores else math.nan
        for metric in RANKING_METRICS
    }
    return RetrievalRow(
        run_id=run.run_id,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        index_sha256=run.index_sha256,
        dataset_sha256=run.dataset_sha256 if scores else "",
        embedder=retriever.embedder.name,
        chunks=len(present),
        n=len(scores),
        p50_ms=percentile(times, 50),
        p95_ms=percentile(times, 95),
        index_bytes=retriever.index.size_bytes(),
        **means,
    )


def _discounted_sum(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:DEPTH], 1))
