"""Simulates the gate that is asked again and again, and counts promotions of useless candidates and of better ones.

Run: python -m benchmarks.experiments.gate [--runs 2000]
Writes gate.json next to itself. A question is answered right or wrong; 70% of the live model's answers are right. The
abilities of all models on a question are normal variables with the correlation 0.9, so all candidates share what is
easy and what is hard. For right and wrong answers the sign-flip test of
`ragtune.evaluation.gate` is the exact sign test, which is computed here for all runs at once. `agreement` says how
often `decide`, which also needs its bootstrap bound above 0, takes the same decision.
"""

import argparse
import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from ragtune.evaluation.alpha_spending import alpha_of_look, questions_needed
from ragtune.evaluation.gate import GateEntry, decide
from ragtune.records import ScoredAnswer
from ragtune.settings import EvaluationSettings

RIGHT, CORRELATION, GAIN = 0.7, 0.9, 0.05
CANDIDATES = 20
SIZES = (27, 80, 120, 300, 456, 691)
"""27 is the gate of `make demo`, 120 the default, 456 all gate questions of its documents, 691 the planned number."""
AT_ONCE = 100
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def answers_of(shared: Floats, right: float, rng: np.random.Generator) -> Bools:
    """Return which answers of a model are right, shape of `shared`."""
    own = rng.standard_normal(shared.shape, dtype=np.float32)
    right_answers: Bools = CORRELATION**0.5 * shared + (1 - CORRELATION) ** 0.5 * own < NormalDist().inv_cdf(right)
    return right_answers


def is_better(live: Bools, candidate: Bools, alpha: float) -> Bools:
    """Return for each run whether the one-sided sign test rejects at alpha, shape (runs,)."""
    improved, lost = (candidate & ~live).sum(axis=1), (live & ~candidate).sum(axis=1)
    passed: Bools = (binom.sf(improved - 1, improved + lost, 0.5) <= alpha) & (improved > lost)
    return passed


def useless_promotions(n: int, runs: int, seed: int) -> dict[str, float]:
    """Return the share of runs in which one of 20 candidates that are no better is promoted, with and without spending.

    In `after_a_real_winner` the fifth candidate is 10 points better, and later ones are as good as what is live.
    """
    rng = np.random.default_rng(seed)
    settings = EvaluationSettings()
    false = {"each_at_alpha": 0, "spent_over_looks": 0, "after_a_real_winner": 0}
    for first in range(0, runs, AT_ONCE):
        shared = rng.standard_normal((min(AT_ONCE, runs - first), n), dtype=np.float32)
        live = answers_of(shared, RIGHT, rng)
        candidates = [answers_of(shared, RIGHT, rng) for _ in range(CANDIDATES)]
        for name, alpha in (("each_at_alpha", settings.alpha), ("spent_over_looks", alpha_of_look(settings))):
            false[name] += int(np.any([is_better(live, one, alpha) for one in candidates], axis=0).sum())
        false["after_a_real_winner"] += _with_a_winner(live, shared, alpha_of_look(settings), rng)
    return {name: count / runs for name, count in false.items()}


def _with_a_winner(live: Bools, shared: Floats, alpha: float, rng: np.random.Generator) -> int:
    """Return in how many runs a useless candidate is promoted before or after a better one."""
    false = np.zeros(len(live), dtype=bool)
    right = np.full(len(live), RIGHT)
    served = live.copy()
    for number in range(CANDIDATES):
        for level, rows in [(level, np.flatnonzero(right == level)) for level in (RIGHT, RIGHT + 0.1)]:
            quality = RIGHT + 0.1 if number == 4 else level
            candidate = answers_of(shared[rows], quality, rng)
            promoted = is_better(served[rows], candidate, alpha)
            false[rows] |= promoted & (quality <= level)
            served[rows[promoted]] = candidate[promoted]
            right[rows[promoted]] = quality
    return int(false.sum())


def power(n: int, alpha: float, runs: int, seed: int) -> float:
    """Return how often a candidate that is 5 points better is promoted."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((runs, n), dtype=np.float32)
    return float(is_better(answers_of(shared, RIGHT, rng), answers_of(shared, RIGHT + GAIN, rng), alpha).mean())


def agreement(n: int, runs: int, seed: int) -> float:
    """Return how often the gate itself decides as the sign test does, on candidates that are 5 points better."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((runs, n), dtype=np.float32)
    live, candidate = answers_of(shared, RIGHT, rng), answers_of(shared, RIGHT + GAIN, rng)
    settings = EvaluationSettings()
    expected = is_better(live, candidate, alpha_of_look(settings))
    pairs = zip(live, candidate, strict=True)
    decisions = [decide(GateEntry("1", scored(a)), GateEntry("2", scored(b)), settings, 17).promoted for a, b in pairs]
    return float((np.array(decisions) == expected).mean())


def scored(right: Bools) -> list[ScoredAnswer]:
    """Return answers, each to a question about a document of its own, that are right or wrong."""
    return [
        ScoredAnswer(
            pair_id=str(i),
            question="",
            expected="",
            answer="",
            kind="",
            answerable=True,
            refused=False,
            retrieved=True,
            cited=(),
            metrics={"token_f1": float(value)},
            latency_ms=0.0,
            document_id=str(i),
        )
        for i, value in enumerate(right)
    ]


def main() -> None:
    """Simulate all sizes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--agreement-runs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gate.json")
    arguments = parser.parse_args()
    settings = EvaluationSettings()
    rows = []
    for i, n in enumerate(SIZES):
        row = {
            "questions": n,
            "seed": 100 + i,
            "useless_promoted": useless_promotions(n, arguments.runs, 100 + i),
            "power_at_5_points": {
                "alpha 0.05": power(n, settings.alpha, arguments.runs, 200 + i),
                "alpha 0.0025": power(n, alpha_of_look(settings), arguments.runs, 200 + i),
            },
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    live, candidate = (
        answers_of(shared, right, rng)
        for rng in [np.random.default_rng(300)]
        for shared in [rng.standard_normal((1, 200_000), dtype=np.float32)]
        for right in (RIGHT, RIGHT + GAIN)
    )
    spread = float((candidate.astype(float) - live).std())
    results = {
        "runs": arguments.runs,
        "candidates": CANDIDATES,
        "spread_of_a_question": spread,
        "questions_for_80_percent": questions_needed(GAIN, spread, alpha_of_look(settings)),
        "agreement_with_the_gate": {
            "questions": 300,
            "runs": arguments.agreement_runs,
            "seed": 400,
            "share": agreement(300, arguments.agreement_runs, 400),
        },
        "sizes": rows,
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
