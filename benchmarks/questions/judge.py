"""Measures how well the evidence model tells right answers from wrong ones: `python -m benchmarks.questions.judge`.

The answers are the sentences that the answering path finds most likely, four for each question; people's accepted
strings say which are right. No language model and no engine is needed. Results are in `judge.json`.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.questions.measure import HOMES, SETS, is_right, read_lines
from benchmarks.questions.offline import answerer_of, settings_of
from ragtune.answer.evidence import rank_evidence
from ragtune.backends.catalog import evidence_from, token_embedder_from
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.resampling import cluster_draws

CANDIDATES = 4
"""Sentences of each question. Chosen by hand: the first alone is right too often to compare judges."""
SAMPLES, SEED = 1000, 17


def main() -> None:
    """Score the sentences by each judge and write the areas under the ROC curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="manual.dev")
    parser.add_argument("--every", type=int, default=3, help="take one question of this many")
    parser.add_argument("--homes", type=Path, default=HOMES)
    options = parser.parse_args()
    settings = settings_of(options.set, options.homes, [])
    evidence, embedder = evidence_from(settings), token_embedder_from(settings)
    answerer = answerer_of(settings, evidence)

    def cosine(first: str, second: str) -> float:
        vectors = embedder.embed([first, second])
        return float(vectors[0] @ vectors[1])

    judges: dict[str, Callable[[str, str, str], float]] = {
        "evidence, question": lambda question, _, text: evidence.probabilities(question, [text])[0],
        "evidence, question and expected": lambda q, e, text: evidence.probabilities(f"{q} {e}", [text])[0],
        "evidence, expected": lambda _, expected, text: evidence.probabilities(expected, [text])[0],
        "cosine, expected": lambda _, expected, text: cosine(expected, text),
        "cosine, question and expected": lambda question, expected, text: cosine(f"{question} {expected}", text),
    }
    questions = [q for q in read_lines(SETS / f"{options.set}.jsonl") if q["answerable"] and not q["history"]]
    right: list[list[bool]] = []
    scores: dict[str, list[list[float]]] = {name: [] for name in judges}
    for question in questions[:: options.every]:
        asked, accepted = question["question"], question["answers"]
        passages = answerer.prepare(asked).passages or ()
        texts = [item.unit.text for item in rank_evidence(evidence, asked, passages)[:CANDIDATES]]
        right.append([is_right(text, accepted) for text in texts])
        for name, judge in judges.items():
            scores[name].append([judge(asked, accepted[0], text) for text in texts])
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.questions.judge --set {options.set} --every {options.every}",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "evidence_model": evidence.name,
        "questions": len(right),
        "answers": sum(map(len, right)),
        "right": sum(map(sum, right)),
        "area under the ROC curve [value, low, high]": {name: area(scores[name], right) for name in judges},
    }
    (SETS / "judge.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def area(scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> list[float]:
    """Return the area under the ROC curve with its 95% interval over resampled questions."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    def of(chosen: Sequence[int]) -> float:
        labels = [label for place in chosen for label in right[place]]
        values = [value for place in chosen for value in scores[place]]
        return float(roc_auc_score(labels, values)) if 0 < sum(labels) < len(labels) else float("nan")

    low, high = np.nanquantile([of(draw) for draw in cluster_draws(len(right), SAMPLES, SEED)], [0.025, 0.975])
    return [round(value, 3) for value in (of(range(len(right))), float(low), float(high))]


if __name__ == "__main__":
    main()
