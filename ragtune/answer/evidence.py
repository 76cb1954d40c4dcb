"""Ranks the units of the shown passages by how likely each answers the question.

The ranking decides whether a question is answered, quoted or refused (decision.py), which passage is cited, and what
is shown with a refusal. The probabilities come from an `EvidenceModel`; docs/decisions/evidence-model.md says how
well it works.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ragtune.answer.citations import without_citations
from ragtune.answer.units import Unit, chunk_units
from ragtune.ports import EvidenceModel
from ragtune.records import ClosestPassage, Hit
from ragtune.text.words import content_words

MOST_CLOSEST = 3
"""Passages that are shown with a refusal. Chosen by hand, not measured."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A unit of the passage with this number (from 1), and the probability that it answers the question."""

    unit: Unit
    number: int
    probability: float


def rank_evidence(model: EvidenceModel, question: str, passages: Sequence[Hit]) -> tuple[Evidence, ...]:
    """Return every unit of the passages, the most probable first; a unit that stands in several passages comes once.

    Of equal probabilities the one of the earlier passage comes first.
    """
    numbers: dict[Unit, int] = {}
    for number, hit in enumerate(passages, 1):
        for unit in chunk_units(hit.chunk):
            numbers.setdefault(unit, number)
    units = list(numbers)
    probabilities = model.probabilities(question, [unit.scored_text for unit in units])
    evidence = [
        Evidence(unit, numbers[unit], probability) for unit, probability in zip(units, probabilities, strict=True)
    ]
    return tuple(sorted(evidence, key=lambda item: (-item.probability, item.number)))


def support_of(
    text: str, question: str, evidence: Sequence[Evidence], language: str = "en"
) -> tuple[float, Evidence | None]:
    """Return the largest share of the text's content words that one unit holds, and the most probable such unit.

    Words of the question do not count, because every answer may repeat them. A text without other words, such as
    "Yes.", is supported by the best unit. `language` says which words carry no meaning.
    """
    if not evidence:
        return 0.0, None
    words = content_words(without_citations(text), language) - content_words(question, language)
    if not words:
        return 1.0, evidence[0]
    shares = [len(words & content_words(item.unit.scored_text, language)) / len(words) for item in evidence]
    best = max(range(len(evidence)), key=lambda place: (shares[place], -place))
    return shares[best], evidence[best]


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
