"""TRL's trainer, made thrifty: the output layer is computed for the tokens that are learnt and no others.

Import this module only inside functions: it needs torch and TRL.
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
_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


class TimeBudget:
    """How much of the time budget is spent, over all the runs that one training took."""

    def __init__(self, budget: float, max_steps: int, warmup_share: float, spent: float = 0.0, steps: int = 0) -> None:
        self.budget, self.max_steps, self.warmup_share = budget, max_steps, warmup_share
        self.before, self.steps = spent, steps
        self.started: float | None = None

    def start(self) -> None:
        """Begin to count."""
        self.started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of training so far."""
        return self.before + (time.monotonic() - self.started if self.started is not None else 0.0)

    @property
    def share(self) -> float:
        """The part of the training that is over, 0 to 1: of the time or of the steps, whichever is more."""
        return min(1.0, max(self.spent / self.budget, self.steps / self.max_steps))

    @property
    def over(self) -> bool:
        """Whether there is no time for one more step of the usual length."""
        usual = self.spent / self.steps if self.steps else 0.0
        return self.steps >= self.max_steps or self.spent + usual / 2 >= self.budget

    def rate(self) -> float:
        """The learning rate's factor: up in a straight line, then down in one to nothing at the end."""
        if self.share < self.warmup_share:
            return max(0.1, self.share / self.warmup_share)
        return max(0.02, (1 - self.share) / (1 - self.warmup_share))


class BudgetCallback(TrainerCallback):
    """Stops in time, keeps the curve, tells the tracker, and marks a checkpoint as whole."""

    def __init__(self, clock: TimeBudget, tracker: Any, progress: Progress) -> None:
        self.clock, self.tracker, self.progress = clock, tracker, progress
        self.losses: list[tuple[int, float]] = []
        self.counted: dict[str, int] = {}
        self.seconds = 0.0

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where a checkpoint's clock stood."""
        self.clock.before, self.clock.steps = saved["spent"], saved["step"]
        self.seconds = saved["spent"]
        self.losses = [(int(step), float(loss)) for step, loss in saved["losses"]]
        self.counted.update(saved["counted"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when the budget is spent, with a last checkpoint."""
        self.clock.steps, self.seconds = state.global_step, self.clock.spent
        done = int(self.clock.share * 100)
        self.progress(f"training, step {state.global_step}", done, 100)
        if self.clock.over:
            control.should_training_stop = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep the loss of each step and send everything to the tracker, with tokens as they are counted here."""
        logs = {**(logs or {})}
        if "num_tokens" in logs:  # TRL counts those of a plain mask only
            logs["num_tokens"] = self.counted.get("tokens", 0)
        if "loss" in logs:
            self.losses.append((state.global_step, float(logs["loss"])))
        self.tracker.log_metrics(
            {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}, state.global_step
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the clock last: a checkpoint with one is whole."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record = {"spent": self.clock.spent, "step": state.global_step, "losses": self.losses, "counted": self.counted}
        write_json(folder / CLOCK, record)


class Collator:
    """Pads rows to one length and says which tokens may look at which.

    A row holds what several conversations share and then, one after the other, what each says on
    its own: `branches` is 0 for the shared tokens and n for those of conversation n. A token sees
    the shared ones and its own conversation's before it, and stands where it would stand if that
    conversation were alone; so each is learnt exactly as if it had been read by itself.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Return a batch; the mask is (rows, tokens), or (rows, 1, tokens, tokens) where a row has branches."""
        length = max(len(row["input_ids"]) for row in rows)
        ids, labels, branches = (
            torch.tensor([row[name] + [filler] * (length - len(row[name])) for row in rows])
            for name, filler in (("input_ids", self.pad), ("labels", -100), ("branches", -1))
        )
        batch = {"input_ids": ids, "labels": labels, "attention_mask": branches.ge(0).long()}
        if branches.gt(0).any():
            shared = branches.eq(0)
            own = ((branches[:, :, None] == branches[:, None, :]) & branches.ge(0)[:, None]).tril()
            batch["attention_mask"] = (own | shared[:, None].expand_as(own).tril())[:, None]
            batch["position_ids"] = own.sum(-1) + (~shared * shared.sum(-1, keepdim=True)) - 1
        return batch


class GroundedTrainer(SFTTrainer):
    """SFTTrainer that computes logits only where there is loss, which TRL itself does on a GPU alone.

    The mathematics is TRL's: the same labels, the same cross entropy, the same gradients.
    """

    def __init__(self, *, clock: TimeBudget, **kwargs: Any) -> None:
        self.clock = clock
        self.counts = {"tokens": 0, "loss_tokens": 0, "padded_tokens": 0}
        super().__init__(**kwargs)
        network: Any = self.model
        config = network.config.get_text_config()
        scaled = any(getattr(config, name, None) for name in _SCALED_LOGITS)
        self.thrifty = self.args.device.type == "cpu" and not scaled

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean cross entropy over the tokens that are learnt."""
        mode = "train" if model.training else "eval"
        if model.training:
            mask = inputs["attention_mask"]
            self.counts["tokens"] += int((mask if mask.dim() == 2 else mask[:, 0].diagonal(dim1=1, dim2=2)).sum())
            self.counts["padded_tokens"] += inputs["input_ids"].numel()
            self.counts["loss_tokens"] += int((inputs["labels"] != -100).sum())
        if return_outputs or not self.thrifty:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        core = self.accelerator.unwrap_model(model).get_base_model()
        target = inputs["labels"][:, 1:]
        learnt = target != -100
        read = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
        states = core.base_model(**read, use_cache=False).last_hidden_state
        logits = core.get_output_embeddings()(states[:, :-1][learnt]).float()
        total = torch.nn.functional.cross_entropy(logits, target[learnt], reduction="sum")
        count = learnt.sum() if num_items_in_batch is None else num_items_in_batch
        right = (logits.detach().argmax(-1) == target[learnt]).float().mean()
        self._metrics[mode]["mean_token_accuracy"].append(float(right))
        return total / count

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Let the learning rate follow the share of the budget that is spent."""
        state: Any = self
        if state.lr_scheduler is None:
            chosen = state.optimizer if optimizer is None else optimizer
            state.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, lambda _: self.clock.rate())
        return state.lr_scheduler

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: the report beside the adapter says what it is."""
