"""PDF files: paragraphs, headings and tables, rebuilt from the positions of the characters on the page.

Size and weight of the type and the space between lines tell where a heading or a paragraph ends. Running heads,
page numbers and tables of contents are left out. A line is a page number only if it stands at the edge of several
pages and counts up with them: other lines of digits are amounts.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.hyphens import common_words, join_broken_words
from ragtune.knowledge.readers.pdf_annotations import page_annotations
from ragtune.knowledge.readers.pdf_page import HYPHEN, Line, page_lines
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.records import LeftOut

_LEADER = re.compile(r"(?:\.\s?){5,}\s*([\divxlc]*)\s*$", re.IGNORECASE)
_DOTS = re.compile(r"\s*(?:\.\s?){5,}\s*")
_NUMBERED = re.compile(r"^(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s+[A-Z][A-Za-z ,'’()/&-]{2,80}$")
_NUMBER = re.compile(r"^(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s")
# The signs of the fonts Symbol and Wingdings have no characters of Unicode: Word's bullets are two of them.
_SIGNS = "•▪◦‣·●■\uf0b7\uf0a7\uf0d8\uf076\uf0fc\uf0a8"
_BULLET = re.compile(rf"^(?:[{_SIGNS}–—*-]|\(?\d{{1,2}}[.)]|\(?[a-z][.)])\s+")
_SIGN = re.compile(rf"^[{_SIGNS}]\s*")
# The beginning of an address (RFC 3986) to the end of its line, where a character stands that separates its parts.
_BROKEN_ADDRESS = re.compile(r"(?:^|[\s(<\[\"'])(?:[a-z][a-z0-9+.-]*://|www\.)[^\s<>\"]*[/_=&?%#~-]$", re.IGNORECASE)
_PART_OF_ADDRESS = re.compile(r"[^\s<>\"]*[^\s<>\".,;:!?)\]]")
_NO_HEADING_END = (".", "!", ":", ".”", ";", ",")
# Titles that programs give by themselves.
_NO_TITLE = re.compile(
    r"(?i)untitled.*|(?:microsoft )?(?:word|powerpoint|excel) - .*|.*\.(?:docx?|pdf|indd|tex|odt|qxd|rtf)|(?:do[ck]"
    r"ument|pr[äe]sentation|slide|folie|book|mappe)\s*\d*|print|layout \d+|.*[\\/].*"
)
_PAGE_OF_PAGES = r"(?i)\b(\d{1,4})\s*(?:/|of|von|de|sur|di|van|av|af|z|ze|из)\s*\d{1,4}\b"
_AROUND_NAMES = {"by", "von", "par", "and", "und", "et", "author", "authors", "autor", "auteur", "dr", "prof"}
# The numbers here and the lengths in characters below were chosen by hand, not measured.
_EDGE_LINES = 2
_FRONT_PAGES = 30  # a printed number may be that much larger than the number of pages in the file
_FEWEST_CONTENTS = 3
_STEPS_BACK = 0.1  # the share of steps down in a table of contents, after which a list of figures may follow
_MIN_PAGES = 3
_FURNITURE_SHARE = 0.4
"""A line on this share of the pages is furniture; left and right pages often have different heads. Chosen by hand."""
_SHORTEST_LINE, _LONGEST_TITLE = 3, 120
_LONGEST_HEADING = 110
# In units of the body's type and line distance; chosen by hand on manuals set in Word, LaTeX and DocBook,
# like the shares of the width in `_Style`.
_LARGER, _WIDER, _SAME_HEADING = 1.12, 1.25, 1.5


def read_pdf(raw: bytes) -> Reading:
    """Return a PDF file; raise UnreadableError if it is cut off, corrupt or needs a password."""
    import pypdfium2

    if raw.lstrip()[:5] != b"%PDF-":
        raise UnreadableError("it does not start with %PDF-: this is not a PDF")
    try:
        document = pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError as error:
        raise UnreadableError(f"the PDF is damaged or locked: {error}") from error
    try:
        metadata = document.get_metadata_dict()
        title = metadata.get("Title", "").strip()
        if document.get_formtype() != pypdfium2.raw.FORMTYPE_NONE:
            document.init_forms()
        pages, hidden = [], []
        for number, page in enumerate(document, start=1):
            placed, left_out = page_annotations(document, page)
            pages.append(page_lines(page, number, placed))
            hidden += left_out
    except pypdfium2.PdfiumError as error:
        raise UnreadableError(f"a page of the PDF is damaged: {error}") from error
    finally:
        document.close()
    blocks, left_out = rebuild(pages, metadata.get("Author", ""))
    if not title or _NO_TITLE.fullmatch(title):
        title = _title_on_the_page(pages)
    return Reading(blocks=tuple(blocks), title=title, left_out=(*left_out, *_distinct(hidden)))


def _distinct(parts: Sequence[LeftOut]) -> Iterator[LeftOut]:
    """Yield each part once: pages repeat their links."""
    yield from dict.fromkeys(parts)


def rebuild(pages: Sequence[Sequence[Line]], author: str = "") -> tuple[list[Block], list[LeftOut]]:
    """Return the blocks of a document from the lines of each page, and the furniture that was left out.

    `author` comes from the metadata of the file: a line with that name is often set like a heading, and heads nothing.
    """
    lines, left_out = _body(pages)
    if not lines:
        return [], left_out
    style = _Style([line for line in lines if not line.is_table] or lines)
    blocks: list[Block] = []
    fresh, above = True, Line("")
    for line, below in zip(lines, [*lines[1:], Line("")], strict=True):
        if line.is_table:
            blocks.append(Block("table", line.text, page=line.page))
            fresh, above = True, line
            continue
        is_byline = style.heading(line) > 0 and line.page <= 1 and _is_byline(line.text, author)
        level = 0 if is_byline else style.heading(line)
        opens = fresh or is_byline or style.apart(line) or _BULLET.match(line.text) is not None
        before = blocks[-1] if blocks else Block("paragraph", "")
        if level and before.kind == "heading" and style.goes_on(above, line):
            blocks[-1] = replace(before, text=f"{before.text} {line.text}")
        elif level:
            blocks.append(Block("heading", line.text, level, line.page))
        elif opens or before.kind != "paragraph":
            blocks.append(Block("paragraph", _SIGN.sub("- ", line.text), page=line.page))
        else:
            ends_on_purpose = (line.is_row and above.is_row) or style.has_room(above, line)
            blocks[-1] = replace(before, text=_join(before.text, line.text, ends_on_purpose))
        fresh = level > 0 or is_byline or style.ends(line) or (opens and style.is_plain_title(line, below))
        above = line
    texts = join_broken_words([block.text for block in blocks])
    return [replace(block, text=text) for block, text in zip(blocks, texts, strict=True)], left_out


def _is_byline(text: str, author: str) -> bool:
    """Return whether a line names nobody but the author, or names somebody after a word such as "by"."""
    names = {name.casefold() for name in re.findall(r"[^\W\d_]+", author)}
    words = [word.casefold() for word in re.findall(r"[^\W\d_]+", text)]
    if names and set(words) - _AROUND_NAMES <= names and not names.isdisjoint(words):
        return True
    return re.fullmatch(r"(?:[Bb]y|[Vv]on|[Pp]ar):? (?:[A-Z]\S*(?:,| and| und| et)? ?){2,8}", text) is not None


def _join(before: str, line: str, breaks: bool) -> str:
    """Join two lines of a paragraph; with `breaks` they stay two, as in a list of amounts or an address.

    Whether a hyphen between them stays is decided later, with the whole text at hand.
    """
    if _BROKEN_ADDRESS.search(before) and _goes_on_as_address(before, line):
        return before + line
    if breaks and not before.endswith("-"):
        return f"{before}\n{line}"
    if re.search(r"\w-$", before) and line[:1].isalnum():
        return before[:-1] + HYPHEN + line
    return f"{before} {line}"


def _goes_on_as_address(before: str, line: str) -> bool:
    """Return whether a line begins with the rest of the address that the line before ends with.

    After a slash the address may also be complete: then a common word of the sentence follows.
    """
    part = _PART_OF_ADDRESS.match(line)
    if part is None or not (line[0].isalnum() or line[0] in "_~%#?&=-"):
        return False
    return not before.endswith("/") or not part[0].isalpha() or part[0].casefold() not in common_words()


def _body(pages: Sequence[Sequence[Line]]) -> tuple[list[Line], list[LeftOut]]:
    """Return the lines to read, and what is left out: running heads, page numbers and tables of contents."""
    running, numbers = _running_lines(pages), _page_numbers(pages)
    step, has_contents = _usual_step(pages), False
    lines: list[Line] = []
    left_out: list[LeftOut] = []
    for page, number in zip(pages, numbers, strict=True):
        heads = _heads_of_page(page, running, step)
        has_contents = _has_contents(page, len(pages), has_contents)
        edge = {*range(_EDGE_LINES), *range(len(page) - _EDGE_LINES, len(page))}
        first = True
        for place, line in enumerate(page):
            reason = ""
            if place in edge and line.text == number and not line.is_table:
                reason = "page number"
            elif place in heads:
                reason = "running head"
            elif has_contents and _LEADER.search(line.text) and not line.is_table:
                reason = "table of contents"
            if reason:
                left_out.append(LeftOut(reason=reason, text=line.text))
            elif line.text:
                if _LEADER.search(line.text) and not line.is_table:
                    line = replace(line, text=_DOTS.sub(" ... ", line.text).strip(), is_row=True)
                # The line above was left out, so the distance to it says nothing about the text.
                lines.append(replace(line, drop=0.0) if first else line)
                first = False
    return lines, left_out


def _usual_step(pages: Sequence[Sequence[Line]]) -> float:
    """Return the usual distance between two lines, in units of the size of their type."""
    steps = sorted(
        line.drop / line.size for page in pages for line in page if line.size and 0 < line.drop < 3 * line.size
    )
    return steps[len(steps) // 2] if steps else 0.0


def _heads_of_page(page: Sequence[Line], running: set[str], step: float) -> set[int]:
    """Return the places of the running heads of a page: they stand apart from the lines between them.

    A line that follows the line above it as any other belongs to the text, such as the last row of a form.
    """
    ends = len(page) - _EDGE_LINES
    above = [place for place, line in enumerate(page[:_EDGE_LINES]) if line.text in running and not line.is_table]
    below = [place for place in range(max(ends, 0), len(page)) if page[place].text in running]
    below = [place for place in below if not page[place].is_table]
    is_tight = [0 < line.drop <= _WIDER * step * line.size for line in page]
    while above and above[-1] + 1 < len(page) and is_tight[above[-1] + 1]:
        above.pop()
    while below and below[0] > 0 and is_tight[below[0]]:
        below.pop(0)
    return {*above, *below}


def _has_contents(page: Sequence[Line], page_count: int, goes_on: bool) -> bool:
    """Return whether lines with dots before a number are a table of contents: the numbers go up, as pages do.

    Those of a price list go up and down. `goes_on` says that the page before has a table of contents.
    """
    ends = [found[1] for line in page if (found := _LEADER.search(line.text)) and not line.is_table]
    numbers = [int(end) for end in ends if end.isdigit()]
    steps_back = sum(after < before for before, after in pairwise(numbers))
    are_pages = max(numbers, default=0) <= page_count + _FRONT_PAGES and steps_back <= _STEPS_BACK * len(numbers)
    return page_count >= _MIN_PAGES and are_pages and (len(ends) >= _FEWEST_CONTENTS or (goes_on and bool(ends)))


def _title_on_the_page(pages: Sequence[Sequence[Line]]) -> str:
    """Return the line in the largest type on the first page that has text, the first of equals."""
    lines = next((page for page in pages if any(len(line.text) >= _SHORTEST_LINE for line in page)), ())
    lines = [line for line in lines if not line.is_table and re.search(r"[^\W\d_]{2}", line.text)]
    return max(lines, key=lambda line: round(line.size, 1), default=Line("")).text[:_LONGEST_TITLE]


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
        """Return whether the space above a line is wider than that between lines of a paragraph."""
        return self.drop > 0 and line.drop > _WIDER * self.drop * line.size

    def ends(self, line: Line) -> bool:
        """Return whether a line ends its paragraph: it stops short of the margin after a full stop."""
        return len(line.text) < 0.75 * self.width and line.text.endswith((".", "!", "?", ":", ".”"))

    def has_room(self, line: Line, below: Line) -> bool:
        """Return whether the first word of the next line would have fitted on this one, which then ended on purpose."""
        word = below.text.split(" ", 1)[0]
        return len(line.text) + 1 + len(word) < 0.7 * self.width

    def is_plain_title(self, line: Line, below: Line) -> bool:
        """Return whether a line is a title, although it is set like the body: it ends early, and a capital follows."""
        capital = line.text[0].isupper() and below.text[:1].isupper()
        return capital and self.has_room(line, below) and not line.text.endswith((*_NO_HEADING_END, "-"))


def _running_lines(pages: Sequence[Sequence[Line]]) -> set[str]:
    """Return the lines that stand at the edge of many pages. Those that count pages are `_page_numbers`."""
    if len(pages) < _MIN_PAGES:
        return set()
    seen: Counter[str] = Counter()
    # The heads of a chapter stand on its pages alone, and always on the very first line.
    heads = Counter(page[0].text for page in pages if page and re.search(r"[^\W\d_]", page[0].text))
    for page in pages:
        texts = {line.text for line in [*page[:_EDGE_LINES], *page[-_EDGE_LINES:]] if line.text}
        seen.update(text for text in texts if re.search(r"[^\W\d_]", text))
    running = {text for text, count in seen.items() if count >= max(_MIN_PAGES, _FURNITURE_SHARE * len(pages))}
    return running | {text for text, count in heads.items() if count >= _MIN_PAGES}


def _page_numbers(pages: Sequence[Sequence[Line]]) -> list[str]:
    """Return each page's first or last line if it holds a number that counts up with the pages, else ""."""
    for edge in (0, -1):
        for pattern in (r"^(\d{1,4})$", r"\s(\d{1,4})$", r"^(\d{1,4})\s", _PAGE_OF_PAGES):
            texts = ["" if not page or page[edge].is_table else page[edge].text for page in pages]
            ahead = [
                int(number[1]) - place if (number := re.search(pattern, text)) else None
                for place, text in enumerate(texts)
            ]
            steady, count = max(Counter(ahead).items(), key=lambda item: (item[0] is not None, item[1]))
            if steady is not None and count >= max(_MIN_PAGES, _FURNITURE_SHARE * len(pages)):
                return [text if step == steady else "" for text, step in zip(texts, ahead, strict=True)]
    return [""] * len(pages)
