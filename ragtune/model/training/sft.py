"""Supervised fine-tuning: trains a LoRA adapter on conversations with passages, by TRL, in steps that fit into minutes.

A training that was killed continues from its last complete checkpoint. The adapter folder appears complete or not at
all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ragtune.errors import DatasetError
from ragtune.model.base.capacity import (
    ANY_MACHINE,
    GIB,
    Machine,
    chosen_device,
    require_memory,
    use_threads,
)
from ragtune.model.base.conversations import Example
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.folders import atomic_folder
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.compression.rounding import check_rounding, int4_weights, rounded_fingerprint
from ragtune.model.examples.tokens import Tokenized, batch_order, pack, tokenize
from ragtune.model.training.adapters import earlier_adapter, load_adapter
from ragtune.model.training.checkpoints import (
    best_weights,
    checkpoint_bytes,
    fingerprint,
    newest_checkpoint,
    open_run,
    require_disk_for_training,
    tracked_run,
)
from ragtune.model.training.parallel import Place, run_in_processes
from ragtune.model.training.report import REPORT, AdapterReport
from ragtune.model.training.samples import LogSamples, log_samples
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.validation import BestCheckpoint, Measures, best_validation, generated_answers
from ragtune.model_settings import QuantizationSettings, TrainingSettings
from ragtune.ports import Progress, silent
from ragtune.store.artifacts import write_json

# Steps over which the reported final loss is averaged, because the loss of one batch says little. Chosen by hand,
# not sensitive.
_FINAL_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A training: the base model's folder, settings and seed, and where the adapter and the checkpoints go.

    `checkpoints` belongs to this training alone. If it holds those of another one (other base model, examples,
    settings or seed), they are removed. `rounding` has the INT4 format for `training.qat`, which needs it.
    """

    base: Path
    settings: TrainingSettings
    seed: int
    out: Path
    checkpoints: Path
    rounding: QuantizationSettings | None = None


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a training reads: the tokenizer, the rows to learn, and the rows and questions to validate with."""

    tokenizer: Any
    rows: Sequence[Tokenized]
    validation: Sequence[Tokenized]
    questions: Sequence[Example] = ()


def train_adapter(
    job: TrainingJob,
    examples: Sequence[Example],
    validation: Sequence[Example],
    tracker: Tracker,
    machine: Machine = ANY_MACHINE,
    progress: Progress = silent,
) -> AdapterReport:
    """Train a LoRA adapter on the last message of each conversation and write it with its report to `job.out`.

    The adapter of the best validation is written, or the last one if there was none. Raises DatasetError if no example
    can be used, ModelError if the base model is broken or a number is not finite, ResourceError if memory or disk are
    too small.
    """
    from ragtune.model.training import world

    device, settings = chosen_device(machine.device), job.settings
    check_rounding(check_model_folder(job.base), settings, job.rounding)
    if settings.processes > world.size():
        return _train_in_processes(job, examples, validation, tracker, Machine(device, machine.threads), progress)
    threads = _use_threads(machine.threads, device)
    progress("tokenising the training examples", 0, 1)
    data, dropped = _tokenized(job, examples, validation)
    earlier = earlier_adapter(settings)
    _check_capacity(job, data.rows, device)
    identity = rounded_fingerprint(fingerprint(job.base, earlier, data.rows, settings, job.seed), job.rounding)
    run_id = world.from_first("" if world.rank() else open_run(job.checkpoints, identity, tracker, progress))
    tracker.log_params({**settings.model_dump(), "seed": job.seed, "examples": len(data.rows), "base": job.base.name})
    with tracker.ending():
        trainer, callback = build_trainer(job, data, device, tracker, progress)
        require_disk_for_training(job.checkpoints, job.out, callback.checkpoint_bytes)
        resumed_from = train_from_checkpoint(trainer, callback, job.checkpoints, progress)
        best = _load_best(trainer, callback, job.checkpoints, progress)
        report = AdapterReport(
            **_progress_facts(trainer, callback),
            examples=sum(row.conversations for row in data.rows),
            dropped=dropped,
            validation_loss=_validation_loss(trainer, callback, best),
            resumed_from=resumed_from,
            device=device,
            threads=threads,
            mlflow_run_id=run_id,
            planned_steps=callback.plan.total,
            validations=tuple(callback.validations),
            best_step=best,
            learnt=examples_learnt(settings, data.rows, callback.order, best),
        )
        if not world.rank():
            _write_adapter(trainer.model, data.tokenizer, report, job.out)
            tracker.log_metrics({"train_seconds": report.seconds}, report.steps)
            tracker.log_artifacts(job.out)
    return report


def _train_in_processes(
    job: TrainingJob,
    examples: Sequence[Example],
    validation: Sequence[Example],
    tracker: Tracker,
    machine: Machine,
    progress: Progress,
) -> AdapterReport:
    """Train in the processes of the settings; the tracker then writes to their run."""
    work = partial(_train_one, job, (examples, validation), tracker, machine)
    try:
        report: AdapterReport = run_in_processes(job.settings.processes, machine.device, work, progress)
    except BaseException:
        # The process with the run may have been ended before it could say how the run ended.
        if (run := tracked_run(job.checkpoints)) and tracker.open(run):
            tracker.end(failed=True)
        raise
    tracker.open(report.mlflow_run_id)
    return report


def _train_one(
    job: TrainingJob,
    examples: tuple[Sequence[Example], Sequence[Example]],
    tracker: Tracker,
    machine: Machine,
    place: Place,
    progress: Progress,
) -> AdapterReport:
    """Train on examples to learn and to validate with, as one of several processes; only the first one tracks."""
    if place.rank:
        return train_adapter(job, *examples, Tracker(), machine)
    return train_adapter(job, *examples, tracker, machine, progress)


def _use_threads(threads: int, device: str) -> int:
    """Divide the threads among the processes that compute on the CPU, and return how many they have together."""
    from ragtune.model.training.world import size

    count = use_threads(threads)
    return use_threads(max(1, count // size())) * size() if device == "cpu" and size() > 1 else count


def build_trainer(
    job: TrainingJob, data: TrainingData, device: str, tracker: Tracker, progress: Progress
) -> tuple[Any, Any]:
    """Return TRL's trainer with our loss, schedule and kernels, and the callback that stops it in time."""
    from transformers import PrinterCallback
    from transformers.utils import logging

    from ragtune.model.training.arguments import computes_in_the_adapters_format, lora_config, trl_arguments
    from ragtune.model.training.kernels import fuse_adapters, register_attention
    from ragtune.model.training.qat import round_while_training
    from ragtune.model.training.trainer import Collator, ProgressCallback, SparseLogitsTrainer, StepPlan

    logging.set_verbosity_error()
    settings, rows = job.settings, data.rows
    config = check_model_folder(job.base)
    fused = computes_in_the_adapters_format(settings)
    our_attention = device == "cpu" and config.get("model_type") == "llama" and fused
    model = load_model(job.base, device, register_attention() if our_attention else "sdpa")
    batch_size = _rows_in_a_pass(settings, rows)
    rows_per_step = batch_size * settings.gradient_accumulation_steps
    steps = min(settings.max_steps, -(-int(settings.max_epochs * len(rows)) // rows_per_step))
    plan = StepPlan(settings.minutes * 60, steps, settings.warmup_share, settings.steps, settings.lr_scheduler_type)
    callback = ProgressCallback(plan, tracker, progress)
    batches = steps * settings.gradient_accumulation_steps
    order = batch_order([len(row.input_ids) for row in rows], batch_size, batches, job.seed)
    trainer = SparseLogitsTrainer(
        plan=plan,
        model=model,
        args=trl_arguments(settings, job.seed, job.checkpoints, device, batch_size, steps),
        train_dataset=token_dataset(rows, order),
        eval_dataset=token_dataset(data.validation, range(len(data.validation))) if data.validation else None,
        data_collator=Collator(data.tokenizer.pad_token_id),
        processing_class=data.tokenizer,
        callbacks=[callback],
        peft_config=lora_config(settings, model),
    )
    trainer.remove_callback(PrinterCallback)
    if earlier := earlier_adapter(settings):
        load_adapter(trainer.model, earlier)
    if settings.qat and job.rounding is not None:
        round_while_training(trainer.model, int4_weights(job.rounding), not settings.gradient_checkpointing)
    elif fused:
        fuse_adapters(trainer.model)
    callback.counts, callback.order = trainer.counts, order
    callback.checkpoint_bytes = checkpoint_bytes(trainable_weights(trainer.model), job.base)
    callback.validator = _validator(job, data, trainer, log_samples(tracker, lambda: callback.plan.steps))
    return trainer, callback


def _rows_in_a_pass(settings: TrainingSettings, rows: Sequence[Tokenized]) -> int:
    """Return how many rows all processes together read in a pass; raise DatasetError if one would get none."""
    count = min(settings.batch_size, len(rows))
    if count < settings.processes:
        raise DatasetError(
            f"There are {len(rows)} training examples for {settings.processes} processes.",
            expected="at least one for each process",
            fix="lower training.processes",
        )
    return count - count % settings.processes


def _validator(job: TrainingJob, data: TrainingData, trainer: Any, log: LogSamples) -> BestCheckpoint | None:
    """Return what validates, or None if that is switched off or there is nothing for the metric of the best model.

    Answers to the validation questions are given to `log`.
    """
    from ragtune.model.training.world import rank

    metric = job.settings.metric_for_best_model
    possible = data.validation if metric == "loss" else any(example.evidence for example in data.questions)
    if not job.settings.eval_every or not possible:
        return None

    is_first = not rank()

    def answers(questions: Sequence[Example]) -> list[str]:
        if not is_first:
            return [""] * len(questions)
        texts = generated_answers(trainer.model, data.tokenizer, questions)
        log(questions, texts)
        return texts

    save = trainer.model.save_pretrained if is_first else None
    measures = Measures(lambda: _loss(trainer), answers, save)
    return BestCheckpoint(job.settings, data.questions, measures, job.checkpoints)


def _loss(trainer: Any) -> float | None:
    """Return the validation loss, or None if there are no validation examples."""
    return float(trainer.evaluate()["eval_loss"]) if trainer.eval_dataset is not None else None


def _validation_loss(trainer: Any, callback: Any, step: int) -> float:
    """Return the loss of the adapter of a step, which the trainer's model has; NaN without validation examples."""
    measured = [validation.loss for validation in callback.validations if validation.step == step]
    loss = measured[0] if measured else _loss(trainer)
    return float("nan") if loss is None else loss


def token_dataset(rows: Sequence[Tokenized], order: Sequence[int]) -> Any:
    """Return the rows in the given order as a Hugging Face dataset."""
    from datasets import Dataset

    columns = ("input_ids", "labels", "branches", "segments")
    return Dataset.from_dict({name: [getattr(row, name) for row in rows] for name in columns}).select(order)


def _tokenized(
    job: TrainingJob, examples: Sequence[Example], validation: Sequence[Example]
) -> tuple[TrainingData, int]:
    """Return what the training reads, and the count of conversations that were too long."""
    settings, tokenizer = job.settings, load_tokenizer(job.base)
    # No more examples than the steps can take: the rest would be tokenised for nothing.
    most = settings.max_steps * settings.rows_per_step
    rows, dropped = tokenize(tokenizer, examples if settings.packing else examples[:most], settings.max_tokens)
    if settings.packing:
        rows = pack(rows, settings.max_tokens)
    if not rows:
        raise DatasetError(
            f"None of the {len(examples)} training examples fits into {settings.max_tokens} tokens.",
            expected="conversations that end with an assistant's message",
            fix="raise training.max_tokens or lower answer.shown_words",
        )
    validation_rows, _ = tokenize(tokenizer, validation[: settings.validation_examples], settings.max_tokens)
    return TrainingData(tokenizer, rows, validation_rows, validation[: settings.eval_answers]), dropped


def train_from_checkpoint(trainer: Any, callback: Any, checkpoints: Path, progress: Progress) -> int:
    """Train, from the newest complete checkpoint if there is one, and return its step, 0 for none."""
    from ragtune.model.training.trainer import CLOCK
    from ragtune.model.training.world import from_first, rank

    checkpoint = from_first(None if rank() else newest_checkpoint(checkpoints, CLOCK, progress))
    if checkpoint is None:
        trainer.train()
        return 0
    folder, record = checkpoint
    callback.restore(record)
    if callback.over:
        # The run was killed after its last step: only the adapter remains to be written.
        trainer._load_from_checkpoint(str(folder))
        trainer.state.global_step = record["step"]
    else:
        trainer.train(resume_from_checkpoint=str(folder))
    return int(record["step"])


def _load_best(trainer: Any, callback: Any, checkpoints: Path, progress: Progress) -> int:
    """Load the adapter of the best validation into the trainer's model if it is another one; return its step."""
    from ragtune.model.training.world import from_first, rank

    last = int(trainer.state.global_step)
    if callback.validator is None:
        return last
    best = best_validation(callback.validations, callback.validator.metric).step
    if best == last:
        return last
    weights = from_first(None if rank() else best_weights(checkpoints, progress))
    if weights is None:
        return last
    load_adapter(trainer.model, weights)
    return best


def examples_learnt(
    settings: TrainingSettings, rows: Sequence[Tokenized], order: Sequence[int], steps: int
) -> tuple[int, ...]:
    """Return the positions of the examples in the rows of the first steps, sorted; `order` names the rows."""
    count = steps * _rows_in_a_pass(settings, rows) * settings.gradient_accumulation_steps
    return tuple(sorted({place for index in set(order[:count]) for place in rows[index].examples}))


def _check_capacity(job: TrainingJob, rows: Sequence[Tokenized], device: str) -> None:
    """Raise ResourceError if the memory is too small for the training."""
    tokens = max(len(row.input_ids) for row in rows) * min(job.settings.batch_size, len(rows))
    processes = job.settings.processes
    require_memory_for_training(job.base, job.settings, -(-tokens // processes), device, processes)


def require_memory_for_training(
    base: Path, settings: TrainingSettings, tokens: int, device: str, processes: int = 1
) -> None:
    """Raise ResourceError if the memory is too small for processes with this many tokens a pass, padding included."""
    weight_bytes = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    config = check_model_folder(base)
    # What one token stores per layer for the backward pass, in bytes: bf16 activations of Llama's attention and
    # feed-forward network. The factors here and below were fitted to measured Llama trainings.
    layer_bytes = 2 * (12 * config["hidden_size"] + 5 * config["intermediate_size"])
    layers = 1 if settings.gradient_checkpointing else config["num_hidden_layers"]
    copies = 2.3 if settings.qat else 1.3  # the rounded weights are kept for the backward pass
    needed = int(weight_bytes * copies + tokens * layer_bytes * layers * 1.5 + GIB)
    # Each GPU has its own memory; processes on the CPU share that of the machine.
    require_memory(needed * (processes if device == "cpu" else 1), "Training", device)


def _progress_facts(trainer: Any, callback: Any) -> dict[str, Any]:
    """Return the fields of the report that the trainer and its callback recorded."""
    plan, counts, seconds = callback.plan, trainer.counts, callback.plan.spent
    final_losses = [loss for _, loss in callback.losses[-_FINAL_STEPS:]]
    return {
        "steps": trainer.state.global_step,
        "tokens": counts["tokens"],
        "padded_tokens": counts["padded_tokens"],
        "loss_tokens": counts["loss_tokens"],
        "seconds": round(seconds, 2),
        "tokens_per_second": round(counts["tokens"] / seconds, 1) if seconds else 0.0,
        "final_loss": sum(final_losses) / len(final_losses) if final_losses else float("nan"),
        "losses": tuple((int(step), float(loss)) for step, loss in callback.losses),
        "stopped_by": "patience" if not plan.over else "max_steps" if plan.steps >= plan.max_steps else "minutes",
        "trainable_parameters": trainable_weights(trainer.model),
        "warnings": tuple(callback.warnings),
    }


def trainable_weights(model: Any) -> int:
    """Return how many weights of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _write_adapter(model: Any, tokenizer: Any, report: AdapterReport, out: Path) -> None:
    with atomic_folder(out) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / "README.md").unlink(missing_ok=True)
        write_json(scratch / REPORT, {**asdict(report), "learnt": ()})
