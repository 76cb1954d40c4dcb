"""TRL's trainer with planned steps, shared prompts, and an output layer that computes only the tokens to learn.

Nine tenths of a training conversation are passages, on which nothing is learnt, so most of the logits that TRL
computes on a CPU are thrown away. Import this module only inside functions: it needs torch and TRL.
"""

import math
import time
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from ragtune.errors import ModelError
from ragtune.model.base.capacity import require_disk
from ragtune.model.training.losses import divergence
from ragtune.model.training.validation import Validation, Validator
from ragtune.model.training.world import from_first, rank, size, wait_for_all
from ragtune.ports import Progress
from ragtune.store.artifacts import folder_files, write_json

CLOCK = "clock.json"
MEASURED_STEPS = 8
"""Steps whose speed fixes the number of steps: one stretch of `batch_order`, which has rows of all lengths."""
# Losses are averaged over the tokens whose label is not this; PyTorch's default.
_IGNORED = -100
# The learning rate's factor during the first and at the last step: training should neither start nor end with steps
# that change nothing. Chosen by hand, not measured.
_LOWEST_WARMUP, _LOWEST_RATE = 0.1, 0.02
# Options of models whose logits are not simply the output layer's product.
_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


def raise_not_finite(what: str, step: int, args: Any, rate: str = "training.learning_rate") -> NoReturn:
    """Raise ModelError: training cannot go on from here, and the checkpoints are from before."""
    raise ModelError(
        f"Training stopped at step {step}: {what} is not finite, at a peak learning rate of {args.learning_rate:g}.",
        expected="finite numbers",
        fix=f"lower {rate}; the last good checkpoint is in {args.output_dir}",
    )


class StepPlan:
    """Plans how many steps a training takes, so that the learning rate follows steps and never the clock.

    The speed of the first steps fixes the number of steps that fit into `seconds`, at most `max_steps`. From there on
    only steps count: two trainings with the same `total` have the same learning rates. With `total` given, such as the
    one that an earlier run logged, nothing is measured. `schedule` is "linear", "cosine" or "constant_with_warmup".
    """

    def __init__(
        self, seconds: float, max_steps: int, warmup_share: float, total: int = 0, schedule: str = "linear"
    ) -> None:
        self.seconds, self.max_steps, self.warmup_share, self.schedule = seconds, max_steps, warmup_share, schedule
        self.total = min(total, max_steps)
        self.steps, self.spent, self.first_step = 0, 0.0, 0.0

    def record(self, seconds: float) -> None:
        """Count a step that took so long, and fix the number of steps once enough were measured."""
        self.steps += 1
        self.spent += seconds
        if self.steps == 1:
            self.first_step = seconds
        if not self.total and (self.steps == MEASURED_STEPS or self.spent >= self.seconds):
            # The first step also prepares memory and kernels, so it says little about the others.
            others = (self.spent - self.first_step) / (self.steps - 1) if self.steps > 1 else self.spent
            more = max(0, round((self.seconds - self.spent) / others))
            self.total = min(self.steps + more, self.max_steps)

    @property
    def share(self) -> float:
        """The finished share of the training, 0 to 1; of `max_steps` until the number of steps is fixed."""
        return min(1.0, self.steps / (self.total or self.max_steps))

    @property
    def over(self) -> bool:
        """Whether the last step was taken."""
        return self.steps >= (self.total or self.max_steps)

    def rate(self, step: int) -> float:
        """Return the learning rate's factor for the step that follows `step` steps.

        It is the lowest of the warm-up while the speed is measured, so that it does not depend on the plan. Then it
        rises linearly during the warm-up. After that it falls to the end in a line or half a cosine, or stays.
        """
        # The rate of the step after the measured ones is set just before the plan is made.
        if step <= MEASURED_STEPS or not self.total:
            return _LOWEST_WARMUP
        warmup = max(MEASURED_STEPS, round(self.warmup_share * self.total))
        if step < warmup:
            return _LOWEST_WARMUP + (1 - _LOWEST_WARMUP) * (step - MEASURED_STEPS) / (warmup - MEASURED_STEPS)
        left = max(0.0, (self.total - step) / max(1, self.total - warmup))
        rates = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant_with_warmup": 1.0}
        return max(_LOWEST_RATE, rates[self.schedule])


class ProgressCallback(TrainerCallback):
    """Counts steps, records the losses, marks complete checkpoints, and validates every `eval_every` steps.

    Everything that the trainer logs also goes to the tracker. `counts` are the trainer's counts of tokens. `validate`
    returns the scores of the model as it is; `best` is the folder that keeps the adapter with the best ones. `rate` is
    the setting of the learning rate, which errors and warnings name.
    """

    def __init__(self, plan: StepPlan, tracker: Any, progress: Progress) -> None:
        self.plan, self.tracker, self.progress = plan, tracker, progress
        self.rate = "training.learning_rate"
        self.losses: list[tuple[int, float]] = []
        self.counts: dict[str, int] = {}
        self.order: list[int] = []
        self.warnings: list[str] = []
        self.checkpoint_bytes = 0
        self.validations: list[Validation] = []
        self.validator: Validator | None = None
        self.began = 0.0

    @property
    def over(self) -> bool:
        """Whether the training is complete: the last step was taken, or patience ended it."""
        return self.plan.over or (self.validator is not None and self.validator.gives_up(self.validations))

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from the record that `on_save` wrote into a checkpoint."""
        self.plan.steps, self.plan.spent, self.plan.total = saved["step"], saved["spent"], saved["total"]
        self.losses = [(int(step), float(loss)) for step, loss in saved["losses"]]
        self.validations = [Validation(**row) for row in saved["validations"]]
        self.counts.update(saved["counted"])
        self.warnings = list(saved["warnings"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate before the first step, so that the curve begins with the value before training."""
        if not self.validations:
            self._validate(control)
        self.began = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Stop before a gradient that is not finite reaches the weights."""
        bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if bad:
            raise_not_finite(f"the gradient of {len(bad)} tensors", self.plan.steps + 1, args, self.rate)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Stop before a weight that is not finite reaches a checkpoint."""
        bad = [name for name, p in model.named_parameters() if p.requires_grad and not p.isfinite().all()]
        if bad:
            raise_not_finite(f"the weight of {len(bad)} tensors", self.plan.steps + 1, args, self.rate)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step; validate if it is time; stop after the last step or without progress, with a checkpoint.

        Raises ResourceError if the disk has no room for the checkpoint that is due.
        """
        was_planned = self.plan.total
        seconds = time.monotonic() - self.began
        # All processes have to plan the same steps.
        self.plan.record(seconds if self.plan.total else from_first(seconds))
        if self.plan.total and not was_planned:
            self.tracker.log_metrics({"planned_steps": float(self.plan.total)}, self.plan.steps)
        self.progress(f"training, step {self.plan.steps} of {self.plan.total or '?'}", int(self.plan.share * 100), 100)
        if self.validator is not None and (self.plan.steps % self.validator.every == 0 or self.plan.over):
            self._validate(control)
        if self.over:
            control.should_training_stop = control.should_save = True
        if control.should_save:
            require_disk(Path(args.output_dir), self.checkpoint_bytes, "the next checkpoint")
        self.began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Record the loss of the step and send all logged numbers to the tracker."""
        logs = {**(logs or {})}
        if "num_tokens" in logs:  # TRL can count tokens in a (rows, tokens) mask only
            logs["num_tokens"] = self.counts.get("tokens", 0)
        if "loss" in logs:
            self.losses.append((state.global_step, float(logs["loss"])))
            self._warn_if_diverging()
        self.tracker.log_metrics(
            {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}, state.global_step
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the record with the hashes of the files last: a checkpoint whose files match it is complete."""
        wait_for_all()  # each process writes its random state
        if rank() > 0:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record = {
            "spent": self.plan.spent,
            "step": state.global_step,
            "total": self.plan.total,
            "losses": self.losses,
            "validations": [asdict(validation) for validation in self.validations],
            "counted": self.counts,
            "warnings": self.warnings,
            "files": folder_files(folder),
        }
        write_json(folder / CLOCK, record)

    def _validate(self, control: Any) -> None:
        if self.validator is None:
            return
        with torch.random.fork_rng():  # a validation draws random numbers that training must not miss
            should_log = control.should_log
            # Only the first process lets the model answer.
            validation = from_first(self.validator.validate(self.plan.steps, self.validations))
            control.should_log = should_log  # the trainer's `evaluate` logs, and takes the step for logged
        self.validations.append(validation)
        numbers = {} if validation.loss is None else {"validation_loss": validation.loss}
        if validation.n:
            numbers |= {"validation_right": validation.right, "validation_refused": validation.refused}
        self.tracker.log_metrics(numbers, validation.step)

    def _warn_if_diverging(self) -> None:
        """Record and report once that the loss diverges."""
        warning = "" if self.warnings else divergence([loss for _, loss in self.losses], self.rate)
        if warning:
            self.warnings.append(f"Step {self.plan.steps}: {warning}")
            self.progress(self.warnings[-1], 0, 0)


class Collator:
    """Pads rows to one length and builds the mask and positions of rows with several conversations.

    A segment starts with the tokens that its conversations share; then the rest of each conversation follows.
    `branches` is 0 for shared tokens and n for the tokens of conversation n. A token sees, of its own segment, the
    earlier shared tokens and the earlier tokens of its own conversation. It has the position that it would have if its
    conversation were alone. So loss and gradient are those of separate conversations.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Return a batch; its mask is (rows, tokens), or (rows, 1, tokens, tokens) if a row has several parts."""
        length = max(len(row["input_ids"]) for row in rows)
        fillers = {"input_ids": self.pad, "labels": _IGNORED, "branches": -1, "segments": -1}
        ids, labels, branches, segments = (
            torch.tensor([row[name] + [filler] * (length - len(row[name])) for row in rows])
            for name, filler in fillers.items()
        )
        batch = {"input_ids": ids, "labels": labels, "attention_mask": branches.ge(0).long()}
        if branches.gt(0).any() or segments.gt(0).any():
            same_segment = segments[:, :, None] == segments[:, None, :]
            same_branch = branches[:, :, None] == branches[:, None, :]
            # Padding sees all tokens, because attention over nothing is not a number; nothing sees padding.
            padding = branches.lt(0)
            visible = (same_segment & (same_branch | branches.eq(0)[:, None])) | padding[:, :, None]
            visible = visible.tril() & ~padding[:, None]
            batch["attention_mask"] = visible[:, None]
            batch["position_ids"] = visible.sum(-1) - 1
        return batch


def _add_sparse_loss(network: Any) -> None:
    """Let a causal language model return losses: `sparse_labels` makes it return (total loss, right tokens, tokens).

    The loss has to be computed inside the model: only then are the gradients of several processes averaged.
    """
    forward = network.forward

    @wraps(forward)
    def with_sparse_loss(*args: Any, sparse_labels: Any = None, **kwargs: Any) -> Any:
        if sparse_labels is None:
            return forward(*args, **kwargs)
        read = {name: kwargs.get(name) for name in ("input_ids", "attention_mask", "position_ids")}
        states = network.base_model(**read, use_cache=False).last_hidden_state
        target = sparse_labels[:, 1:]
        learnt = target != _IGNORED
        logits = network.get_output_embeddings()(states[:, :-1][learnt]).float()
        total = torch.nn.functional.cross_entropy(logits, target[learnt], reduction="sum")
        return total, (logits.detach().argmax(-1) == target[learnt]).sum(), learnt.sum()

    network.forward = with_sparse_loss


class SparseLogitsTrainer(SFTTrainer):
    """SFTTrainer that computes logits only for the tokens to learn; TRL itself does so on a GPU only.

    Labels, cross entropy and gradients are the same as TRL's.
    """

    def __init__(self, *, plan: StepPlan, **kwargs: Any) -> None:
        self.plan = plan
        self.counts = {"tokens": 0, "loss_tokens": 0, "padded_tokens": 0}
        super().__init__(**kwargs)
        network: Any = self.model
        config = network.config.get_text_config()
        scaled = any(getattr(config, name, None) for name in _SCALED_LOGITS)
        self.sparse = self.args.device.type == "cpu" and not scaled
        if self.sparse:
            _add_sparse_loss(network.get_base_model())

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean cross entropy over the tokens to learn."""
        loss = self._loss(model, inputs, return_outputs, num_items_in_batch)
        value = loss[0] if return_outputs else loss
        if model.training and not value.isfinite():
            raise_not_finite("the loss", self.plan.steps + 1, self.args)
        return loss

    def _loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any) -> Any:
        mode = "train" if model.training else "eval"
        if model.training:
            self._count(inputs)
        if return_outputs or not self.sparse:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        arguments = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
        total, right, learnt = model(**arguments, sparse_labels=inputs["labels"])
        self._metrics[mode]["mean_token_accuracy"].append(float(right / learnt))
        if num_items_in_batch is None:
            return total / learnt
        # The count is that of all processes, and their gradients are averaged.
        return total / num_items_in_batch * size()

    def _count(self, inputs: dict[str, Any]) -> None:
        """Add the tokens of a batch, in all processes, to the counts."""
        mask = inputs["attention_mask"]
        counts = {
            "tokens": (mask if mask.dim() == 2 else mask[:, 0].diagonal(dim1=1, dim2=2)).sum(),
            "padded_tokens": torch.tensor(inputs["input_ids"].numel(), device=mask.device),
            "loss_tokens": (inputs["labels"] != _IGNORED).sum(),
        }
        for name, count in counts.items():
            self.counts[name] += int(self.accelerator.reduce(count) if size() > 1 else count)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return a schedule in which the learning rate follows the planned steps."""
        trainer: Any = self
        if trainer.lr_scheduler is None:
            optimizer = trainer.optimizer if optimizer is None else optimizer
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.plan.rate(step))
        return trainer.lr_scheduler

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: the report in the adapter's folder describes it."""
