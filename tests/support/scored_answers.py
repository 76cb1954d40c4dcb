"""Scored answers for tests of what compares models."""

from ragtune.records import ScoredAnswer


def scored_answer(number: int, value: float, document: str = "", metric: str = "token_f1") -> ScoredAnswer:
    """Return the answer to question `number` with this score; without `document` it is a document of its own."""
    return ScoredAnswer(
        pair_id=f"p{number}",
        question="q",
        expected="e",
        answer="a",
        kind="k",
        answerable=True,
        refused=False,
        retrieved=True,
        cited=(),
        metrics={metric: float(value)},
        latency_ms=1.0,
        document_id=document or f"d{number}",
    )
