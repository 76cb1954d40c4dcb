from pathlib import Path

import pytest

from ragtune.model.base.capacity import arithmetic, cpu_features, fastest_precision, reads_int4

ZEN3 = frozenset({"fma", "avx2"})
SKYLAKE = frozenset({"avx2", "avx512f"})
SAPPHIRE_RAPIDS = frozenset({"GenuineIntel", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"})
COOPER_LAKE = SAPPHIRE_RAPIDS - {"amx_bf16", "amx_int8"}
ZEN4 = COOPER_LAKE - {"GenuineIntel"} | {"AuthenticAMD"}


@pytest.mark.parametrize(
    ("features", "numbers", "served", "int4"),
    [
        (ZEN3, "float32", "bf16", False),
        (SKYLAKE, "float32", "bf16", True),
        (SAPPHIRE_RAPIDS, "bfloat16", "w8a8", True),
        (COOPER_LAKE, "float32", "w8a8", True),
        (ZEN4, "bfloat16", "w8a8", True),
    ],
)
def test_a_processor_is_given_what_it_has_instructions_for(
    features: frozenset[str], numbers: str, served: str, int4: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert arithmetic("cpu", features) == numbers
    assert fastest_precision("cpu", features) == served
    assert reads_int4("cpu", features) is int4


def test_a_gpu_computes_in_bf16_and_answers_fastest_with_int4() -> None:
    assert (arithmetic("cuda", ZEN3), fastest_precision("cuda", ZEN3), reads_int4("cuda", ZEN3)) == (
        "bfloat16",
        "w4a16",
        True,
    )


def test_the_features_are_the_maker_and_the_flags_that_linux_lists(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512_bf16\nbugs\t\t: spectre\n")
    assert cpu_features(info) == {"GenuineIntel", "fpu", "avx2", "avx512_bf16"}
    assert cpu_features(tmp_path / "absent") == frozenset()
