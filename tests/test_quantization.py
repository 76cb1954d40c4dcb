import shutil
from pathlib import Path

import pytest

from ragtune.errors import ModelError, SettingsError
from ragtune.model.base.capacity import Machine
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.compression.quantization import quantize_w4a16, quantize_w8a8
from ragtune.model.compression.weights import inspect_weights, storage_format, unpack_w4a16
from ragtune.model_settings import QuantizationSettings
from tests.support.tiny_llama import make_tiny_llama, talks

SETTINGS = QuantizationSettings(group_size=32, calibration_samples=4)
LAYERS = 2 * 7  # two blocks with seven linear layers each
ONE_CORE = Machine("cpu", 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def int4(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize_w4a16(tiny, talks(6), SETTINGS, tmp_path_factory.mktemp("int4") / "w4a16", ONE_CORE)


def test_gptq_reports_its_progress_layer_by_layer(tiny: Path, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    quantize_w4a16(tiny, talks(1), SETTINGS, tmp_path / "out", ONE_CORE, lambda *report: reports.append(report))
    layers = [(done, total) for what, done, total in reports if what == "quantising layers"]
    assert layers[-1] == (LAYERS, LAYERS)
    assert len(layers) > 1


@pytest.fixture(scope="module")
def int8(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize_w8a8(tiny, tmp_path_factory.mktemp("int8") / "w8a8", ONE_CORE)


def test_every_linear_layer_is_packed_int4(tiny: Path, int4: Path) -> None:
    packed, before = inspect_weights(int4), inspect_weights(tiny)
    assert (packed["precision"], packed["packed_int4"], packed["int8"], packed["plain"]) == ("w4a16", LAYERS, 0, 0)
    per_layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128
    assert packed["quantized_bytes"] == 2 * per_layer // 2  # two blocks, half a byte per weight
    assert packed["parameters"] == before["parameters"]
    assert packed["bytes"] < before["bytes"]


def test_every_linear_layer_is_int8(int8: Path) -> None:
    weights = inspect_weights(int8)
    assert (weights["precision"], weights["packed_int4"], weights["int8"], weights["plain"]) == ("w8a8", 0, LAYERS, 0)


def test_an_unquantised_model_is_recognised(tiny: Path) -> None:
    weights = inspect_weights(tiny)
    assert (weights["precision"], weights["plain"]) == ("bf16", LAYERS)
    assert weights["bytes"] == (tiny / "model.safetensors").stat().st_size


def test_the_quantised_models_answer_nearly_like_the_original(tiny: Path, int4: Path, int8: Path) -> None:
    import torch

    text = talks(8)[7].messages[1].content
    ids = torch.tensor([load_tokenizer(tiny)(text)["input_ids"]])
    with torch.no_grad():
        logits = {folder: load_model(folder)(ids).logits.float().flatten() for folder in (tiny, int4, int8)}
    similarity = {f: float(torch.cosine_similarity(logits[tiny], logits[f], dim=0)) for f in (int4, int8)}
    # Rounding to 256 levels changes logits by about a thousandth, to 16 levels by a few hundredths.
    assert similarity[int8] > 0.999
    assert 0.9 < similarity[int4] < similarity[int8]


def test_unpacked_int4_weights_answer_like_the_packed_ones(tiny: Path, int4: Path, tmp_path: Path) -> None:
    import torch

    whole = unpack_w4a16(int4, tmp_path / "whole")
    assert (storage_format(int4), storage_format(whole)) == ("pack-quantized", "")
    assert inspect_weights(whole)["precision"] == "bf16"
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        packed, plain = (load_model(folder)(ids).logits.float() for folder in (int4, whole))
    assert float(torch.cosine_similarity(packed.flatten(), plain.flatten(), dim=0)) > 0.9999
    with pytest.raises(ModelError, match="no packed INT4"):
        unpack_w4a16(tiny, tmp_path / "out")


def test_the_folders_hold_everything_that_an_engine_loads(tiny: Path, int4: Path, int8: Path) -> None:
    for folder in (int4, int8):
        assert {p.name for p in folder.iterdir()} >= {p.name for p in tiny.iterdir()}
        assert load_tokenizer(folder).chat_template == load_tokenizer(tiny).chat_template
        assert not list(folder.parent.glob(".*"))


def test_an_unsuitable_group_size_is_refused_with_the_suitable_ones(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[16, 32, 64\]"):
        quantize_w4a16(tiny, talks(2), QuantizationSettings(group_size=48), tmp_path / "out", ONE_CORE)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_refused(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
    weights = load_file(tiny / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"NaN or infinite, such as model\.layers\.1\.mlp\.up_proj"):
        quantize_w4a16(broken, talks(2), SETTINGS, tmp_path / "w4a16", ONE_CORE)
    with pytest.raises(ModelError, match="NaN or infinite"):
        quantize_w8a8(broken, tmp_path / "w8a8", ONE_CORE)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_calibration_without_samples_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no calibration samples"):
        quantize_w4a16(tiny, [], SETTINGS, tmp_path / "out", ONE_CORE)


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no weights"):
        inspect_weights(tmp_path)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_block_of_columns_is_quantised_as_by_llm_compressor_itself(symmetric: bool) -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq.gptq_quantize import gptq_block_update

    from ragtune.model.compression.gptq_kernel import gptq_block

    torch.manual_seed(3)
    weights, inputs = torch.randn(1, 96, 64) * 0.05, torch.randn(200, 64)
    hessian = inputs.T @ inputs / 200 + torch.eye(64) * 0.01
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)[None]
    arguments = {
        "scale": (torch.rand(1, 96, 2) * 0.01 + 0.005).bfloat16(),
        "zero_point": torch.randint(-8, 7, (1, 96, 2), dtype=torch.int8),
        "global_scale": None,
        "g_idx": torch.arange(64) // 32,
        "quant_args": QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=symmetric),
        "i1": 0,
    }
    results = []
    for update in (gptq_block_update.__wrapped__, gptq_block):
        outputs = [torch.zeros_like(weights) for _ in range(3)]
        update(weights.clone(), inverse, *outputs, **arguments)
        results.append(outputs)
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gptq_runs_our_block_on_a_cpu(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcompressor.modifiers.gptq import gptq_quantize

    def never(*_: object, **__: object) -> None:
        raise AssertionError("llm-compressor's own loop ran")

    monkeypatch.setattr(gptq_quantize, "fake_quantize", never)
    assert quantize_w4a16(tiny, talks(1), SETTINGS, tmp_path / "out", ONE_CORE).is_dir()
