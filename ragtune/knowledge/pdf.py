"""Reads the text of a PDF and rebuilds what the page layout took away: paragraphs and headings.

Size and weight of the type and the space between lines tell where a heading or a paragraph ends.
Running heads, page numbers and the dotted lines of a table of contents are left out.
"""

import ctypes
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

_LEADER = re.compile(r"(?:\.\s?){5,}\s*[\divxlc]*\s*$|^[\divxlc]{1,5}$|^page\s+\d+(?:\s+of\s+\d+)?$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s+[A-Z][A-Za-z ,'’()/&-]{2,80}$")
_NUMBER = re.compile(r"^(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s")
_BULLET = re.compile(r"^(?:[•▪◦‣·–—*-]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
_NO_HEADING_END = (".", "!", ":", ".”", ";", ",")
_BOLD = re.compile(r"bold|black|heavy|demi|medi(?:um)?\b|^(?:[A-Z]{6}\+)?CMBX", re.IGNORECASE)
# What PDFium puts in place of a hyphen at the end of a line.
_BROKEN_WORD = re.compile("[\x02\ufffe]")
_EDGE_LINES = 2
_MIN_PAGES = 3
_LONGEST_TITLE = 120
_LONGEST_HEADING = 110
_LARGER, _WIDER, _SAME_HEADING = 1.12, 1.25, 1.5


class DamagedPdfError(ValueError):
    """A PDF that cannot be opened; the text says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page: its type's size in points, and how far below the line before it stands.

    `drop` is 0 at the top of a page or column, and in a text without layout, where `size` is 0 too.
    """

    text: str
    size: float = 0.0
    bold: bool = False
    drop: float = 0.0


def pdf_text(raw: bytes) -> tuple[str, str]:
    """Return (title from the metadata, text as Markdown) of a PDF.

    Raises DamagedPdfError when it is cut off, corrupt or needs a password.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError as error:
        raise DamagedPdfError(f"the PDF is damaged or locked: {error}") from error
    try:
        title = document.get_metadata_dict().get("Title", "").strip()
        pages = [_lines(page) for page in document]
    except pypdfium2.PdfiumError as error:
        raise DamagedPdfError(f"a page of the PDF is damaged: {error}") from error
    finally:
        document.close()
    first = next((line.text for page in pages for line in page if len(line.text) > _MIN_PAGES), "")
    return title or first[:_LONGEST_TITLE], rebuild(pages)


def _lines(page: "PdfPage") -> list[Line]:
    """Return the lines of a page in reading order, with the layout of their first and last letters."""
    from pypdfium2 import raw

    text = page.get_textpage()
    found: list[Line] = []
    above = 0.0
    places: list[tuple[int, str]] = []
    for place in range(text.count_chars() + 1):
        code = raw.FPDFText_GetUnicode(text, place) if place < text.count_chars() else 10
        if code not in (10, 13):
            places += [(place, chr(code))] if code else []
            continue
        letters = [at for at, character in places if character.isalnum()]
        line = _whole("".join(character for _, character in places))
        places = []
        if not letters:
            found += [Line(line)] if line else []
            continue
        x, y = ctypes.c_double(), ctypes.c_double()
        raw.FPDFText_GetCharOrigin(text, letters[0], x, y)
        sizes = [_size(text, at) for at in (letters[0], letters[-1])]
        bold = all(_is_bold(text, at) for at in (letters[0], letters[-1]))
        found.append(Line(line, max(sizes), bold, max(above - y.value, 0.0) if above else 0.0))
        above = y.value
    text.close()
    return found


def _whole(text: str) -> str:
    """Return a line without PDFium's signs of a broken word, half pairs of a character put together."""
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    # A change of type before a full stop reads as a space.
    return re.sub(r"(?<=\w) (?=[.,;](?:\s|$))", "", _BROKEN_WORD.sub("", joined).strip())


def _size(text: object, place: int) -> float:
    """Return the size of a letter in points as it stands on the page."""
    from pypdfium2 import raw

    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetMatrix(text, place, matrix)
    return float(raw.FPDFText_GetFontSize(text, place)) * float((matrix.c**2 + matrix.d**2) ** 0.5)


def _is_bold(text: object, place: int) -> bool:
    from pypdfium2 import raw

    name, flags = ctypes.create_string_buffer(256), ctypes.c_int()
    raw.FPDFText_GetFontInfo(text, place, name, len(name), flags)
    return _BOLD.search(name.value.decode(errors="replace")) is not None


def rebuild(pages: Sequence[Sequence[Line]]) -> str:
    """Return Markdown paragraphs and headings from the lines of each page, in reading order."""
    lines = _body(pages)
    if not lines:
        return ""
    style = _Style(lines)
    paragraphs: list[str] = []
    fresh, above = True, Line("")
    for line, below in zip(lines, [*lines[1:], Line("")], strict=True):
        level = style.heading(line)
        opens = fresh or style.apart(line) or _BULLET.match(line.text) is not None
        if level and paragraphs and style.goes_on(above, line):
            paragraphs[-1] += f" {line.text}"
        elif level:
            paragraphs.append(f"{'#' * level} {line.text}")
        elif opens:
            # A hash at the start would read as a heading.
            plain = line.text.lstrip("#").lstrip()
            paragraphs.append(re.sub(r"^[•▪◦‣·]\s*", "- ", plain))
        elif re.search(r"[a-z]-$", paragraphs[-1]) and line.text[:1].islower():
            paragraphs[-1] = paragraphs[-1][:-1] + line.text
        else:
            paragraphs[-1] += f" {line.text}"
        fresh = level > 0 or style.ends(line) or (opens and style.stops_short(line, below))
        above = line
    return "\n\n".join(paragraphs)


def _body(pages: Sequence[Sequence[Line]]) -> list[Line]:
    """Return the lines without running heads, page numbers and tables of contents."""
    running, numbered = _running_lines(pages), _numbered_edges(pages)
    found: list[Line] = []
    for page, number in zip(pages, numbered, strict=True):
        edge = {*range(_EDGE_LINES), *range(len(page) - _EDGE_LINES, len(page))}
        kept = [
            line
            for n, line in enumerate(page)
            if line.text and not (n in edge and (_shape(line.text) in running or line.text == number))
        ]
        # What stood above is gone, and how far below it the text begins says nothing.
        found += [replace(line, drop=0.0) if n == 0 else line for n, line in enumerate(kept)]
    return [line for line in found if not _LEADER.search(line.text)]


class _Style:
    """How the body of a document is set, and what stands out of it."""

    def __init__(self, lines: list[Line]) -> None:
        lengths = sorted(len(line.text) for line in lines)
        self.width = lengths[int(0.8 * len(lengths))]
        letters: Counter[tuple[float, bool]] = Counter()
        for line in lines:
            letters[(round(line.size, 1), line.bold)] += len(line.text)
        (self.size, self.bold), _ = letters.most_common(1)[0]
        drops = sorted(line.drop / line.size for line in lines if line.size and 0 < line.drop < 3 * line.size)
        self.drop = drops[len(drops) // 4] if drops else 0.0
        sizes = {self._rank(line) for line in lines if self._stands_out(line)}
        self.levels = {size: min(level, 6) for level, size in enumerate(sorted(sizes, reverse=True), start=1)}

    def heading(self, line: Line) -> int:
        """Return the level of a heading, 0 for other lines."""
        number = _NUMBER.match(line.text)
        level = min(number[1].count(".") + 2, 6) if number else 0
        if self._stands_out(line):
            return level or self.levels[self._rank(line)]
        return level if _NUMBERED.match(line.text) and len(line.text) < max(0.8 * self.width, 40) else 0

    def _stands_out(self, line: Line) -> bool:
        larger = line.size > _LARGER * self.size
        heavier = line.bold and not self.bold and line.size > 0.95 * self.size
        named = re.search(r"[^\W\d_]{2}", line.text) and not line.text.endswith(_NO_HEADING_END)
        return bool(named) and (larger or heavier) and len(line.text) <= _LONGEST_HEADING

    def _rank(self, line: Line) -> float:
        return round(max(line.size, self.size))

    def goes_on(self, above: Line, line: Line) -> bool:
        """Return whether a heading takes a second line: the same type, close below the first."""
        same = (above.size, above.bold) == (line.size, line.bold) and self._stands_out(above)
        return same and 0 < line.drop < _SAME_HEADING * line.size and not _NUMBER.match(line.text)

    def apart(self, line: Line) -> bool:
        """Return whether more space than between lines stands above a line."""
        return self.drop > 0 and line.drop > _WIDER * self.drop * line.size

    def ends(self, line: Line) -> bool:
        """Return whether a line ends its paragraph: it stops short of the margin after a full stop."""
        return len(line.text) < 0.75 * self.width and line.text.endswith((".", "!", "?", ":", ".”"))

    def stops_short(self, line: Line, below: Line) -> bool:
        """Return whether a first line is a title in the type of the body: the next word had room behind it."""
        word = below.text.split(" ", 1)[0]
        room = len(line.text) + 1 + len(word) < 0.7 * self.width
        return room and line.text[0].isupper() and word[:1].isupper() and not line.text.endswith(_NO_HEADING_END)


def _running_lines(pages: Sequence[Sequence[Line]]) -> set[str]:
    if len(pages) < _MIN_PAGES:
        return set()
    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({_shape(line.text) for line in [*page[:_EDGE_LINES], *page[-_EDGE_LINES:]] if line.text})
    return {shape for shape, count in seen.items() if count >= max(_MIN_PAGES, 0.4 * len(pages))}


def _numbered_edges(pages: Sequence[Sequence[Line]]) -> list[str]:
    """Return each page's first or last line where it holds a number that counts up with the pages."""
    for edge in (0, -1):
        for number in (r"\s(\d{1,4})$", r"^(\d{1,4})\s"):
            lines = [page[edge].text if page else "" for page in pages]
            ahead = [int(found[1]) - n if (found := re.search(number, line)) else None for n, line in enumerate(lines)]
            steady, count = max(Counter(ahead).items(), key=lambda item: (item[0] is not None, item[1]))
            if steady is not None and count >= max(_MIN_PAGES, 0.4 * len(pages)):
                return [line if each == steady else "" for line, each in zip(lines, ahead, strict=True)]
    return [""] * len(pages)


def _shape(line: str) -> str:
    return re.sub(r"\d+", "#", line)
