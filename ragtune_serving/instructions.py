"""What an application's system messages ask for, as far as the product itself can do it.

A model that was trained on one system prompt does not follow another one. Its answers can still be shorter, plainer,
in steps, without markup or in JSON; the rest of the instructions is named in a warning. The language of the sentences
around an answer, and JSON, are the product's part whatever the model can.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ragtune.answer.controls import Controls
from ragtune.answer.language_packs import LanguagePack, packs
from ragtune.settings import Settings
from ragtune.text.sentences import split_sentences
from ragtune_serving.schema import ResponseFormat

_SHORT, _LONG = 0.2, 0.8
"""Positions of a dial that ask for another style: beyond `LOW` and `HIGH` of answer/controls.py. Chosen by hand."""
_LONGEST_QUOTE = 80
"""Characters of an instruction that a warning quotes. Chosen by hand."""
_JSON = re.compile(r"\b(in|as|with|only|return|valid|output|auf|en) (a |an |only |valid )*json\b", re.IGNORECASE)
_NOT = re.compile(r"\b(no|not|never|don't|without|instead of|kein|nicht|pas)\b", re.IGNORECASE)
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
    (r"\b(plain text|no markdown|without markdown|don't use markdown|do not use markdown|no formatting)\b",
     {"markdown": False}),
    (r"\b(creative|creatively|imaginative|varied)\b", {"creativity": _LONG}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """How one answer should be.

    `format` is that of an answer in JSON, which the engine is held to; with `in_envelope` the product itself wraps the
    answer into JSON. `language` is the code of a language pack, or "" for that of the question. `instructions` is the
    text of the application that the model gets; `notes` are warnings about what was not done.
    """

    controls: Controls
    format: ResponseFormat | None = None
    in_envelope: bool = False
    language: str = ""
    instructions: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The controls after the instructions, the language and the form that they ask for, and the sentences left over.

    `language` is the code of a pack, or "". `json` says that the answer should be JSON.
    """

    controls: Controls
    language: str = ""
    json: bool = False
    unmet: tuple[str, ...] = ()


def style_for(
    instructions: str, format_: ResponseFormat | None, controls: Controls, fixed: frozenset[str], settings: Settings
) -> Style:
    """Return how an answer should be.

    Args:
        instructions: the text of all system messages, "" for none.
        format_: the field `response_format` of the request.
        controls: the dials and switches of the settings and the request.
        fixed: names of those that the request sets itself; instructions do not change them.
        settings: say whether the model follows instructions, and which language packs there are.
    """
    asked = format_ if format_ and format_.type != "text" else None
    if not instructions:
        return Style(controls, asked)
    known = packs(settings.answer.language_packs)
    reading = read_instructions(instructions, controls, fixed, known)
    if settings.follows_instructions:
        if reading.json and asked is None:
            asked = ResponseFormat(type="json_object")
        return Style(controls, asked, language=reading.language, instructions=instructions)
    notes = ["System messages are not sent to the model; dials, switches and formats do what they can."]
    if reading.language:
        notes.append(
            f"The sentences around the answer are in {known[reading.language].name}; the model writes English."
        )
    if reading.unmet:
        notes.append(f"Not followed: {' | '.join(reading.unmet)}")
    return Style(reading.controls, asked, reading.json and asked is None, reading.language, notes=tuple(notes))


def read_instructions(
    text: str, controls: Controls, fixed: frozenset[str] = frozenset(), known: Mapping[str, LanguagePack] | None = None
) -> Reading:
    """Return what the sentences of a system message ask for.

    Args:
        text: the instructions.
        controls: the controls before them.
        fixed: names of dials and switches that the request sets itself; instructions do not change them.
        known: {code: language pack}; None for those of the package.
    """
    unmet, language, json = [], "", False
    known = packs() if known is None else known
    for sentence in split_sentences(text):
        changes = {name: value for pattern, values in _RULES if re.search(pattern, sentence, re.IGNORECASE)
                   for name, value in values.items()}  # fmt: skip
        allowed: dict[str, Any] = {name: value for name, value in changes.items() if name not in fixed}
        controls = replace(controls, **allowed)
        wanted = _language_of(sentence, known)
        language = wanted or language
        in_json = bool(_JSON.search(sentence)) and not _NOT.search(sentence)
        json = json or in_json
        if not (changes or wanted or in_json):
            unmet.append(sentence if len(sentence) <= _LONGEST_QUOTE else f"{sentence[:_LONGEST_QUOTE]}...")
    return Reading(controls, language, json, tuple(unmet))


def _language_of(sentence: str, known: Mapping[str, LanguagePack]) -> str:
    """Return the code of the language in which a sentence asks for answers, or ""."""
    for code, pack in known.items():
        names = "|".join(re.escape(name) for name in (pack.name, pack.own_name) if name)
        if re.search(rf"\b(in|auf|en) ({names})\b", sentence, re.IGNORECASE) and not _NOT.search(sentence):
            return code
    return ""
