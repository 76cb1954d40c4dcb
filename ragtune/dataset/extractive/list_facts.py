"""Reads facts out of the list items and tables of running text."""

import re
from collections.abc import Iterator
from itertools import pairwise

from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.standalone import clean, is_running_text, says_something_new, stands_alone
from ragtune.text.sentences import Span, sentence_spans

# The limits below (words of a term, characters of a key, words of a cell) were chosen by hand; none was measured.
# `- **Stock list**: a bound list of every article`
_LIST_ITEM = re.compile(
    r"^(?:[-*+]|\d+[.)]) (?:\*\*(?P<bold>[^*\n]{2,50})\*\*|`(?P<code>[^`\n]{2,50})`):?(?:\*\*)?\s*(?:[:—–-]|is)?\s+"
)
# A bar between two cells; `\|` is a bar in a cell.
_BAR = re.compile(r"(?<!\\)\|")
# Table cells that are markup, placeholders or half a sentence.
_UNUSABLE_CELL = re.compile(
    r"<|_\(|\*\w|_\d|^(?:TK|TBD|N/A|(?:of|in|on|at|from|inside|by|with|between|after|before|or)\b)|"
    r"\b(?:see|below|above|this|these)\b",
    re.IGNORECASE,
)
# Table columns that a question can name: `What is the default of ...?`
_COLUMNS_TEXT = """
description default type meaning value purpose format unit range example command alias symbol colour color size status
minimum maximum effect result explanation syntax
"""
_COLUMNS = frozenset(_COLUMNS_TEXT.split())
_NO_ROW_KEYS = ("N/A", "RETURNS", "YIELDS", "RAISES")


def list_item_facts(text: str, start: int, end: int, place: str) -> Iterator[Fact]:
    """Yield the description in the list item `text[start:end]` as a fact if its term is in bold or code."""
    item = _LIST_ITEM.match(text[start:end])
    if not item:
        return
    span = next(sentence_spans(text, start + item.end(), end), None)
    # Without a picture in front: `🚀 Fast start`.
    term = re.sub(r"^[^\w\x20-\x7e]+\s*", "", (item["bold"] or item["code"]).strip()).rstrip(":.")
    if span is None or not 1 <= len(term.split()) <= 5 or not re.search(r"[^\W\d_]{2}", term):
        return
    answer = text[span[0] : span[1]]
    continues_term = re.match(r"(?:for|with|of|in|to|on|by|from)\b", answer)
    if not continues_term and stands_alone(answer, fewest=4) and says_something_new(answer, term, 2):
        quoted_term = f"`{term}`" if item["code"] else f"“{term}”"
        group = "list_item.phrase" if item["bold"] and " " in term else "list_item"
        yield Fact("list_item", group, *span, {"term": quoted_term, "place": place})


def table_facts(text: str, start: int, end: int, place: str) -> Iterator[Fact]:
    """Yield a fact for each usable cell of a Markdown table, `text[start:end]`; the question names row and column."""
    rows = _table_rows(text, start, end)
    if len(rows) < 3 or not _is_rule(text, rows[1]):
        return
    columns = [_cell_text(text, cell) for cell in rows[0]]
    # In a row with more or fewer cells than the head, the cells may belong to other columns.
    for row in [row for row in rows[2:] if len(row) == len(columns) > 1]:
        key = _cell_text(text, row[0])
        if not _is_row_key(key):
            continue
        for column, cell in zip(columns[1:], row[1:], strict=True):
            is_named = _is_column(column) and column.lower() not in key.lower()
            if is_named and _is_usable_cell(text[cell[0] : cell[1]]):
                slots = {"row": f"`{key}`", "column": column.lower(), "place": place}
                yield Fact("table", "table", *cell, slots)


def _table_rows(text: str, start: int, end: int) -> list[list[Span]]:
    """Return the spans of the cells of every line, without the white space around them."""
    rows = []
    position = start
    for line in text[start:end].splitlines(keepends=True):
        bars = [position + bar.start() for bar in _BAR.finditer(line)]
        line_end = position + len(line.rstrip())
        if not bars or bars[-1] != line_end - 1:
            bars.append(line_end)
        rows.append([_trimmed(text, left + 1, right) for left, right in pairwise(bars)])
        position += len(line)
    return rows


def _trimmed(text: str, start: int, end: int) -> Span:
    """Return the span without the white space at its ends."""
    cell = text[start:end]
    indent = len(cell) - len(cell.lstrip())
    return start + indent, start + indent + len(cell.strip())


def _is_rule(text: str, row: list[Span]) -> bool:
    """Return whether a row is the line under the head of a table: `| --- | --- |`."""
    return bool(row) and all(re.fullmatch(r":?-+:?", text[start:end]) for start, end in row)


def _cell_text(text: str, cell: Span) -> str:
    r"""Return what a reader sees in a cell; `\|` stands for a bar."""
    return text[cell[0] : cell[1]].replace("\\|", "|").strip('`*" ')


def _is_row_key(key: str) -> bool:
    return is_running_text(key) and 2 < len(key) <= 50 and key not in _NO_ROW_KEYS


def _is_column(column: str) -> bool:
    return bool(column.split()) and column.lower().split()[-1] in _COLUMNS


def _is_usable_cell(value: str) -> bool:
    """Return whether a cell can be an answer: one to 25 words of clean text."""
    if not 1 <= len(value.split()) <= 25 or not re.search(r"[^\W_]{2}", value):
        return False
    return clean(value) and not _UNUSABLE_CELL.search(value)


def row_keys(text: str) -> list[str]:
    """Return the first cell of every table row in a text, as a question would name it."""
    rows = re.findall(r"^\s*\|((?:\\\||[^|\n])+)\|", text, re.MULTILINE)
    return [row.replace("\\|", "|").strip().strip('`*" ') for row in rows]
