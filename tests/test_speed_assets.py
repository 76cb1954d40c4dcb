"""What the assets of speed compute: who is compared with whom, what is a warning, and what Dagster shows of loads."""

from dataclasses import replace

import dagster as dg
import pytest

from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.speed_rows import LoadRow
from ragtune.store.warehouse import Warehouse
from ragtune_assets import speed
from ragtune_assets.resources import build_resources
from ragtune_assets.speed import candidate_arm, live_arm, live_release, regression_check
from tests.support.migrated_mlflow import give_mlflow as give_mlflow
from tests.support.releases import released
from tests.test_benchmark_report import difference, results
from tests.test_benchmark_report import run as run


@pytest.fixture
def settings(tmp_path, give_mlflow):
    give_mlflow(tmp_path)
    return load_settings({"home": tmp_path, "device": "cpu", "quantization": {"serve": "w8a8"}})


def test_a_candidate_is_compared_with_what_was_live_before_it(tmp_path, settings):
    registry = ModelRegistry(settings)
    assert live_release(registry, "f00d") is None, "the base model is served before the first release"
    for version, weights in (("f00d", b"one"), ("beef", b"other")):
        registry.move("champion", registry.register(released(tmp_path, weights, gate={"candidate_version": version})))
    assert live_release(registry, "cafe").version == "2"
    assert live_release(registry, "beef").version == "1", "it was promoted a moment ago"


def test_both_sides_are_measured_as_they_are_served(tmp_path, settings):
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate" / "weights").write_bytes(b"12345")
    candidate = candidate_arm({"w8a8": tmp_path / "candidate"}, "f00d", settings)
    assert (candidate.model.name, candidate.model.precision, candidate.model.size_bytes) == ("f00d", "w8a8", 5)
    base = live_arm(None, tmp_path / "candidate", settings)
    assert (base.model.name, base.model.precision) == ("base", "bf16")
    registry = ModelRegistry(settings)
    registry.register(released(tmp_path))
    live = live_arm(registry.version("1"), tmp_path, settings)
    assert (live.model.name, live.model.precision, live.folder.name) == ("version 1", "w8a8", "w8a8")


def test_a_slower_candidate_is_a_warning_that_says_by_how_much():
    rows = [difference("x", "1", "0", "worse", -0.3, settings="{}", before="version 1 w8a8", after="f00d w8a8")]
    check = regression_check([*rows, replace(rows[0], verdict="better")])
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.description.startswith("f00d w8a8 against version 1 w8a8, answers per second in a burst: -30.0%")
    assert ";" not in check.description
    assert regression_check([replace(rows[0], verdict="no difference")]).passed


def test_dagster_shows_the_loads_and_the_settings_that_were_compared(tmp_path, settings, run):
    resources = build_resources(settings)

    def materialize():
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize(
                [speed.gateway_loads],
                selection=["gateway_loads"],
                instance=instance,
                resources=resources,
            )
        [event] = result.asset_materializations_for_node("gateway_loads")
        return event.metadata

    assert "plot" not in materialize(), "nobody measured anything yet"
    warehouse, found = Warehouse(tmp_path / "warehouse.duckdb"), results(run)
    warehouse.append(found.rows())
    warehouse.append(found.differences)
    metadata = materialize()
    assert "engine.eager=false" in metadata["settings that were compared"].value
    assert metadata["saturations"].value.count("\n") == 2
    assert "image/png" in metadata["plot"].value
    store = ArtifactStore(tmp_path / "artifacts")
    assert len(store.read_records(store.current("gateway_loads"), LoadRow)) == len(found.rows())
    assert warehouse.loads(newest=True)[-1] == found.rows()[-1]
    assert warehouse.speed_differences() == found.differences
