"""The lines of a PDF page in reading order, with what the layout says about them.

PDFium gives the characters; their boxes tell where a gap is a gutter between columns or cells.
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ragtune.knowledge.readers.marks import table_text

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

HYPHEN = "\u00ad"
"""Stands for the hyphen of a word that was broken at the end of a line, until it is decided whether it stays."""
_BROKEN_WORD = re.compile("[\x02\ufffe]")
_BOLD = re.compile(r"bold|black|heavy|demi|medi(?:um)?\b|^(?:[A-Z]{6}\+)?CMBX", re.IGNORECASE)
# In units of the type's size. A space between words is a quarter to a half, stretched in justified text up to one.
_GUTTER = 1.6
_FEWEST_ROWS = 3
_WORDS_OF_PROSE = 4.5  # a column of prose has more words a line, a column of a table fewer
_SAME_LINE = 0.5
_SAME_ROW = 0.75  # cells of a table may hang a little higher or lower than their neighbours


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page, or a whole table (`is_table`).

    `size` is that of its type in points. `drop` is how far below the line before it stands in points: 0 at the top of
    a page or column, and in a text without layout, where `size` is 0 too. `page` counts from 1.
    """

    text: str
    size: float = 0.0
    bold: bool = False
    drop: float = 0.0
    page: int = 0
    is_table: bool = False


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of a line without a wide gap in it; places in points from the left and the bottom of the page."""

    text: str
    left: float
    right: float
    base: float
    size: float
    bold: bool


def page_lines(page: "PdfPage", number: int) -> list[Line]:
    """Return the lines of a page in reading order: columns one after the other, aligned cells as one table."""
    rows = _joined_columns(_rows(_segments(page)))
    lines: list[tuple[Line, float]] = []
    at = 0
    while at < len(rows):
        end = _end_of_split_rows(rows, at)
        if end - at >= _FEWEST_ROWS:
            lines += _arrange(rows[at:end])
        else:
            end = at + 1
            lines += _as_lines(rows[at])
        at = end
    return [replace(line, page=number) for line in _with_drops(lines)]


def _with_drops(lines: Sequence[tuple[Line, float]]) -> list[Line]:
    result, above = [], 0.0
    for line, base in lines:
        result.append(replace(line, drop=max(above - base, 0.0) if above else 0.0))
        above = base
    return result


def _segments(page: "PdfPage") -> list[_Segment]:
    from pypdfium2 import raw

    text = page.get_textpage()
    count = text.count_chars()
    segments: list[_Segment] = []
    places: list[tuple[int, str]] = []
    try:
        for place in range(count + 1):
            code = raw.FPDFText_GetUnicode(text, place) if place < count else ord("\n")
            if code in (10, 13):
                segments += _split(text, places)
                places = []
            elif code:
                places.append((place, chr(code)))
    finally:
        text.close()
    return segments


def _split(text: Any, places: Sequence[tuple[int, str]]) -> list[_Segment]:
    """Cut a line at every gap between words that is wide enough for a gutter."""
    parts: list[list[tuple[int, str]]] = [[]]
    right = 0.0
    following = -1
    letters_after = []
    for place, character in reversed(places):
        letters_after.append(following)
        following = following if character.isspace() else place
    for (place, character), following in zip(places, reversed(letters_after), strict=True):
        if character.isspace() and parts[-1]:
            right = _box(text, parts[-1][-1][0])[1]
            if following >= 0 and right and _box(text, following)[0] - right > _GUTTER * _size(text, following):
                parts.append([])
                continue
        parts[-1].append((place, character))
    return [segment for part in parts if (segment := _segment(text, part)) is not None]


def _segment(text: Any, places: Sequence[tuple[int, str]]) -> _Segment | None:
    words = _whole("".join(character for _, character in places))
    if not words:
        return None
    seen = [at for at, character in places if not character.isspace()]
    letters = [at for at, character in places if character.isalnum()] or seen
    return _Segment(
        text=words,
        left=_box(text, seen[0])[0],
        right=_box(text, seen[-1])[1],
        base=_base(text, letters[0]),
        size=max(_size(text, letters[0]), _size(text, letters[-1])),
        bold=_is_bold(text, letters[0]) and _is_bold(text, letters[-1]),
    )


def _whole(text: str) -> str:
    """Return a line with its surrogate pairs joined; PDFium's sign for a broken word becomes HYPHEN."""
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    # A change of type before a full stop reads as a space.
    return re.sub(r"(?<=\w) (?=[.,;](?:\s|$))", "", _BROKEN_WORD.sub(HYPHEN, joined).strip())


def _rows(segments: Sequence[_Segment]) -> list[list[_Segment]]:
    """Return the segments line by line, in PDFium's order; those on one base line are one row, from left to right."""
    rows: list[list[_Segment]] = []
    for segment in segments:
        if rows and abs(rows[-1][-1].base - segment.base) < _SAME_LINE * segment.size:
            before = rows[-1][-1]
            if segment.left >= before.right - segment.size:
                rows[-1].append(segment)
                continue
        rows.append([segment])
    return rows


def _joined_columns(rows: Sequence[list[_Segment]]) -> list[list[_Segment]]:
    """Return the rows of tables that the page draws column by column; everything else stays as it is.

    Such columns stand side by side, each line at the height of one line of the other, and their cells are short.
    Columns of prose have longer lines, and stay apart.
    """
    stretches: list[list[list[_Segment]]] = []
    for row in rows:
        # The next column begins higher up. A stretch is what is drawn from the top to the bottom.
        if not stretches or row[0].base > stretches[-1][-1][0].base + row[0].size:
            stretches.append([])
        stretches[-1].append(row)
    joined: list[list[list[_Segment]]] = []
    for stretch in stretches:
        partners = _partners(joined[-1], stretch) if joined else []
        for partner, row in zip(partners, stretch, strict=False):
            partner += row
        if partners:
            joined[-1] += stretch[len(partners) :]  # what is drawn below the last column
        else:
            joined.append(stretch)
    return [row for stretch in joined for row in stretch]


def _partners(left: Sequence[list[_Segment]], right: Sequence[list[_Segment]]) -> list[list[_Segment]]:
    """Return the row of `left` next to each of the first rows of `right`; empty if they are not one table."""
    partners = []
    for row in right:
        level = [other for other in left if abs(other[0].base - row[0].base) < _SAME_ROW * row[0].size]
        if len(level) != 1 or row[0].left - level[0][-1].right < row[0].size:
            break
        partners += level
    if len(partners) < _FEWEST_ROWS:
        return []
    cells = [part for row in (*partners, *right[: len(partners)]) for part in row]
    words = sum(len(part.text.split()) for part in cells) / len(cells)
    return partners if words < _WORDS_OF_PROSE else []


def _end_of_split_rows(rows: Sequence[list[_Segment]], start: int) -> int:
    """Return the end of the run of rows that one gutter divides; rows with cells on one side only belong to it."""
    if len(rows[start]) == 1:
        return start
    gutter = (rows[start][0].right, rows[start][1].left)
    end = start
    while end < len(rows):
        left = max(
            [gutter[0], *(part.right for part in rows[end] if part.left < gutter[1] and part.right <= gutter[1])]
        )
        right = min([gutter[1], *(part.left for part in rows[end] if part.left >= gutter[0])])
        crosses = any(part.left < gutter[0] and part.right > gutter[1] for part in rows[end])
        if crosses or right - left < rows[end][0].size:
            break
        gutter = (left, right)
        end += 1
    return end


def _arrange(rows: Sequence[list[_Segment]]) -> list[tuple[Line, float]]:
    """Return a run of rows as columns of prose, or as a table if its cells are short."""
    cells = [part for row in rows for part in row]
    words = sum(len(part.text.split()) for part in cells) / len(cells)
    if words >= _WORDS_OF_PROSE:
        gutter = max(row[0].right for row in rows if len(row) > 1)
        left = [part for row in rows for part in row if part.left < gutter]
        right = [part for row in rows for part in row if part.left >= gutter]
        return [*(_line(part) for part in left), *(_line(part) for part in right)]
    starts = _columns(cells)
    grid = []
    for row in rows:
        line = [""] * len(starts)
        for part in row:
            place = max(n for n, start in enumerate(starts) if start <= part.left + part.size)
            line[place] = f"{line[place]} {part.text}".strip()
        grid.append(line)
    first = cells[0]
    return [(Line(table_text(grid), first.size, False, is_table=True), rows[-1][0].base)]


def _columns(cells: Sequence[_Segment]) -> list[float]:
    """Return the left edges of a table's columns; edges that are closer than two letters count as one."""
    starts: list[float] = []
    for part in sorted(cells, key=lambda part: part.left):
        if not starts or part.left - starts[-1] > 2 * part.size:
            starts.append(part.left)
    return starts


def _as_lines(row: Sequence[_Segment]) -> list[tuple[Line, float]]:
    text = " ".join(part.text for part in row)
    return [(Line(text, max(part.size for part in row), all(part.bold for part in row)), row[0].base)]


def _line(part: _Segment) -> tuple[Line, float]:
    return Line(part.text, part.size, part.bold), part.base


def _box(text: Any, place: int) -> tuple[float, float]:
    """Return the left and right edge of a character in points."""
    from pypdfium2 import raw

    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    raw.FPDFText_GetCharBox(text, place, left, right, bottom, top)
    return left.value, right.value


def _base(text: Any, place: int) -> float:
    from pypdfium2 import raw

    x, y = ctypes.c_double(), ctypes.c_double()
    raw.FPDFText_GetCharOrigin(text, place, x, y)
    return y.value


def _size(text: Any, place: int) -> float:
    """Return the size of a letter in points as it stands on the page."""
    from pypdfium2 import raw

    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetMatrix(text, place, matrix)
    return float(raw.FPDFText_GetFontSize(text, place)) * float((matrix.c**2 + matrix.d**2) ** 0.5)


def _is_bold(text: Any, place: int) -> bool:
    from pypdfium2 import raw

    name, flags = ctypes.create_string_buffer(256), ctypes.c_int()
    raw.FPDFText_GetFontInfo(text, place, name, len(name), flags)
    return _BOLD.search(name.value.decode(errors="replace")) is not None
