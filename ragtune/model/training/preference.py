"""Preference training: moves an adapter after SFT towards the answers that people want, by KTO or DPO of TRL.

It goes on from a finished adapter and writes another one of the same shape, so that everything after it stays the
same. A training that was killed continues from its last complete checkpoint.
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ragtune.errors import DatasetError, ModelError
from ragtune.model.base.capacity import ANY_MACHINE, Machine, chosen_device, use_threads
from ragtune.model.base.conversations import Example, render_chat
from ragtune.model.base.finite import require_finite
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.folders import atomic_folder
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.examples.preferences import Method, PreferenceExample
from ragtune.model.examples.tokens import Tokenized, batch_order, split_reply, tokenize
from ragtune.model.training.adapters import CONFIG, WEIGHTS
from ragtune.model.training.arguments import PreferencePlan, preference_arguments
from ragtune.model.training.checkpoints import (
    checkpoint_bytes,
    fingerprint,
    open_run,
    require_disk_for_training,
)
from ragtune.model.training.sft import require_memory_for_training, train_from_checkpoint, trainable_weights
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.validation import Validation
from ragtune.model_settings import PreferenceSettings, TrainingSettings
from ragtune.ports import Progress, silent
from ragtune.records import Message
from ragtune.store.artifacts import MANIFEST, write_json

PREFERENCE = "preference.json"
"""File of an adapter: the report of its preference training."""
_FORGETS = 1.2
"""A validation loss that grew by this factor is warned about. Chosen by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceJob:
    """A preference training: the base model, the adapter after SFT, settings and seed, and where things go."""

    base: Path
    adapter: Path
    training: TrainingSettings
    preference: PreferenceSettings
    seed: int
    out: Path
    checkpoints: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceData:
    """What a preference training reads; `replay` are conversations of SFT, `validation` those to watch forgetting."""

    method: Method
    examples: Sequence[PreferenceExample]
    replay: Sequence[Example] = ()
    validation: Sequence[Example] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceReport:
    """What a preference training did.

    `chosen` and `rejected` count answers, `pairs` the corrections among them, `dropped` examples that were too long.
    `validations` are the loss of SFT's validation conversations before and after: what was forgotten. `feedback_ids`
    are the verdicts that were trained on.
    """

    method: Method
    chosen: int
    rejected: int
    pairs: int
    dropped: int
    replayed: int
    steps: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    validations: tuple[Validation, ...]
    resumed_from: int
    device: str
    threads: int
    mlflow_run_id: str
    warnings: tuple[str, ...]
    feedback_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """Token ids of a prompt with a wanted and an unwanted answer, each with its end token; empty if there is none."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    example: int

    @property
    def length(self) -> int:
        """Tokens of the longest conversation."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def train_preference(
    job: PreferenceJob,
    data: PreferenceData,
    tracker: Tracker,
    machine: Machine = ANY_MACHINE,
    progress: Progress = silent,
) -> PreferenceReport:
    """Train the adapter on people's preferences and write it with its report to `job.out`.

    Raises DatasetError if no example fits, ModelError if a model or a number is broken, ResourceError if memory or
    disk are too small.
    """
    device, threads = chosen_device(machine.device), use_threads(machine.threads)
    check_model_folder(job.base)
    tokenizer, most = load_tokenizer(job.base), job.training.max_tokens
    rows, dropped = preference_rows(tokenizer, data, most)
    replay, validation = (tokenize(tokenizer, one, most)[0] for one in (data.replay, data.validation))
    plan = _plan(job, data.method, rows, device)
    longest = max(row.length for row in rows) + max((len(row.input_ids) for row in replay), default=0)
    require_memory_for_training(job.base, job.training, 2 * longest * plan.batch_size, device)
    identity = fingerprint(job.base, job.adapter / WEIGHTS, [*rows, *replay, *validation], job.preference, job.seed)
    run_id = open_run(job.checkpoints, identity, tracker, progress)
    tracker.log_params({"method": data.method, "examples": len(rows), "planned_steps": plan.steps})
    with tracker.ending():
        trainer, callback = _build_trainer(job, plan, (rows, replay, validation), tracker, progress)
        require_disk_for_training(job.checkpoints, job.out, callback.checkpoint_bytes)
        resumed_from = train_from_checkpoint(trainer, callback, job.checkpoints, progress)
        used = [data.examples[place] for place in sorted({rows[index].example for index in callback.order})]
        report = PreferenceReport(
            method=data.method,
            chosen=sum(bool(example.chosen) for example in used),
            rejected=sum(bool(example.rejected) for example in used),
            pairs=sum(bool(example.chosen and example.rejected) for example in used),
            dropped=dropped,
            replayed=_replayed(job, len(callback.order)) if replay else 0,
            steps=int(trainer.state.global_step),
            seconds=round(callback.plan.spent, 2),
            losses=tuple((int(step), float(loss)) for step, loss in callback.losses),
            validations=tuple(callback.validations),
            resumed_from=resumed_from,
            device=device,
            threads=threads,
            mlflow_run_id=run_id,
            warnings=(*callback.warnings, *forgetting_warnings(callback.validations)),
            feedback_ids=tuple(sorted({name for example in used for name in example.feedback_ids})),
        )
        _write(trainer.model, job, report)
        tracker.log_metrics({"train_seconds": report.seconds}, report.steps)
        tracker.log_artifacts(job.out)
    return report


def read_preference(adapter: Path) -> PreferenceReport | None:
    """Return the report of an adapter's preference training, or None if it had none."""
    path = adapter / PREFERENCE
    return TypeAdapter(PreferenceReport).validate_json(path.read_bytes()) if path.is_file() else None


def preference_rows(tokenizer: Any, data: PreferenceData, max_tokens: int) -> tuple[list[PreferenceRow], int]:
    """Return the rows of the method, and how many were left out because they are longer than `max_tokens`.

    DPO reads the examples with both answers; KTO reads every answer by itself. Raises DatasetError if none is left.
    """
    rows: list[PreferenceRow] = []
    dropped = 0
    for place, example in enumerate(data.examples):
        prompt = tokenizer(
            render_chat(tokenizer, example.messages, open_reply=True), add_special_tokens=False
        )["input_ids"]  # fmt: skip
        chosen, rejected = (
            split_reply(tokenizer, (*example.messages, Message("assistant", text)))[1] if text else []
            for text in (example.chosen, example.rejected)
        )
        if data.method == "dpo":
            made = [PreferenceRow(prompt, chosen, rejected, place)] if chosen and rejected else []
        else:
            made = [PreferenceRow(prompt, chosen, [], place)] if chosen else []
            made += [PreferenceRow(prompt, [], rejected, place)] if rejected else []
        fitting = [row for row in made if row.length <= max_tokens]
        dropped += len(made) - len(fitting)
        rows += fitting
    if len(rows) < 2:
        raise DatasetError(
            f"{len(rows)} of {len(rows) + dropped} preference examples fit into {max_tokens} tokens.",
            expected="at least two",
            fix="raise training.max_tokens, or set preference.enabled: false",
        )
    # So that every stretch of steps has all kinds of rows; the seed of the training draws the order of its batches.
    random.Random(len(rows)).shuffle(rows)
    return rows, dropped


def _plan(job: PreferenceJob, method: Method, rows: Sequence[PreferenceRow], device: str) -> PreferencePlan:
    """Return the steps, and the weight that makes both kinds of answers count the same in KTO (its equation 8)."""
    preference = job.preference
    batch_size = min(preference.batch_size, len(rows))
    steps = min(preference.max_steps, max(1, int(preference.max_epochs * len(rows)) // batch_size))
    wanted = sum(bool(row.chosen) for row in rows)
    unwanted = max(1, len(rows) - wanted)
    balanced = preference.desirable_weight * max(1, wanted) / unwanted
    return PreferencePlan(
        method=method,
        batch_size=batch_size,
        steps=steps,
        undesirable_weight=preference.undesirable_weight or balanced,
        device=device,
    )


def _build_trainer(
    job: PreferenceJob,
    plan: PreferencePlan,
    data: tuple[Sequence[PreferenceRow], Sequence[Tokenized], Sequence[Tokenized]],
    tracker: Tracker,
    progress: Progress,
) -> tuple[Any, Any]:
    """Return TRL's trainer over the adapter after SFT, and the callback that watches it."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.utils import logging

    from ragtune.model.training.preference_trainers import (
        RATE,
        ReplayCollator,
        ReplayingDPOTrainer,
        ReplayingKTOTrainer,
    )
    from ragtune.model.training.trainer import ProgressCallback, StepPlan

    logging.set_verbosity_error()
    rows, replay, validation = data
    steps = StepPlan(float("inf"), plan.steps, job.training.warmup_share, plan.steps, job.training.lr_scheduler_type)
    callback = ProgressCallback(steps, tracker, progress)
    callback.rate = RATE
    callback.order = batch_order([row.length for row in rows], plan.batch_size, plan.steps, job.seed)
    tokenizer = load_tokenizer(job.base)
    kind = ReplayingDPOTrainer if plan.method == "dpo" else ReplayingKTOTrainer
    trainer = kind(
        plan=steps,
        replay_weight=job.preference.replay_weight,
        model=_with_adapter(job, plan.device),
        args=preference_arguments(job.training, job.preference, plan, job.seed, job.checkpoints),
        train_dataset=Dataset.from_list(_columns(job, plan, [rows[index] for index in callback.order], replay)),
        data_collator=ReplayCollator(plan.method == "dpo", tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    # TRL's copy of the adapter after SFT: its numbers are computed, and a checkpoint with two adapters does not load.
    trainer.model.delete_adapter("ref")
    callback.counts = trainer.counts
    callback.checkpoint_bytes = checkpoint_bytes(trainable_weights(trainer.model), job.base)
    callback.validator = _Forgetting(trainer, validation, plan) if validation else None
    return trainer, callback


def _with_adapter(job: PreferenceJob, device: str) -> Any:
    """Return the base model with the adapter after SFT, ready to train; raise ModelError if it is not finite."""
    from peft import PeftModel
    from safetensors.torch import load_file

    from ragtune.model.training.arguments import computes_in_the_adapters_format
    from ragtune.model.training.kernels import fuse_adapters, register_attention

    if not (job.adapter / WEIGHTS).is_file() or not (job.adapter / CONFIG).is_file():
        raise ModelError(f"{job.adapter} holds no adapter.", expected="the adapter of a finished training")
    require_finite(load_file(job.adapter / WEIGHTS).items(), job.adapter / WEIGHTS)
    fused = computes_in_the_adapters_format(job.training)
    is_llama = check_model_folder(job.base).get("model_type") == "llama"
    attention = register_attention() if device == "cpu" and is_llama and fused else "sdpa"
    model = PeftModel.from_pretrained(load_model(job.base, device, attention), job.adapter, is_trainable=True)
    if fused:
        fuse_adapters(model)
    return model


class _Forgetting:
    """Measures the loss of SFT's validation conversations before the first and after the last step."""

    def __init__(self, trainer: Any, rows: Sequence[Tokenized], plan: PreferencePlan) -> None:
        self.every = plan.steps
        self._trainer, self._rows, self._batch_size = trainer, rows, plan.batch_size

    def validate(self, step: int, earlier: Sequence[Validation]) -> Validation:  # noqa: ARG002
        from ragtune.model.training.preference_trainers import conversation_loss

        loss = conversation_loss(self._trainer, self._rows, self._batch_size)
        return Validation(step=step, right=0.0, refused=0.0, held=0.0, n=0, loss=loss)

    def gives_up(self, validations: Sequence[Validation]) -> bool:  # noqa: ARG002
        return False


def forgetting_warnings(validations: Sequence[Validation]) -> list[str]:
    """Return a warning if the loss of SFT's validation conversations grew much."""
    losses = [validation.loss for validation in validations if validation.loss is not None]
    if len(losses) < 2 or losses[-1] <= _FORGETS * losses[0]:
        return []
    return [
        f"The loss of SFT's validation conversations grew from {losses[0]:.3g} to {losses[-1]:.3g}: the model forgets. "
        "Lower preference.learning_rate, or raise preference.replay_share"
    ]


def _columns(
    job: PreferenceJob, plan: PreferencePlan, rows: Sequence[PreferenceRow], replay: Sequence[Tokenized]
) -> list[dict[str, Any]]:
    """Return the rows of all steps in order, each with its share of the conversations to replay.

    KTO also needs answers of other prompts of the step: TRL estimates with them how far the model has moved.
    """
    from ragtune.model.training.preference_trainers import as_columns

    columns: list[dict[str, Any]] = []
    taken = 0
    for number, row in enumerate(rows):
        until = _replayed(job, number + 1) if replay else 0
        mine = [as_columns(replay[place % len(replay)]) for place in range(taken, until)]
        taken = until
        column: dict[str, Any] = {"prompt_ids": row.prompt, "replay": mine}
        if plan.method == "dpo":
            column |= {"chosen_ids": row.chosen, "rejected_ids": row.rejected}
        else:
            start = number - number % plan.batch_size
            other = rows[number - 1 if number > start else min(start + plan.batch_size, len(rows)) - 1]
            completion, label = row.chosen or row.rejected, bool(row.chosen)
            column |= {
                "completion_ids": completion,
                "KL_completion_ids": other.chosen or other.rejected,
                "label": label,
            }
        columns.append(column)
    return columns


def _replayed(job: PreferenceJob, rows: int) -> int:
    """Return how many conversations are replayed with this many preference rows."""
    share = job.preference.replay_share
    return round(rows * share / (1 - share))


def _write(model: Any, job: PreferenceJob, report: PreferenceReport) -> None:
    """Write the adapter with the other files of the one after SFT, such as the tokenizer and the report of SFT."""
    with atomic_folder(job.out) as scratch:
        for path in job.adapter.iterdir():
            if path.is_file() and path.name not in (WEIGHTS, CONFIG, MANIFEST):
                shutil.copyfile(path, scratch / path.name)
        model.save_pretrained(scratch)
        (scratch / "README.md").unlink(missing_ok=True)
        write_json(scratch / PREFERENCE, asdict(report))
