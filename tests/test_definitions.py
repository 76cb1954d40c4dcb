import ast
import re
import subprocess
import sys
import types
from pathlib import Path

import dagster as dg
import pytest

from ragtune.records import ArtifactRef, Score
from ragtune.settings import load_settings
from ragtune_assets import model
from ragtune_assets.asset import _SOURCE
from ragtune_assets.definitions import MODULES, build_definitions
from ragtune_assets.display import curve, histogram, materialized, score_bars, table
from ragtune_assets.pages import REPORTS, release_page
from tests.support.releases import manifest

GROUPS = {
    "knowledge": {"raw_documents", "existing_pairs", "chunks", "search_index"},
    "dataset": {"matched_pairs", "qa_candidates", "qa_dataset", "quality_report", "qa_splits", "published_dataset"},
    "model": {
        "replay_questions",
        "base_model",
        "lora_adapter",
        "preference_adapter",
        "merged_model",
        "quantized_model",
        "compression_errors",
    },
    "evaluation": {
        "retrieval_scores",
        "out_of_domain_questions",
        "eval_answers",
        "eval_scores",
        "judgements",
        "benchmark_runs",
        "benchmark_tables",
        "speed_comparison",
        "gateway_loads",
    },
    "release": {"released_model", "candidate_report"},
    "feedback": {
        "feedback_events",
        "review_decisions",
        "preference_examples",
        "answer_ratings",
        "feedback_trends",
        "unanswered_questions",
    },
    "experiments": {"experiment_results", "experiment_decisions", "shadow_comparisons"},
}


def specs(home: Path, **changes) -> dict[str, dg.AssetSpec]:
    defs = build_definitions(load_settings({"home": home, **changes}))
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_graph_has_its_assets_in_their_groups(tmp_path):
    groups: dict[str, set[str]] = {}
    for name, spec in specs(tmp_path).items():
        groups.setdefault(spec.group_name, set()).add(name)
    assert groups == GROUPS


def test_no_asset_reads_what_lies_downstream_of_it(tmp_path):
    deps = {name: {dep.asset_key.to_user_string() for dep in spec.deps} for name, spec in specs(tmp_path).items()}
    assert deps["search_index"] == {"chunks"}
    assert deps["retrieval_scores"] == {"search_index", "qa_splits", "chunks"}
    assert deps["published_dataset"] == {"qa_splits", "quality_report", "chunks", "raw_documents"}
    assert deps["quality_report"] == deps["qa_dataset"]


@pytest.mark.parametrize("module", MODULES)
def test_the_body_of_an_asset_has_at_most_15_lines(module):
    for node in ast.parse(Path(module.__file__).read_text()).body:
        decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
        if any(re.match(r"(multi_)?asset\(", decorator) for decorator in decorators):
            docstring, *body = node.body
            assert body[-1].end_lineno - docstring.end_lineno <= 15, node.name


def test_every_asset_says_what_it_is_and_whose(tmp_path):
    for name, spec in specs(tmp_path).items():
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.code_version, name


def test_work_on_a_gpu_and_on_duckdb_is_in_its_pool(tmp_path):
    assets = build_definitions(load_settings({"home": tmp_path})).resolve_asset_graph().assets_defs
    pools = {key.to_user_string(): asset.op.pool for asset in assets if asset.is_executable for key in asset.keys}
    gpu = {"lora_adapter", "merged_model", "quantized_model", "compression_errors", "eval_answers", "benchmark_runs"}
    gpu |= {"preference_adapter", "speed_comparison"}
    assert {name for name, pool in pools.items() if pool == "gpu"} == gpu
    duckdb = {"retrieval_scores", "eval_scores", "benchmark_tables", "released_model", "answer_ratings"}
    duckdb |= {"experiment_results", "experiment_decisions", "feedback_trends", "gateway_loads"}
    assert {name for name, pool in pools.items() if pool == "duckdb"} == duckdb


@pytest.mark.parametrize(
    ("changes", "touched"),
    [
        ({"sources": ["folder:docs"]}, {"raw_documents", "existing_pairs"}),
        ({"training": {"minutes": 9}}, {"lora_adapter", "preference_adapter", "replay_questions"}),
        ({"preference": {"enabled": True}}, {"preference_adapter", "preference_examples"}),
        ({"benchmark": {"requests": 3}}, {"benchmark_runs", "speed_comparison"}),
        ({"gateway": {"port": 1}}, set()),
        (
            {"answer": {"passages": 5}},
            {
                "lora_adapter",
                "preference_adapter",
                "preference_examples",
                "quantized_model",
                "compression_errors",
                "out_of_domain_questions",
                "replay_questions",
                "eval_answers",
                "benchmark_runs",
                "speed_comparison",
                "candidate_report",
            },
        ),
    ],
)
def test_a_changed_knob_changes_the_code_version_of_exactly_what_it_shapes(tmp_path, changes, touched):
    before, after = specs(tmp_path), specs(tmp_path, **changes)
    assert {name for name in before if before[name].code_version != after[name].code_version} == touched


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, {"python", "lancedb"}),
        ({"index": {"backend": "elasticsearch"}}, {"python", "elasticsearch"}),
    ],
)
def test_the_index_names_the_back_end_in_use(tmp_path, changes, kinds):
    assert specs(tmp_path, **changes)["search_index"].kinds == kinds


def test_feedback_names_the_database_in_use(tmp_path):
    assets = specs(tmp_path, feedback={"url": "postgresql+psycopg://somewhere/feedback"})
    assert assets["feedback_events"].kinds == assets["review_decisions"].kinds == {"parquet", "postgresql"}


def test_the_code_version_of_an_asset_covers_what_it_calls_and_nothing_that_it_only_shows():
    references = _SOURCE.definitions(types.SimpleNamespace(__module__=model.__name__, __qualname__="lora_adapter"))
    modules = {reference.module for reference in references}
    assert {"ragtune_assets.model", "ragtune.model.training.sft", "ragtune.answer.prompt"} <= modules
    assert not {"ragtune_assets.pages", "ragtune_assets.display", "ragtune.errors"} & modules


def test_only_roots_lack_an_automation_condition(tmp_path):
    roots = {name for name, spec in specs(tmp_path).items() if spec.automation_condition is None}
    others = {"feedback_events", "review_decisions", "answer_ratings", "gateway_loads"}
    assert roots == {"raw_documents", "existing_pairs", "base_model", *others}


def test_every_sensor_is_on_from_the_start(tmp_path):
    sensors = build_definitions(load_settings({"home": tmp_path})).sensors
    assert {sensor.name: sensor.default_status.value for sensor in sensors} == {
        "changed_sources": "RUNNING",
        "dead_runs": "RUNNING",
        "enough_new_feedback": "RUNNING",
        "enough_new_reviews": "RUNNING",
        "keep_up": "RUNNING",
        "refused_champion": "RUNNING",
    }


def test_the_blocking_checks_are_those_that_guard_a_release(tmp_path):
    graph = build_definitions(load_settings({"home": tmp_path})).resolve_asset_graph()
    blocking = {key.name for key in graph.asset_check_keys if graph.get(key).blocking}
    on_the_model = {"really_quantised", "small_enough", "rounding_loses_little"}
    assert blocking == {"holds_every_chunk", "expectations", "no_leak", "no_empty_split", *on_the_model}


def test_loading_the_code_location_imports_no_heavy_library(tmp_path):
    code = (
        "import sys\n"
        "from ragtune_assets.definitions import build_definitions; from ragtune.settings import load_settings\n"
        "build_definitions(load_settings()).resolve_all_asset_specs()\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'pandas', 'lancedb', 'great_expectations', 'matplotlib', 'trl'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


def test_a_result_carries_the_content_hash_as_its_data_version():
    ref = ArtifactRef("chunks", "/somewhere", "ab" * 32, 3)
    result = materialized(ref, {"seen": 1})
    assert result.data_version.value == "ab" * 8
    assert result.metadata["rows"] == 3


def test_tables_keep_their_shape_whatever_the_cells_hold():
    markdown = table(["a", "b"], [("x | y\nz", 0.12345), ("w" * 500, "")]).md_str
    assert markdown.splitlines()[2] == "| x \\| y z | 0.123 |"
    assert all(len(line) < 200 and line.replace("\\|", "").count("|") == 3 for line in markdown.splitlines())


def test_the_page_of_a_release_links_to_its_run_its_version_and_its_reports(tmp_path):
    gate = {"reason": "It is better.", "promoted": True, "alpha_left": 0.02, "by_origin": ""}
    page = release_page("3", "models/abc", manifest(gate=gate, mlflow_run_id="r7"), "http://127.0.0.1:5000", "my model")
    assert page["mlflow run"].url == "http://127.0.0.1:5000/#/runs/r7"
    assert page["in the registry"].url == "http://127.0.0.1:5000/#/models/my%20model/versions/3"
    linked = {value.asset_key for value in page.values() if isinstance(value, dg.DagsterAssetMetadataValue)}
    assets = build_definitions(load_settings({"home": tmp_path})).resolve_asset_graph().get_all_asset_keys()
    assert {key.to_user_string() for key in linked} == set(REPORTS.values())
    assert linked <= assets


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


def test_the_picture_in_the_documentation_shows_every_asset(tmp_path):
    picture = (Path(__file__).parent.parent / "docs" / "images" / "graph.svg").read_text()
    names = specs(tmp_path)
    assert [name for name in names if f">{name}<" not in picture] == []
