"""Logs what the model answers to a few validation questions while it is trained, for people who watch it learn."""

from collections.abc import Callable, Sequence

from ragtune.model.base.conversations import Example
from ragtune.model.training.tracking import Tracker

SAMPLES = 8
"""Questions whose answers are logged at each validation. Chosen by hand: what a person reads at a glance."""
LogSamples = Callable[[Sequence[Example], Sequence[str]], None]


def log_samples(tracker: Tracker, step: Callable[[], int]) -> LogSamples:
    """Return what logs the first answers of a validation as a table of the run; `step` returns the current step."""

    def log(examples: Sequence[Example], answers: Sequence[str]) -> None:
        rows = [
            (example.messages[-2].content, example.messages[-1].content, text)
            for example, text in zip(examples[:SAMPLES], answers, strict=False)
        ]
        tracker.log_table(f"samples/step-{step():06d}", ("prompt", "target", "answer"), rows)

    return log
