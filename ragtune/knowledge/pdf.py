"""Reads the text of a PDF and rebuilds what the page layout took away: paragraphs and headings.

Running heads, page numbers and the dotted lines of a table of contents are left out.
"""

import re
from collections import Counter

_LEADER = re.compile(r"(?:\.\s?){5,}\s*[\divxlc]*\s*$|^[\divxlc]{1,5}$|^page\s+\d+(?:\s+of\s+\d+)?$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s+[A-Z][A-Za-z ,'’()/&-]{2,80}$")
_BULLET = re.compile(r"^(?:[•▪◦‣·–—*-]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+")
# What PDFium puts in place of a hyphen at the end of a line.
_BROKEN_WORD = re.compile("[\x02\ufffe]")
_EDGE_LINES = 2
_MIN_PAGES = 3
_LONGEST_TITLE = 120


class DamagedPdfError(ValueError):
    """A PDF that cannot be opened; the text says why."""


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
        pages = []
        for page in document:
            text = page.get_textpage().get_text_bounded()
            pages.append([line.strip() for line in _BROKEN_WORD.sub("", text).replace("\r\n", "\n").split("\n")])
    except pypdfium2.PdfiumError as error:
        raise DamagedPdfError(f"a page of the PDF is damaged: {error}") from error
    finally:
        document.close()
    first = next((line for page in pages for line in page if len(line) > _MIN_PAGES), "")
    return title or first[:_LONGEST_TITLE], rebuild(pages)


def rebuild(pages: list[list[str]]) -> str:
    """Return Markdown paragraphs and headings from the lines of each page, in reading order."""
    running = _running_lines(pages)
    lines: list[str] = []
    for page in pages:
        edge = {*range(_EDGE_LINES), *range(len(page) - _EDGE_LINES, len(page))}
        kept = [line for n, line in enumerate(page) if not (n in edge and _shape(line) in running)]
        lines += [line for line in kept if not _LEADER.search(line)]
    width = (
        sorted(len(line) for line in lines if line)[int(0.8 * sum(1 for line in lines if line))] if any(lines) else 0
    )
    paragraphs: list[str] = []
    fresh = True
    for line in lines:
        if not line:
            fresh = True
            continue
        heading = _NUMBERED.match(line) if len(line) < max(0.8 * width, 40) else None
        if heading:
            paragraphs.append(f"{'#' * min(heading[1].count('.') + 2, 6)} {line}")
            fresh = True
        elif fresh or _BULLET.match(line):
            # A hash at the start would read as a heading.
            paragraphs.append(re.sub(r"^[•▪◦‣·]\s*", "- ", line.lstrip("#").lstrip() if line[0] == "#" else line))
            fresh = False
        elif re.search(r"[a-z]-$", paragraphs[-1]) and line[:1].islower():
            paragraphs[-1] = paragraphs[-1][:-1] + line
        else:
            paragraphs[-1] += f" {line}"
        # A line that stops short of the margin after a full stop ends its paragraph.
        if not fresh and len(line) < 0.75 * width and line.endswith((".", "!", "?", ":", ".”")):
            fresh = True
    return "\n\n".join(paragraphs)


def _running_lines(pages: list[list[str]]) -> set[str]:
    if len(pages) < _MIN_PAGES:
        return set()
    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({_shape(line) for line in [*page[:_EDGE_LINES], *page[-_EDGE_LINES:]] if line})
    return {shape for shape, count in seen.items() if count >= max(_MIN_PAGES, 0.4 * len(pages))}


def _shape(line: str) -> str:
    return re.sub(r"\d+", "#", line)
