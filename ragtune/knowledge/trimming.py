"""What of a text matters for a question: passages are shortened to it, and an object's passages ordered by it.

Reading the prompt is most of the cost of a short answer on a CPU, so the prompt carries
the lines that speak of the question instead of whole passages. The first line always
stays; a list item brings its heading ("Returns:") along.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:_[^\W_]+)*")
_SENTENCE = re.compile(r"(?<=[^\d\s][.!?])\s+(?=[\"'`(\[]?[A-Z0-9])")
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_CLAUSE = re.compile(r"(?<=[,;])\s+")
_STOP_WORDS = """
a an and are as at be by can do does for from has have how i if in into is it its of on or that the their them there
these this to used use using was we what when where which who whose why will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())
_SECTION_NAMES = {
    "parameters": "argument option accept take setting",
    "returns": "give get output result back value produce",
    "raises": "exception error throw fail",
    "bases": "inherit subclass parent superclass extend derive class",
}
_HEADING = re.compile(r"#+ .{1,60}|\**[A-Z][\w /-]{0,40}:\**\s*")
_ITEM = re.compile(r"\s*[-*] [`*]*([\w.]+)")
_UNIT_CHARACTERS = 240
_FIRST_LINE_CHARACTERS = 90
_CHARACTERS_PER_WORD = 6.0
_TITLE_WEIGHT = 0.25
_NAMED_ITEM_BONUS = 4.0
_SECTION_BONUS = 2.0
_CODE_PENALTY = 0.5
_SAME_SENTENCE = 0.5
_OPENING_BONUSES = (1.2, 0.9)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence, clause or heading; `needs` are the units without which it cannot be understood.

    `goes_on`: it is a further part of a sentence that was too long for one unit.
    """

    text: str
    line: int
    needs: tuple[int, ...]
    words: frozenset[str]
    is_heading: bool = False
    is_code: bool = False
    item: str = ""
    goes_on: bool = False

    @property
    def size(self) -> int:
        """Words, or sixths of the characters where identifiers make them longer than prose."""
        return _size(self.text)


def trimmed(text: str, question: str, words: int, title: str = "") -> str:
    """Return at most about `words` words of the text: its first line and what shares words with the question.

    A word is counted as at least six characters, so that signatures do not slip through. Words of
    the title count little, for they say which text is meant and not which of its lines. The result
    keeps the order of the text and is the same for the same input.
    """
    text = text.strip()
    if _size(text) <= words:
        return text
    units = _units(text)
    scores = _scores(units, content_words(question), content_words(title), question)
    order = [0, *sorted((i for i in range(1, len(units)) if not units[i].is_heading), key=lambda i: (-scores[i], i))]
    chosen: set[int] = set()
    left = words
    for index in order:
        wanted = {index, *units[index].needs} - chosen
        size = sum(units[i].size for i in wanted)
        if size <= left or not chosen:
            chosen |= wanted
            left -= size
    return _joined(units, sorted(chosen))


def best_lines(texts: Sequence[str], question: str, title: str) -> list[float]:
    """Return for each part of one document how much its most telling line has to do with the question.

    All are 0.0 where nothing is asked that the document speaks of, beside its title.
    """
    asked, known = content_words(question), content_words(title)
    parts = [_units(text) for text in texts]
    units: list[_Unit] = []
    for part in parts:
        before = len(units)
        units += [replace(unit, needs=tuple(before + needed for needed in unit.needs)) for unit in part]
    if not any((asked | _sections(asked)) & unit.words - known for unit in units):
        return [0.0] * len(texts)
    scores = iter(_scores(units, asked, known, question))
    return [max((next(scores) for _ in part), default=0.0) for part in parts]


def content_words(text: str) -> frozenset[str]:
    """Return the lower-case stems of the words that carry meaning; identifiers also by their parts."""
    return frozenset[str]().union(*map(_stems, _WORD.findall(text)))


@lru_cache(maxsize=1 << 16)
def _stems(token: str) -> frozenset[str]:
    parts = [token, *token.split("_")]
    for part in token.split("_"):
        parts.extend(_CAMEL.findall(part))
    return frozenset(_stem(part.lower()) for part in parts) - _STOP - {""}


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def _size(text: str) -> int:
    return max(len(text.split()), math.ceil(len(text) / _CHARACTERS_PER_WORD))


def _units(text: str) -> list[_Unit]:
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
            heading = ()
        needs = heading
        limit = _UNIT_CHARACTERS if units else _FIRST_LINE_CHARACTERS
        is_signature = line.startswith("`")
        for piece, goes_on in _pieces(line.rstrip(), limit):
            own_item, goes_on = item[1] if item else "", goes_on and not is_signature
            units.append(_Unit(piece, number, needs, content_words(piece), item=own_item, goes_on=goes_on))
            if item and needs == heading:
                needs = (*heading, len(units) - 1)
    return units


def _pieces(line: str, limit: int) -> Iterator[tuple[str, bool]]:
    """Cut a line into sentences, and what is still long into clauses of up to `limit` characters.

    Yields each with whether it is a further part of the sentence before it.
    """
    for sentence in _SENTENCE.split(line):
        if len(sentence) <= limit:
            yield sentence, False
            continue
        current, goes_on = "", False
        for clause in _CLAUSE.split(sentence):
            for part in _bounded(clause, limit):
                if current and len(current) + len(part) > limit:
                    yield current, goes_on
                    current, goes_on = part, True
                else:
                    current = f"{current} {part}" if current else part
        yield current, goes_on


def _bounded(clause: str, limit: int) -> list[str]:
    """Cut a clause without commas between its words; a single longer word stays whole."""
    parts = [""]
    for word in clause.split(" "):
        if parts[-1] and len(parts[-1]) + len(word) >= limit:
            parts.append(word)
        else:
            parts[-1] = f"{parts[-1]} {word}" if parts[-1] else word
    return parts


def _sections(question: frozenset[str]) -> frozenset[str]:
    """Return the stems of the sections' names that the question's words stand for."""
    return frozenset(
        _stem(name) for name, words in _SECTION_NAMES.items() if question & {_stem(word) for word in words.split()}
    )


def _scores(units: list[_Unit], question: frozenset[str], title: frozenset[str], asked_text: str) -> list[float]:
    sections = _sections(question)
    asked = question | sections
    named = {word.strip(".") for word in re.findall(r"[\w.]+", asked_text)}
    frequency: Counter[str] = Counter()
    for unit in units:
        frequency.update(unit.words)
    weight = {word: math.log(1.0 + len(units) / frequency[word]) for word in asked if frequency[word]}
    weight.update({word: weight[word] * _TITLE_WEIGHT for word in weight.keys() & title})
    scores: list[float] = []
    openings = list(_OPENING_BONUSES)
    for unit in units:
        around = frozenset[str]().union(*(units[i].words for i in unit.needs))
        score = sum(weight[word] for word in asked & unit.words)
        score += 0.8 * sum(weight[word] for word in (asked & around) - unit.words)
        if sections & around:
            score += _SECTION_BONUS
        if unit.item and unit.item in named and unit.item.lower() not in _STOP:
            starts = not any(units[i].item for i in unit.needs)
            score += _NAMED_ITEM_BONUS if starts else _NAMED_ITEM_BONUS / 2
        elif unit.is_code:
            score -= _CODE_PENALTY
        elif not unit.item and not unit.is_heading and (unit.line > 0 or unit.goes_on) and openings:
            score += openings.pop(0)
        # What follows a match often completes it, above all within its sentence.
        scores.append(score + (_SAME_SENTENCE if unit.goes_on else 0.1) * scores[-1] if scores else score)
    return scores


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
