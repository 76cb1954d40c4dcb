# ruff: noqa: TID253, ARG002 (subclasses of torch and TRL classes; imported inside functions only)
"""TRL's trainers for KTO and DPO, with conversations of SFT in every step so that nothing is forgotten.

Import this module only inside functions: it needs torch and TRL.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from ragtune.model.examples.tokens import Tokenized
from ragtune.model.training.trainer import Collator, StepPlan, raise_not_finite

RATE = "preference.learning_rate"
_REPLAY = "replay_"
"""Before the names of a batch's replayed rows, which TRL's own loss must not see."""


class ReplayCollator:
    """Pads the preference rows of a batch as TRL does, and the replayed conversations next to them."""

    def __init__(self, paired: bool, pad: int) -> None:
        kind = DataCollatorForPreference if paired else DataCollatorForUnpairedPreference
        self._preferences = kind(pad_token_id=pad)
        self._conversations = Collator(pad)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of TRL's loss, with that of the replayed conversations under `replay_...`."""
        batch: dict[str, torch.Tensor] = self._preferences(rows)
        replayed = [conversation for row in rows for conversation in row["replay"]]
        if replayed:
            batch |= {f"{_REPLAY}{name}": tensor for name, tensor in self._conversations(replayed).items()}
        return batch


class _WithReplay:
    """Adds the loss of the replayed conversations to that of TRL's trainer, which comes next in the order of classes.

    The sum is the loss of reinforcement learning with pretraining data mixed in (PPO-ptx, equation 2 of
    https://arxiv.org/abs/2203.02155), with TRL's preference loss in place of the reward.
    """

    reference_columns: tuple[str, str]

    def __init__(self, *, plan: StepPlan, replay_weight: float, **kwargs: Any) -> None:
        self.plan, self.replay_weight = plan, replay_weight
        self.counts = {"tokens": 0}
        super().__init__(**kwargs)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Return the rows as they are: they are tokenised as in serving, and in the order of the steps."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, _name: str, batch_size: int) -> Any:
        """Return the rows with the log-probabilities of the model after SFT; TRL's own way writes them into a cache."""
        trainer: Any = self
        numbers: dict[str, list[float]] = {name: [] for name in self.reference_columns}
        for start in range(0, len(dataset), batch_size):
            rows = dataset.select(range(start, min(start + batch_size, len(dataset)))).to_list()
            batch = trainer._prepare_inputs(_split(trainer.data_collator(rows))[0])
            computed = trainer.compute_ref_log_probs(trainer.model, batch)
            for values, tensor in zip(numbers.values(), computed, strict=True):
                values += tensor.tolist()
        for name, values in numbers.items():
            dataset = dataset.add_column(name, values)
        return dataset

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's preference loss plus that of the replayed conversations."""
        trainer: Any = self
        trl: Any = super()
        preferences, replayed = _split(inputs)
        loss = trl.compute_loss(model, preferences, return_outputs, num_items_in_batch)
        self.counts["tokens"] += int(preferences["attention_mask"].sum())
        if replayed:
            self.counts["tokens"] += int(replayed["attention_mask"].sum())
            replay_loss = model(**replayed, fused_lm_head=True).loss
            trainer._metrics["train"]["loss/replay"].append(float(replay_loss.detach()))
            loss = loss + self.replay_weight * replay_loss
        if not loss.isfinite():
            raise_not_finite("the loss", self.plan.steps + 1, trainer.args, RATE)
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return a schedule in which the learning rate follows the planned steps."""
        trainer: Any = self
        if trainer.lr_scheduler is None:
            optimizer = trainer.optimizer if optimizer is None else optimizer
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.plan.rate)
        return trainer.lr_scheduler

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: the report in the adapter's folder describes it."""


class ReplayingKTOTrainer(_WithReplay, KTOTrainer):
    """KTO (https://arxiv.org/abs/2402.01306) with replay."""

    reference_columns = ("ref_logps", "ref_KL_logps")


class ReplayingDPOTrainer(_WithReplay, DPOTrainer):
    """DPO (https://arxiv.org/abs/2305.18290) with replay."""

    reference_columns = ("ref_chosen_logps", "ref_rejected_logps")


def conversation_loss(trainer: Any, rows: Sequence[Tokenized], batch_size: int) -> float | None:
    """Return the mean cross entropy of the rows' replies, per token, or None if there are no rows."""
    model, pad = trainer.model, trainer.processing_class.pad_token_id
    was_training, total, count = model.training, 0.0, 0
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]] = Collator(pad)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = collate([as_columns(row) for row in rows[start : start + batch_size]])
            batch = {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}
            tokens = int((batch["labels"][:, 1:] != -100).sum())
            total += float(model(**batch, fused_lm_head=True).loss) * tokens
            count += tokens
    model.train(was_training)
    return total / count if count else None


def as_columns(row: Tokenized) -> dict[str, list[int]]:
    """Return the columns of a row that a collator reads."""
    return {
        "input_ids": row.input_ids,
        "labels": row.labels,
        "branches": row.branches,
        "segments": row.segments,
    }


def _split(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return TRL's part of a batch and the replayed part."""
    replayed = {name.removeprefix(_REPLAY): value for name, value in inputs.items() if name.startswith(_REPLAY)}
    return {name: value for name, value in inputs.items() if not name.startswith(_REPLAY)}, replayed
