"""The lines of a PDF page in reading order, with what the layout says about them.

PDFium gives the characters; their boxes tell where a gap is a gutter between columns or cells.
"""

import ctypes
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragtune.knowledge.readers.marks import superscript, table_text
from ragtune.knowledge.readers.pdf_annotations import PlacedText

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

HYPHEN = "\u00ad"
"""Stands for the hyphen of a word that was broken at the end of a line, until it is decided whether it stays."""
_BROKEN_WORD = re.compile("[\x02\ufffe]")
# A letter or digit with digits behind it; what is set smaller and higher than it is an exponent.
_WITH_DIGITS = re.compile(r"[^\W_](?: ?[+−–-]?\d+)+")
_BOLD = re.compile(r"bold|black|heavy|demi|medi(?:um)?\b|^(?:[A-Z]{6}\+)?CMBX", re.IGNORECASE)
# In units of the type's size. A space between words is a quarter to a half, stretched in justified text up to one.
_GUTTER = 1.6
_FEWEST_ROWS, _FEWEST_DIVIDED = 3, 2  # rows of a table, and rows of it with more than one cell
_WIDEST_STEP = 4.0  # between two rows of a table; the head of a page stands further above the text
_LONGEST_MARK = 4  # characters of a bullet or number that stands far in front of its text, such as `(iv)`
_WORDS_OF_PROSE = 4.5  # a column of prose has more words a line, a column of a table fewer
_SAME_LINE = 0.5
_TURN_SAMPLE = 60  # letters that tell which way a page is drawn; chosen by hand
# In units of the size of the letter before them: what is raised or lowered, and set smaller than it.
_RAISED, _LOWERED, _SMALLER = 0.15, -0.08, 0.88
_CLOSE = 0.25
_SAME_ROW = 0.75  # cells of a table may hang a little higher or lower than their neighbours


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page, or a whole table (`is_table`); `is_row` if it has cells like a table.

    `size` is that of its type in points. `drop` is how far below the line before it stands in points: 0 at the top of
    a page or column, and in a text without layout, where `size` is 0 too. `page` counts from 1.
    """

    text: str
    size: float = 0.0
    bold: bool = False
    drop: float = 0.0
    page: int = 0
    is_table: bool = False
    is_row: bool = False


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of a line without a wide gap in it; places in points from the left and the bottom of the page."""

    text: str
    left: float
    right: float
    base: float
    size: float
    bold: bool


class _Glyphs:
    """The characters of a page with their places, turned so that the text of the page runs from left to right.

    Pages in landscape are often drawn sideways and turned by the reader of the file.
    """

    def __init__(self, page: "PdfPage") -> None:
        from pypdfium2 import raw

        self._page = page.get_textpage()
        # Called for every character: the handle itself saves the look-ups of the object around it.
        self._text, self._pdfium = self._page.raw, raw
        self.count = self._page.count_chars()
        self.turn = self._usual_turn()

    def close(self) -> None:
        """Free the page's text."""
        self._page.close()

    def codes(self) -> list[int]:
        """Return the code points of all characters."""
        code = self._pdfium.FPDFText_GetUnicode
        return [code(self._text, place) for place in range(self.count)]

    def is_generated(self, place: int) -> bool:
        """Return whether PDFium has put a character in, such as a space between two distant letters."""
        return bool(self._pdfium.FPDFText_IsGenerated(self._text, place) == 1)

    def box(self, place: int) -> tuple[float, float]:
        """Return the left and right edge of a character in points."""
        left, right, bottom, top = ctypes.c_double(), ctypes.c_double(), ctypes.c_double(), ctypes.c_double()
        self._pdfium.FPDFText_GetCharBox(self._text, place, left, right, bottom, top)
        if not self.turn:
            return left.value, right.value
        first, last = self.turned(left.value, bottom.value)[0], self.turned(right.value, top.value)[0]
        return min(first, last), max(first, last)

    def base(self, place: int) -> float:
        """Return the height of the line on which a character stands, in points."""
        x, y = ctypes.c_double(), ctypes.c_double()
        self._pdfium.FPDFText_GetCharOrigin(self._text, place, x, y)
        return self.turned(x.value, y.value)[1]

    def size(self, place: int) -> float:
        """Return the size of a letter in points as it stands on the page."""
        matrix = self._pdfium.FS_MATRIX()
        self._pdfium.FPDFText_GetMatrix(self._text, place, matrix)
        size = float(self._pdfium.FPDFText_GetFontSize(self._text, place))
        return size * float((matrix.c**2 + matrix.d**2) ** 0.5)

    def is_bold(self, place: int) -> bool:
        """Return whether the name of a character's font says that it is bold."""
        name, flags = ctypes.create_string_buffer(256), ctypes.c_int()
        self._pdfium.FPDFText_GetFontInfo(self._text, place, name, len(name), flags)
        return _BOLD.search(name.value.decode(errors="replace")) is not None

    def turned(self, x: float, y: float) -> tuple[float, float]:
        """Return a place of the page after the turn."""
        return ((x, y), (-y, x), (-x, -y), (y, -x))[self.turn]

    def _usual_turn(self) -> int:
        """Return by how many quarter turns to the right most of the page's text is drawn."""
        angle = self._pdfium.FPDFText_GetCharAngle
        # PDFium gives no angle to the characters that it has put in.
        sample = range(0, self.count, self.count // _TURN_SAMPLE + 1)
        turns = Counter(
            round(angle(self._text, place) / (math.pi / 2)) % 4 for place in sample if not self.is_generated(place)
        )
        return turns.most_common(1)[0][0] if turns else 0


def page_lines(page: "PdfPage", number: int, placed: Sequence[PlacedText] = ()) -> list[Line]:
    """Return the lines of a page in reading order: columns one after the other, aligned cells as one table.

    `placed` are lines that are written over the page, such as the values of a form.
    """
    glyphs = _Glyphs(page)
    try:
        segments = _segments(glyphs)
        # PDFium puts the lines of text in an order that holds for pages which are not turned.
        rows = _joined_columns(_rows(segments)) if not glyphs.turn else _rows_by_height(segments)
        written = [_written(line, glyphs) for line in placed]
    finally:
        glyphs.close()
    return [replace(line, page=number) for line in _with_drops(_arrange_rows(_with_written(rows, written)))]


def _arrange_rows(rows: Sequence[list[_Segment]]) -> list[tuple[Line, float]]:
    """Return the lines of rows, each with its height: what one gutter divides is put into columns or a table."""
    lines: list[tuple[Line, float]] = []
    at = 0
    while at < len(rows):
        end = _end_of_split_rows(rows, at)
        if end - at >= _FEWEST_ROWS and sum(len(row) > 1 for row in rows[at:end]) >= _FEWEST_DIVIDED:
            lines += _arrange(rows[at:end])
        else:
            end = at + 1
            lines.append(_as_line(rows[at]))
        at = end
    return lines


def _with_drops(lines: Sequence[tuple[Line, float]]) -> list[Line]:
    result, above = [], 0.0
    for line, base in lines:
        result.append(replace(line, drop=max(above - base, 0.0) if above else 0.0))
        above = base
    return result


def _written(line: PlacedText, glyphs: _Glyphs) -> _Segment:
    """Return a line that is written over the page as a part of it."""
    left, base = glyphs.turned(line.left, line.base)
    right = glyphs.turned(line.right, line.base)[0]
    return _Segment(line.text, min(left, right), max(left, right), base, line.size, False)


def _with_written(rows: list[list[_Segment]], written: Sequence[_Segment]) -> list[list[_Segment]]:
    """Return the rows with what is written over them: in the row at the same height, else below the row above it."""
    for segment in sorted(written, key=lambda segment: -segment.base):
        level = [row for row in rows if abs(row[0].base - segment.base) < _SAME_ROW * max(row[0].size, segment.size)]
        if level:
            nearest = min(level, key=lambda row: abs(row[0].base - segment.base))
            nearest.append(segment)
            nearest.sort(key=lambda part: part.left)
            continue
        above = [place for place, row in enumerate(rows) if row[0].base > segment.base]
        rows.insert(above[-1] + 1 if above else 0, [segment])
    return rows


def _segments(glyphs: _Glyphs) -> list[_Segment]:
    segments: list[_Segment] = []
    places: list[tuple[int, str]] = []
    for place, code in enumerate([*glyphs.codes(), ord("\n")]):
        if code in (10, 13):
            segments += _split(glyphs, places)
            places = []
        elif code:
            places.append((place, chr(code)))
    return segments


def _split(glyphs: _Glyphs, places: Sequence[tuple[int, str]]) -> list[_Segment]:
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
            right = glyphs.box(parts[-1][-1][0])[1]
            if following >= 0 and right and glyphs.box(following)[0] - right > _GUTTER * glyphs.size(following):
                parts.append([])
                continue
        parts[-1].append((place, character))
    return [segment for part in parts if (segment := _segment(glyphs, part)) is not None]


def _segment(glyphs: _Glyphs, places: Sequence[tuple[int, str]]) -> _Segment | None:
    words = _whole(_with_exponents(glyphs, places))
    if not words:
        return None
    seen = [at for at, character in places if not character.isspace()]
    letters = [at for at, character in places if character.isalnum()] or seen
    return _Segment(
        text=words,
        left=glyphs.box(seen[0])[0],
        right=glyphs.box(seen[-1])[1],
        base=glyphs.base(letters[0]),
        size=max(glyphs.size(letters[0]), glyphs.size(letters[-1])),
        bold=glyphs.is_bold(letters[0]) and glyphs.is_bold(letters[-1]),
    )


def _with_exponents(glyphs: _Glyphs, places: Sequence[tuple[int, str]]) -> str:
    """Return the text of a line with a sign for exponents: small digits, raised above the letter before them.

    Small digits that are lowered, as in H2O, follow their neighbours without the space that PDFium puts there.
    """
    text = "".join(character for _, character in places)
    parts: list[str] = []
    end = 0
    for token in _WITH_DIGITS.finditer(text):
        size = glyphs.size(places[token.start()][0])
        if glyphs.size(places[token.end() - 1][0]) >= _SMALLER * size:
            continue
        signs = [at for at in range(token.start(), token.end()) if not text[at].isspace()]
        first = next(at for at in signs if glyphs.size(places[at][0]) < _SMALLER * size)
        before = signs[signs.index(first) - 1]
        rise = (glyphs.base(places[first][0]) - glyphs.base(places[before][0])) / size
        if _LOWERED < rise < _RAISED or not _is_close(glyphs, places[before][0], places[first][0], size):
            continue
        digits = text[first : token.end()]
        parts += [text[end : before + 1], superscript(digits) if rise > 0 else digits]
        end = token.end()
        if rise < 0 and end + 1 < len(places) and text[end] == " " and glyphs.is_generated(places[end][0]):
            end += _is_close(glyphs, places[end - 1][0], places[end + 1][0], size)
    return "".join([*parts, text[end:]])


def _is_close(glyphs: _Glyphs, left: int, right: int, size: float) -> bool:
    """Return whether no space stands between two characters; PDFium may put one there if their sizes differ."""
    return glyphs.box(right)[0] - glyphs.box(left)[1] < _CLOSE * size


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


def _rows_by_height(segments: Sequence[_Segment]) -> list[list[_Segment]]:
    """Return the segments line by line from the top, each line from left to right."""
    rows: list[list[_Segment]] = []
    for segment in sorted(segments, key=lambda part: -part.base):
        if not rows or rows[-1][0].base - segment.base > _SAME_LINE * segment.size:
            rows.append([])
        rows[-1].append(segment)
    return [sorted(row, key=lambda part: part.left) for row in rows]


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
        if end > start and rows[end - 1][0].base - rows[end][0].base > _WIDEST_STEP * rows[end][0].size:
            break
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
        left = [[part for part in row if part.left < gutter] for row in rows]
        right = [[part for part in row if part.left >= gutter] for row in rows]
        # The right part may consist of several columns.
        return [*_arrange_rows([row for row in left if row]), *_arrange_rows([row for row in right if row])]
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


def _as_line(row: Sequence[_Segment]) -> tuple[Line, float]:
    words = sum(len(part.text.split()) for part in row) / len(row)
    is_row = len(row) > 1 and len(row[0].text) > _LONGEST_MARK and words < _WORDS_OF_PROSE
    text = " ".join(part.text for part in row)
    size, bold = max(part.size for part in row), all(part.bold for part in row)
    return Line(text, size, bold, is_row=is_row), row[0].base
