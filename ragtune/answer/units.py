"""Splits a passage into units: what one quotation can hold, and what the evidence model scores.

A unit is a sentence, a list item, a row of a table or a line of code. A list item is not understood without the line
that leads into the list, and a row not without the names of its columns, so a unit carries them as context. A question
is no unit, because it answers nothing: it is the context of what follows it, as a heading is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ragtune.records import Chunk
from ragtune.text.sentences import sentence_spans
from ragtune.text.whitespace import collapse_whitespace

MOST_WORDS = 37
"""A list item with more words is split into sentences: at most 40 words are judged as an answer, and the words that
mark a quotation need room (benchmarks/questions/README.md)."""

_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+(?=\S)")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_LABEL = re.compile(r"(?:\S+ ){0,3}\S+:")
"""Matches a line such as "Parameters:", which says nothing by itself."""
_QUESTION = re.compile(r"[?？؟][*_\"'”’»)\]]*$")
_DIVIDER = re.compile(r"\|?[\s:|-]*-[\s:|-]*\|?\s*$")


@dataclass(frozen=True, slots=True)
class Unit:
    """A quotable piece of a passage.

    `text` can be shown to people. `context` is what has to be known to understand it: title, heading, and the line
    that leads into its list. `place` is the title and the heading alone, as far as there are any.
    """

    text: str
    context: str
    place: tuple[str, ...] = field(default=(), compare=False)

    @property
    def scored_text(self) -> str:
        """The context, then the unit: what the evidence model reads."""
        return f"{self.context}: {self.text}" if self.context else self.text


def chunk_units(chunk: Chunk) -> list[Unit]:
    """Return the units of a passage in their order; headings are no units."""
    return text_units(chunk.text, chunk.title, chunk.headings[-1] if chunk.headings else "")


def text_units(text: str, title: str = "", heading: str = "") -> list[Unit]:
    """Return the units of a Markdown text below a title and a heading; a heading inside the text replaces `heading`.

    A text of nothing but questions has these as units.
    """
    units: list[Unit] = []
    questions: list[Unit] = []
    question = ""
    last_heading, asked_in = heading, 0
    for found_heading, lead_in, piece, paragraph in _pieces(text, heading):
        if found_heading != last_heading:
            question, last_heading = "", found_heading
        if is_question := _QUESTION.search(piece) is not None:
            question, asked_in = piece, paragraph
        elif question and paragraph > asked_in + 1:
            question = ""
        before = lead_in or ("" if is_question else question)
        place = tuple(dict.fromkeys(part for part in (title, found_heading) if part))
        context = " > ".join(dict.fromkeys((*place, before) if before else place))
        (questions if is_question else units).append(Unit(piece, context, place))
    return units or questions


def _pieces(text: str, heading: str) -> Iterator[tuple[str, str, str, int]]:
    """Yield (heading, lead-in, text, number of the paragraph) of each unit; the items of a list are one paragraph."""
    lead_in, previous = "", ""
    columns: list[str] = []
    in_code = was_item = False
    number = 0
    for paragraph in _paragraphs(text):
        line, is_item = paragraph.strip(), _ITEM.match(paragraph) is not None
        number += not (is_item and was_item)
        was_item = is_item
        if _FENCE.match(line):
            in_code = not in_code
            continue
        if in_code:
            yield heading, "", line, number
            continue
        if match := _HEADING.match(line):
            heading, lead_in, previous, columns = match[1], "", "", []
            continue
        if line.startswith("|"):
            cells = _cells(line)
            if _DIVIDER.match(line):
                continue
            if not columns:
                columns = cells
            else:
                yield heading, "", _row(columns, cells), number
            continue
        columns = []
        if item := _ITEM.match(paragraph):
            lead_in = lead_in or (previous if previous.endswith(":") else "")
            for piece in _item_pieces(line[item.end() - (len(paragraph) - len(paragraph.lstrip())) :]):
                yield heading, lead_in, piece, number
            continue
        lead_in = ""
        for start, end in sentence_spans(line):
            previous = collapse_whitespace(line[start:end])
            if not _LABEL.fullmatch(previous):
                yield heading, "", previous, number


def _paragraphs(text: str) -> Iterator[str]:
    """Yield headings, items, rows and lines of code one by one, and the lines of a paragraph joined by spaces."""
    gathered = ""
    in_code = False
    for line in text.split("\n"):
        is_fence = bool(_FENCE.match(line))
        stands_alone = in_code or is_fence or line.lstrip().startswith("|") or _HEADING.match(line)
        begins = stands_alone or _ITEM.match(line) or not line.strip()
        if begins and gathered:
            yield gathered
            gathered = ""
        in_code ^= is_fence
        if stands_alone and line.strip():
            yield line
        elif line.strip():
            gathered = f"{gathered} {line.strip()}" if gathered else line.rstrip()
    if gathered:
        yield gathered


def _item_pieces(item: str) -> Iterator[str]:
    """Yield a list item as a whole if it is short, or else its sentences."""
    item = collapse_whitespace(item)
    if len(item.split()) <= MOST_WORDS:
        yield item
        return
    for start, end in sentence_spans(item):
        yield item[start:end]


def _cells(line: str) -> list[str]:
    return [collapse_whitespace(cell.replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _row(columns: list[str], cells: list[str]) -> str:
    """Return a row with the names of its columns: `Volume: Agnes 160 litres, Cora 85 litres`."""
    named = [f"{name} {cell}".strip() for name, cell in zip(columns[1:], cells[1:], strict=False) if cell]
    first = f"{columns[0]} {cells[0]}".strip() if columns and columns[0] else cells[0]
    return f"{first}: {', '.join(named)}" if named else first
