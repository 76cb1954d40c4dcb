"""Chooses the limits of what dials add after generation: `python -m benchmarks.serving.additions --rows FILE`.

FILE has the texts that `benchmarks.serving.dials` generated; nothing is generated here. Each limit is varied alone.
The scores on questions with an even place choose; those with an odd place report. Writes additions.json.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.questions.offline import Question
from benchmarks.serving.dials import (
    Row,
    all_trials,
    answerers_of,
    chosen_questions,
    delivered,
    prepared_for,
    scores,
    set_of,
    stored_texts,
)
from benchmarks.serving.served_home import facts
from ragtune.answer import additions
from ragtune.answer.answering import Prepared

VARIED: dict[str, tuple[Any, ...]] = {
    "related": (0.1, 0.25, 0.5, 0.75),
    "said": (0.6, 0.7, 0.8, 0.9, 1.0),
    "pool": (4, 6, 8, 12, 16),
}
GOAL = 0.8
"""Of a rank correlation; more than that counts no further."""
MOST_LOST = 0.02
"""Loss of right answers against the neutral style that no way of asking may have."""


def main() -> None:
    """Vary, choose on one half, report on the other, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=["manual.dev"])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--homes", type=Path, default=Path(".ragtune/questions"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    texts = {(row["id"], row["trial"]): row for row in stored_texts(options.rows)}
    trials = all_trials(options.levels)
    questions = [
        question
        for question in chosen_questions(options.set, options.questions)
        if all((question["id"], trial.name) in texts for trial in trials)
    ]
    answerers = answerers_of(questions, options.homes)
    prepared = {
        (question["id"], trial.name): prepared_for(question, trial, answerers[set_of(question)])
        for question in questions
        for trial in trials
    }
    halves = {"chosen on": questions[::2], "reported on": questions[1::2]}
    rows = []
    for limits in candidates():
        additions.LIMITS = limits
        row: dict[str, Any] = asdict(limits)
        for half, asked in halves.items():
            row[half] = summary(asked, _delivered(asked, options.levels, answerers, texts, prepared), options.levels)
        rows.append(row)
    result = {
        **facts("benchmarks.serving.additions"),
        "questions": {half: len(asked) for half, asked in halves.items()},
        "best on the first half": asdict(best(rows)),
        "results": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def candidates() -> list[additions.Limits]:
    """Return the present limits first, then those with one limit changed."""
    present = additions.LIMITS
    others = [replace(present, **{name: value}) for name, values in VARIED.items() for value in values]
    return [present, *(limits for limits in others if limits != present)]


def _delivered(
    questions: Sequence[Question],
    levels: Sequence[float],
    answerers: dict[str, Any],
    texts: dict[tuple[str, str], Row],
    prepared: dict[tuple[str, str], Prepared],
) -> list[Row]:
    return [
        delivered(
            question,
            trial,
            answerers[set_of(question)],
            texts[question["id"], trial.name],
            prepared[question["id"], trial.name],
        )
        for question in questions
        for trial in all_trials(levels)
    ]


def summary(questions: Sequence[Question], rows: Sequence[Row], levels: Sequence[float]) -> dict[str, Any]:
    """Return what a half of the questions shows: correlations, obedience, and the largest loss of right answers."""
    found = scores(questions, rows, levels)["delivered"]
    neutral = found["right"]["neutral"][0]
    return {
        "rank correlation": {name: row and row[0] for name, row in found["rank correlation"].items()},
        "obedience": {name: row["with"] and row["with"][0] for name, row in found["obedience"].items()},
        "largest loss": round(max(neutral - row[0] for row in found["right"].values()), 3),
    }


def best(rows: Sequence[dict[str, Any]]) -> additions.Limits:
    """Return the limits with the best sum of correlations and obedience, among those that lose few right answers."""

    def worth(row: dict[str, Any]) -> tuple[bool, float]:
        half = row["chosen on"]
        values = [*half["rank correlation"].values(), *half["obedience"].values()]
        return half["largest loss"] <= MOST_LOST, sum(min(value or 0.0, GOAL) for value in values)

    # `max` takes the first of equals, which are the present limits.
    row = max(rows, key=worth)
    return additions.Limits(row["related"], row["said"], row["pool"])


if __name__ == "__main__":
    main()
