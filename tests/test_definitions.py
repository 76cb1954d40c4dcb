import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ragtune.records import ArtifactRef, Score
from ragtune.settings import load_settings
from ragtune_assets.definitions import SHAPED_BY, build_definitions
from ragtune_assets.display import curve, histogram, materialized, score_bars, table

GROUPS = {
    "knowledge": {"raw_documents", "chunks", "search_index"},
    "dataset": {"qa_candidates", "qa_dataset", "qa_splits", "published_dataset"},
    "model": {"replay_questions", "base_model", "lora_adapter", "merged_model", "quantized_model"},
    "evaluation": {"out_of_domain_questions", "eval_answers", "eval_scores", "benchmark_runs", "benchmark_tables"},
    "release": {"released_model"},
    "feedback": {"feedback_events", "review_decisions"},
}


def specs(home: Path, **changes) -> dict[str, dg.AssetSpec]:
    defs = build_definitions(load_settings({"home": home, **changes}))
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_graph_has_its_assets_in_their_groups(tmp_path):
    found = specs(tmp_path)
    assert {group: {n for n, s in found.items() if s.group_name == group} for group in GROUPS} == GROUPS
    assert found.keys() == SHAPED_BY.keys()


def test_every_asset_says_what_it_is_and_whose(tmp_path):
    for name, spec in specs(tmp_path).items():
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.code_version, name


def test_work_on_a_gpu_and_on_duckdb_is_in_its_pool(tmp_path):
    assets = build_definitions(load_settings({"home": tmp_path})).resolve_asset_graph().assets_defs
    pools = {asset.key.to_user_string(): asset.op.pool for asset in assets if asset.is_executable and asset.keys}
    gpu = {"lora_adapter", "merged_model", "quantized_model", "eval_answers", "benchmark_runs"}
    assert {name for name, pool in pools.items() if pool == "gpu"} == gpu
    duckdb = {"search_index", "eval_scores", "benchmark_tables", "released_model"}
    assert {name for name, pool in pools.items() if pool == "duckdb"} == duckdb


@pytest.mark.parametrize(
    ("changes", "touched"),
    [
        ({"sources": ["folder:docs"]}, {"raw_documents"}),
        ({"training": {"minutes": 9}}, {"lora_adapter", "replay_questions"}),
        ({"benchmark": {"requests": 3}}, {"benchmark_runs"}),
        ({"gateway": {"port": 1}}, set()),
        (
            {"answer": {"passages": 5}},
            {
                "lora_adapter",
                "quantized_model",
                "out_of_domain_questions",
                "replay_questions",
                "eval_answers",
                "benchmark_runs",
            },
        ),
    ],
)
def test_a_changed_knob_changes_the_code_version_of_exactly_what_it_shapes(tmp_path, changes, touched):
    before, after = specs(tmp_path), specs(tmp_path, **changes)
    assert {name for name in before if before[name].code_version != after[name].code_version} == touched


def test_only_roots_lack_an_automation_condition(tmp_path):
    roots = {name for name, spec in specs(tmp_path).items() if spec.automation_condition is None}
    assert roots == {"raw_documents", "base_model", "feedback_events", "review_decisions"}


def test_every_sensor_is_on_from_the_start(tmp_path):
    sensors = build_definitions(load_settings({"home": tmp_path})).sensors
    assert {sensor.name: sensor.default_status.value for sensor in sensors} == {
        "changed_sources": "RUNNING",
        "enough_new_feedback": "RUNNING",
        "enough_new_reviews": "RUNNING",
        "keep_up": "RUNNING",
    }


def test_the_blocking_checks_are_those_that_guard_a_release(tmp_path):
    graph = build_definitions(load_settings({"home": tmp_path})).resolve_asset_graph()
    blocking = {key.name for key in graph.asset_check_keys if graph.get(key).blocking}
    assert blocking == {"holds_every_chunk", "expectations", "no_leak", "really_quantised"}


def test_loading_the_code_location_imports_no_heavy_library_and_takes_seconds(tmp_path):
    code = (
        "import sys, time; started = time.process_time()\n"
        "from ragtune_assets.definitions import build_definitions; from ragtune.settings import load_settings\n"
        "build_definitions(load_settings()).validate_loadable if False else build_definitions(load_settings())\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'pandas', 'lancedb', 'great_expectations', 'matplotlib', 'trl'}\n"
        "print(time.process_time() - started, *sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 4.5


def test_a_result_carries_the_content_hash_as_its_data_version():
    ref = ArtifactRef("chunks", "/somewhere", "ab" * 32, 3)
    result = materialized(ref, {"seen": 1})
    assert result.data_version.value == "ab" * 8
    assert result.metadata["rows"] == 3


def test_tables_keep_their_shape_whatever_the_cells_hold():
    shown = table(["a", "b"], [("x | y\nz", 0.12345), ("w" * 500, "")]).md_str
    assert shown.splitlines()[2] == "| x \\| y z | 0.123 |"
    assert all(len(line) < 200 and line.replace("\\|", "").count("|") == 3 for line in shown.splitlines())


def test_plots_are_pictures_inside_the_metadata():
    score = Score(
        model="base",
        precision="bf16",
        metric="token_f1",
        value=0.2,
        low=0.25,
        high=0.3,
        n=9,
        split="test",
        dataset_sha256="d",
        model_version="v",
        seed=1,
        signature="s",
    )
    pictures = [
        curve({"loss": [(1, 2.0), (2, 1.0)]}, "Loss", "step", "loss"),
        score_bars([score], "Scores"),
        histogram([1.0, 2.0, 2.0], "Lengths", "words"),
    ]
    for picture in pictures:
        assert picture.md_str.startswith("![")
        assert "data:image/png;base64,iVBOR" in picture.md_str
