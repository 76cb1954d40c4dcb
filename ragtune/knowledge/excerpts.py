"""Cuts passages down to the lines that speak of a question, and scores a document's passages by their best line.

Reading the prompt is most of the cost of a short answer on a CPU, so the prompt carries the lines that matter
instead of whole passages. A list item brings its heading ("Returns:") along.

The shipped adapter was trained on excerpts: another choice of lines asks for another training.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ragtune.records import Chunk
from ragtune.text.segments import joint
from ragtune.text.sentences import sentence_spans
from ragtune.text.words import STOP_WORDS, content_words, stem

# All numbers of this file were chosen by hand on the project's own API pages;
# docs/decisions/lines-of-all-passages.md has what they were measured with. None was tuned one by one.

# Longer sentences are cut at their commas, so that half of a long one can stay.
_UNIT_CHARACTERS = 240
# Signatures have few spaces; their length counts at about six characters a word, as in English prose.
_CHARACTERS_PER_WORD = 6.0
# Every line of a passage is about its title, so a word of the title hardly tells the lines apart.
_TITLE_WEIGHT = 0.25
# A match in the heading or list item above counts nearly as much as one in the line itself.
_CONTEXT_WEIGHT = 0.8
# "What is the default of `limit`?" wants the list item `limit`, whatever else mentions it.
_NAMED_ITEM_BONUS = 4.0
# "What does it return?" wants the lines below "Returns:".
_SECTION_BONUS = 2.0
# Code seldom answers a question in words.
_CODE_PENALTY = 0.5
# What follows a match often completes it, above all within its sentence.
_NEXT_UNIT_SHARE = 0.1
_SAME_SENTENCE_SHARE = 0.5
# The first two sentences, not counting a signature, usually say what the thing is for.
_OPENING_BONUSES = (1.2, 0.9)

# What a shared word adds to a similarity between -1 and 1. 0.01 to 0.04 showed the same number of answers on
# questions that people typed (docs/decisions/lines-of-all-passages.md).
_SHARED_WORDS_WEIGHT = 0.02

_CLAUSE = re.compile(r"(?<=[,;])\s+")
_HEADING = re.compile(r"#+ .{1,60}|\**[A-Z][\w /-]{0,40}:\**\s*")
_ITEM = re.compile(r"\s*[-*] [`*]*([\w.]+)")
_SECTION_SYNONYMS = {
    "parameters": "argument option accept take setting",
    "returns": "give get output result back value produce",
    "raises": "exception error throw fail",
    "bases": "inherit subclass parent superclass extend derive class",
}


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence, clause, heading or line of code: what an excerpt keeps or leaves out as a whole.

    `needs` are the indexes of the units without which it cannot be understood. `continues` says that it is a
    further part of a sentence that was too long for one unit. `item` is the name that a list item begins with.
    """

    text: str
    line: int
    needs: tuple[int, ...]
    words: frozenset[str]
    is_heading: bool = False
    is_code: bool = False
    item: str = ""
    continues: bool = False

    @property
    def size(self) -> int:
        """The length in words."""
        return _size_in_words(self.text)


def split_lines(text: str) -> list[str]:
    """Return what `choose_lines` chooses from: the sentences, list items, rows and headings of a text.

    What cannot be understood without its heading or the beginning of its list item has that in front of it.
    """
    units = _split_units(text.strip())
    return [" ".join(units[index].text.strip() for index in (*unit.needs, place)) for place, unit in enumerate(units)]


def choose_lines(
    chunks: Sequence[Chunk], question: str, words: int, similarity: Sequence[Sequence[float]] | None = None
) -> list[str]:
    """Return for each chunk those of its lines that are most related to the question, "" for none.

    All chunks together show about `words` words; six characters count as at least a word, so that signatures are not
    free. `similarity` has a number for each line of `split_lines`, from -1 to 1. Without it shared words decide
    alone. The lines of a chunk keep their order, and a list item brings its heading along.
    """
    texts = [chunk.text.strip() for chunk in chunks]
    if sum(map(_size_in_words, texts)) <= words:
        return texts
    parts = [_split_units(text) for text in texts]
    ranking: list[tuple[float, int, int]] = []
    for number, (chunk, units) in enumerate(zip(chunks, parts, strict=True)):
        scores = _score_units(units, question, content_words(" ".join([chunk.title, *chunk.headings[-1:]])))
        for index, unit in enumerate(units):
            if not unit.is_heading:
                score = _SHARED_WORDS_WEIGHT * scores[index] + (similarity[number][index] if similarity else 0.0)
                ranking.append((-score, number, index))
    chosen: list[set[int]] = [set() for _ in chunks]
    room = words
    for _, number, index in sorted(ranking):
        units = parts[number]
        additions = {index, *units[index].needs} - chosen[number]
        size = sum(units[addition].size for addition in additions)
        if size <= room or not any(chosen):
            chosen[number] |= additions
            room -= size
    return [_join_units(units, sorted(indexes)) for units, indexes in zip(parts, chosen, strict=True)]


def best_line_scores(texts: Sequence[str], question: str, title: str) -> list[float]:
    """Return for each part of one document how closely its best line is related to the question.

    All scores are 0.0 if the question has no word in common with the document except those of its title.
    """
    question_words, title_words = content_words(question), content_words(title)
    parts = [_split_units(text) for text in texts]
    units: list[_Unit] = []
    for part in parts:
        offset = len(units)
        units += [replace(unit, needs=tuple(offset + index for index in unit.needs)) for unit in part]
    telling = (question_words | _section_words(question_words)) - title_words
    if not any(telling & unit.words for unit in units):
        return [0.0] * len(texts)
    scores = iter(_score_units(units, question, title_words))
    return [max((next(scores) for _ in part), default=0.0) for part in parts]


def _size_in_words(text: str) -> int:
    return max(len(text.split()), math.ceil(len(text) / _CHARACTERS_PER_WORD))


def _split_units(text: str) -> list[_Unit]:
    units: list[_Unit] = []
    heading: tuple[int, ...] = ()
    fence: tuple[int, ...] = ()
    for number, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        if _HEADING.fullmatch(line):
            heading = (len(units),)
            units.append(_Unit(line.rstrip(), number, (), content_words(line), is_heading=True))
            continue
        if line.lstrip().startswith("```"):
            fence = () if fence else (len(units),)
            units.append(_Unit(line.rstrip(), number, (), frozenset(), is_heading=True))
            continue
        if fence:
            units.append(_Unit(line.rstrip(), number, fence, content_words(line), is_code=True))
            continue
        item = _ITEM.match(line)
        if heading and not item and not line.startswith((" ", "\t", "|")) and not units[-1].is_heading:
            # A paragraph after the list: the heading no longer belongs to it.
            heading = ()
        units += _line_units(line.rstrip(), number, item[1] if item else "", heading, start=len(units))
    return units


def _line_units(line: str, number: int, item: str, heading: tuple[int, ...], start: int) -> list[_Unit]:
    """Return the units of one line of prose; `start` is the index that the first of them will have."""
    is_signature = line.startswith("`")
    units: list[_Unit] = []
    for piece, continues in _split_line(line, _UNIT_CHARACTERS):
        # What follows in a list item cannot be understood without its beginning.
        needs = (*heading, start) if item and units else heading
        continues = continues and not is_signature
        units.append(_Unit(piece, number, needs, content_words(piece), item=item, continues=continues))
    return units


def _split_line(line: str, limit: int) -> Iterator[tuple[str, bool]]:
    """Cut a line into sentences, and longer sentences into clauses of up to `limit` characters.

    Yields each piece, and whether it continues the sentence of the piece before it.
    """
    for start, end in sentence_spans(line):
        # The first sentence keeps the indentation of its line.
        sentence = line[start if line[:start].strip() else 0 : end]
        if len(sentence) <= limit:
            yield sentence, False
            continue
        current, continues = "", False
        for clause in _CLAUSE.split(sentence):
            for part in _split_clause(clause, limit):
                if current and len(current) + len(part) > limit:
                    yield current, continues
                    current, continues = part, True
                else:
                    current = f"{current} {part}" if current else part
        yield current, continues


def _split_clause(clause: str, limit: int) -> list[str]:
    """Cut a clause between its words; a single word that is longer than the limit stays whole."""
    parts = [""]
    for word in clause.split(" "):
        if parts[-1] and len(parts[-1]) + len(word) >= limit:
            parts.append(word)
        else:
            parts[-1] = f"{parts[-1]} {word}" if parts[-1] else word
    return parts


def _section_words(question_words: frozenset[str]) -> frozenset[str]:
    """Return the stems of the section names that the question's words stand for: `throw` means "Raises"."""
    return frozenset(
        stem(name)
        for name, synonyms in _SECTION_SYNONYMS.items()
        if question_words & {stem(synonym) for synonym in synonyms.split()}
    )


def _score_units(units: list[_Unit], question: str, title_words: frozenset[str]) -> list[float]:
    """Return how closely each unit is related to the question; rare words count more, as in BM25.

    `fsum` does not depend on the order of a set, so every process makes the same excerpts.
    """
    question_words = content_words(question)
    sections = _section_words(question_words)
    query = question_words | sections
    names = {word.strip(".") for word in re.findall(r"[\w.]+", question)}
    weights = _word_weights(units, query, title_words)
    scores: list[float] = []
    openings = list(_OPENING_BONUSES)
    for unit in units:
        context = frozenset[str]().union(*(units[index].words for index in unit.needs))
        score = math.fsum(weights[word] for word in query & unit.words)
        score += _CONTEXT_WEIGHT * math.fsum(weights[word] for word in (query & context) - unit.words)
        if sections & context:
            score += _SECTION_BONUS
        if unit.item and unit.item in names and unit.item.lower() not in STOP_WORDS["en"]:
            is_beginning = not any(units[index].item for index in unit.needs)
            score += _NAMED_ITEM_BONUS if is_beginning else _NAMED_ITEM_BONUS / 2
        elif unit.is_code:
            score -= _CODE_PENALTY
        elif not unit.item and not unit.is_heading and not unit.text.startswith("`") and openings:
            score += openings.pop(0)
        if scores:
            score += (_SAME_SENTENCE_SHARE if unit.continues else _NEXT_UNIT_SHARE) * scores[-1]
        scores.append(score)
    return scores


def _word_weights(units: list[_Unit], query: frozenset[str], title_words: frozenset[str]) -> dict[str, float]:
    frequencies: Counter[str] = Counter()
    for unit in units:
        frequencies.update(unit.words)
    weights = {word: math.log(1.0 + len(units) / frequencies[word]) for word in query if frequencies[word]}
    return {word: weight * (_TITLE_WEIGHT if word in title_words else 1.0) for word, weight in weights.items()}


def _join_units(units: list[_Unit], chosen: list[int]) -> str:
    """Return the chosen units as lines, with an ellipsis for what is left out inside a line."""
    lines: list[str] = []
    for place, index in enumerate(chosen):
        unit = units[index]
        previous = chosen[place - 1] if place else -1
        if place and units[previous].line == unit.line:
            lines[-1] += (joint(lines[-1], unit.text) if previous == index - 1 else " … ") + unit.text
        else:
            gap_inside_line = index > 0 and units[index - 1].line == unit.line
            lines.append(("… " if gap_inside_line else "") + unit.text)
    return "\n".join(lines)
