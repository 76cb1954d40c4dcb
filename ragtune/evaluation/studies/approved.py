"""Turns answers that people approved in a study into pairs for the dataset.

The file is a source of existing pairs (`pairs:FILE`), so these pairs are matched with passages, checked and reviewed
like all others.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ragtune.answer.citations import without_citations
from ragtune.answer.language_packs import packs
from ragtune.answer.refusals import is_refusal
from ragtune.errors import DatasetError
from ragtune.evaluation.studies.results import settled_items
from ragtune.evaluation.studies.store import StudyStore
from ragtune.evaluation.studies.study import UNANSWERABLE, StudyItem
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.segments import split_words
from ragtune.text.words import wording_key

NEEDED = ("correct", "supported", "complete")
"""Questions of the rubric that people have to answer with yes. A clumsy answer that is right may still train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovedPair:
    """A question with an approved answer, "" if the documents do not answer it, and the text it was taken from."""

    question: str
    answer: str
    context: str

    def as_row(self) -> dict[str, str | bool]:
        """Return the pair as a line of a file of existing pairs."""
        row: dict[str, str | bool] = {"question": self.question, "answer": self.answer, "answerable": bool(self.answer)}
        return {**row, "context": self.context} if self.context else row


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """The approved pairs of a study, how many items were not approved, and how many ask a held-out question."""

    pairs: tuple[ApprovedPair, ...]
    others: int
    held_out: int


def approved_pairs(store: StudyStore, name: str, held_out: Collection[str] = ()) -> Approved:
    """Return the answers of a study that people settled as correct, supported and complete.

    An approved refusal becomes a question without an answer if the study says that the documents do not answer it.
    A question that was rated twice comes once. Raises DatasetError if there is no such study, or if it
    compares two models.

    Args:
        store: the studies.
        name: the study.
        held_out: questions of the test and the gate; training on them would make the scores worthless.
    """
    study = store.study(name)
    if study.mode != "rating":
        raise DatasetError(
            f"The study '{name}' compares two models, which does not say that an answer is right.",
            "a study in which people rated single answers (--mode rating)",
        )
    left_out = {wording_key(question) for question in held_out}
    pairs: dict[str, ApprovedPair] = {}
    tested = 0
    for _, item, choices in settled_items(store, [name]):
        pair = _pair(item)
        if pair is None or any(choices.get(question) != "yes" for question in NEEDED):
            continue
        if wording_key(item.question) in left_out:
            tested += 1
        else:
            pairs.setdefault(" ".join(split_words(normalize_for_search(item.question))).casefold(), pair)
    others = len(store.items(name)) - len(pairs) - tested
    return Approved(pairs=tuple(pairs.values()), others=others, held_out=tested)


def write_approved(approved: Approved, path: Path) -> None:
    """Write the pairs as JSON lines; raise DatasetError unless the path ends in `.jsonl`."""
    if path.suffix.lower() != ".jsonl":
        raise DatasetError(f"{path} ends in '{path.suffix}'.", ".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(pair.as_row(), ensure_ascii=False) + "\n" for pair in approved.pairs]
    path.write_text("".join(lines), encoding="utf-8")


def _pair(item: StudyItem) -> ApprovedPair | None:
    """Return the pair that an item becomes if people approve it; None for a refusal of an answerable question."""
    [answer] = item.answers
    if not is_refusal(answer.text, packs().values()):
        context = answer.sources[0] if answer.sources else ""
        return ApprovedPair(question=item.question, answer=without_citations(answer.text), context=context)
    if item.expected.startswith(UNANSWERABLE):
        return ApprovedPair(question=item.question, answer="", context="")
    return None
