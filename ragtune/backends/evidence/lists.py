"""Training lists for the evidence model: a question with candidate units, of which some or none are right.

The questions are people's, over passages that hold the answer as a span. The other candidates are what a search would
bring in serving: sentences of the same passage, the most similar sentences of other passages, and the right sentence
with a swapped name or number. In a part of the lists nothing is right, with questions of the same forms: the right
sentence is left out.
"""

import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragtune.answer.units import Unit, text_units
from ragtune.errors import DatasetError
from ragtune.ports import Embedder
from ragtune.text.words import STOP_WORDS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

TRAINING_FILES = ("fairytale", "nq", "tydi")
NEAR_MISSES = 3
"""Similar units of other passages in each list. Chosen by hand, not measured."""
NOTHING_RIGHT_SHARE = 0.25
"""Share of the lists without a right unit. Chosen by hand, not measured."""
SWAPPED_SHARE = 0.4
"""Share of the lists with a copy of the right unit about something else. Chosen by hand, not measured."""
MOST_CANDIDATES = 9
"""Longer lists lose units of the passage, to bound the time of a step. Chosen by hand, not measured."""
_FIELDS = ("title", "context", "question", "answer", "split")
_NAME = re.compile(r"(?<![.!?\"'] )(?<!^)\b[A-Z][a-z]{2,}\b|\b\d+(?:[.,]\d+)*\b")
"""A capitalised word inside a sentence, or a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A person's question with the units of its passage; `right` are the positions of those that hold the answer."""

    text: str
    answer: str
    file: str
    title: str
    split: str
    units: tuple[Unit, ...]
    right: frozenset[int]


@dataclass(frozen=True, slots=True)
class CandidateList:
    """A question with candidates as the model reads them; `right` says which hold the answer."""

    question: str
    candidates: tuple[str, ...]
    right: tuple[bool, ...]


def read_questions(folder: Path, files: Sequence[str], split: str) -> list[Question]:
    """Return the questions of a split from `NAME.jsonl.gz` files, in order.

    A line has the fields title, context, question, answer (a span of the context) and split. Questions are left out
    whose passage has a single unit, and those whose answer is spread over units.

    Raises:
        DatasetError: a file is missing or a line lacks a field.
    """
    questions: list[Question] = []
    for name in files:
        path = folder / f"{name}.jsonl.gz"
        if not path.is_file():
            raise DatasetError(f"There is no file {path}.", "a gzipped JSON lines file of questions")
        for number, line in enumerate(gzip.decompress(path.read_bytes()).decode().splitlines(), 1):
            row = json.loads(line)
            if missing := [field for field in _FIELDS if field not in row]:
                raise DatasetError(f"Line {number} of {path} lacks {', '.join(missing)}.", ", ".join(_FIELDS))
            if row["split"] != split:
                continue
            units = tuple(text_units(row["context"], row["title"]))
            right = right_units(units, row["context"], row["answer"])
            if right and len(units) > 1:
                question = Question(
                    text=row["question"], answer=row["answer"], file=name, title=row["title"], split=split,
                    units=units, right=right,
                )  # fmt: skip
                questions.append(question)
    return questions


def right_units(units: Sequence[Unit], context: str, answer: str) -> frozenset[int]:
    """Return the position of the unit that holds the first occurrence of the answer in the context."""
    target = context.find(answer)
    place = 0
    for position, unit in enumerate(units):
        start = context.find(unit.text, place)
        if start < 0:
            if answer in unit.text:
                return frozenset({position})
            continue
        place = start + len(unit.text)
        if start <= target and target + len(answer) <= place:
            return frozenset({position})
    return frozenset()


class ListMaker:
    """Makes training lists: a question with texts of which some answer it and the others only look as if they did."""

    def __init__(self, questions: Sequence[Question], embedder: Embedder) -> None:
        self.questions = list(questions)
        self._names = sorted({name for question in questions for unit in question.units for name in _names(unit.text)})
        self._near = _near_misses(self.questions, embedder)

    def make(self, position: int, draw: random.Random) -> CandidateList:
        """Return a list for the question at this position."""
        question = self.questions[position]
        nothing_right = draw.random() < NOTHING_RIGHT_SHARE
        right = [(question.units[index].scored_text, True) for index in question.right]
        wrong = [(unit.scored_text, False) for index, unit in enumerate(question.units) if index not in question.right]
        near = [(unit.scored_text, False) for unit in self._near[position]]
        if draw.random() < SWAPPED_SHARE and (swapped := self._swapped(question, draw)):
            near.insert(0, (swapped, False))
        draw.shuffle(wrong)
        wrong = wrong[: MOST_CANDIDATES - len(right) - len(near)]
        candidates = [*([] if nothing_right else right), *wrong, *near]
        draw.shuffle(candidates)
        texts, labels = zip(*candidates, strict=True)
        return CandidateList(_as_typed(question.text, draw), texts, labels)

    def _swapped(self, question: Question, draw: random.Random) -> str:
        """Return a right unit in which every name and number of the question is another one; "" if it has none."""
        text = question.units[min(question.right)].scored_text
        asked = {word.lower() for word in re.findall(r"\w+", question.text)}
        shared = {name for name in _names(text) if name.lower() in asked}
        if not shared:
            return ""
        for name in sorted(shared):
            pool = [other for other in self._names if other[0].isdigit() == name[0].isdigit() and other != name]
            text = re.sub(rf"\b{re.escape(name)}\b", draw.choice(pool), text)
        return text


def _as_typed(question: str, draw: random.Random) -> str:
    """Return the question as people type: often without its question mark, now and then with a misspelt word."""
    text = question.strip()
    if draw.random() < 0.5:
        text = text.rstrip("?").rstrip()
    words = text.split()
    long_words = [index for index, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if long_words and draw.random() < 0.15:
        index = draw.choice(long_words)
        word, place = words[index], draw.randrange(1, len(words[index]) - 1)
        transposed = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        words[index] = transposed if draw.random() < 0.5 else word[:place] + word[place + 1 :]
    return " ".join(words)


def _names(text: str) -> list[str]:
    return [name for name in _NAME.findall(text) if name.lower() not in STOP_WORDS["en"]]


def _near_misses(questions: Sequence[Question], embedder: Embedder) -> list[list[Unit]]:
    """Return for each question the most similar units of other passages of its file without the answer in them."""
    import numpy as np

    misses: list[list[Unit]] = [[] for _ in questions]
    for file in sorted({question.file for question in questions}):
        positions = [position for position, question in enumerate(questions) if question.file == file]
        owners: dict[Unit, set[tuple[Unit, ...]]] = {}
        for position in positions:
            for unit in questions[position].units:
                owners.setdefault(unit, set()).add(questions[position].units)
        pool = list(owners)
        vectors = embedder.embed([unit.scored_text for unit in pool])
        asked = embedder.embed([questions[position].text for position in positions])
        for start in range(0, len(positions), 256):
            similar = asked[start : start + 256] @ vectors.T
            for row, position in zip(similar, positions[start : start + 256], strict=True):
                question = questions[position]
                for index in np.argsort(-row)[:60]:
                    unit = pool[int(index)]
                    if question.units not in owners[unit] and question.answer.lower() not in unit.text.lower():
                        misses[position].append(unit)
                    if len(misses[position]) == NEAR_MISSES:
                        break
    return misses
