"""Every format that the product writes loads in the real engine and gives the tokens that transformers gives."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ragtune.backends.engines import VllmEngine
from ragtune.model.base.capacity import Machine
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.compression.quantization import quantize_awq, quantize_mixed, quantize_w4a16, quantize_w8a8
from ragtune.model.compression.weights import GPTQ, storage_format, unpack_w4a16
from ragtune.model_settings import QuantizationSettings
from ragtune.settings import EngineSettings
from tests.support.tiny_llama import make_loud_llama, talks

ENGINE_PYTHON = Path(__file__).parent.parent / ".venv-vllm/bin/python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.skipif(not ENGINE_PYTHON.exists(), reason="there is no .venv-vllm; run `make install`"),
]

ONE_CORE = Machine("cpu", 1)
SETTINGS = QuantizationSettings(calibration_samples=4, mixed_size=0.5)
SYMMETRIC = SETTINGS.model_copy(update={"symmetric": True, "format": "gptq"})
TOKENS = 8
# Importing vLLM takes longer than all models, so that one process imports it, and a copy of it loads each model.
SCRIPT = """
import json, os, sys
from vllm import LLM, SamplingParams

folders, ids, count = json.loads(sys.argv[1])
for name, folder in folders.items():
    if os.fork() == 0:
        llm = LLM(model=folder, enforce_eager=True, max_model_len=512, block_size=32)
        sampling = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        [request] = llm.generate({"prompt_token_ids": ids}, sampling, use_tqdm=False)
        print("\\nRESULT " + json.dumps([name, list(request.outputs[0].token_ids)]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model in each format."""
    home = tmp_path_factory.mktemp("formats")
    plain = make_loud_llama(home / "bf16", head_dim=32)  # the least that vLLM's attention takes on a CPU
    return {
        "bf16": plain,
        "w4a16": quantize_w4a16(plain, talks(6), SETTINGS, home / "w4a16", ONE_CORE),
        "gptq": quantize_w4a16(plain, talks(6), SYMMETRIC, home / "gptq", ONE_CORE),
        "awq": quantize_awq(plain, talks(6), SETTINGS, home / "awq", ONE_CORE),
        "w8a8": quantize_w8a8(plain, home / "w8a8", ONE_CORE),
        "mixed": quantize_mixed(plain, talks(6), SETTINGS, home / "mixed", ONE_CORE),
    }


def of_transformers(folder: Path, ids: list[int], scratch: Path) -> list[int]:
    """Return the next tokens; transformers reads AutoGPTQ's layout only with another package."""
    import torch

    model = load_model(unpack_w4a16(folder, scratch) if storage_format(folder) == GPTQ else folder)
    with torch.no_grad():
        tokens: Any = model.generate(
            torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=2
        )
    return list(map(int, tokens[0, len(ids) :]))


def test_every_format_loads_and_gives_the_tokens_of_transformers(models: dict[str, Path], tmp_path: Path) -> None:
    ids = load_tokenizer(models["bf16"])(talks(8)[7].messages[1].content)["input_ids"]
    engine = VllmEngine(EngineSettings(python=str(ENGINE_PYTHON), kv_cache_gib=1), tmp_path / "home", "cpu")
    # As served: a processor without a kernel for INT4 gets unpacked weights.
    folders = {name: str(engine._readable(folder)) for name, folder in models.items()}
    reply = subprocess.run(
        [str(ENGINE_PYTHON), "-c", SCRIPT, json.dumps([folders, ids, TOKENS])],
        env={**engine.environment("unused"), "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    tokens = dict(json.loads(line[7:]) for line in reply.stdout.splitlines() if line.startswith("RESULT "))
    assert tokens.keys() == models.keys(), reply.stderr[-3000:]
    for name, folder in models.items():
        expected = of_transformers(folder, ids, tmp_path / "plain")
        # The engine rounds in another order, and one token that differs changes all after it.
        assert tokens[name][:2] == expected[:2], (name, tokens[name], expected)
