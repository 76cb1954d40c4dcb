"""The words of office files, found in their XML by Python's own parser: the account compares them with the reading.

The parts and elements are those of ECMA-376 Part 1. Runs of one paragraph are put together without a space, because
programs divide a word into several runs.
"""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

from ragtune.knowledge.readers.marks import superscript

_SKIPPED = frozenset({"instrText", "moveFrom", "rPh"})
"""Commands of fields, the old place of moved words, and readings of Chinese characters, which no cell shows."""
_BEFORE = frozenset({"p", "tc", "tbl", "si", "is", "rt", "rubyBase", "num", "sub", "sup", "deg", "fName"})
_BEHIND = _BEFORE | {"tab", "br", "cr", "ptab", "e", "den", "lim"}
"""Elements that stand apart from what is before them, and from what is behind them. `e` is the base of a power."""
_SYMBOL = "\ue000"  # stands for a character of a font with symbols
_WITH_SYMBOL = re.compile(rf"[^\W_]*{_SYMBOL}[^\W_]*")
_NAMES, _CACHED = re.compile(r"<c:strCache>.*?</c:strCache>", re.DOTALL), re.compile(r"<c:v>([^<]*)</c:v>")
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")  # how a workbook writes signs that XML does not allow
_GENERAL = "0"  # the number format that shows a number as it is
_BOOLEANS = {"0": "FALSE", "1": "TRUE"}


class _Text:
    """Collects the text of one part; of what stands in it in two forms, the first with words."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._deleted: list[str] = []  # a deletion in a word divides it no more
        self._skipped = 0
        self._raised = False
        self._forms: list[tuple[int, bool]] = []

    def read(self, xml: bytes) -> str:
        """Return the text of the elements `t` and `delText`, in the order of the file."""
        for event, element in ElementTree.iterparse(io.BytesIO(xml), events=("start", "end")):
            name = _local_name(element)
            # The number of a slide is not written by its author, and not read.
            if name in _SKIPPED or element.get("type") == "slidenum":
                self._skipped += 1 if event == "start" else -1
            elif event == "start":
                self._start(name, element)
            elif not self._skipped:
                self._end(name, element)
        return _WITH_SYMBOL.sub(" ", "".join([*self._parts, " ", *self._deleted]))

    def _start(self, name: str, element: ElementTree.Element) -> None:
        if name in ("AlternateContent", "Choice", "Fallback"):
            has_words = name != "AlternateContent" and bool(self._forms) and self._forms[-1][1]
            self._forms = [*self._forms[: None if name == "AlternateContent" else -1], (len(self._parts), has_words)]
        elif name == "r":
            self._raised = False
        elif name == "rPr" and element.get("baseline"):
            self._raised = not element.get("baseline", "").startswith("-")
        elif name == "vertAlign":
            self._raised = "superscript" in element.attrib.values()
        elif name in _BEFORE:
            self._parts.append(" ")

    def _end(self, name: str, element: ElementTree.Element) -> None:
        text = element.text or ""
        if name == "t":
            self._parts.append(f" {text} " if self._raised and superscript(text) != text else text)
        elif name in ("delText", "del"):
            self._deleted.append(text if name == "delText" else " ")
        elif name == "noBreakHyphen":
            self._parts.append("-")
        elif name == "sym":
            self._parts.append(_SYMBOL)
        elif name in ("Choice", "Fallback") and self._forms:
            start, has_words = self._forms[-1]
            if has_words:
                del self._parts[start:]
            self._forms[-1] = start, has_words or bool("".join(self._parts[start:]).strip())
        elif name == "AlternateContent":
            self._forms.pop()
        elif name in _BEHIND:
            self._parts.append(" ")


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _parts(archive: zipfile.ZipFile, pattern: str) -> Iterator[bytes]:
    """Yield the parts of the file whose whole names match."""
    for name in archive.namelist():
        if re.fullmatch(pattern, name):
            yield archive.read(name)


def _texts(archive: zipfile.ZipFile, pattern: str) -> str:
    return " ".join(_Text().read(part) for part in _parts(archive, pattern))


def _chart_names(archive: zipfile.ZipFile, folder: str) -> str:
    """Return the names of the series and categories of charts; each series repeats those of the categories."""
    charts = [part.decode("utf-8", "replace") for part in _parts(archive, rf"{folder}/charts/chart[^/]*\.xml")]
    names = [name for chart in charts for name in dict.fromkeys(_CACHED.findall("".join(_NAMES.findall(chart))))]
    return " ".join(ElementTree.fromstring(f"<t>{name}</t>").text or "" for name in names)


def _word_file(raw: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        parts = r"word/(?:document|footnotes|endnotes|charts/chart[^/]*|diagrams/data[^/]*)\.xml"
        return f"{_texts(archive, parts)} {_chart_names(archive, 'word')}"


def _presentation(raw: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        parts = r"ppt/(?:slides|notesSlides|charts|diagrams)/(?!drawing)\w+\.xml"
        return f"{_texts(archive, parts)} {_chart_names(archive, 'ppt')}"


def _workbook(raw: bytes) -> str:
    """Return the texts of cells, the numbers that are shown as they are stored, text boxes and titles of charts."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        shared = [text for part in _parts(archive, r"xl/sharedStrings\.xml") for text in _shared_texts(part)]
        formats = [code for part in _parts(archive, r"xl/styles\.xml") for code in _number_formats(part)]
        cells = [text for part in _parts(archive, r"xl/worksheets/\w+\.xml") for text in _cells(part, shared, formats)]
        texts = (_ESCAPED.sub(lambda code: chr(int(code[1], 16)), text) for text in cells)
        return " ".join([*texts, _texts(archive, r"xl/(?:drawings/drawing|charts/chart)[^/]*\.xml")])


def _shared_texts(part: bytes) -> Iterator[str]:
    """Yield the texts to which cells refer by their number."""
    for _, element in ElementTree.iterparse(io.BytesIO(part)):
        if _local_name(element) == "si":
            yield _Text().read(ElementTree.tostring(element))
            element.clear()


def _number_formats(part: bytes) -> Iterator[str]:
    """Yield the id of the number format of each style of cells."""
    for _, element in ElementTree.iterparse(io.BytesIO(part)):
        if _local_name(element) == "cellXfs":
            yield from (style.get("numFmtId", _GENERAL) for style in element)


def _cells(part: bytes, shared: list[str], formats: list[str]) -> Iterator[str]:
    for _, cell in ElementTree.iterparse(io.BytesIO(part)):
        if _local_name(cell) == "row":
            cell.clear()
        if _local_name(cell) != "c":
            continue
        kind, style = cell.get("t", "n"), int(cell.get("s", "0"))
        value = next((child.text or "" for child in cell if _local_name(child) == "v"), "")
        if kind == "inlineStr":
            yield _Text().read(ElementTree.tostring(cell))
        elif kind == "s":
            yield shared[int(value)] if value else ""
        elif kind == "b":
            yield _BOOLEANS.get(value, "")
        elif kind in ("str", "e"):
            yield value
        elif value and (style >= len(formats) or formats[style] == _GENERAL):
            number = float(value)
            yield str(int(number)) if number.is_integer() else repr(number)


EXTRACTORS: dict[str, Callable[[bytes], str]] = {".docx": _word_file, ".pptx": _presentation, ".xlsx": _workbook}
