"""Ranks the units of the shown passages by how likely each answers the question.

The ranking decides whether a question is answered, quoted or refused (decision.py), which passage is cited, and what
is shown with a refusal. The probabilities come from an `EvidenceModel`; docs/decisions/evidence-model.md says how
well it works.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from ragtune.answer.citations import without_citations
from ragtune.answer.language_packs import ENGLISH, LanguagePack
from ragtune.answer.signatures import repeats_signature
from ragtune.answer.units import Unit, chunk_units
from ragtune.ports import EvidenceModel
from ragtune.records import ClosestPassage, Hit
from ragtune.text.words import content_words

MOST_CLOSEST = 3
"""Passages that are shown with a refusal. Chosen by hand, not measured."""
_WORD = re.compile(r"\w+")
_TERM_WORDS = 3
"""The most words of a unit that is a term, not a sentence. Chosen by hand."""
_NEARLY_BEST = 0.15
"""Units whose share of an answer's words is at most this much below the best may be meant as well. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A unit of the passage with this number (from 1), and the probability that it answers the question."""

    unit: Unit
    number: int
    probability: float


def rank_evidence(
    model: EvidenceModel, question: str, passages: Sequence[Hit], pack: LanguagePack = ENGLISH
) -> tuple[Evidence, ...]:
    """Return every unit of the passages, the most probable first; a unit that stands in several passages comes once.

    Of equal probabilities the one of the earlier passage comes first. The signature of an object that the question
    names is left out, unless the question asks for one in words of the pack (signatures.py). A term that only repeats
    words of the question, such as "Dialout" for "what is dialout", is left out if there is anything else.
    """
    numbers: dict[Unit, int] = {}
    for number, hit in enumerate(passages, 1):
        for unit in chunk_units(hit.chunk):
            numbers.setdefault(unit, number)
    asked = set(_WORD.findall(question.casefold()))
    titles = [hit.chunk.title for hit in passages]
    telling = [
        unit for unit, number in numbers.items() if not repeats_signature(unit, titles[number - 1], question, pack)
    ]
    units = [unit for unit in telling if not _repeats(unit.text, asked)] or telling
    probabilities = model.probabilities(question, [unit.scored_text for unit in units])
    evidence = [
        Evidence(unit, numbers[unit], probability) for unit, probability in zip(units, probabilities, strict=True)
    ]
    return tuple(sorted(evidence, key=lambda item: (-item.probability, item.number)))


def _repeats(text: str, asked: Set[str]) -> bool:
    words = _WORD.findall(text.casefold())
    return len(words) <= _TERM_WORDS and set(words) <= asked


def support_of(
    text: str, question: str, evidence: Sequence[Evidence], language: str = "en"
) -> tuple[float, Evidence | None]:
    """Return the largest share of the text's content words that one unit holds, and the most probable such unit.

    Words of the question do not count, because every answer may repeat them. `language` says which words carry no
    meaning. Returns (0.0, None) without evidence.
    """
    words = content_words(without_citations(text), language) - content_words(question, language)
    unit_words = [content_words(item.unit.scored_text, language) for item in evidence]
    return next(iter(supports_of(words, evidence, unit_words)), (0.0, None))


def supports_of(
    words: Set[str], evidence: Sequence[Evidence], unit_words: Sequence[Set[str]]
) -> list[tuple[float, Evidence]]:
    """Return the units that hold most of these words, with their shares: the best first, nearly equal ones after it.

    No words at all, as in the answer "Yes.", are supported by the most probable unit.

    Args:
        words: what an answer says in addition to the question.
        evidence: the units, the most probable first.
        unit_words: the content words of each unit.
    """
    if not words:
        return [(1.0, item) for item in evidence[:1]]
    shares = [(len(words & unit) / len(words), item) for unit, item in zip(unit_words, evidence, strict=True)]
    best = max((share for share, _ in shares), default=0.0)
    # The sort is stable, so that of equal shares the more probable unit comes first.
    return sorted((pair for pair in shares if pair[0] >= best - _NEARLY_BEST), key=lambda pair: -pair[0])


def closest_passages(evidence: Sequence[Evidence], passages: Sequence[Hit]) -> tuple[ClosestPassage, ...]:
    """Return up to three passages, each with its most probable unit, best first."""
    best: dict[int, Evidence] = {}
    for item in evidence:
        best.setdefault(item.number, item)
    return tuple(
        ClosestPassage(
            number=item.number,
            title=passages[item.number - 1].chunk.title,
            source=passages[item.number - 1].chunk.origin,
            sentence=item.unit.text,
            score=round(item.probability, 4),
        )
        for item in list(best.values())[:MOST_CLOSEST]
    )
