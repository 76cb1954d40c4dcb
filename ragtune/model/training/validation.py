"""Validation while training: the loss of held-out examples, answers to questions, and the best adapter is kept."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ragtune.answer.refusals import is_refusal
from ragtune.model.base.conversations import Example, render_chat
from ragtune.model.base.folders import atomic_folder
from ragtune.model_settings import TrainingSettings
from ragtune.store.artifacts import folder_files, write_json
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

BEST = "best"
"""Folder next to the checkpoints with the adapter that answered best, and its record."""
RECORD = "validation.json"
_BATCH = 24
"""Conversations generated at once. Chosen by hand, not measured."""
_MOST_TOKENS = 48
"""Tokens of a validation answer: enough for the target sentences of at most 24 words. Chosen by hand."""

_SENTENCE_WORDS, _HELD_SHARE = 6, 0.6
"""Evidence of at least six content words counts as held if 0.6 of them are in the answer: people answer in their own
words. Chosen by hand, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """How good a model was on the validation examples at a step.

    `loss` is the mean cross entropy, None if it was not measured. The others are about answers: `right` is the share of
    answerable questions whose answer holds the evidence, `refused` the share of them that is refused, `held` the share
    of unanswerable questions that is refused (0.0 if there is none), `n` the number of answerable ones, 0 if the model
    answered none.
    """

    step: int
    right: float
    refused: float
    held: float
    n: int
    loss: float | None = None

    def value(self, metric: str) -> float:
        """Return what is larger for the better model by the metric, "loss" or "right"."""
        if metric == "right":
            return self.right
        return -self.loss if self.loss is not None else -math.inf


class Validator(Protocol):
    """Scores a model while it is trained, every `every` steps."""

    every: int

    def validate(self, step: int, earlier: Sequence[Validation]) -> Validation:
        """Return the scores at a step."""

    def gives_up(self, validations: Sequence[Validation]) -> bool:
        """Return whether the training should end early."""


@dataclass(frozen=True, slots=True)
class Measures:
    """How a validator looks at the model.

    `loss` returns the validation loss, or None if there are no examples for it; `answers` returns the model's answers
    to questions; `save` writes the adapter into a folder, or is None in all but the first of several processes.
    """

    loss: Callable[[], float | None]
    answers: Callable[[Sequence[Example]], list[str]]
    save: Callable[[Path], None] | None


class BestCheckpoint:
    """Validates every `training.eval_every` steps and keeps the best adapter in the folder `best`.

    With a patience above 0, `gives_up` is true after that many validations in a row without a better one.
    """

    def __init__(
        self, settings: TrainingSettings, questions: Sequence[Example], measures: Measures, folder: Path
    ) -> None:
        self.every, self.patience = settings.eval_every, settings.early_stopping_patience
        self.metric = settings.metric_for_best_model
        self.questions, self.measures, self.folder = questions, measures, folder

    def validate(self, step: int, earlier: Sequence[Validation]) -> Validation:
        """Return the scores at a step, and keep the adapter if it is better than at all earlier validations."""
        answers = self.measures.answers(self.questions) if self.questions else []
        validation = replace(validation_scores(step, self.questions, answers), loss=self.measures.loss())
        save = self.measures.save
        if save and all(validation.value(self.metric) > other.value(self.metric) for other in earlier):
            with atomic_folder(self.folder / BEST) as scratch:
                save(scratch)
                write_json(scratch / RECORD, {**asdict(validation), "files": folder_files(scratch)})
        return validation

    def gives_up(self, validations: Sequence[Validation]) -> bool:
        """Return whether the last `patience` validations were all no better than the best before them."""
        if not self.patience or len(validations) <= self.patience:
            return False
        values = [validation.value(self.metric) for validation in validations]
        return max(values[-self.patience :]) <= max(values[: -self.patience])


def best_validation(validations: Sequence[Validation], metric: str) -> Validation:
    """Return the first of the best validations."""
    return max(validations, key=lambda validation: validation.value(metric))


def validation_scores(step: int, examples: Sequence[Example], answers: Sequence[str]) -> Validation:
    """Return the scores of the answers, in the order of the examples."""
    right, refused, held = [], [], []
    for example, answer in zip(examples, answers, strict=True):
        if example.evidence:
            right.append(_holds(example.evidence, answer))
            refused.append(is_refusal(answer))
        else:
            held.append(is_refusal(answer))
    return Validation(step=step, right=_share(right), refused=_share(refused), held=_share(held), n=len(right))


def generated_answers(
    model: Any, tokenizer: Any, examples: Sequence[Example], max_tokens: int = _MOST_TOKENS
) -> list[str]:
    """Return the model's greedy answers to the conversations without their last messages, in order.

    Prompts of similar length share a batch. The attention of training reads padding only at the end of a row, so
    PyTorch's own attention is used meanwhile.
    """
    import torch

    prompts = [render_chat(tokenizer, example.messages[:-1], open_reply=True) for example in examples]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(prompts)
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention, was_training = network.config._attn_implementation, model.training
    side = tokenizer.padding_side
    network.set_attn_implementation("sdpa")
    model.eval()
    tokenizer.padding_side = "left"
    try:
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            texts = [prompts[index] for index in batch]
            inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").to(network.device)
            with torch.inference_mode():
                tokens = network.generate(
                    **inputs, max_new_tokens=max_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
                )
            written = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for index, text in zip(batch, written, strict=True):
                answers[index] = text.strip()
    finally:
        network.set_attn_implementation(attention)
        tokenizer.padding_side = side
        model.train(was_training)
    return answers


def _holds(evidence: str, answer: str) -> bool:
    """Return whether the answer holds the evidence, or of evidence as long as a sentence most content words."""
    words = content_words(evidence)
    if len(words) >= _SENTENCE_WORDS and len(words & content_words(answer)) >= _HELD_SHARE * len(words):
        return True
    return _plain(evidence) in _plain(answer)


def _plain(text: str) -> str:
    return collapse_whitespace(text).casefold()


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
