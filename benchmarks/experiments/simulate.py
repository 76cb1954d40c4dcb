"""Simulates experiments with users, and counts false winners and how many responses a decision takes.

Run: python -m benchmarks.experiments.simulate [--runs 2000] [--only NAME]
Writes simulation.json next to itself, one cell after the other. Every cell has a seed of its own, which the file holds.
Looks are taken every 50 responses up to the budget. The rules are those of `ragtune.experiments`. They are
compared with a z-test for one look that is used at every look.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ragtune.experiments.comparison import Plan
from ragtune.experiments.confidence_sequence import capital, p_value, threshold

LOOK = 50
CONTROL = 0.7
RUNS_AT_ONCE = 200
"""Runs whose users are in memory at the same time: 200 of 40,000 users take 0.3 GB."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting. `gain` is the true difference; `correlation` is that of two responses of the same user.

    `active` users ask at the same time, so a user's window lasts until `active` more have come. A verdict comes with
    probability `rated`, and exponentially late, on average after `delay` of the window. `expected` is the smallest
    difference of the plan, `share` the candidate's share of the users.
    """

    name: str
    gain: float
    seed: int
    budget: int = 10_000
    per_user: int = 1
    correlation: float = 0.0
    active: int = 0
    rated: float = 1.0
    delay: float = 0.0
    expected: float = 0.05
    share: float = 0.5


CELLS = (
    Cell(name="no difference", gain=0.0, seed=1),
    Cell(name="no difference, 20,000 responses", gain=0.0, seed=2, budget=20_000),
    Cell(name="+5 points", gain=0.05, seed=3),
    Cell(name="-5 points", gain=-0.05, seed=4),
    Cell(name="+3 points", gain=0.03, seed=5, budget=20_000),
    Cell(name="+10 points", gain=0.1, seed=6),
    Cell(name="+5 points, plan says 2", gain=0.05, seed=7, expected=0.02),
    Cell(name="+5 points, plan says 10", gain=0.05, seed=8, expected=0.1),
    Cell(name="+5 points, candidate gets 10%", gain=0.05, seed=9, share=0.1, budget=20_000),
    Cell(name="no difference, candidate gets 10%", gain=0.0, seed=10, share=0.1, budget=20_000),
    Cell(name="20 a user, no difference", gain=0.0, seed=11, per_user=20, correlation=0.3, active=50, budget=40_000),
    Cell(name="20 a user, +5 points", gain=0.05, seed=12, per_user=20, correlation=0.3, active=50, budget=40_000),
    Cell(
        name="20 a user, +5 points, 200 users at once",
        gain=0.05,
        seed=13,
        per_user=20,
        correlation=0.3,
        active=200,
        budget=40_000,
    ),
    Cell(
        name="20 a user, +5 points, nearly independent",
        gain=0.05,
        seed=14,
        per_user=20,
        correlation=0.02,
        active=50,
        budget=40_000,
    ),
    Cell(name="late and missing, no difference", gain=0.0, seed=15, active=500, rated=0.3, delay=0.5, budget=20_000),
    Cell(name="late and missing, +5 points", gain=0.05, seed=16, active=500, rated=0.3, delay=0.5, budget=20_000),
)


@dataclass(frozen=True)
class Users:
    """Users of all runs in the order in which they come; all of shape (runs, users).

    `rated` counts a user's verdicts within the window and `ups` those that are thumbs up; `outcome` is their ratio,
    NaN for a user without any.
    """

    candidate: npt.NDArray[np.bool_]
    outcome: Floats
    ups: Floats
    rated: Floats


def draw_users(cell: Cell, runs: int, rng: np.random.Generator) -> Users:
    """Draw who comes, which arm they get and what they say."""
    users = cell.budget // cell.per_user
    candidate = rng.random((runs, users)) < cell.share
    mean = np.where(candidate, CONTROL + cell.gain, CONTROL)
    if cell.correlation:
        # A beta-binomial: two responses of a user have the correlation 1 / (a + b + 1).
        size = 1 / cell.correlation - 1
        mean = rng.beta(mean * size, (1 - mean) * size)
    in_time = cell.rated * (1 - math.exp(-1 / cell.delay) if cell.delay else 1.0)
    rated = rng.binomial(cell.per_user, in_time, (runs, users)).astype(float)
    ups = rng.binomial(rated.astype(int), mean).astype(float)
    with np.errstate(invalid="ignore"):
        return Users(candidate, ups / rated, ups, rated)


def block_differences(users: Users, run: int, cell: Cell) -> tuple[Floats, Ints]:
    """Return (differences of the blocks of a run, number of responses at which each is complete).

    It does what `ragtune.experiments.comparison.block_differences` does, on arrays; a test compares the two.
    """
    known = ~np.isnan(users.outcome[run])
    arms = [np.flatnonzero(known & (users.candidate[run] == arm)) for arm in (False, True)]
    sizes = max(1, round((1 - cell.share) / cell.share)), max(1, round(cell.share / (1 - cell.share)))
    blocks = min(len(arm) // size for arm, size in zip(arms, sizes, strict=True))
    placed = [arm[: blocks * size].reshape(blocks, size) for arm, size in zip(arms, sizes, strict=True)]
    control, candidate = (users.outcome[run][places].mean(axis=1) for places in placed)
    last = np.maximum(placed[0][:, -1], placed[1][:, -1])
    # A user's responses are spread over the window, so the window of user i ends when user i + active comes.
    complete = (last + 1 + cell.active) * cell.per_user
    return candidate - control, complete


def decide_all(users: Users, cell: Cell) -> tuple[Ints, Ints, Floats]:
    """Return (responses until a declared winner or NEVER, its sign, final p-values) of every run."""
    plan = Plan(smallest_difference=cell.expected)
    bar, runs = threshold(plan.alpha), len(users.candidate)
    stops, signs, p_values = np.full(runs, NEVER), np.zeros(runs, dtype=np.int64), np.ones(runs)
    for run in range(runs):
        differences, complete = block_differences(users, run, cell)
        differences = differences[complete <= cell.budget]
        if not len(differences):
            continue
        # Most runs decide early. The capital after n differences does not depend on later ones.
        for part in (differences[: len(differences) // 4 + 1], differences):
            both = capital(part, 0.0, plan.smallest_difference)
            best = np.maximum(both.up, both.down)
            if best.max() >= bar:
                break
        p_values[run] = p_value(both)
        if (best >= bar).any():
            first = int((best >= bar).argmax())
            stops[run] = math.ceil(int(complete[first]) / LOOK) * LOOK
            signs[run] = 1 if both.up[first] > both.down[first] else -1
    return stops, signs, p_values


def z_test_with_peeking(users: Users, cell: Cell) -> tuple[Ints, Ints]:
    """Return (responses until |z| > 1.96 at a look or NEVER, its sign): the test for one look, used at every look.

    It takes every response as independent, as such a test usually does.
    """
    step = max(1, LOOK // cell.per_user)
    looks = np.arange(step, users.candidate.shape[1] + 1, step) - 1
    sums = []
    for arm in (False, True):
        mine = users.candidate == arm
        sums += [np.cumsum(np.where(mine, values, 0.0), axis=1)[:, looks] for values in (users.ups, users.rated)]
    ups_a, n_a, ups_b, n_b = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (ups_a + ups_b) / (n_a + n_b)
        z = (ups_b / n_b - ups_a / n_a) / np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    z = np.nan_to_num(z, posinf=0.0, neginf=0.0)  # before both arms have right and wrong answers
    beyond = np.abs(z) > NormalDist().inv_cdf(0.975)
    first = beyond.argmax(axis=1)
    stops = np.where(beyond.any(axis=1), (looks[first] + 1) * cell.per_user, NEVER)
    return stops, np.sign(z[np.arange(len(first)), first]).astype(np.int64)


def summary(parts: Sequence[tuple[Ints, Ints]], gain: float) -> dict[str, float | int | None]:
    """Return the shares of false and right winners, and the median of responses over all runs (None: undecided)."""
    stops, signs = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    decided = stops < NEVER
    right = decided & (signs == np.sign(gain)) & (gain != 0)
    median = float(np.median(stops))
    return {
        "false_winners": float((decided & ~right).mean()),
        "right_winners": float(right.mean()),
        "median_responses": int(median) if median < NEVER // 4 else None,
    }


def simulate(cell: Cell, runs: int) -> dict[str, object]:
    """Return the results of one cell."""
    started = time.perf_counter()
    rng = np.random.default_rng(cell.seed)
    ours, theirs, p_values = [], [], []
    for first in range(0, runs, RUNS_AT_ONCE):
        users = draw_users(cell, min(RUNS_AT_ONCE, runs - first), rng)
        stops, signs, p = decide_all(users, cell)
        ours.append((stops, signs))
        p_values.append(p)
        theirs.append(z_test_with_peeking(users, cell))
    return {
        **asdict(cell),
        "runs": runs,
        "confidence_sequence": summary(ours, cell.gain),
        "p_below_0.05": float((np.concatenate(p_values) <= 0.05).mean()),
        "z_test_with_peeking": summary(theirs, cell.gain),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Simulate all cells, or the named one, and write each result as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--only", default="", help="name of one cell; the results of the others stay as they are")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "simulation.json")
    arguments = parser.parse_args()
    written = json.loads(arguments.out.read_text())["cells"] if arguments.out.is_file() else []
    results = {result["name"]: result for result in written}
    for cell in CELLS:
        if arguments.only in ("", cell.name):
            results[cell.name] = simulate(cell, arguments.runs)
            print(json.dumps(results[cell.name]), flush=True)
            ordered = [results[cell.name] for cell in CELLS if cell.name in results]
            arguments.out.write_text(json.dumps({"look_every": LOOK, "cells": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
