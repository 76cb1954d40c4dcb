"""The checks on size and loss of a quantised model, and what the page about its errors shows."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ragtune.errors import SettingsError
from ragtune.evaluation.gate import ModelGain, PairedGain
from ragtune.model.base.capacity import Machine, reads_int4
from ragtune.model.compression.errors import quantization_errors
from ragtune.model.compression.quantization import quantize_w4a16
from ragtune.model.compression.weights import inspect_weights
from ragtune.model_settings import QuantizationSettings
from ragtune.records import BenchmarkRow, Score
from ragtune.settings import Settings, load_settings
from ragtune.store.warehouse import Warehouse
from ragtune_assets.compression import compression_rows
from ragtune_assets.compression_pages import compression_page
from ragtune_assets.evaluation import precision_name, rounding_check
from ragtune_assets.model import size_check
from tests.support.tiny_llama import make_loud_llama, talks

ONE_CORE = Machine("cpu", 1)


def gain(precision: str, low: float, high: float, metric: str = "token_f1", over: str = "fine-tuned bf16") -> ModelGain:
    paired = PairedGain(
        metric=metric,
        gain=(low + high) / 2,
        low=low,
        high=high,
        smallest_detectable_gain=0.05,
        standard_error=0.01,
        p_value=0.5,
        n=100,
    )
    return ModelGain(over, "fine-tuned", precision, paired)


@pytest.mark.parametrize(
    ("gains", "passed", "shown"),
    [
        ([gain("w4a16", -0.01, 0.02)], True, "w4a16"),
        ([gain("w4a16", -0.08, 0.03)], True, "none"),
        ([gain("w4a16", -0.08, -0.03)], False, "none"),
        ([gain("w4a16", -0.08, -0.03), gain("w8a8", -0.01, 0.01)], False, "w8a8"),
        ([gain("w4a16", -0.08, -0.03, "chrf"), gain("w4a16", -0.08, -0.03, over="base bf16")], True, "none"),
    ],
    ids=["shown to lose little", "not shown", "shown to lose", "one of two", "another metric or model"],
)
def test_only_a_loss_that_is_shown_stops_the_release(gains: Sequence[ModelGain], passed: bool, shown: str) -> None:
    result = rounding_check(gains, Settings())
    assert result.passed is passed
    assert result.metadata["shown to lose less"].value == shown
    if not passed:
        assert result.description == "w4a16 loses more than 0.02 of token_f1"


def test_without_answers_of_bf16_the_check_says_that_nothing_was_compared() -> None:
    result = rounding_check([], Settings())
    assert result.passed
    assert "evaluation.precisions" in str(result.metadata["not compared"].value)


def test_int4_has_to_save_what_the_settings_demand_and_int8_need_not() -> None:
    sizes = {"bf16": {"bytes": 100}, "w4a16": {"bytes": 59}, "w8a8": {"bytes": 70}}
    assert size_check(sizes, 0.4, {}).passed
    result = size_check({**sizes, "awq": {"bytes": 61}}, 0.4, {})
    assert not result.passed
    assert result.description == "awq is 39% smaller than bf16; quantization.smaller_by demands 40%"


def test_a_precision_that_is_not_made_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"name mixed, which is not made: add it to quantization\.also"):
        load_settings({"benchmark": {"precisions": ["mixed"]}})
    with pytest.raises(SettingsError, match="serve: awq is not made"):
        load_settings({"quantization": {"serve": "awq"}})
    settings = load_settings({"quantization": {"serve": "awq", "also": ["awq"]}, "evaluation": {"precisions": ["awq"]}})
    assert settings.quantization.serve == "awq"


def test_page_and_warehouse_show_size_predictions_scores_and_speed_of_each_precision(tmp_path: Path) -> None:
    tiny = make_loud_llama(tmp_path / "bf16")
    int4 = quantize_w4a16(tiny, talks(4), QuantizationSettings(calibration_samples=4), tmp_path / "w4a16", ONE_CORE)
    folders = {"bf16": tiny, "w4a16": int4}
    reports = [quantization_errors(tiny, folder, name, talks(3), ONE_CORE) for name, folder in folders.items()]
    sizes = {name: inspect_weights(folder)["bytes"] for name, folder in folders.items()}
    rows = compression_rows(reports, sizes, "v1")
    page = compression_page(reports, rows)
    assert "| w4a16 | GPTQ |" in page["precisions"].md_str
    assert page["output of each layer"].md_str.startswith("![Signal to quantisation noise of the output]")
    assert page["layers, dB of weight / output"].md_str.count("model.layers.") == 14
    assert page["worst prompts"].md_str.count("| w4a16 |") == 3

    warehouse = Warehouse(tmp_path / "warehouse.duckdb")
    warehouse.append(rows)
    warehouse.append([score("w4a16", 0.7), score("bf16", 0.72)])
    warehouse.append([benchmark("w4a16 unpacked", 4)])
    columns, table = warehouse.query("SELECT * FROM compressed_models ORDER BY precision")
    shown = [dict(zip(columns, row, strict=True)) for row in table]
    assert [(row["precision"], row["method"], row["token_f1"]) for row in shown] == [
        ("bf16", "none", 0.72),
        ("w4a16", "GPTQ", 0.7),
    ]
    assert (shown[0]["mean_kl"], shown[0]["tokens_per_second"]) == (0.0, None)
    assert shown[1]["smaller_by"] > 0.3
    assert shown[1]["kl_99_9"] > shown[1]["mean_kl"] > 0
    assert (shown[1]["concurrency"], shown[1]["tokens_per_second"]) == (4, 50.0)

    warehouse.append(compression_rows(reports, sizes, "v2", qat=True))
    _, methods = warehouse.query("SELECT method, model FROM compressed_models ORDER BY method")
    assert methods == [("GPTQ", "v1"), ("QAT+GPTQ", "v2"), ("none", "v2")]


def test_every_format_with_int4_is_named_unpacked_where_the_engine_cannot_read_it() -> None:
    names = {name: precision_name(name, Settings(device="cpu")) for name in ("w4a16", "awq", "mixed", "w8a8", "bf16")}
    ending = "" if reads_int4("cpu") else " unpacked"
    assert names == {**{n: n + ending for n in ("w4a16", "awq", "mixed")}, "w8a8": "w8a8", "bf16": "bf16"}


def score(precision: str, value: float) -> Score:
    return Score(
        model="fine-tuned",
        precision=precision,
        metric="token_f1",
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        n=50,
        split="test",
        dataset_sha256="d",
        model_version="v1",
        seed=1,
        signature="s",
    )


def benchmark(precision: str, concurrency: int) -> BenchmarkRow:
    return BenchmarkRow(
        run_id="r",
        measured_at="2026-01-01",
        model="v1",
        precision=precision,
        concurrency=concurrency,
        requests=8,
        errors=0,
        p50_ms=1.0,
        p95_ms=2.0,
        ttft_p50_ms=1.0,
        ttft_p95_ms=2.0,
        tokens_per_second=50.0,
        peak_memory_bytes=1000,
        model_bytes=100,
        hardware="h",
    )
