"""The words of the formats that pandoc reads, found without it: the account compares them with what pandoc found.

Patterns take the markup out. They know the usual markup and not all of it, so a word that this module alone sees is
counted as lost, although it may be the name of a command.
"""

import html
import io
import re
import zipfile
from collections.abc import Callable

from ragtune.knowledge.page_words import page_words
from ragtune.knowledge.readers.encoding import decode

_XML_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)|<\?.*?\?>|<![A-Z][^>\[]*(?:\[.*?\])?>", re.DOTALL)
_ODT_HIDDEN = re.compile(r"<(office:annotation|text:tracked-changes|annotation)\b.*?</\1>", re.DOTALL)
_ODT_GAP = re.compile(r"</text:(?:p|h)>|<text:(?:tab|line-break|s)\b[^>]*>|</m[a-z]+>")
_NOTE_NUMBER = re.compile(r"<text:note-citation\b.*?</text:note-citation>", re.DOTALL)
_TEX = re.compile(
    r"(?<!\\)%[^\n]*"
    r"|\\(?:begin|end|label|ref|eqref|pageref|cite\w*|usepackage|documentclass|includegraphics|input|bibliography\w*)"
    r"\*?(?:\[[^\]]*\])?\{[^{}]*\}(?:\{[^{}]*\})?"
    r"|\\[A-Za-z@]+\*?(?:\[[^\]]*\])?"
)
_TEX_HEAD = re.compile(r"\\(?:title|author|date)\{[^{}]*\}")
_ORG = re.compile(r"(?im)^[ \t]*#\+(?:begin|end)_[^\n]*|^[ \t]*#\+\w+:|^[ \t]*:[\w-]+:.*$|\[fn:[^\]\s]*\]|^[ \t]*# .*$")
_TEXTILE = re.compile(r"(?m)^(?:h[1-6]|p|bq|bc|pre|fn\d+|notextile)(?:\([^)]*\)|\{[^}]*\}|\[[^\]]*\])*\.{1,2} |\[\d+\]")
_WIKI = re.compile(
    r"\{\{[^{}]*\}\}|(?m:^\{\|.*$|^\|-.*$)|</?(?:ref|references|math|syntaxhighlight)\b[^>]*>|'{2,}|__[A-Z]+__"
)


def _open_document(raw: bytes) -> str:
    """Return the text of an .odt file and of the formulas in it."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"(?:[^/]+/)?content\.xml", name)]
        pages = [archive.read(name).decode("utf-8", "replace") for name in names]
    page = _NOTE_NUMBER.sub("", _ODT_HIDDEN.sub("", "".join(pages)))
    return html.unescape(re.sub(r"<[^>]+>", "", _ODT_GAP.sub(" ", page)))


def _electronic_book(raw: bytes) -> str:
    """Return the text of the pages of an .epub file, without its table of contents."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = [name for name in archive.namelist() if re.search(r"\.x?html?$", name, re.IGNORECASE)]
        names = [name for name in names if not re.search(r"(?:^|/)(?:nav|toc|title_?page)\.", name, re.IGNORECASE)]
        return " ".join(page_words(archive.read(name).decode("utf-8", "replace")) for name in names)


def _docbook(raw: bytes) -> str:
    # Emphasis may end inside a word; other elements do not.
    page = re.sub(r"</?(?:emphasis|phrase|quote)\b[^>]*>", "", _XML_COMMENT.sub("", decode(raw)))
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def _latex(raw: bytes) -> str:
    head, begin, body = decode(raw).partition(r"\begin{document}")
    # Of what stands before the document, only its title is shown.
    text = f"{' '.join(_TEX_HEAD.findall(head))} {body}" if begin else head
    return _TEX.sub(" ", text)


def _org(raw: bytes) -> str:
    return _ORG.sub(" ", decode(raw))


def _textile(raw: bytes) -> str:
    return page_words(_TEXTILE.sub(" ", decode(raw)))


def _wiki(raw: bytes) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", _WIKI.sub(" ", decode(raw))))


EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    ".odt": _open_document,
    ".epub": _electronic_book,
    ".tex": _latex,
    ".latex": _latex,
    ".dbk": _docbook,
    ".docbook": _docbook,
    ".org": _org,
    ".textile": _textile,
    ".wiki": _wiki,
    ".mediawiki": _wiki,
}
