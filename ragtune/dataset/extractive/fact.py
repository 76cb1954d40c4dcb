"""A fact that a document states: where its answer stands and what a question about it needs to say."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Seeded draws began with one-letter slot names. They still hash these letters, so that better names for the slots
# changed no question. `d` marks the slot that a question is about.
_SLOTS_BY_LETTER = {
    "c": "place",
    "d": "action condition exception inverted_clause parameter participle predicate purpose row term thing verb",
    "n": "plural",
    "o": "article auxiliary column requirement setting third_person",
    "s": "clause subject",
}
_LETTERS = {slot: letter for letter, slots in _SLOTS_BY_LETTER.items() for slot in slots.split()}


@dataclass(frozen=True, slots=True)
class Fact:
    """The span of an answer in its chunk, and the slots of the question templates that fit it.

    `kind` is stored with the pair. `template_group` names the templates that can ask for the fact; the slots are
    described in `templates/*.yaml`. A fact without an answer (an unanswerable question) has the span (0, 0).
    """

    kind: str
    template_group: str
    start: int
    end: int
    slots: Mapping[str, str] = field(default_factory=dict)

    @property
    def focus(self) -> str:
        """What the question is about, such as the parameter's name; "" if the object itself is asked about."""
        return next((words for slot, words in self.slots.items() if _LETTERS.get(slot) == "d"), "")

    @property
    def draw_key(self) -> str:
        """The slots as a part of a seeded draw."""
        return str(sorted((_LETTERS[slot], words) for slot, words in self.slots.items()))
