"""What retrieval is worth: how high the right passages stand, and how long it takes to find them."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from ragtune.evaluation.benchmark import percentile
from ragtune.evaluation.metrics import holds_answer
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Chunk, Hit, QAPair, RetrievalRow

DEPTH = 10
BUDGET_SECONDS = 8.0
"""After this the measurement ends with the questions it got to, so that an update stays quick."""

RANKING_METRICS = ("recall_1", "recall_5", "recall_10", "mrr_10", "ndcg_10")


def ranking_metrics(gains: Sequence[float], ideal: Sequence[float]) -> dict[str, float]:
    """Return recall at 1, 5 and 10, reciprocal rank and nDCG within the first ten places, each from 0 to 1.

    `gains` are the relevances of the hits, best hit first, 0 for none; `ideal` those of all that is relevant,
    at least one. nDCG is that of Järvelin and Kekäläinen 2002 with linear gains, as trec_eval counts.
    """
    first = next((place for place, gain in enumerate(gains[:DEPTH], 1) if gain > 0), 0)
    best = _discounted(sorted(ideal, reverse=True))
    found = {f"recall_{k}": sum(gain > 0 for gain in gains[:k]) / len(ideal) for k in (1, 5, 10)}
    return {**found, "mrr_10": 1 / first if first else 0.0, "ndcg_10": _discounted(gains) / best}


def passage_gains(pair: QAPair, hits: Sequence[Hit]) -> list[float]:
    """Return 1 for the first hit that holds the pair's answer and 0 for the others: one passage is enough."""
    right = [holds_answer(pair, hit.chunk.document_id, hit.chunk.id, hit.chunk.text) for hit in hits]
    return [float(each and not any(right[:place])) for place, each in enumerate(right)]


def measure_retrieval(
    retriever: Retriever,
    chunks: Sequence[Chunk],
    pairs: Sequence[QAPair],
    *,
    run_id: str,
    index_sha256: str,
    dataset_sha256: str,
    budget: float = BUDGET_SECONDS,
) -> RetrievalRow:
    """Return how well and how fast the index answers these pairs, for at most `budget` seconds.

    Pairs whose passage is no longer there are left out. Without any, titles are searched for, n is 0 and the
    shares are not a number. Times are of one search each, embedding included, after a first one.
    """
    present = {chunk.id for chunk in chunks}
    asked = [pair for pair in pairs if pair.answerable and pair.chunk_id in present]
    questions = [pair.question for pair in asked] or [chunk.title for chunk in chunks[:50]]
    retriever.search("warm up", DEPTH)
    began, times, scores = time.monotonic(), [], []
    for place, question in enumerate(questions):
        started = time.perf_counter()
        hits = retriever.search(question, DEPTH)
        times.append((time.perf_counter() - started) * 1000)
        if asked:
            scores.append(ranking_metrics(passage_gains(asked[place], hits), [1.0]))
        if time.monotonic() - began > budget:
            break
    means = {m: sum(each[m] for each in scores) / len(scores) if scores else math.nan for m in RANKING_METRICS}
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
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains[:DEPTH], 1))
