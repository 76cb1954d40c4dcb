"""Shorten a passage to what matters for a question, keeping the order of the text.

Reading the prompt is most of the cost of a short answer on a CPU, so the prompt carries
the lines that speak of the question instead of whole passages. The first line always
stays; a list item brings its heading ("Returns:") along.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:_[^\W_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'`(\[]?[A-Z0-9])")
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_CLAUSE = re.compile(r"(?<=[,;])\s+")
_STOP_WORDS = """
a an and are as at be by can do does for from has have how i if in into is it its of on or that the their them there
these this to used use using was we what when where which who whose why will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())
_SECTION_WORDS = {
    "argument": "parameter", "option": "parameter", "accept": "parameter", "take": "parameter",
    "exception": "raise", "error": "raise", "throw": "raise", "fail": "raise",
    "give": "return", "output": "return", "result": "return",
    "inherit": "base", "subclass": "base", "parent": "base", "superclass": "base", "extend": "base",
}  # fmt: skip
_HEADING = re.compile(r"#+ .{1,60}|\**[A-Z][\w /-]{0,40}:\**\s*")
_UNIT_WORDS = 30
_CHARACTERS_PER_WORD = 6.0


@dataclass(frozen=True, slots=True)
class _Unit:
    text: str
    line: int
    heading: int
    words: frozenset[str]

    @property
    def size(self) -> int:
        """Words, or sixths of the characters where identifiers make them longer than prose."""
        return max(len(self.text.split()), math.ceil(len(self.text) / _CHARACTERS_PER_WORD))


def trimmed(text: str, question: str, words: int) -> str:
    """Return at most about `words` words of the text: its first line and what shares words with the question.

    A word is counted as at least six characters, so that signatures do not slip through.
    The result keeps the order of the text and is the same for the same input.
    """
    text = text.strip()
    if max(len(text.split()), math.ceil(len(text) / _CHARACTERS_PER_WORD)) <= words:
        return text
    units = _units(text)
    scores = _scores(units, content_words(question))
    order = [0, *sorted(range(1, len(units)), key=lambda i: (-scores[i], i))]
    chosen: set[int] = set()
    left = words
    for index in order:
        wanted = [i for i in (units[index].heading, index) if i >= 0 and i not in chosen]
        size = sum(units[i].size for i in wanted)
        if size <= left or not chosen:
            chosen.update(wanted)
            left -= size
    return _joined(units, sorted(chosen))


def content_words(text: str) -> frozenset[str]:
    """Return the lower-case stems of the words that carry meaning; identifiers also by their parts."""
    found: set[str] = set()
    for token in _WORD.findall(text):
        parts = [token, *token.split("_")]
        for part in token.split("_"):
            parts.extend(_CAMEL.findall(part))
        found.update(_stem(part.lower()) for part in parts)
    return frozenset(word for word in found if word and word not in _STOP)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 4 else word


def _units(text: str) -> list[_Unit]:
    units: list[_Unit] = []
    heading = -1
    for number, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        if re.fullmatch(r"[#*\s]*[A-Z][\w /-]{0,40}:?\**", line) and (
            line.rstrip(" *").endswith(":") or line[0] == "#"
        ):
            heading = len(units)
            units.append(_Unit(line.rstrip(), number, -1, content_words(line)))
            continue
        if heading >= 0 and not line.startswith(("-", "*", " ", "\t", "|")) and units[-1].heading == heading:
            heading = -1
        for piece in _pieces(line.rstrip()):
            units.append(_Unit(piece, number, heading, content_words(piece)))
    return units


def _pieces(line: str) -> list[str]:
    """Cut a line into sentences, and what is still long into clauses of up to `_UNIT_WORDS` words."""
    pieces: list[str] = []
    for sentence in _SENTENCE.split(line):
        if len(sentence) <= _UNIT_WORDS * _CHARACTERS_PER_WORD:
            pieces.append(sentence)
            continue
        current = ""
        for clause in _CLAUSE.split(sentence):
            for part in _bounded(clause):
                if current and len(current) + len(part) > _UNIT_WORDS * _CHARACTERS_PER_WORD:
                    pieces.append(current)
                    current = part
                else:
                    current = f"{current} {part}".strip() if current else part
        if current:
            pieces.append(current)
    return pieces


def _bounded(clause: str) -> list[str]:
    words, size = clause.split(" "), _UNIT_WORDS
    return [" ".join(words[i : i + size]) for i in range(0, len(words), size)]


def _scores(units: list[_Unit], question: frozenset[str]) -> list[float]:
    asked = question | {_SECTION_WORDS[word] for word in question if word in _SECTION_WORDS}
    frequency: Counter[str] = Counter()
    for unit in units:
        frequency.update(unit.words)
    weight = {word: math.log(1.0 + len(units) / frequency[word]) for word in asked if frequency[word]}
    scores = []
    for unit in units:
        score = sum(weight[word] for word in asked & unit.words)
        if unit.heading >= 0:
            score += 0.8 * sum(weight[word] for word in asked & (units[unit.heading].words - unit.words))
        scores.append(score)
    # A sentence that follows a match often completes it.
    return [score + 0.1 * scores[i - 1] if i else score for i, score in enumerate(scores)]


def _joined(units: list[_Unit], chosen: list[int]) -> str:
    lines: list[str] = []
    for place, index in enumerate(chosen):
        unit = units[index]
        before = chosen[place - 1] if place else -1
        if place and units[before].line == unit.line:
            lines[-1] += (" " if before == index - 1 else " … ") + unit.text
        else:
            gap_inside_line = index > 0 and units[index - 1].line == unit.line
            lines.append(("… " if gap_inside_line else "") + unit.text)
    return "\n".join(lines)
