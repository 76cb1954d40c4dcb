"""Measures what quantisation-aware training wins back of what INT4 loses: the same training, with and without rounding.

Run: python -m benchmarks.default_model.qat --minutes 9 (again and again until it says that it is complete)

Both trainings continue from the shipped adapter with the same steps, rows and seed. Each is merged, and stored as INT4
by GPTQ and by rounding to the nearest level. The models predict answers of documents that no training saw. Writes
`qat.json`.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.default_model.compressed import (
    HOME,
    SEED,
    SHIPPED,
    SOURCES,
    Answer,
    calibration,
    conversations,
    loaded,
    made,
    merged,
    predictions,
)
from benchmarks.default_model.compressed import base_model as published
from benchmarks.retrieval.results import as_text
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.resampling import mean_interval
from ragtune.model.base.capacity import Machine, use_threads
from ragtune.model.compression.quantization import quantize_w4a16
from ragtune.model.compression.rounding import int4_weights, round_to_nearest
from ragtune.model.examples.example import TrainingExample
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import Tracker
from ragtune.model_settings import QuantizationSettings, TrainingSettings
from ragtune.settings import prepare_process
from ragtune.store.artifacts import file_sha256

ROUNDING = QuantizationSettings(calibration_samples=16)
ORDER = ("plain bf16", "plain GPTQ", "qat GPTQ", "qat nearest", "plain nearest", "qat bf16")
"""The models, the reference first."""
SAMPLES = 2000
METRICS = ("nll", "kl", "same")


def main() -> None:
    """Train, merge, round, compare; every part is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after this time")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: one per core")
    options = parser.parse_args()
    prepare_process()
    machine = Machine("cpu", use_threads(options.threads))
    end = time.monotonic() + 60 * options.minutes
    adapters = {name: adapter(name, options.steps, options.learning_rate, machine) for name in ("plain", "qat")}
    models = all_models(adapters, machine)
    answers: dict[str, list[Answer]] = {}
    for name in ORDER:
        answers[name] = predictions(_file(name), models[name], _file(ORDER[0]), lambda: end - time.monotonic())
        print(name, summary(answers[name]), flush=True)
        write(answers, adapters, options)
    print("complete")


def adapter(name: str, steps: int, learning_rate: float, machine: Machine) -> Path:
    """Return the folder of an adapter, trained further from the shipped one; `qat` rounds while it trains."""
    out = HOME / "adapters" / f"{name}-{steps}-{learning_rate:g}"
    if out.is_dir():
        return out
    settings = TrainingSettings(
        steps=steps,
        learning_rate=learning_rate,
        rank=64,
        alpha=128,
        start_from=str(SHIPPED),
        batch_size=2,
        max_tokens=512,
        checkpoint_every=2,
        validation_examples=0,
        eval_every=0,
        qat=name == "qat",
    )
    settings = settings.model_copy(update=shape_of_shipped())
    job = TrainingJob(
        base=published(),
        settings=settings,
        seed=SEED,
        out=out,
        checkpoints=HOME / "checkpoints" / out.name,
        rounding=ROUNDING if settings.qat else None,
    )
    examples = conversations()[0][ROUNDING.calibration_samples :]
    train_adapter(job, examples, [], Tracker(), machine, lambda *report: print(*report, flush=True))
    return out


def shape_of_shipped() -> dict[str, Any]:
    """Return rank and scale of the shipped adapter."""
    config = json.loads((SHIPPED / "adapter_config.json").read_text())
    return {"rank": int(config["r"]), "alpha": int(config["lora_alpha"]), "use_rslora": bool(config.get("use_rslora"))}


def all_models(adapters: dict[str, Path], machine: Machine) -> dict[str, Callable[[], Any]]:
    """Return, by name, what loads each model; it is made first if it is missing."""
    models: dict[str, Callable[[], Any]] = {}
    samples = calibration(ROUNDING.calibration_samples)
    for name, folder in adapters.items():
        bf16 = merged(f"{name}-bf16", folder)
        gptq = made(f"{name}-w4a16", partial(_with_gptq, bf16, samples, machine))
        models |= {
            f"{name} bf16": partial(loaded, bf16),
            f"{name} GPTQ": partial(loaded, gptq),
            f"{name} nearest": partial(to_nearest, bf16),
        }
    return models


def _with_gptq(bf16: Path, samples: Sequence[TrainingExample], machine: Machine, out: Path) -> None:
    quantize_w4a16(bf16, samples, ROUNDING, out, machine)


def to_nearest(folder: Path) -> Any:
    """Return a model whose linear layers are rounded to the nearest level of INT4."""
    from torch.nn import Linear

    model = loaded(folder)
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and name != "lm_head":
            layer.weight.data = round_to_nearest(layer.weight, int4_weights(ROUNDING)).to(layer.weight.dtype)
    return model


def summary(answers: list[Answer]) -> dict[str, list[float]]:
    """Return {metric: [mean, low, high, n]} with 95% intervals, resampled by prompt."""
    return {metric: _interval([getattr(answer, metric) for answer in answers], answers) for metric in METRICS}


def _file(name: str) -> str:
    return name.replace(" ", "-")


def _interval(values: list[float], answers: list[Answer]) -> list[float]:
    rows = [str(answer.row) for answer in answers]
    return [*(round(value, 4) for value in mean_interval(values, rows, SAMPLES, SEED)), len(values)]


def differences(answers: dict[str, list[Answer]]) -> list[dict[str, Any]]:
    """Return what rounding costs each training, and what QAT wins, paired by answer; positive is more loss."""
    pairs = [
        ("plain GPTQ", "plain bf16"),
        ("plain nearest", "plain bf16"),
        ("qat bf16", "plain bf16"),
        ("qat GPTQ", "plain bf16"),
        ("qat nearest", "plain bf16"),
        ("qat GPTQ", "plain GPTQ"),
        ("qat nearest", "plain nearest"),
        ("qat nearest", "plain GPTQ"),
    ]
    return [
        {
            "model": model,
            "minus": other,
            **{
                metric: _interval(
                    [
                        getattr(a, metric) - getattr(b, metric)
                        for a, b in zip(answers[model], answers[other], strict=True)
                    ],
                    answers[model],
                )
                for metric in ("nll", "kl")
            },
        }
        for model, other in pairs
        if model in answers and other in answers
    ]


def write(answers: dict[str, list[Answer]], adapters: dict[str, Path], options: argparse.Namespace) -> None:
    """Write the results."""
    results = {
        "command": f"python -m benchmarks.default_model.qat --steps {options.steps} "
        f"--learning-rate {options.learning_rate:g}",
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "hardware": hardware(),
        "seed": SEED,
        "sources": SOURCES,
        "conversations_sha256": file_sha256(HOME / "conversations.gz"),
        "adapters_sha256": {
            name: file_sha256(folder / "adapter_model.safetensors") for name, folder in adapters.items()
        },
        "int4": ROUNDING.model_dump(include={"group_size", "symmetric", "calibration_samples"}),
        "metrics": "means over the tokens of each answer in nats: negative log-likelihood, KL divergence from the "
        "plain bf16 model, share of the same top token; [mean, low, high, n answers], resampled by prompt",
        "scores": {name: summary(own) for name, own in answers.items()},
        "differences": differences(answers),
    }
    Path(__file__).with_suffix(".json").write_text(as_text(results))


if __name__ == "__main__":
    main()
