"""Scores of models as metrics of runs, and the answers behind them as tables."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from ragtune.records import Score, ScoredAnswer

MODEL, PRECISION, VERSION = "ragtune.model", "ragtune.precision", "ragtune.version"
"""Tags of a run that holds the scores of one model: what it is in the evaluation, its precision and its version."""
ANSWERS = "answers"
"""Name of the table with the scored answers."""


def score_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Return the scores with their 95% intervals as `test/token_f1`, `test/token_f1/low`, `/high` and `/n`.

    Scores of the questions of one origin are named `test/token_f1/people`; those of smaller parts are left out.
    """
    metrics: dict[str, float] = {}
    for score in scores:
        if not score.part:
            name = f"{score.split}/{score.metric}" + (f"/{score.origin}" if score.origin else "")
            metrics |= {name: score.value, f"{name}/low": score.low, f"{name}/high": score.high}
            metrics[f"{name}/n"] = float(score.n)
    return metrics


def read_answers(table: bytes, split: str) -> list[ScoredAnswer]:
    """Return the answers to the questions of a split from a logged table."""
    content: dict[str, Any] = json.loads(table)
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    return TypeAdapter(list[ScoredAnswer]).validate_python([row for row in rows if row.pop("split") == split])
