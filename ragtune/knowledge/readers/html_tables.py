"""The tables of an HTML tree: their cells with merged ones filled in, and listings of code with line numbers."""

import re
from collections.abc import Iterator
from typing import Any

from ragtune.knowledge.readers.elements import HEADINGS, is_inside, text_of, whole_number

_MOST_COLUMNS = 1_000  # what `colspan` and `rowspan` may ask for; browsers stop at the same number
# What a small page can grow to; chosen by hand, ten times what the largest tables of manuals need.
_MOST_REPEATED = 300_000  # characters that the merged cells of one table repeat
LINE_NUMBERS = re.compile(r"\b(?:linenos?|gutter|rouge-gutter|blob-num|hljs-ln-n\w*|line-?numbers?)\b")
"""Classes of what counts the lines of a listing: those of Pygments, Rouge, GitHub and highlight.js."""


def grid(table: Any, read_cell: Any) -> tuple[list[list[str]], bool]:
    """Return the cells of a table with merged ones filled in, and whether the first row names the columns."""
    rows: list[list[str]] = []
    below: dict[int, tuple[int, str]] = {}
    head, repeated = False, 0
    for number, cells in enumerate(_rows(table)):
        if number == 0 and cells:
            head = is_inside(cells[0], ("thead",)) or all(cell.tag == "th" for cell in cells)
        if repeated > _MOST_REPEATED:
            below.clear()
        line: list[str] = []
        waiting = iter(cells)
        while True:
            if len(line) in below:
                left, text = below.pop(len(line))
                if left > 1:
                    below[len(line)] = (left - 1, text)
                line.append(text)
                repeated += len(text) + 1
                continue
            cell = next(waiting, None)
            if cell is None:
                break
            text = read_cell(cell)
            wide = repeated <= _MOST_REPEATED
            for _ in range(max(min(whole_number(cell.get("colspan"), 1), _MOST_COLUMNS), 1) if wide else 1):
                if (height := min(whole_number(cell.get("rowspan"), 1), _MOST_COLUMNS)) > 1:
                    below[len(line)] = (height - 1, text)
                line.append(text)
                repeated += len(text) + 1
                if repeated > _MOST_REPEATED:
                    break
        rows.append(line)
    return rows, head


def _rows(part: Any) -> Iterator[list[Any]]:
    """Yield the cells of each row; cells that stand outside a row form one, as in browsers."""
    loose: list[Any] = []
    for child in part:
        if child.tag in ("td", "th"):
            loose.append(child)
            continue
        if loose and child.tag in ("tr", "thead", "tbody", "tfoot"):
            yield loose
            loose = []
        if child.tag == "tr":
            yield [cell for cell in child if cell.tag in ("td", "th")]
        elif child.tag in ("thead", "tbody", "tfoot"):
            yield from _rows(child)
    if loose:
        yield loose


def is_layout(table: Any) -> bool:
    """Return whether a table only arranges a page: it holds tables or headings, or says so."""
    if table.get("role") in ("presentation", "none"):
        return True
    return any(inner is not table for inner in table.iter("table", *HEADINGS))


def counts_lines(node: Any) -> bool:
    """Return whether an element holds nothing but the numbers of the lines of a listing."""
    is_marked = LINE_NUMBERS.search(node.get("class") or "") is not None
    return is_marked and not text_of(node).strip("0123456789 \t\r\n")


def listing(table: Any) -> tuple[str, str] | None:
    """Return the code and the line numbers of a table that sets one next to the other, or None for other tables."""
    if not any(counts_lines(cell) for cell in table.iter("td", "th")):
        return None
    rows = list(_rows(table))
    numbers = [text_of(cell) for row in rows for cell in row if counts_lines(cell)]
    lines = ["".join(text_of(cell, breaks=True) for cell in row if not counts_lines(cell)).strip("\n") for row in rows]
    return "\n".join(lines), " ".join(" ".join(numbers).split())
