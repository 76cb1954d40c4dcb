import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.default_model.sizes import LLAMA_3_8B, expected_bytes
from ragtune.errors import ModelError, SettingsError
from ragtune.model.base.capacity import Machine, arithmetic
from ragtune.model.base.folder_checks import read_safetensors_header
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.compression.gptq_layout import to_gptq_layout
from ragtune.model.compression.mixed import Unit, layers_in_int8, measured_units
from ragtune.model.compression.quantization import (
    _compress,
    _int4_scheme,
    quantize_awq,
    quantize_mixed,
    quantize_w4a16,
    quantize_w8a8,
)
from ragtune.model.compression.rounding import int4_weights, round_to_nearest
from ragtune.model.compression.weights import inspect_weights, storage_format, unpack_w4a16
from ragtune.model_settings import QuantizationSettings
from ragtune.ports import silent
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


@pytest.fixture(scope="module")
def symmetric(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SETTINGS.model_copy(update={"symmetric": True})
    return quantize_w4a16(tiny, talks(6), settings, tmp_path_factory.mktemp("symmetric") / "w4a16", ONE_CORE)


def logits_of(*folders: Path) -> list[Any]:
    import torch

    text = talks(8)[7].messages[1].content
    with torch.no_grad():
        return [
            load_model(folder)(torch.tensor([load_tokenizer(folder)(text)["input_ids"]])).logits.float().flatten()
            for folder in folders
        ]


def test_awq_is_int4_and_answers_nearly_like_the_original(tiny: Path, tmp_path: Path) -> None:
    import torch

    awq = quantize_awq(tiny, talks(6), SETTINGS, tmp_path / "awq", ONE_CORE)
    weights = inspect_weights(awq)
    assert (weights["precision"], weights["packed_int4"]) == ("w4a16", LAYERS)
    before, after = logits_of(tiny, awq)
    assert 0.9 < float(torch.cosine_similarity(before, after, dim=0)) < 1


def test_the_layout_of_autogptq_holds_the_same_numbers(tiny: Path, symmetric: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    settings = SETTINGS.model_copy(update={"symmetric": True, "format": "gptq"})
    folder = quantize_w4a16(tiny, talks(6), settings, tmp_path / "gptq", ONE_CORE)
    assert (storage_format(folder), inspect_weights(folder)["packed_int4"]) == ("gptq", LAYERS)
    assert inspect_weights(folder)["precision"] == "w4a16"
    layer = "model.layers.0.mlp.down_proj"
    tensors = load_file(folder / "model.safetensors")
    shapes = {name: tuple(tensors[f"{layer}.{name}"].shape) for name in ("qweight", "qzeros", "scales", "g_idx")}
    assert shapes == {"qweight": (16, 64), "qzeros": (4, 8), "scales": (4, 64), "g_idx": (128,)}
    assert {hex(int(word) & 0xFFFFFFFF) for word in tensors[f"{layer}.qzeros"].flatten()} == {"0x77777777"}

    plain = [unpack_w4a16(packed, tmp_path / f"plain-{packed.name}") for packed in (symmetric, folder)]
    ours, theirs = (load_file(out / "model.safetensors") for out in plain)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # Scales have 7 bits of fraction in bf16 and 10 in float16, so they survive; tiny ones are subnormal there.
        assert float((tensor.float() - theirs[name].float()).abs().max()) < 1e-4, name


def test_an_asymmetric_model_has_no_layout_of_autogptq(int4: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"asymmetric[\s\S]*symmetric: true"):
        to_gptq_layout(int4, tmp_path / "gptq")
    with pytest.raises(ValueError, match="set symmetric: true"):
        QuantizationSettings(format="gptq")


def test_a_mixed_model_keeps_to_its_size_and_is_closer_to_the_original(tiny: Path, int4: Path, tmp_path: Path) -> None:
    import torch

    settings = SETTINGS.model_copy(update={"mixed_size": 0.62})
    mixed = quantize_mixed(tiny, talks(6), settings, tmp_path / "mixed", ONE_CORE)
    weights, plain = inspect_weights(mixed), inspect_weights(tiny)
    assert weights["precision"] == "mixed"
    assert weights["packed_int4"] + weights["int8"] == LAYERS
    # The files also hold headers, which are a tenth of so small a model.
    assert weights["bytes"] <= 0.62 * plain["bytes"] * 1.1
    before, rounded, kept = logits_of(tiny, int4, mixed)
    assert torch.cosine_similarity(before, kept, dim=0) > torch.cosine_similarity(before, rounded, dim=0)


def test_the_int4_layers_of_a_mixed_model_are_unpacked_and_its_int8_layers_stay(tiny: Path, tmp_path: Path) -> None:
    import torch

    settings = SETTINGS.model_copy(update={"mixed_size": 0.62})
    mixed = quantize_mixed(tiny, talks(6), settings, tmp_path / "mixed", ONE_CORE)
    readable = unpack_w4a16(mixed, tmp_path / "readable")
    before, after = inspect_weights(mixed), inspect_weights(readable)
    assert (after["packed_int4"], after["int8"], after["plain"]) == (0, before["int8"], before["packed_int4"])
    assert (after["parameters"], storage_format(readable)) == (before["parameters"], "int-quantized")
    logits = logits_of(mixed, readable)
    assert float(torch.cosine_similarity(*logits, dim=0)) > 0.9999


def test_layers_that_the_engine_fuses_have_one_format(tiny: Path) -> None:
    import torch

    units = measured_units(load_model(tiny), [torch.arange(3, 40)[None]], int4_weights(SETTINGS))
    assert len(units) == 2 * 4
    assert [layer.rpartition(".")[2] for layer in units[0].layers] == ["q_proj", "k_proj", "v_proj"]
    assert units[0].int8_bytes == 64 * (64 + 32 + 32) + 2 * (64 + 32 + 32)
    assert units[0].int4_bytes == 64 * (64 + 32 + 32) * (0.5 + 2.5 / 32)
    assert all(unit.loss > 0 for unit in units)


def test_the_units_that_lose_most_per_byte_stay_in_8_bits() -> None:
    units = [Unit(("a",), 100, 200, 0.5), Unit(("b", "c"), 100, 200, 0.9), Unit(("d",), 300, 600, 0.95)]
    assert layers_in_int8(units, 1000, 1650) == ["b", "c"]
    assert layers_in_int8(units, 1000, 1700) == ["b", "c", "a"]
    assert layers_in_int8(units, 1000, 1950) == ["b", "c", "a"]
    with pytest.raises(SettingsError, match=r"more than 1,500 bytes .* less than 2,000"):
        layers_in_int8(units, 1000, 1400)


@pytest.mark.parametrize("symmetric", [True, False])
def test_rounding_to_the_nearest_level_is_the_arithmetic_of_compressed_tensors(symmetric: bool) -> None:
    import torch
    from compressed_tensors.quantization import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    torch.manual_seed(0)
    scheme = int4_weights(SETTINGS.model_copy(update={"symmetric": symmetric}))
    weight = (torch.randn(48, 128) * 0.03).bfloat16()
    weight[0], weight[1], weight[2] = 0, weight[1].abs(), -weight[2].abs()  # groups on one side of zero, or at it
    low, high = torch.aminmax(weight.unflatten(-1, (-1, scheme.group_size)), dim=-1)
    expected = fake_quantize(weight, *calculate_qparams(low, high, scheme), scheme)
    assert torch.equal(round_to_nearest(weight, scheme), expected)
    assert len(round_to_nearest(weight, scheme)[3, :32].unique()) <= 16


@pytest.mark.skipif(arithmetic("cpu") != "bfloat16", reason="llm-compressor computes in float32 on this processor")
def test_rounding_to_the_nearest_level_is_what_llm_compressor_does_without_calibration(
    tiny: Path, tmp_path: Path
) -> None:
    import torch
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from safetensors.torch import load_file

    for symmetric in (False, True):
        settings = SETTINGS.model_copy(update={"symmetric": symmetric})
        recipe = QuantizationModifier(config_groups={"group_0": _int4_scheme(settings)}, ignore=["lm_head"])
        _compress(tiny, tmp_path / "packed", recipe, (), ONE_CORE, silent)
        theirs = load_file(unpack_w4a16(tmp_path / "packed", tmp_path / "plain") / "model.safetensors")
        before = load_file(tiny / "model.safetensors")
        for name, weight in before.items():
            if "proj" in name:
                ours = round_to_nearest(weight, int4_weights(settings))
                assert torch.equal(ours, theirs[name]), (name, symmetric)


def test_the_sizes_that_shapes_promise_are_those_of_the_files(
    tiny: Path, int4: Path, int8: Path, symmetric: Path
) -> None:
    config = json.loads((tiny / "config.json").read_text())
    promised = {s: expected_bytes(config, SETTINGS.model_copy(update={"symmetric": s})) for s in (False, True)}
    assert tensor_bytes(tiny) == promised[False]["bf16"]
    assert tensor_bytes(int8) == promised[False]["w8a8"]
    assert tensor_bytes(int4) == promised[False]["w4a16"]
    assert tensor_bytes(symmetric) == promised[True]["w4a16"]


def test_int4_is_three_fifths_smaller_for_the_shapes_of_llama_3_8b() -> None:
    sizes = expected_bytes(LLAMA_3_8B)
    assert sizes["bf16"] == 16_060_522_496  # as published: 8.03 billion parameters
    assert sizes["w4a16"] < 0.4 * sizes["bf16"]


def tensor_bytes(folder: Path) -> int:
    """Return the bytes of all weights, scales and zero points, without headers and the shapes of packed layers."""
    [file] = folder.glob("*.safetensors")
    tensors = read_safetensors_header(file)
    sizes = {"BF16": 2, "I8": 1, "I32": 4}
    return sum(
        math.prod(tensor["shape"]) * sizes[tensor["dtype"]]
        for name, tensor in tensors.items()
        if not name.endswith("weight_shape")
    )


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
