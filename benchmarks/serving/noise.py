"""Simulates comparisons of speeds: how often equal settings are called different, and which difference is found.

    python -m benchmarks.serving.noise

A round slows both sides by a common factor (standard deviation 20%), each measurement has its own noise besides. Writes
`noise.json` next to this script.
"""

import json
import sys
from pathlib import Path

import numpy as np

from ragtune.evaluation.speed import Metric, difference, extent

TRIALS = 4000
SHARED = 0.2
METRIC = Metric("answers", "/s", True)


def outcomes(rounds: int, noise: float, effect: float, seed: int) -> dict[str, float]:
    """Return the share of comparisons in which each rule sees a difference."""
    draws = np.random.default_rng(seed)
    seen = dict.fromkeys(("one run each, more than 5% apart", "interval", "interval and noise floor"), 0)
    for _ in range(TRIALS):
        common = np.exp(draws.normal(0, SHARED, size=rounds))
        own = np.exp(draws.normal(0, noise, size=(3, rounds)))
        before, again, after = common * own[0], common * own[1], common * own[2] * (1 + effect)
        evenings = np.exp(draws.normal(0, SHARED, size=2))
        single = evenings[1] * own[2][0] * (1 + effect) / (evenings[0] * own[0][0]) - 1
        found, itself = difference(list(before), list(after)), difference(list(before), list(again))
        seen["one run each, more than 5% apart"] += abs(single) > 0.05
        seen["interval"] += found.verdict(METRIC, 0.0) != "no difference"
        seen["interval and noise floor"] += found.verdict(METRIC, extent(itself.low, itself.high)) != "no difference"
    return {rule: round(count / TRIALS, 3) for rule, count in seen.items()}


def main() -> None:
    """Simulate and write the shares."""
    rows = [
        {"rounds": rounds, "noise": noise, "effect": effect, **outcomes(rounds, noise, effect, seed=1)}
        for rounds in (3, 5, 10)
        for noise in (0.02, 0.05)
        for effect in (0.0, 0.1, 0.3)
    ]
    result = {"command": " ".join(["python", "-m", "benchmarks.serving.noise", *sys.argv[1:]]), "trials": TRIALS}
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    text = json.dumps(result)[:-1] + f', "results": [\n  {lines}\n]}}\n'
    Path(__file__).with_suffix(".json").write_text(text)
    print(lines)


if __name__ == "__main__":
    main()
