"""Recognises the style that dials and switches ask for, in the text that people get."""

import re
from collections.abc import Iterator

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.language_packs import ENGLISH, LanguagePack

_STEP = re.compile(r"^\s*(\d+)[.)]\s+\S", re.MULTILINE)
_IDENTIFIER = re.compile(r"`|\w[._]\w|[a-z][A-Z]|\d")
_LONG_WORD = 10
"""Letters from which a word counts as a term. Chosen by hand."""


def has_example(text: str, pack: LanguagePack = ENGLISH) -> bool:
    """Return whether a text introduces an example, as with "for example", in the words of the language pack."""
    return pack.introduces_example.search(text) is not None


def has_steps(text: str) -> bool:
    """Return whether a text has at least two numbered steps, counted from 1."""
    return [int(number) for number in _STEP.findall(text)][:2] == [1, 2]


def term_share(text: str) -> float:
    """Return the share of words that are identifiers, numbers or long words; 0 for a text without words."""
    words = text.split()
    return sum(bool(_IDENTIFIER.search(word)) or len(word) >= _LONG_WORD for word in words) / max(1, len(words))


def unmet_controls(text: str, controls: Controls, missing: frozenset[str], pack: LanguagePack) -> Iterator[str]:
    """Yield a warning for each dial and switch whose request the answer does not meet.

    `missing` names the controls for which the passages had no sentence.
    """
    if controls.examples and not has_example(text, pack):
        yield "The switch examples is on, but the answer gives no example."
    if controls.step_by_step and not has_steps(text):
        yield "The switch step_by_step is on, but the answer is not in numbered steps."
    for name in ("creativity", "depth", "technical_level"):
        if name in missing and getattr(controls, name) != getattr(NEUTRAL, name):
            yield f"The dial {name} changes nothing here: the passages say nothing else about the question."
