"""What an application's system messages ask for, as far as dials and switches can do it.

A model that was trained on one system prompt does not follow another one. Its answers can still be shorter, plainer
or in steps; the rest of the instructions is named in a warning.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from ragtune.answer.controls import Controls
from ragtune.text.sentences import split_sentences

_SHORT, _LONG = 0.2, 0.8
"""Positions of a dial that the system text of the prompt reacts to. Chosen by hand, as in `answer/prompt.py`."""
_LONGEST_QUOTE = 80
"""Characters of an instruction that a warning quotes. Chosen by hand."""
_RULES: tuple[tuple[str, dict[str, float | bool]], ...] = (
    (r"\b(brief|briefly|short|concise|concisely|terse|one sentence|few words)\b", {"depth": _SHORT}),
    (r"\b(detailed|in detail|thorough|thoroughly|comprehensive|elaborate|at length)\b", {"depth": _LONG}),
    (r"\b(simple (words|language|terms)|plain (words|language|english)|beginners?|newcomers?|laymen|laypersons?"
     r"|non-technical)\b", {"technical_level": _SHORT}),
    (r"\b(experts?|technical (terms|language|detail)|specialists?|professionals?)\b", {"technical_level": _LONG}),
    (r"\bstep[- ]by[- ]step\b|\bnumbered steps\b", {"step_by_step": True}),
    (r"\b(with|give|include|use|add) (an |some )?examples?\b", {"examples": True}),
    (r"\b(no|without|omit|don't (use|include|add)|do not (use|include|add)) (any )?(citations?|references|sources)\b",
     {"citations": False}),
    (r"\b(creative|creatively|imaginative|varied)\b", {"creativity": _LONG}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """The controls after the instructions, and the sentences that no control stands for."""

    controls: Controls
    unmet: tuple[str, ...]


def read_instructions(text: str, controls: Controls, fixed: frozenset[str] = frozenset()) -> Reading:
    """Return what the sentences of a system message ask for.

    Args:
        text: the instructions.
        controls: the controls before them.
        fixed: names of dials and switches that the request sets itself; instructions do not change them.
    """
    unmet = []
    for sentence in split_sentences(text):
        changes = {name: value for pattern, values in _RULES if re.search(pattern, sentence, re.IGNORECASE)
                   for name, value in values.items()}  # fmt: skip
        if changes:
            allowed: dict[str, Any] = {name: value for name, value in changes.items() if name not in fixed}
            controls = replace(controls, **allowed)
        else:
            unmet.append(sentence if len(sentence) <= _LONGEST_QUOTE else f"{sentence[:_LONGEST_QUOTE]}...")
    return Reading(controls, tuple(unmet))
