"""Turns the slots of a fact into a question, neatly written or as people type.

A seeded hash of the fact itself chooses the template, so adding documents changes no question that was written before.
"""

import re
from collections.abc import Mapping

from ragtune.dataset.extractive.question_templates import first_words, prose_groups, question_templates
from ragtune.draws import draw

# 55% of the questions are neat, 15% lack the capital and the backticks, 30% the end mark too. Chosen by hand, not
# measured; docs/decisions/questions-as-people-type.md says why questions are worded so.
_NEAT_UP_TO, _END_MARK_UP_TO = 0.55, 0.7
# Share of the identifiers that stand in backticks although they do not need them. Chosen by hand, not sensitive.
_BACKTICK_SHARE = 0.4


def question_for(seed: int, template_group: str, slots: Mapping[str, str], *draw_parts: str) -> tuple[str, str]:
    """Return a question with the slots filled in, and the name of its template, such as `default.3`."""
    templates = question_templates()[template_group]
    number = int(draw(seed, "wording", template_group, *draw_parts) * len(templates))
    template = templates[number]
    if "{package}" in template and "{object}" in template:
        # `Who contributed Cart in shop to shop?` says the package twice.
        slots = {**slots, "object": slots["object"].removesuffix(f" in {slots['package']}")}
    question = template.format(**slots)
    if not template.startswith("{"):
        question = question[0].upper() + question[1:]
    return as_typed(question, seed, template_group, *draw_parts), f"{template_group}.{number}"


def as_typed(question: str, seed: int, template_group: str = "", *draw_parts: str) -> str:
    """Return the question as it is, or as people type it in a hurry: no capital, no backticks, no end mark."""
    haste = draw(seed, "typed", *([template_group] if template_group else []), *draw_parts)
    if haste < _NEAT_UP_TO:
        return question
    # `how is installed typed` and `what github follows` would read as sentences about something else.
    keeps_plain_names = question.startswith("How is `") or template_group in prose_groups()

    def without_backticks(name: re.Match[str]) -> str:
        looks_like_a_word = name[1].isalpha() and name[1].islower()
        return name[0] if keeps_plain_names and looks_like_a_word else name[1]

    plain = re.sub("`([^`]*)`", without_backticks, question)
    first, _, rest = plain.partition(" ")
    if first not in first_words():
        return question
    typed = f"{first.lower()} {rest}"
    if haste < _END_MARK_UP_TO:
        return typed
    return re.sub(r"\bI\b(?=[ ']|$)", "i", typed).rstrip("?.")


def quote_name(name: str, seed: int, *draw_parts: str) -> str:
    """Return a name as people type it: in backticks if it looks like a plain word, otherwise sometimes."""
    if not is_identifier(name) or draw(seed, "ticks", name, *draw_parts) < _BACKTICK_SHARE:
        return f"`{name}`"
    return name


def is_identifier(name: str) -> bool:
    """Return whether a name reads as an identifier inside a sentence: dotted, underscored or in camel case."""
    return "." in name or "_" in name.strip("_") or bool(re.search(r"[a-z0-9][A-Z]", name))
