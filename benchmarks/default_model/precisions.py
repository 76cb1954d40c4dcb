"""Compares the formats of the default model's weights in the engine: bytes, token F1, tokens a second, memory.

Run: python -m benchmarks.default_model.precisions --minutes 9 (again and again until it says that it is complete)

All models are made from the shipped adapter; `qat` is the one of `benchmarks.default_model.qat`. In each round every
model answers the next share of the held-out questions, so that a slow hour of the machine hits all of them. On a
processor without AVX-512 the engine gets unpacked INT4 weights: the answers are those of INT4, speed and memory are
not. Writes `precisions.json`.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.default_model.compressed import HOME, SEED, SHIPPED, calibration, conversations, made, merged
from benchmarks.default_model.sizes import LLAMA_3_8B, expected_bytes
from benchmarks.retrieval.results import as_text
from ragtune.answer.refusals import is_refusal
from ragtune.backends.engines import VllmEngine
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.metrics import token_f1
from ragtune.evaluation.resampling import mean_interval
from ragtune.model.base.capacity import Machine, reads_int4, use_threads
from ragtune.model.compression.quantization import quantize_awq, quantize_mixed, quantize_w4a16, quantize_w8a8
from ragtune.model.compression.weights import inspect_weights
from ragtune.model.examples.example import TrainingExample
from ragtune.model_settings import QuantizationSettings
from ragtune.ports import ChatModel
from ragtune.settings import EngineSettings, prepare_process
from ragtune.store.artifacts import file_sha256
from ragtune.text.whitespace import collapse_whitespace

SETTINGS = QuantizationSettings(calibration_samples=16)
MOST_TOKENS, AT_ONCE, SAMPLES = 48, 4, 2000


def main() -> None:
    """Make the models, let each answer, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after this time")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch and the engine; 0: one per core")
    parser.add_argument("--only", nargs="*", default=[], help="names of formats; none: all")
    options = parser.parse_args()
    prepare_process()
    end = time.monotonic() + 60 * options.minutes
    makers = all_formats(Machine("cpu", use_threads(options.threads)))
    folders: dict[str, Path] = {}
    for name in options.only or list(makers):
        require_time(end, name)
        folders[name] = makers[name]()
    engine = VllmEngine(EngineSettings(python=".venv-vllm/bin/python", threads=options.threads), HOME, "cpu")
    for part in range(options.rounds):
        for name, folder in folders.items():
            kept = HOME / "answers" / f"{name}-{part}.json"
            if not kept.is_file():
                require_time(end, name)
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(answered(engine, name, folder, questions()[part :: options.rounds])))
                print(name, part, flush=True)
    write(folders, options.rounds)
    print("complete")


def require_time(end: float, name: str) -> None:
    """Stop if no time is left."""
    if time.monotonic() > end:
        raise SystemExit(f"No time is left for {name}; run the command again.")


def all_formats(machine: Machine) -> dict[str, Callable[[], Path]]:
    """Return, by name, what returns the folder of each format, and makes it first if it is missing."""
    samples = calibration(SETTINGS.calibration_samples)

    def plain() -> Path:
        return merged("shipped-bf16", SHIPPED)

    return {
        "bf16": plain,
        "w8a8": lambda: made("w8a8", lambda out: quantize_w8a8(plain(), out, machine)),
        "w4a16": lambda: made("w4a16", lambda out: quantize_w4a16(plain(), samples, SETTINGS, out, machine)),
        "mixed": lambda: made("mixed", lambda out: quantize_mixed(plain(), samples, SETTINGS, out, machine)),
        "awq": lambda: made("awq", lambda out: quantize_awq(plain(), samples, SETTINGS, out, machine)),
        "qat": lambda: HOME / "models" / "qat-w4a16",
    }


def questions() -> list[TrainingExample]:
    """Return the held-out conversations, each by itself."""
    return [each for example in conversations()[1] for each in (example, *example.siblings)]


def answered(engine: VllmEngine, name: str, folder: Path, asked: Sequence[TrainingExample]) -> dict[str, Any]:
    """Return how the engine answered, how long it took, and how much memory it needed."""
    began = time.monotonic()
    with engine.running(folder, name) as running:
        ready = time.monotonic()
        chat = running.chat()
        chat.complete(asked[0].messages[:-1], max_tokens=1, temperature=0.0, seed=SEED)  # loads the kernels
        start = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            replies = list(pool.map(lambda example: _reply(chat, example), asked))
        seconds = time.monotonic() - start
        return {
            "ids": [example.pair_id for example in asked],
            "texts": [reply.text for reply in replies],
            "tokens": sum(reply.completion_tokens for reply in replies),
            "seconds": seconds,
            "start_seconds": ready - began,
            "memory_bytes": running.memory_bytes(),
        }


def _reply(chat: ChatModel, example: TrainingExample) -> Any:
    return chat.complete(example.messages[:-1], max_tokens=MOST_TOKENS, temperature=0.0, seed=SEED)


def score(example: TrainingExample, text: str) -> float:
    """Return the token F1 of an answer without its citations; a refusal is right if the target is one."""
    target = example.messages[-1].content
    if is_refusal(target) or is_refusal(text):
        return float(is_refusal(target) and is_refusal(text))
    return token_f1(_plain(target), _plain(text))


def _plain(text: str) -> str:
    return collapse_whitespace(re.sub(r" ?\[\d+\]", "", text))


def write(folders: dict[str, Path], rounds: int) -> None:
    """Write the table."""
    examples = {example.pair_id: example for example in questions()}
    rows_of = {
        each.pair_id: str(place)
        for place, example in enumerate(conversations()[1])
        for each in (example, *example.siblings)
    }
    table, scores = [], {}
    plain = inspect_weights(folders["bf16"])["bytes"]
    for name, folder in folders.items():
        runs = [json.loads((HOME / "answers" / f"{name}-{part}.json").read_text()) for part in range(rounds)]
        texts = {key: text for run in runs for key, text in zip(run["ids"], run["texts"], strict=True)}
        scores[name] = {key: score(examples[key], text) for key, text in texts.items()}
        size = inspect_weights(folder)["bytes"]
        rows = [rows_of[key] for key in scores[name]]
        loss = [scores[name][key] - scores["bf16"][key] for key in scores[name]]
        table.append(
            {
                "format": name,
                "bytes": size,
                "smaller_by": round(1 - size / plain, 3),
                "token_f1": _interval(list(scores[name].values()), rows),
                "gain_over_bf16": _interval(loss, rows),
                "tokens_per_second": [round(run["tokens"] / run["seconds"], 1) for run in runs],
                "memory_bytes": max(run["memory_bytes"] for run in runs),
                "start_seconds": [round(run["start_seconds"], 1) for run in runs],
                "unpacked": name not in ("bf16", "w8a8") and not reads_int4("cpu"),
            }
        )
    results = {
        "command": f"python -m benchmarks.default_model.precisions --rounds {rounds}",
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "hardware": hardware(),
        "seed": SEED,
        "adapter_sha256": file_sha256(SHIPPED / "adapter_model.safetensors"),
        "conversations_sha256": file_sha256(HOME / "conversations.gz"),
        "concurrency": AT_ONCE,
        "metrics": "[mean, low, high, n], 95% intervals resampled by prompt; tokens a second of each round",
        "formats": table,
        "llama_3_8b_from_its_shapes": {name: round(size / 1e9, 2) for name, size in expected_bytes(LLAMA_3_8B).items()},
    }
    Path(__file__).with_suffix(".json").write_text(as_text(results))
    for row in table:
        print(row)


def _interval(values: list[float], rows: list[str]) -> list[float]:
    return [*(round(value, 4) for value in mean_interval(values, rows, SAMPLES, SEED)), len(values)]


if __name__ == "__main__":
    main()
