"""The simulations of benchmarks/experiments use the product's rules, and its results hold what they promise."""

import json
from pathlib import Path

import numpy as np

from benchmarks.experiments.simulate import CELLS, Cell, block_differences, draw_users
from ragtune.experiments import comparison
from ragtune.experiments.outcomes import UserOutcome

RESULTS = Path(__file__).parent.parent / "benchmarks" / "experiments"


def test_the_simulated_blocks_are_those_of_the_product():
    for share in (0.5, 0.1):
        cell = Cell(name="x", gain=0.1, seed=1, budget=2000, per_user=4, correlation=0.2, rated=0.5, share=share)
        users = draw_users(cell, 1, np.random.default_rng(5))
        outcomes = [
            UserOutcome(int(arm), (1 - share, share), float(value))
            for arm, value in zip(users.candidate[0], users.outcome[0], strict=True)
            if not np.isnan(value)
        ]
        expected = comparison.block_differences(outcomes)
        differences, complete = block_differences(users, 0, cell)
        np.testing.assert_allclose(differences, expected)
        assert len(expected) > 10
        assert np.all(np.diff(complete) >= 0)


def test_the_stored_results_keep_the_promises_of_the_documentation():
    cells = {cell["name"]: cell for cell in json.loads((RESULTS / "simulation.json").read_text())["cells"]}
    assert [cell.name for cell in CELLS] == list(cells)
    for cell in cells.values():
        assert cell["runs"] == 2000
        assert cell["confidence_sequence"]["false_winners"] <= 0.05
    assert cells["+5 points"]["confidence_sequence"]["median_responses"] <= 3500
    gate = json.loads((RESULTS / "gate.json").read_text())
    for row in gate["sizes"]:
        assert row["useless_promoted"]["spent_over_looks"] <= 0.05
        assert row["useless_promoted"]["after_a_real_winner"] <= 0.05
