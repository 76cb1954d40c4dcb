"""Supervised fine-tuning: a LoRA adapter on grounded answers, by TRL, within a budget of minutes.

A killed training goes on from its last whole checkpoint; the adapter folder appears whole or not at all.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ragtune.errors import DatasetError, ModelError
from ragtune.model.capacity import GIB, chosen_device, require_disk, require_memory, use_threads
from ragtune.model.examples.tokens import Tokenized, batch_order, tokenize
from ragtune.model.folders import atomic_folder
from ragtune.model.pretrained import Example, check_model_folder, load_model, load_tokenizer
from ragtune.model.tracking import Tracker
from ragtune.ports import Progress, silent
from ragtune.settings import TrainingSettings
from ragtune.store.artifacts import MANIFEST, write_json

REPORT = "report.json"
_RUN = "run.json"


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What a training did. Tokens: read without padding, with it, and learnt; times in seconds.

    `losses` holds (step, loss) for every step, for plotting.
    """

    steps: int
    examples: int
    dropped: int
    tokens: int
    padded_tokens: int
    loss_tokens: int
    seconds: float
    tokens_per_second: float
    final_loss: float
    validation_loss: float
    losses: tuple[tuple[int, float], ...]
    resumed_from: int
    stopped_by: str
    device: str
    threads: int
    trainable_parameters: int
    mlflow_run_id: str


def train_adapter(
    base: Path,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    out: Path,
    resume: Path,
    tracker: Tracker,
    device: str = "auto",
    threads: int = 0,
    progress: Progress = silent,
) -> AdapterReport:
    """Train a LoRA adapter on the last message of each conversation and write it to `out` with its report.

    A step takes `batch_size` examples, each with its siblings.
    `resume` holds the checkpoints of this very training (same base, examples, settings and seed);
    others found there are removed. Raises DatasetError without usable examples, ModelError for a
    broken base, ResourceError for too little memory or disk.
    """
    device = chosen_device(device)
    used_threads = use_threads(threads)
    check_model_folder(base)
    tokenizer = load_tokenizer(base)
    progress("tokenising the training examples", 0, 1)
    wanted = settings.max_steps * settings.batch_size
    rows, dropped = tokenize(tokenizer, examples[:wanted], settings.max_tokens)
    held_out, _ = tokenize(tokenizer, validation[: settings.validation_examples], settings.max_tokens)
    if not rows:
        raise DatasetError(
            f"None of the {len(examples)} training examples fits into {settings.max_tokens} tokens.",
            expected="conversations that end with an assistant's message",
            fix="raise training.max_tokens or lower answer.passage_words",
        )
    earlier = earlier_adapter(settings)
    _preflight(base, rows, settings, out, device)
    run = _open_run(resume, _fingerprint(base, earlier, rows, settings, seed), tracker)
    tracker.log_params({**settings.model_dump(), "seed": seed, "examples": len(rows), "base": str(base)})
    try:
        trainer, watch = _trainer(base, tokenizer, rows, held_out, settings, seed, resume, device, tracker, progress)
        resumed_from = _train(trainer, watch, resume)
        conversations = sum(row.conversations for row in rows)
        facts = {"examples": conversations, "dropped": dropped, "device": device, "threads": used_threads}
        report = _report(trainer, watch, resumed_from, bool(held_out), facts, run["tracker_run"])
        _write_adapter(trainer.model, tokenizer, report, out)
        tracker.log_metrics({"validation_loss": report.validation_loss, "train_seconds": report.seconds}, report.steps)
        tracker.log_artifacts(out)
    except BaseException:
        tracker.end(failed=True)
        raise
    tracker.end()
    return report


def read_report(adapter: Path) -> AdapterReport:
    """Return the report that stands beside an adapter; raise ModelError when there is none."""
    path = adapter / REPORT
    if not path.is_file():
        raise ModelError(f"{adapter} holds no {REPORT}.", expected="an adapter that a training finished")
    return TypeAdapter(AdapterReport).validate_json(path.read_bytes())


def _trainer(
    base: Path,
    tokenizer: Any,
    rows: list[Tokenized],
    held_out: list[Tokenized],
    settings: TrainingSettings,
    seed: int,
    resume: Path,
    device: str,
    tracker: Tracker,
    progress: Progress,
) -> tuple[Any, Any]:
    from peft import LoraConfig
    from transformers import PrinterCallback
    from transformers.utils import logging

    from ragtune.model.kernels import fuse_adapters, register_attention
    from ragtune.model.trainer import BudgetCallback, Collator, GroundedTrainer, TimeBudget

    logging.set_verbosity_error()
    config = check_model_folder(base)
    own_attention = device == "cpu" and config.get("model_type") == "llama" and not settings.dropout
    model = load_model(base, device, register_attention() if own_attention else "sdpa")
    batch = min(settings.batch_size, len(rows))
    steps = min(settings.max_steps, -(-int(settings.max_epochs * len(rows)) // batch))
    clock = TimeBudget(settings.minutes * 60, steps, settings.warmup_share)
    watch = BudgetCallback(clock, tracker, progress)
    trainer = GroundedTrainer(
        clock=clock,
        model=model,
        args=_arguments(settings, seed, resume, device, batch, steps),
        train_dataset=_dataset(rows, batch_order([len(row.input_ids) for row in rows], batch, steps, seed)),
        eval_dataset=_dataset(held_out, range(len(held_out))) if held_out else None,
        data_collator=Collator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[watch],
        peft_config=LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    trainer.remove_callback(PrinterCallback)
    if earlier := earlier_adapter(settings):
        _go_on_from(trainer.model, earlier)
    if not settings.dropout:
        fuse_adapters(trainer.model)
    watch.counted = trainer.counts
    return trainer, watch


def _arguments(settings: TrainingSettings, seed: int, resume: Path, device: str, batch: int, steps: int) -> Any:
    """Return TRL's arguments. Adapters fused into one operation compute in bf16 without autocast."""
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        output_dir=str(resume),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        weight_decay=0.0,
        max_length=None,
        bf16=settings.dropout > 0,
        use_cpu=device == "cpu",
        gradient_checkpointing=settings.gradient_checkpointing,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=device == "cuda",
        dataloader_drop_last=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )


def _dataset(rows: Sequence[Tokenized], order: Sequence[int]) -> Any:
    from datasets import Dataset

    columns = ("input_ids", "labels", "branches")
    return Dataset.from_dict({name: [getattr(row, name) for row in rows] for name in columns}).select(order)


def _train(trainer: Any, watch: Any, resume: Path) -> int:
    """Train from the newest whole checkpoint; return its step, 0 for a fresh start."""
    found = _newest_checkpoint(resume)
    if found is None:
        trainer.train()
        return 0
    folder, saved = found
    watch.restore(saved)
    if watch.clock.over:
        trainer._load_from_checkpoint(str(folder))
        trainer.state.global_step = saved["step"]
    else:
        trainer.train(resume_from_checkpoint=str(folder))
    return int(saved["step"])


def _newest_checkpoint(resume: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the whole checkpoint with the highest step, and remove the others of a killed run."""
    from ragtune.model.trainer import CLOCK

    whole = []
    for folder in resume.glob("checkpoint-*"):
        if (folder / CLOCK).is_file():
            whole.append((folder, json.loads((folder / CLOCK).read_text())))
        else:
            shutil.rmtree(folder)
    return max(whole, key=lambda pair: pair[1]["step"], default=None)


def _open_run(resume: Path, fingerprint: str, tracker: Tracker) -> dict[str, str]:
    """Return what is known of this training, after removing what belongs to another one."""
    path = resume / _RUN
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known.get("fingerprint") != fingerprint:
        shutil.rmtree(resume, ignore_errors=True)
        known = {}
    run = {"fingerprint": fingerprint, "tracker_run": tracker.start(known.get("tracker_run", ""))}
    write_json(path, run)
    return run


def earlier_adapter(settings: TrainingSettings) -> Path | None:
    """Return the weights that the training goes on from, None for a fresh adapter; raise ModelError if they misfit."""
    if not settings.start_from:
        return None
    folder = Path(settings.start_from)
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if not config.is_file() or not weights.is_file():
        raise ModelError(
            f"{folder} holds no adapter.",
            expected="adapter_config.json and adapter_model.safetensors",
            fix="correct training.start_from, or leave it empty to start afresh",
        )
    found = json.loads(config.read_text())
    if (found["r"], found["lora_alpha"]) != (settings.rank, settings.alpha):
        raise ModelError(
            f"The adapter in {folder} has rank {found['r']} and alpha {found['lora_alpha']}.",
            expected=f"training.rank {settings.rank} and training.alpha {settings.alpha}",
            fix="make the settings those of the adapter",
        )
    return weights


def _go_on_from(model: Any, weights: Path) -> None:
    """Fill the fresh adapter with an earlier one's weights; raise ModelError where one does not fit."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        left = set_peft_model_state_dict(model, load_file(weights))
    except RuntimeError as error:
        raise ModelError(f"The adapter {weights} is of another base model: {error}") from error
    missing = [name for name in left.missing_keys if "lora_" in name]
    if missing or left.unexpected_keys:
        raise ModelError(
            f"The adapter {weights} misfits the base model: {len(missing)} tensors are missing, "
            f"{len(left.unexpected_keys)} are unknown.",
            expected="an adapter of all linear layers of this base model",
        )


def _fingerprint(base: Path, earlier: Path | None, rows: list[Tokenized], settings: TrainingSettings, seed: int) -> str:
    manifest = base / MANIFEST
    origin = json.loads(manifest.read_text())["sha256"] if manifest.is_file() else str(base.resolve())
    start = hashlib.sha256(earlier.read_bytes()).hexdigest() if earlier else ""
    parts = [origin, start, settings.model_dump(mode="json"), seed, [asdict(row) for row in rows]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _preflight(base: Path, rows: list[Tokenized], settings: TrainingSettings, out: Path, device: str) -> None:
    """Check memory and disk: weights, and what a batch keeps for its way back (measured on Llama models)."""
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    config = check_model_folder(base)
    longest = max(len(row.input_ids) for row in rows) * min(settings.batch_size, len(rows))
    per_token = 2 * (12 * config["hidden_size"] + 5 * config["intermediate_size"])
    layers = 1 if settings.gradient_checkpointing else config["num_hidden_layers"]
    require_memory(int(weights * 1.3 + longest * per_token * layers * 1.5 + GIB), "Training", device)
    require_disk(out, 300 << 20, "Training with its checkpoints")


def _report(
    trainer: Any, watch: Any, resumed_from: int, validate: bool, facts: dict[str, Any], run_id: str
) -> AdapterReport:
    validation = float(trainer.evaluate()["eval_loss"]) if validate else float("nan")
    clock, recent = watch.clock, [loss for _, loss in watch.losses[-10:]]
    counts, seconds = trainer.counts, watch.seconds
    return AdapterReport(
        steps=trainer.state.global_step,
        tokens=counts["tokens"],
        padded_tokens=counts["padded_tokens"],
        loss_tokens=counts["loss_tokens"],
        seconds=round(seconds, 2),
        tokens_per_second=round(counts["tokens"] / seconds, 1) if seconds else 0.0,
        final_loss=sum(recent) / len(recent) if recent else float("nan"),
        validation_loss=validation,
        losses=tuple((int(step), float(loss)) for step, loss in watch.losses),
        resumed_from=resumed_from,
        stopped_by="max_steps" if clock.steps >= clock.max_steps else "minutes",
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        mlflow_run_id=run_id,
        **facts,
    )


def _write_adapter(model: Any, tokenizer: Any, report: AdapterReport, out: Path) -> None:
    with atomic_folder(out) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / "README.md").unlink(missing_ok=True)
        write_json(scratch / REPORT, asdict(report))
