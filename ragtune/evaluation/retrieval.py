"""Measures retrieval: how high the right passages rank, and how long a search takes."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from ragtune.evaluation.benchmark import percentile
from ragtune.evaluation.metrics import holds_answer
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Chunk, Hit, QAPair, RetrievalRow

DEPTH = 10
"""Ranks that count: the usual cutoff of BEIR (Thakur et al. 2021)."""
_TITLES = 50
"""Titles searched for if there is no question; only times are measured then. Chosen by hand; not sensitive."""

RANKING_METRICS = ("recall_1", "recall_5", "recall_10", "mrr_10", "ndcg_10")


def ranking_metrics(gains: Sequence[float], ideal: Sequence[float]) -> dict[str, float]:
    """Return recall at 1, 5 and 10, reciprocal rank and nDCG within the first ten places, each from 0 to 1.

    `gains` are the relevances of the hits, best hit first, 0 for none; `ideal` those of all that is relevant,
    at least one. nDCG is that of Järvelin and Kekäläinen 2002 with linear gains, as trec_eval counts.
    """
    first = next((rank for rank, gain in enumerate(gains[:DEPTH], 1) if gain > 0), 0)
    best = _discounted(sorted(ideal, reverse=True))
    recalls = {f"recall_{k}": sum(gain > 0 for gain in gains[:k]) / len(ideal) for k in (1, 5, 10)}
    return {**recalls, "mrr_10": 1 / first if first else 0.0, "ndcg_10": _discounted(gains) / best}


def passage_gains(pair: QAPair, hits: Sequence[Hit]) -> list[float]:
    """Return 1 for the first hit that holds the pair's answer and 0 for the others: one passage is enough."""
    right = [holds_answer(pair, hit.chunk.document_id, hit.chunk.id, hit.chunk.text) for hit in hits]
    return [float(is_right and not any(right[:rank])) for rank, is_right in enumerate(right)]


def measure_retrieval(
    retriever: Retriever,
    chunks: Sequence[Chunk],
    pairs: Sequence[QAPair],
    *,
    run_id: str,
    index_sha256: str,
    dataset_sha256: str,
    limit: int,
) -> RetrievalRow:
    """Return how well and how fast the index answers the first `limit` of the pairs that it can answer.

    Unanswerable pairs and pairs whose passage is gone do not count. If none is left, titles are searched for, `n` is 0
    and the shares are not a number. A time is that of one search with its embedding; the first search is not timed.
    """
    present = {chunk.id for chunk in chunks}
    usable = (pair for pair in pairs if pair.answerable and pair.chunk_id in present)
    measured = list(islice(usable, limit))
    retriever.search("warm up", DEPTH)
    times: list[float] = []
    scores: list[dict[str, float]] = []
    for question in [pair.question for pair in measured] or [chunk.title for chunk in chunks[:_TITLES]]:
        started = time.perf_counter()
        hits = retriever.search(question, DEPTH)
        times.append((time.perf_counter() - started) * 1000)
        if measured:
            scores.append(ranking_metrics(passage_gains(measured[len(scores)], hits), [1.0]))
    means = {
        metric: sum(score[metric] for score in scores) / len(scores) if scores else math.nan
        for metric in RANKING_METRICS
    }
    return RetrievalRow(
        run_id=run_id,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        index_sha256=index_sha256,
        dataset_sha256=dataset_sha256 if scores else "",
        embedder=retriever.embedder.name,
        chunks=len(present),
        n=len(scores),
        p50_ms=percentile(times, 50),
        p95_ms=percentile(times, 95),
        index_bytes=retriever.index.size_bytes(),
        **means,
    )


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:DEPTH], 1))
