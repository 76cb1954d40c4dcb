"""Logs what the model answers to a few validation questions while it is trained, for people who watch it learn."""

from collections.abc import Callable, Sequence

from ragtune.model.base.conversations import Example
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.validation import BestCheckpoint

SAMPLES = 8
"""Questions whose answers are logged at each validation. Chosen by hand: what a person reads at a glance."""


def log_samples(validator: BestCheckpoint | None, tracker: Tracker, step: Callable[[], int]) -> BestCheckpoint | None:
    """Return the validator, which from now on logs the first answers of each validation as a table of the run."""
    if validator is None:
        return None
    answer = validator.answers

    def logged(examples: Sequence[Example]) -> list[str]:
        answers = answer(examples)
        rows = [
            (example.messages[-2].content, example.messages[-1].content, text)
            for example, text in zip(examples[:SAMPLES], answers, strict=False)
        ]
        tracker.log_table(f"samples/step-{step():06d}", ("prompt", "target", "answer"), rows)
        return answers

    validator.answers = logged
    return validator
