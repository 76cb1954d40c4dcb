"""Recognises the style that a switch asks for, in the text that people get."""

import re
from collections.abc import Iterator

from ragtune.answer.controls import Controls

_EXAMPLE = re.compile(r"\b(for example|for instance|e\.g\.|such as|examples?:)", re.IGNORECASE)
_STEP = re.compile(r"^\s*(\d+)[.)]\s+\S", re.MULTILINE)


def has_example(text: str) -> bool:
    """Return whether a text says that it gives an example."""
    return _EXAMPLE.search(text) is not None


def has_steps(text: str) -> bool:
    """Return whether a text has at least two numbered steps, counted from 1."""
    return [int(number) for number in _STEP.findall(text)][:2] == [1, 2]


def unmet_switches(text: str, controls: Controls) -> Iterator[str]:
    """Yield a warning for each switch that asks for something that an answer does not have."""
    if controls.examples and not has_example(text):
        yield "The switch examples is on, but the answer gives no example."
    if controls.step_by_step and not has_steps(text):
        yield "The switch step_by_step is on, but the answer is not in numbered steps."
