"""Accounts for every word of a file: it is in the document, left out for a reason, or lost.

The words of the file come from a second extractor that the reader does not use (the raw text, Python's own HTML
parser, the XML of an office file, PDFium's text, patterns), so that a reader cannot vouch for itself.
"""

import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ragtune.knowledge.office_words import EXTRACTORS as OFFICE_EXTRACTORS
from ragtune.knowledge.page_words import page_words
from ragtune.knowledge.pandoc_words import EXTRACTORS as PANDOC_EXTRACTORS
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.marks import superscript
from ragtune.knowledge.readers.reading import Reading
from ragtune.knowledge.readers.web_page import decode_page
from ragtune.records import Chunk, Document
from ragtune.text.sentences import line_sentence_spans

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
_ENTITY = re.compile(r"&#?\w+;")
_RAISED = re.compile(r"<sup>([^<>]*)</sup>")
# `<b and c>` is no tag that anybody writes, but a part of `a<b and c>d`.
_INLINE_TAG = re.compile(r"</?(?:a|b|em|font|i|small|span|strong|sub|sup|u|wbr)(?:\s[^<>=]*=[^<>]*|\s*/?)>")
_TAG = re.compile(
    r"</?(?:article|aside|blockquote|br|caption|center|code|col|colgroup|dd|del|details|div|dl|dt|figcaption|figure"
    r"|h[1-6]|hr|img|ins|kbd|li|main|nav|ol|p|pre|s|samp|section|summary|table|tbody|td|tfoot|th|thead|tr|tt|ul)"
    r"\b[^<>]*>"
)
# Names of directives, options and roles: markup that is spelled in words.
_RST_MARKUP = re.compile(r"(?m)^\s*(?:[*-] +)*\.\. +(?:\|[^|\n]+\| +)?[\w:-]+::|^\s+:[\w-]+:(?=\s|$)|\[#[\w.-]*\]")
_RST_ROLE = re.compile(r":([\w:+.-]+):`([^`]*)`")
_RST_SUBSTITUTION = re.compile(r"(?m)^[ \t]*\.\. +\|([^|\n]+)\| +[\w-]+::")
# Of Markdown: `2. ` at the beginning of an item, `[label]: address`, `[^note]`, and `[words][label]`.
_LIST_NUMBER = re.compile(r"(?m)^([ \t>*+-]*)\d{1,9}[.)](?=\s)")
_LABEL_DEFINITION = re.compile(r"(?m)^[ \t>]*\[(?!\^)((?:\\.|[^\]\[\\\n])+)\]:(?=[ \t]*\n?[ \t]*\S)")
_NOTE_LABEL = re.compile(r"\[\^[^\]\s]+\]")
_LABEL_USE = re.compile(r"\]\[((?:\\.|[^\]\[\\])+)\]")
_ESCAPE = re.compile(r"\x1b(?:\[[\d;?]*[A-Za-z]|[()].)")  # of a terminal, mostly for colours
_REPEATED = "repeated in the document"
# A hyphen at the end of a line, also as PDFium marks it: whether the word is one or two is not for this module to say.
_BROKEN_WORD = re.compile(r"[^\W_]+(?:[\x02\ufffe]|-\s*\n)[^\W_]+")

# PDFium's text knows nothing of raised digits, and puts a space where the size of the type changes.
_WAYS_TO_SET_DIGITS: tuple[Callable[[str], str], ...] = (
    lambda text: text.replace("^", ""),
    lambda text: re.sub(r"\^|(?<=[^\W\d_])(?=\d)", " ", text),
    lambda text: re.sub(r"(?<=\d)(?=[^\W\d_])", " ", text),
    lambda text: re.sub(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)", " ", text),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of a document's words.

    `words` counts those of the file, `in_passages` those that a passage shows. `left_out` gives the words left out
    by reason. `lost_words` counts those that are neither, and `lost` names the first of them.
    """

    words: int
    in_passages: int
    left_out: dict[str, int]
    lost: tuple[str, ...]
    lost_words: int

    @property
    def share_in_passages(self) -> float:
        """The share of the words that are in a passage, 0 to 1."""
        return min(1.0, self.in_passages / self.words) if self.words else 1.0

    @property
    def share_accounted_for(self) -> float:
        """The share of the words that are in a passage or left out for a known reason, 0 to 1."""
        return max(0.0, 1.0 - self.lost_words / self.words) if self.words else 1.0


def count_words(text: str) -> Counter[str]:
    """Return the words of a text with their number; a character of a script without spaces is a word."""
    plain = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return Counter(_WORD.findall(plain))


def audit(path: str, raw: bytes, reading: Reading) -> tuple[int, tuple[str, ...]]:
    """Return how many words a file has, and all those that are neither in the reading nor left out by it."""
    source = count_words(_source_text(path, raw))
    in_reading = count_words(reading.text)
    lost = source - in_reading - count_words(reading.title)
    if lost and path.lower().endswith(".pdf"):
        for way in _WAYS_TO_SET_DIGITS:
            lost -= count_words(way(reading.text)) - in_reading
    for part in reading.left_out:
        if not lost:
            break
        lost -= count_words(part.text)
    return source.total(), tuple(sorted(lost.elements()))


def account(document: Document, passages: Iterable[Chunk]) -> Account:
    """Return what became of the document's words, given its passages (duplicates of others included)."""
    text = count_words(document.text)
    missing = text - _passage_words(passages)
    left_out: dict[str, int] = {}
    for part in document.left_out:
        left_out[part.reason] = left_out.get(part.reason, 0) + count_words(part.text).total()
    words = document.words or text.total() + sum(left_out.values())
    # Two sections with the same heading below the same headings look like one section that was cut.
    repeated = missing & _repeated_words(document) if missing else missing
    if repeated:
        left_out[_REPEATED] = repeated.total()
    lost = missing - repeated
    return Account(
        words=words,
        in_passages=text.total() - missing.total(),
        left_out=left_out,
        lost=tuple(sorted([*document.lost, *lost.elements()])),
        lost_words=document.lost_words + lost.total(),
    )


def account_all(documents: Sequence[Document], passages: Iterable[Chunk]) -> list[Account]:
    """Return the account of every document, in order; `passages` are those of all documents."""
    passages_by_document: dict[str, list[Chunk]] = {}
    for passage in passages:
        passages_by_document.setdefault(passage.document_id, []).append(passage)
    return [account(document, passages_by_document.get(document.id, ())) for document in documents]


def _passage_words(passages: Iterable[Chunk]) -> Counter[str]:
    """Return the words of the passages; a heading that stands above several of them counts once."""
    words, headings = Counter[str](), set[tuple[str, ...]]()
    for passage in passages:
        words.update(count_words(passage.text))
        path = (passage.title, *passage.headings)
        headings.update(path[: depth + 1] for depth in range(len(path)))
    for path in headings:
        words.update(count_words(path[-1]))
    return words


def _repeated_words(document: Document) -> Counter[str]:
    """Return the words of the sentences and lines that say again what the document has said before."""
    sentences = Counter(document.text[start:end] for start, end in line_sentence_spans(document.text))
    repeated = Counter[str]()
    for sentence, count in sentences.items():
        for word, times in count_words(sentence).items() if count > 1 else ():
            repeated[word] += times * (count - 1)
    return repeated


def _source_text(path: str, raw: bytes) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    return _EXTRACTORS.get(suffix, _raw_text)(raw)


def _raw_text(raw: bytes) -> str:
    """Return a text file without the tags of HTML in it; with its entities as the characters they stand for."""
    text = _RAISED.sub(_apart_if_exponent, _ESCAPE.sub("", decode(raw)))
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), _TAG.sub(" ", _INLINE_TAG.sub("", text)))
    return text.replace("_", " ")


def _apart_if_exponent(raised: re.Match[str]) -> str:
    return raised[1] if superscript(raised[1]) == raised[1] else f" {raised[1]} "


def _markdown_text(raw: bytes) -> str:
    """Return a Markdown file without the labels of links, and the numbers of lists and notes: the reader counts."""
    text = _NOTE_LABEL.sub(" ", _LIST_NUMBER.sub(r"\1", decode(raw)))
    labels = {_label(label) for label in _LABEL_DEFINITION.findall(text)}
    text = _LABEL_DEFINITION.sub(lambda label: label[0].replace(label[1], ""), text)
    text = _LABEL_USE.sub(lambda use: "]" if _label(use[1]) in labels else use[0], text)
    return _raw_text(text.encode())


def _label(text: str) -> str:
    return " ".join(text.split()).casefold()


def _restructured_text(raw: bytes) -> str:
    """Return a reStructuredText file without the names of roles, directives, options and substitutions."""
    text = decode(raw).replace("\\ ", "")
    for name in _RST_SUBSTITUTION.findall(text):
        text = text.replace(f"|{name}|", " ")
    return _raw_text(_RST_MARKUP.sub(" ", _RST_ROLE.sub(_role_words, text)).encode())


def _role_words(role: re.Match[str]) -> str:
    is_exponent = role[1] in ("sup", "superscript") and superscript(role[2]) != role[2]
    return f" {role[2]} " if is_exponent else role[2]


def _notebook_text(raw: bytes) -> str:
    return _raw_text("\n".join(_cell_texts(json.loads(decode(raw))["cells"])).encode())


def _cell_texts(value: Any, key: str = "") -> Iterator[str]:
    """Yield the words in the JSON of a notebook's cells: `source`, `text`, and one form of each output.

    `key` is the key under which `value` stands in its object.
    """
    if isinstance(value, str):
        if key in ("source", "text", "text/plain", "text/markdown", "text/latex"):
            yield value
        elif key == "text/html":
            yield page_words(value)
    elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        yield from _cell_texts("".join(value), key)
    elif isinstance(value, dict):
        # An output has the same content in several forms. Only the first of these with words in it counts.
        forms = [
            form
            for form in ("text/markdown", "text/html", "text/latex", "text/plain")
            if "".join(_cell_texts(value.get(form), form)).strip()
        ]
        for name, part in value.items():
            if name not in forms[1:]:
                yield from _cell_texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _cell_texts(part, key)


def _web_page_text(raw: bytes) -> str:
    return page_words(decode_page(raw))


def _pdf_text(raw: bytes) -> str:
    """Return the text as PDFium itself puts it together, without words that are broken over two lines.

    pdfminer would be more independent of the reader, and takes six times as long as the reader itself
    (`benchmarks/documents/speed.json`).
    """
    import pypdfium2
    from pypdfium2 import raw as pdfium

    document = pypdfium2.PdfDocument(raw)
    if document.get_formtype() != pdfium.FORMTYPE_NONE:
        document.init_forms()
    pages = []
    for number in range(len(document)):
        page = document[number]
        if _has_words_over_it(page):
            pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY)
            page.close()
            page = document[number]
        pages.append(page.get_textpage().get_text_range())
    document.close()
    return _BROKEN_WORD.sub(" ", "\n".join(pages))


def _has_words_over_it(page: Any) -> bool:
    """Return whether fields of a form, or words, are drawn over a page; PDFium can make them a part of it."""
    from pypdfium2 import raw as pdfium

    for number in range(pdfium.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium.FPDFPage_GetAnnot(page, number)
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        pdfium.FPDFPage_CloseAnnot(annotation)
        if kind in (pdfium.FPDF_ANNOT_WIDGET, pdfium.FPDF_ANNOT_FREETEXT, pdfium.FPDF_ANNOT_STAMP):
            return True
    return False


_EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    ".html": _web_page_text,
    ".htm": _web_page_text,
    ".xhtml": _web_page_text,
    ".pdf": _pdf_text,
    ".md": _markdown_text,
    ".markdown": _markdown_text,
    ".mdx": _markdown_text,
    ".rst": _restructured_text,
    ".ipynb": _notebook_text,
    **OFFICE_EXTRACTORS,
    **PANDOC_EXTRACTORS,
}
