"""The assets of experiments and of feedback: their rows in the warehouse, their plots, and their lineage."""

import json
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import numpy as np
import pytest

from ragtune.experiments.control import run_once
from ragtune.experiments.pair_judging import judge_pairs
from ragtune.records import ArtifactRef
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.report_rows import ExperimentDecision, ExperimentResult, ShadowComparison
from ragtune.store.shadows import ShadowStore
from ragtune.store.warehouse import Warehouse
from ragtune_assets.experiments import (
    experiment_decisions,
    experiment_results,
    feedback_trends,
    judge_new_pairs,
    shadow_comparisons,
    unanswered_questions,
)
from ragtune_assets.resources import build_resources
from tests.test_experiment_control import DESIGN, World
from tests.test_feedback_trends import CHUNKS, WordEmbedder
from tests.test_pair_judging import Bluish, mirrored, pair


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.store.close()
    world.log.close()


def build(tmp_path, world, *assets):
    """Materialise assets and return their metadata, by name."""
    settings = load_settings({"home": tmp_path / "home", "feedback": {"url": f"sqlite:///{tmp_path / 'log.db'}"}})
    store = ArtifactStore(settings.home / "artifacts")
    chunks = store.write_records("chunks", list(CHUNKS.values()))
    store.set_current(chunks)

    @dg.asset(name="chunks")
    def passages() -> ArtifactRef:
        return chunks

    resources = {**build_resources(settings), "experiments": world.store, "feedback_log": world.log}
    resources["embedder"] = WordEmbedder()
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([passages, *assets], instance=instance, resources=resources)
        assert result.success
        names = [name for asset in assets for name in (asset.key.to_user_string(),)]
        pages = {name: result.asset_materializations_for_node(name)[0].metadata for name in names}
    return pages, store, Warehouse(settings.home / "warehouse.duckdb")


def test_results_and_decisions_of_experiments_are_rows_and_plots(tmp_path, world):
    rng = np.random.default_rng(7)
    world.start(promote=True)
    world.come(600, control=lambda: {"cited_chunk_ids": ("c",) if rng.random() < 0.6 else ()})
    assert world.look().winner == "2"
    world.store.start("second", replace(DESIGN, salt="other"), 0.5)
    pages, store, warehouse = build(tmp_path, world, experiment_results, experiment_decisions)
    rows = store.read_records(store.current("experiment_results"), ExperimentResult)
    (decided,) = [row for row in rows if row.decides and row.experiment == "live"]
    assert (decided.declaration, decided.state, decided.version, decided.unit) == ("better", "stopped", "2", "points")
    assert 0 < decided.low <= decided.difference <= decided.high
    assert json.loads(decided.path)[-1][1:] == [decided.low, decided.high]
    assert pages["experiment_results"]["interval of live, version 2"].value.startswith("![live: version 2 minus 1]")
    (decision,) = store.read_records(store.current("experiment_decisions"), ExperimentDecision)
    assert (decision.winner, decision.replayed) == ("2", True)
    assert pages["experiment_decisions"]["not replayed"].value == 0
    assert warehouse.experiment_decisions() == [decision]
    _, counted = warehouse.query("SELECT count(*) FROM newest_experiment_results WHERE experiment = 'live'")
    assert counted == [(8,)]
    build(tmp_path, world, experiment_results, experiment_decisions)
    assert warehouse.experiment_decisions() == [decision], "a decision is stored once"


def test_feedback_and_unanswered_questions_are_rows_and_plots(tmp_path, world):
    world.start()
    world.come(40, {"refused": True}, apart=6000)
    for number in range(1, 20):
        world.log.add(f"r{number}", "up" if number % 3 else "down")
    pages, _, warehouse = build(tmp_path, world, feedback_trends, unanswered_questions)
    page = pages["feedback_trends"]
    assert (page["responses"].value, page["collection rate"].value) == (40, 19 / 40)
    assert page["thumbs up by day"].value.startswith("![Share of thumbs up]")
    refused = sum(response.refused for response in world.log.all_responses())
    assert pages["unanswered_questions"]["questions"].value == refused > 0
    _, rows = warehouse.query("SELECT responses, rated FROM newest_feedback_trends WHERE kind = 'all'")
    assert rows == [(40, 19)]


def test_a_running_experiment_and_an_empty_log_have_pages_too(tmp_path, world):
    pages, _, _ = build(
        tmp_path, world, experiment_results, experiment_decisions, feedback_trends, unanswered_questions
    )
    assert pages["experiment_results"]["experiments"].value == 0
    assert pages["feedback_trends"]["responses"].value == 0
    world.start()
    world.come(20)
    with closing(world.store):
        assert run_once(world.store, world.log, world.registry, world.now + timedelta(hours=2)).action == "hold"
        pages, store, _ = build(tmp_path, world, experiment_results)
    rows = store.read_records(store.current("experiment_results"), ExperimentResult)
    assert {row.state for row in rows} == {"running"}


def test_mirrored_requests_are_rows_with_what_judges_and_people_say(tmp_path, world):
    with closing(ShadowStore(f"sqlite:///{tmp_path / 'log.db'}")) as shadows:
        shadow = mirrored(shadows, pair(1), pair(2), pair(3, mirrored="It is red."))
        shadows.record_counts(shadow, "2", "q", {"sampled": 5, "mirrored": 3, "dropped: failed": 2})
        judge_pairs(Bluish(), shadow, shadows, [], most=10)
        pages, store, _ = build(tmp_path, world, shadow_comparisons)
        (row,) = store.read_records(store.current("shadow_comparisons"), ShadowComparison)
        assert (row.shadow, row.version, row.pairs, row.sampled, row.mirrored, row.dropped) == ("next", "2", 3, 5, 3, 2)
        assert any(sentence.startswith("The judge bluish prefers version 2") for sentence in row.words)
        assert pages["shadow_comparisons"]["pairs"].value == 3
        assert judge_new_pairs(load_settings({"home": tmp_path}), shadows, []) == 0, "no judge is configured"
