"""TRL's trainer with a time budget, shared prompts, and an output layer that computes only the tokens to learn.

Nine tenths of a training conversation are passages, on which nothing is learnt, so most of the logits that TRL
computes on a CPU are thrown away. Import this module only inside functions: it needs torch and TRL.
"""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from ragtune.ports import Progress
from ragtune.store.artifacts import write_json

CLOCK = "clock.json"
# Losses are averaged over the tokens whose label is not this; PyTorch's default.
_IGNORED = -100
# The learning rate's factor during the first and at the last step: training should neither start nor end with steps
# that change nothing. Chosen by hand, not measured.
_LOWEST_WARMUP, _LOWEST_RATE = 0.1, 0.02
# Options of models whose logits are not simply the output layer's product.
_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


class TimeBudget:
    """The time budget of a training, summed over all of its interrupted runs.

    `budget` and `spent` are seconds; `spent` and `steps` are what earlier runs used.
    """

    def __init__(self, budget: float, max_steps: int, warmup_share: float, spent: float = 0.0, steps: int = 0) -> None:
        self.budget, self.max_steps, self.warmup_share = budget, max_steps, warmup_share
        self.before, self.steps = spent, steps
        self.started: float | None = None

    def start(self) -> None:
        """Start the clock of this run."""
        self.started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of training so far."""
        return self.before + (time.monotonic() - self.started if self.started is not None else 0.0)

    @property
    def share(self) -> float:
        """The finished share of the training, 0 to 1: of the time or of the steps, whichever is larger."""
        return min(1.0, max(self.spent / self.budget, self.steps / self.max_steps))

    @property
    def over(self) -> bool:
        """Whether another step of average length would end more than half a step after the budget."""
        step_seconds = self.spent / self.steps if self.steps else 0.0
        return self.steps >= self.max_steps or self.spent + step_seconds / 2 >= self.budget

    def rate(self) -> float:
        """Return the learning rate's factor: it rises linearly during the warm-up and then falls linearly."""
        if self.share < self.warmup_share:
            return max(_LOWEST_WARMUP, self.share / self.warmup_share)
        return max(_LOWEST_RATE, (1 - self.share) / (1 - self.warmup_share))


class BudgetCallback(TrainerCallback):
    """Stops the training when its time is over, records the losses, and marks complete checkpoints.

    Everything that the trainer logs also goes to the tracker. `counts` are the trainer's counts of tokens.
    """

    def __init__(self, clock: TimeBudget, tracker: Any, progress: Progress) -> None:
        self.clock, self.tracker, self.progress = clock, tracker, progress
        self.losses: list[tuple[int, float]] = []
        self.counts: dict[str, int] = {}
        self.seconds = 0.0

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from the record that `on_save` wrote into a checkpoint."""
        self.clock.before, self.clock.steps = saved["spent"], saved["step"]
        self.seconds = saved["spent"]
        self.losses = [(int(step), float(loss)) for step, loss in saved["losses"]]
        self.counts.update(saved["counted"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when the budget is spent, after a last checkpoint."""
        self.clock.steps, self.seconds = state.global_step, self.clock.spent
        percent = int(self.clock.share * 100)
        self.progress(f"training, step {state.global_step}", percent, 100)
        if self.clock.over:
            control.should_training_stop = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Record the loss of the step and send all logged numbers to the tracker."""
        logs = {**(logs or {})}
        if "num_tokens" in logs:  # TRL can count tokens in a (rows, tokens) mask only
            logs["num_tokens"] = self.counts.get("tokens", 0)
        if "loss" in logs:
            self.losses.append((state.global_step, float(logs["loss"])))
        self.tracker.log_metrics(
            {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}, state.global_step
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the clock's record last: a checkpoint that has one is complete."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record = {"spent": self.clock.spent, "step": state.global_step, "losses": self.losses, "counted": self.counts}
        write_json(folder / CLOCK, record)


class Collator:
    """Pads rows to one length and builds the mask and positions of conversations that share a prompt.

    A row starts with the tokens that its conversations share; then the rest of each conversation follows. `branches`
    is 0 for shared tokens and n for the tokens of conversation n. A token sees the earlier shared tokens and the
    earlier tokens of its own conversation, and has the position that it would have if its conversation were alone.
    So loss and gradient are those of separate conversations.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Return a batch; its mask is (rows, tokens), or (rows, 1, tokens, tokens) if a row has branches."""
        length = max(len(row["input_ids"]) for row in rows)
        ids, labels, branches = (
            torch.tensor([row[name] + [filler] * (length - len(row[name])) for row in rows])
            for name, filler in (("input_ids", self.pad), ("labels", _IGNORED), ("branches", -1))
        )
        batch = {"input_ids": ids, "labels": labels, "attention_mask": branches.ge(0).long()}
        if branches.gt(0).any():
            shared = branches.eq(0)
            same_branch = ((branches[:, :, None] == branches[:, None, :]) & branches.ge(0)[:, None]).tril()
            batch["attention_mask"] = (same_branch | shared[:, None].expand_as(same_branch).tril())[:, None]
            batch["position_ids"] = same_branch.sum(-1) + (~shared * shared.sum(-1, keepdim=True)) - 1
        return batch


class SparseLogitsTrainer(SFTTrainer):
    """SFTTrainer that computes logits only for the tokens to learn; TRL itself does so on a GPU only.

    Labels, cross entropy and gradients are the same as TRL's.
    """

    def __init__(self, *, clock: TimeBudget, **kwargs: Any) -> None:
        self.clock = clock
        self.counts = {"tokens": 0, "loss_tokens": 0, "padded_tokens": 0}
        super().__init__(**kwargs)
        network: Any = self.model
        config = network.config.get_text_config()
        scaled = any(getattr(config, name, None) for name in _SCALED_LOGITS)
        self.sparse = self.args.device.type == "cpu" and not scaled

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean cross entropy over the tokens to learn."""
        mode = "train" if model.training else "eval"
        if model.training:
            mask = inputs["attention_mask"]
            self.counts["tokens"] += int((mask if mask.dim() == 2 else mask[:, 0].diagonal(dim1=1, dim2=2)).sum())
            self.counts["padded_tokens"] += inputs["input_ids"].numel()
            self.counts["loss_tokens"] += int((inputs["labels"] != _IGNORED).sum())
        if return_outputs or not self.sparse:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        core = self.accelerator.unwrap_model(model).get_base_model()
        target = inputs["labels"][:, 1:]
        learnt = target != _IGNORED
        arguments = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
        states = core.base_model(**arguments, use_cache=False).last_hidden_state
        logits = core.get_output_embeddings()(states[:, :-1][learnt]).float()
        total = torch.nn.functional.cross_entropy(logits, target[learnt], reduction="sum")
        count = learnt.sum() if num_items_in_batch is None else num_items_in_batch
        accuracy = (logits.detach().argmax(-1) == target[learnt]).float().mean()
        self._metrics[mode]["mean_token_accuracy"].append(float(accuracy))
        return total / count

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return a schedule in which the learning rate follows the spent share of the budget."""
        trainer: Any = self
        if trainer.lr_scheduler is None:
            optimizer = trainer.optimizer if optimizer is None else optimizer
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self.clock.rate())
        return trainer.lr_scheduler

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: the report in the adapter's folder describes it."""
