"""Words a question, neatly or as people type, and quotes the names in it.

The wording of a fact is chosen by a seeded hash of the fact itself, so that adding
documents changes no question that was written before.
"""

import re

from ragtune.dataset.extractive.api_wordings import API_WORDINGS
from ragtune.dataset.extractive.prose_wordings import PROSE_WORDINGS
from ragtune.draws import draw

FUNCTION, CLASS, VALUE = "function", "class", "value"
# Half of the questions are neat, some have neither capital nor backticks, the rest no end mark either.
_NEAT_SHARE, _TIDY_SHARE = 0.55, 0.7

WORDINGS: dict[str, tuple[str, ...]] = {**API_WORDINGS, **PROSE_WORDINGS}
# What a question begins with that is no name: lower case does not change its meaning.
_PLAIN_FIRST = frozenset(
    template.split()[0]
    for templates in WORDINGS.values()
    for template in templates
    if not template.startswith(("{", "I "))
)
ASKING_FIRST = frozenset(word.lower() for word in _PLAIN_FIRST - {"We", "I'm"})


def worded(seed: int, wording: str, slots: dict[str, str], *parts: str) -> tuple[str, str]:
    """Return the question for the slots and the name of the template, such as `default.3`."""
    templates = WORDINGS[wording]
    number = int(draw(seed, "wording", wording, *parts) * len(templates))
    template = templates[number]
    if "{p}" in template and "{s}" in template:
        slots = {**slots, "s": slots["s"].removesuffix(f" in {slots['p']}")}
    question = template.format(**slots)
    if not template.startswith("{"):
        question = question[0].upper() + question[1:]
    return typed(question, seed, wording, *parts), f"{wording}.{number}"


def typed(question: str, seed: int, *parts: str) -> str:
    """Return the question as it is, or as people type it in a hurry: no capital, no end mark, no backticks."""
    haste = draw(seed, "typed", *parts)
    if haste < _NEAT_SHARE:
        return question
    # `how is installed typed` and `what github follows` read as sentences about something else.
    kept = question.startswith("How is `") or (parts and parts[0] in PROSE_WORDINGS)
    plain = re.sub(
        "`([^`]*)`", lambda name: name[0] if kept and name[1].isalpha() and name[1].islower() else name[1], question
    )
    first, _, rest = plain.partition(" ")
    if first not in _PLAIN_FIRST:
        return question
    question = f"{first.lower()} {rest}"
    return re.sub(r"\bI\b(?=[ ']|$)", "i", question).rstrip("?.") if haste >= _TIDY_SHARE else question


def quoted(name: str, seed: int, *parts: str) -> str:
    """Return the identifier as people type it: bare, or in backticks where it looks like a plain word."""
    if not distinctive(name) or draw(seed, "ticks", name, *parts) < 0.4:
        return f"`{name}`"
    return name


def distinctive(name: str) -> bool:
    """Return whether a name reads as an identifier inside a sentence: dotted, underscored or in camel case."""
    return "." in name or "_" in name.strip("_") or bool(re.search(r"[a-z0-9][A-Z]", name))
