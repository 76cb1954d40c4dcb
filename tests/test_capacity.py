from pathlib import Path

import pytest

from ragtune.errors import SettingsError
from ragtune.model.base.capacity import (
    GIB,
    arithmetic,
    cpu_features,
    fastest_precision,
    reads_int4,
    require_int8,
    use_threads,
)
from ragtune.model.plan import base_model_bytes, require_fit
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore

# What /proc/cpuinfo lists on each processor, shortened to the instruction sets that matter.
CPUINFO = {
    "Zen 3": "vendor_id\t: AuthenticAMD\nflags\t\t: fpu fma avx2 sha_ni\n",
    "Skylake": "vendor_id\t: GenuineIntel\nflags\t\t: fpu fma avx2 avx512f avx512bw\n",
    "Cooper Lake": "vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16\n",
    "Sapphire Rapids": "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8\n",
    "Zen 4": "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16\n",
    "Alder Lake": "vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx_vnni\n",
    "Neoverse V2": "CPU implementer\t: 0x41\nFeatures\t: fp asimd asimddp i8mm bf16\n",
}


@pytest.fixture(params=CPUINFO)
def processor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, frozenset[str]]:
    """A processor's name and its features, read as on that machine."""
    info = tmp_path / "cpuinfo"
    info.write_text(CPUINFO[request.param])
    monkeypatch.setattr("platform.machine", lambda: "aarch64" if request.param == "Neoverse V2" else "x86_64")
    return request.param, cpu_features(info)


def test_only_a_processor_with_fast_bf16_instructions_computes_in_bf16(processor) -> None:
    name, features = processor
    fast = name in ("Sapphire Rapids", "Zen 4", "Neoverse V2")
    assert arithmetic("cpu", features) == ("bfloat16" if fast else "float32")


def test_int8_is_served_and_offered_to_the_embedder_only_where_8_bit_numbers_are_multiplied(processor) -> None:
    name, features = processor
    if name in ("Zen 3", "Skylake"):
        assert fastest_precision("cpu", features) == "bf16"
        with pytest.raises(SettingsError, match="no 8-bit instructions"):
            require_int8("cpu", features)
    else:
        assert fastest_precision("cpu", features) == "w8a8"
        require_int8("cpu", features)


def test_packed_int4_weights_need_avx512_on_x86_and_nothing_special_on_arm(processor) -> None:
    name, features = processor
    assert reads_int4("cpu", features) == (name not in ("Zen 3", "Alder Lake"))


def test_a_gpu_computes_in_bf16_and_serves_int4_whatever_its_processor_can_do(processor) -> None:
    _, features = processor
    assert arithmetic("cuda", features) == "bfloat16"
    assert fastest_precision("cuda", features) == "w4a16"
    assert reads_int4("cuda", features)
    with pytest.raises(SettingsError, match="the device is cuda"):
        require_int8("cuda", features)


def test_features_are_whole_words_of_the_lines_that_list_them(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: amx_bf16 in name only\nflags\t\t: xavx2 avx512_bf16x\nbugs\t\t: i8mm\n" * 2)
    assert cpu_features(info) == {"xavx2", "avx512_bf16x"}
    assert cpu_features(tmp_path / "absent") == frozenset()


def test_this_machine_chooses_the_number_format_that_multiplies_matrices_faster() -> None:
    import torch

    threads = torch.get_num_threads()
    try:
        use_threads(1)
        seconds = {name: fastest_product(getattr(torch, name)) for name in ("bfloat16", "float32")}
    finally:
        use_threads(threads)
    faster = min(seconds, key=lambda name: seconds[name])
    other = max(seconds, key=lambda name: seconds[name])
    if seconds[other] < 1.3 * seconds[faster]:
        pytest.skip(f"both formats take about as long here: {seconds}")
    assert arithmetic("cpu") == faster


def fastest_product(dtype: object) -> float:
    """Return the seconds of the fastest of several matrix products of the size of SmolLM2's layers."""
    import time

    import torch

    a, b = torch.randn(512, 576).to(dtype), torch.randn(576, 1536).to(dtype)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def test_a_base_model_that_could_never_be_quantised_here_is_refused_before_anything_is_built() -> None:
    settings = load_settings({"base_model": {"name": "large"}})
    with pytest.raises(SettingsError, match=r"15\.0 GiB of weights.*about 61\.0 GiB.*has 24\.0[\s\S]*at most 5\.8 GiB"):
        require_fit(settings, 15 * GIB, 24 * GIB)
    require_fit(settings, 5 * GIB, 24 * GIB)
    require_fit(settings, 0, 2 * GIB)


def test_a_cache_that_is_larger_than_the_memory_is_refused() -> None:
    settings = load_settings({"engine": {"kv_cache_gib": 24}, "device": "cpu"})
    with pytest.raises(SettingsError, match=r"kv_cache_gib is 24[\s\S]*at most 23 GiB"):
        require_fit(settings, GIB, 24 * GIB)


def test_the_size_of_a_base_model_is_known_from_its_folder_or_from_the_last_build(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    assert base_model_bytes(load_settings({"home": tmp_path}), store) == 0
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.safetensors").write_bytes(bytes(100))
    assert base_model_bytes(load_settings({"base_model": {"name": str(tmp_path / "own")}}), store) == 100
    with store.stage("base_model") as scratch:
        (scratch / "model.safetensors").write_bytes(bytes(70))
        store.set_current(store.commit("base_model", scratch))
    assert base_model_bytes(load_settings({"home": tmp_path}), store) == 70
