"""Chooses sentences of the passages that dials and switches ask for in addition to the answer.

A small model follows few instructions about style. So the product does after generation what it can: it quotes more
sentences, plainer or more technical ones, an example, or the sentences that follow as steps. The answer
itself stays as it is. benchmarks/serving/dials.py measures how far people get what they ask for.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ragtune.answer.controls import HIGH, LOW, Controls
from ragtune.answer.evidence import Evidence
from ragtune.answer.language_packs import LanguagePack
from ragtune.answer.styles import has_example, term_share
from ragtune.answer.units import Unit, chunk_units
from ragtune.draws import draw
from ragtune.records import Hit
from ragtune.text.words import content_words

_MOST_STEPS = 4
"""Steps that are quoted. Chosen by hand: longer lists are read in the document."""
_CONCRETE = re.compile(r"\d|`|(?<=[a-z,;] )[A-Z][a-z]")
"""Matches a number, code or a name inside a sentence: what makes a sentence an instance of something."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as related, as said, and as a choice.

    Attributes:
        related: a unit of another passage is related if its probability is at least this part of the best unit's.
        said: the text says a unit already if it has at least this share of the unit's content words.
        pool: related units among which `creativity` 1 draws.
    """

    related: float = 0.5
    said: float = 0.8
    pool: int = 8


LIMITS = Limits()
"""Chosen by hand; benchmarks/serving/additions.py measures what others would do."""


@dataclass(frozen=True, slots=True)
class Additions:
    """What is quoted after the answer, in this order, and the controls for which the passages have nothing."""

    steps: tuple[Evidence, ...] = ()
    further: tuple[Evidence, ...] = ()
    example: Evidence | None = None
    missing: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Choice:
    """The units that are left to choose from."""

    related: list[Evidence]
    said: str
    chosen: list[Evidence] = field(default_factory=list)

    def take(self, candidates: Iterable[Evidence]) -> Evidence | None:
        """Choose the first candidate that says something new; return it, or None if there is none."""
        for item in candidates:
            if not _says(self.said, item.unit):
                self.chosen.append(item)
                self.said += f" {item.unit.text}"
                return item
        return None


def choose_additions(
    evidence: Sequence[Evidence],
    passages: Sequence[Hit],
    controls: Controls,
    said: str,
    pack: LanguagePack,
    variant: str = "",
) -> Additions:
    """Return what the controls ask for in addition to an answer.

    Args:
        evidence: the units of the passages, the best first.
        passages: those in the prompt.
        controls: what the request asks for.
        said: the answer with its quotation; what it says is not said again.
        pack: the language whose words introduce an example.
        variant: decides which sentences `creativity` draws, such as the text that the model sampled.
    """
    if not evidence:
        return Additions()
    best = evidence[0]
    related = [
        item
        for item in evidence[1:]
        if item.number == best.number or item.probability >= LIMITS.related * best.probability
    ]
    choice = _Choice(related, said)
    missing = set()
    steps = [item for item in _steps(best, evidence, passages) if choice.take([item])] if controls.step_by_step else []
    deeper = [choice.take(related) for _ in range(controls.further)]
    if controls.further and not any(deeper):
        missing.add("depth")
    varied = [choice.take(pool) for pool in _pools(related, controls, variant)]
    if controls.varied and not any(varied):
        missing.add("creativity")
    if not LOW <= controls.technical_level <= HIGH:
        ordered = sorted(related, key=lambda item: term_share(item.unit.text), reverse=controls.technical_level > HIGH)
        if not choice.take(ordered):
            missing.add("technical_level")
    example = choice.take(_examples(related, pack)) if controls.examples and not has_example(said, pack) else None
    further = tuple(item for item in choice.chosen if item is not example and item not in steps)
    return Additions(tuple(steps), further, example, frozenset(missing))


def _steps(best: Evidence, evidence: Sequence[Evidence], passages: Sequence[Hit]) -> Iterator[Evidence]:
    """Yield up to three units of the best one's list or section: those after it, then those before it."""
    by_unit = {item.unit: item for item in evidence}
    units = [unit for unit in chunk_units(passages[best.number - 1].chunk) if unit.context == best.unit.context]
    place = units.index(best.unit)
    ordered = [*units[place + 1 :], *units[:place]]
    yield from (by_unit[unit] for unit in ordered[: _MOST_STEPS - 1] if unit in by_unit)


def _pools(related: Sequence[Evidence], controls: Controls, variant: str) -> Iterator[list[Evidence]]:
    """Yield the related units in a drawn order, once for each unit to choose; the higher the dial, the more of them."""
    pool = related[: max(1, round(controls.creativity * LIMITS.pool))]
    drawn = sorted(pool, key=lambda item: draw(0, variant, item.unit.text))
    for _ in range(controls.varied):
        yield drawn


def _examples(related: Sequence[Evidence], pack: LanguagePack) -> Iterator[Evidence]:
    """Yield what the documents call an example, then sentences with a number, code or a name."""
    yield from (item for item in related if has_example(item.unit.text, pack))
    yield from (item for item in related if _CONCRETE.search(item.unit.text))


def _says(text: str, unit: Unit) -> bool:
    words = content_words(unit.text)
    return not words or len(words & content_words(text)) >= LIMITS.said * len(words)
