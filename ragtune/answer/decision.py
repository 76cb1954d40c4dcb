"""Decides what people get: the model's answer, a quotation, both, or a refusal.

The rules are pure functions of the first sentence that the model wrote and of the ranked evidence, so that a stream
and a plain request decide alike. docs/decisions/answer-quote-or-refuse.md has the numbers behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ragtune.answer.evidence import Evidence, support_of
from ragtune.text.words import content_words

MOST_WORDS = 40
"""Longer answers are judged as too long (benchmarks/questions/README.md), so a quotation is added only if both fit."""
SUPPORTED_SHARE = 0.6
"""Share of the words of an answer that one unit must hold for the answer to be supported."""
SMALL_TALK_WORDS = 3
"""A question with at most this many content words may be small talk, which needs no evidence: "Are you a bot?" has one.
Every phrase in small_talk.py has at most three."""
_QUOTATION = {
    "de": "Aus den Dokumenten: „{text}“ [{number}]",
    "fr": "D’après les documents : « {text} » [{number}]",
    "en": 'From the documents: "{text}" [{number}]',
}


class Kind(Enum):
    """What is delivered."""

    ANSWER = "the model's answer"
    ANSWER_AND_QUOTATION = "the model's answer, then the best sentence"
    QUOTATION = "the best sentence"
    REFUSAL = "a refusal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the settings and the request allow.

    `threshold` is the probability of the best unit below which a question is refused; `strict` and `quotations` are
    the switches of the same names.
    """

    threshold: float
    strict: bool = True
    quotations: bool = True


def refuses_at_once(question: str, evidence: Sequence[Evidence], rules: Rules) -> bool:
    """Return whether the refusal is certain before the model has written anything."""
    may_be_small_talk = len(content_words(question)) <= SMALL_TALK_WORDS
    return rules.strict and not may_be_small_talk and not _enough(evidence, rules)


def decide(sentence: str, refused: bool, question: str, evidence: Sequence[Evidence], rules: Rules) -> Kind:
    """Return what to deliver if the model's answer begins with this sentence; `refused` says that it is a refusal."""
    if not rules.strict:
        return Kind.ANSWER
    if not _enough(evidence, rules):
        return Kind.REFUSAL
    if refused:
        return Kind.QUOTATION if rules.quotations else Kind.REFUSAL
    if not rules.quotations:
        return Kind.ANSWER
    share, _ = support_of(sentence, question, evidence)
    return Kind.ANSWER_AND_QUOTATION if share >= SUPPORTED_SHARE else Kind.QUOTATION


def quotation_text(evidence: Evidence, language: str) -> str:
    """Return the sentence of the documents, marked as a quotation with the number of its passage."""
    form = _QUOTATION.get(language, _QUOTATION["en"])
    return form.format(text=evidence.unit.text, number=evidence.number)


def _enough(evidence: Sequence[Evidence], rules: Rules) -> bool:
    return bool(evidence) and evidence[0].probability >= rules.threshold
