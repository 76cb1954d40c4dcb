"""Decides what people get: the model's answer, a quotation, both, or a refusal.

The rules are pure functions of the first sentence that the model wrote and of the ranked evidence, so that a stream
and a plain request decide alike. docs/decisions/answer-quote-or-refuse.md has the numbers behind them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ragtune.answer.citations import without_citations
from ragtune.answer.evidence import Evidence, support_of
from ragtune.answer.language_packs import Frame
from ragtune.knowledge.names import shortest_name
from ragtune.ports import EvidenceModel
from ragtune.text.plain_text import plain_text
from ragtune.text.words import content_words

MOST_WORDS = 40
"""Longer answers are judged as too long (benchmarks/questions/README.md), so a quotation is added only if both fit."""
SUPPORTED_SHARE = 0.6
"""Share of the words of an answer that one unit must hold for the answer to be supported. Chosen by hand: no measured
answer lay between 67% and 99% (docs/decisions/answer-quote-or-refuse.md)."""
MUCH_LIKELIER = 2.7
"""If the odds of the best unit are more than this many times those of the unit that supports the answer, the best unit
is quoted instead. There were 34 such answers: 8 were right, the best unit was right for 25 of them, and only 1 was
right where the best unit was wrong (docs/decisions/answer-quote-or-refuse.md)."""
SMALL_TALK_WORDS = 3
"""A question with at most this many content words may be small talk, which needs no evidence: "Are you a bot?" has one.
Every phrase in languages/en.yaml has at most three."""
_NUMBERING = re.compile(r"^\d+(?:\.\d+)*\.?\s+")
"""Matches the number of a section, which says nothing."""
_SURE_PART = 0.2
"""Least part of the refused share that does not depend on the model. Chosen by hand, not measured."""


class Kind(Enum):
    """What is delivered."""

    ANSWER = "the model's answer"
    ANSWER_AND_QUOTATION = "the model's answer, then the best sentence"
    QUOTATION = "the best sentence"
    REFUSAL = "a refusal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the settings and the request allow.

    A question is refused if the probability of its best unit lies below `threshold`, or below `doubtful` if the model
    refused, too. `strict` and `quotations` are the switches of the same names.
    """

    threshold: float
    doubtful: float = 0.0
    strict: bool = True
    quotations: bool = True


def refuses_at_once(question: str, evidence: Sequence[Evidence], rules: Rules, language: str = "en") -> bool:
    """Return whether the refusal is certain before the model has written anything."""
    may_be_small_talk = len(content_words(question, language)) <= SMALL_TALK_WORDS
    return rules.strict and not may_be_small_talk and not _enough(evidence, rules)


def decide(
    sentence: str, refused: bool, question: str, evidence: Sequence[Evidence], rules: Rules, language: str = "en"
) -> Kind:
    """Return what to deliver if the model's answer begins with this sentence; `refused` says that it is a refusal."""
    if not rules.strict:
        return Kind.ANSWER
    if not _enough(evidence, rules):
        return Kind.REFUSAL
    if refused:
        doubtful = evidence[0].probability < rules.doubtful
        return Kind.QUOTATION if rules.quotations and not doubtful else Kind.REFUSAL
    if not rules.quotations:
        return Kind.ANSWER
    share, support = support_of(sentence, question, evidence, language)
    is_supported = share >= SUPPORTED_SHARE and support is not None and not _is_much_likelier(evidence[0], support)
    return Kind.ANSWER_AND_QUOTATION if is_supported else Kind.QUOTATION


def rules_for(
    model: EvidenceModel, refused_share: float, model_refuses: float, *, strict: bool = True, quotations: bool = True
) -> Rules:
    """Return the rules under which about `refused_share` of answerable questions are refused.

    `model_refuses` is the share of answerable questions that the language model refuses by itself. If that is little,
    all its refusals stand, and the evidence alone refuses what they leave of `refused_share`. Otherwise a fifth of
    `refused_share` goes to questions whatever the model writes, and the rest to the least likely ones that it refuses.
    """
    sure = max(refused_share * _SURE_PART, refused_share - model_refuses)
    rest = refused_share - sure
    doubtful = rest / model_refuses if model_refuses > rest else float(refused_share > 0)
    return Rules(
        threshold=model.threshold(sure),
        doubtful=model.threshold(max(sure, doubtful)),
        strict=strict,
        quotations=quotations,
    )


def quotation_mark(evidence: Evidence, question: str, frame: Frame, room: int = MOST_WORDS) -> str:
    """Return how to mark a sentence as a quotation: a format with the places `text` and `number`.

    The mark names the title and the heading that the sentence stands below if they say what neither the question nor
    the sentence says: "Timed out waiting for a connection." answers "which exception" only with the name of its page.
    They are named only if the whole quotation then has at most `room` words, or else the heading alone.
    """
    pack = frame.pack
    if pack.quotation_from is None:
        return pack.quotation
    said = content_words(f"{question} {evidence.unit.text}", frame.language)
    places = [plain_text(_NUMBERING.sub("", without_citations(part))) for part in evidence.unit.place]
    telling = [place for place in places if content_words(shortest_name(place), frame.language) - said]
    for parts in (telling, telling[-1:]):
        place = " > ".join(parts).replace("{", "{{").replace("}", "}}")
        mark = pack.quotation_from.replace("{place}", place)
        if parts and len(mark.split()) - 1 + len(evidence.unit.text.split()) <= room:
            return mark
    return pack.quotation


def _is_much_likelier(best: Evidence, other: Evidence) -> bool:
    return best.probability * (1 - other.probability) > MUCH_LIKELIER * other.probability * (1 - best.probability)


def _enough(evidence: Sequence[Evidence], rules: Rules) -> bool:
    return bool(evidence) and evidence[0].probability >= rules.threshold
