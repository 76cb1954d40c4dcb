"""Writes Word's automatic numbers into the text of a document.

A Word file does not hold "2.1" in front of a clause: it holds a list, a level and a pattern such as `%1.%2`, and
Word counts. A text that refers to clause 2.1 makes no sense without these numbers.
Source of the rules: ECMA-376 Part 1, section 17.9 (numbering).
"""

import re
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_ROMAN = {"m": 1000, "cm": 900, "d": 500, "cd": 400, "c": 100, "xc": 90, "l": 50, "xl": 40, "x": 10}
_ROMAN |= {"ix": 9, "v": 5, "iv": 4, "i": 1}
_UNNUMBERED = {"bullet", "none"}
_LEVELS = 9
_FRAMES = tuple(f"{_W}{name}" for name in ("fldSimple", "customXml", "moveTo", "dir", "bdo"))


@dataclass(slots=True)
class _Level:
    """One level of a list: how it counts and what it shows."""

    start: int = 1
    form: str = "decimal"
    pattern: str = "%1."
    legal: bool = False


@dataclass(slots=True)
class _List:
    """An abstract list: its levels, and the counters while the document is read."""

    levels: dict[int, _Level]
    counters: list[int | None] = field(default_factory=lambda: [None] * _LEVELS)


class WordNumbers:
    """Counts the numbered paragraphs of one document."""

    def __init__(self, numbering: bytes | None, styles: bytes | None) -> None:
        """Read `word/numbering.xml` and `word/styles.xml`; either may be missing."""
        self._lists: dict[str, _List] = {}
        self._instances: dict[str, tuple[str, dict[int, int]]] = {}
        self._started: set[str] = set()
        self._styles = _numbered_styles(etree.fromstring(styles)) if styles else {}
        if numbering:
            self._read(etree.fromstring(numbering))

    def write_into(self, document: bytes) -> bytes:
        """Return `word/document.xml` with the numbers as text; bulleted paragraphs stay lists."""
        root = etree.fromstring(document)
        for frame in [*root.iter(*_FRAMES)]:
            # mammoth drops what stands in these, and a reader of the page sees it.
            place = frame.getparent().index(frame)
            frame.getparent()[place : place + 1] = [child for child in frame if not child.tag.endswith("Pr")]
        for paragraph in root.iter(f"{_W}p"):
            number = self._number(paragraph)
            if number:
                _write(paragraph, number)
        return bytes(etree.tostring(root))

    def _read(self, root: Any) -> None:
        for abstract in root.iter(f"{_W}abstractNum"):
            levels = {_whole(level, f"{_W}ilvl"): _level(level) for level in abstract.iter(f"{_W}lvl")}
            self._lists[abstract.get(f"{_W}abstractNumId")] = _List(levels)
        for instance in root.iter(f"{_W}num"):
            starts = {}
            for change in instance.iter(f"{_W}lvlOverride"):
                start = change.find(f"{_W}startOverride")
                if start is not None and 0 <= _whole(change, f"{_W}ilvl") < _LEVELS:
                    starts[_whole(change, f"{_W}ilvl")] = _whole(start, f"{_W}val")
            abstract = instance.find(f"{_W}abstractNumId")
            if abstract is not None:
                self._instances[instance.get(f"{_W}numId")] = (abstract.get(f"{_W}val"), starts)

    def _number(self, paragraph: Any) -> str:
        """Return the number that Word shows in front of the paragraph, "" if there is none."""
        properties = paragraph.find(f"{_W}pPr")
        if properties is None or not "".join(paragraph.itertext(f"{_W}t")).strip():
            return ""
        numbering = properties.find(f"{_W}numPr")
        style = properties.find(f"{_W}pStyle")
        instance, level = self._styles.get(style.get(f"{_W}val") if style is not None else "", ("", 0))
        if numbering is not None:
            instance = _value(numbering.find(f"{_W}numId"), instance)
            level = int(_value(numbering.find(f"{_W}ilvl"), str(level)))
        abstract, starts = self._instances.get(instance, ("", {}))
        if abstract not in self._lists or not 0 <= level < _LEVELS:
            return ""
        return self._count(self._lists[abstract], instance, level, starts)

    def _count(self, numbers: _List, instance: str, level: int, starts: dict[int, int]) -> str:
        if instance not in self._started:
            self._started.add(instance)
            for at, start in starts.items():
                numbers.counters[at] = start - 1
        counters = numbers.counters
        for at in range(level):
            if counters[at] is None:
                counters[at] = numbers.levels.get(at, _Level()).start
        shape = numbers.levels.get(level, _Level())
        current = counters[level]
        counters[level] = shape.start if current is None else current + 1
        counters[level + 1 :] = [None] * (_LEVELS - level - 1)
        if shape.form in _UNNUMBERED:
            return ""

        def counter_text(match: re.Match[str]) -> str:
            at = int(match[1]) - 1
            form = "decimal" if shape.legal else numbers.levels.get(at, _Level()).form
            return _written(counters[at] or 0, form)

        return re.sub(r"%(\d)", counter_text, shape.pattern).strip()


def _numbered_styles(root: Any) -> dict[str, tuple[str, int]]:
    """Return {style: (list, level)} for the paragraph styles that number, those they are based on included."""
    lists: dict[str, tuple[str, int]] = {}
    based: dict[str, str] = {}
    for style in root.iter(f"{_W}style"):
        name = style.get(f"{_W}styleId") or ""
        based[name] = _value(style.find(f"{_W}basedOn"), "")
        numbers = style.find(f"{_W}pPr/{_W}numPr")
        if numbers is not None:
            lists[name] = (
                _value(numbers.find(f"{_W}numId"), ""),
                int(_value(numbers.find(f"{_W}ilvl"), "0")),
            )
    for name in based:
        origin, steps = name, 0
        while origin and origin not in lists and steps < len(based):
            origin, steps = based.get(origin, ""), steps + 1
        if origin in lists:
            lists[name] = (lists[name][0] or lists[origin][0], lists[name][1]) if name in lists else lists[origin]
    return lists


def _level(level: Any) -> _Level:
    return _Level(
        start=int(_value(level.find(f"{_W}start"), "1")),
        form=_value(level.find(f"{_W}numFmt"), "decimal"),
        pattern=_value(level.find(f"{_W}lvlText"), ""),
        legal=level.find(f"{_W}isLgl") is not None,
    )


def _write(paragraph: Any, number: str) -> None:
    """Put the number in front of the paragraph's text and take the paragraph out of its list."""
    properties = paragraph.find(f"{_W}pPr")
    numbers = properties.find(f"{_W}numPr")
    if numbers is None:
        numbers = etree.SubElement(properties, f"{_W}numPr")
    for child in list(numbers):
        numbers.remove(child)
    # numId 0 means "not in a list", also against the paragraph's style.
    etree.SubElement(numbers, f"{_W}numId").set(f"{_W}val", "0")
    run = etree.Element(f"{_W}r")
    text = etree.SubElement(run, f"{_W}t")
    text.text = f"{number} "
    text.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    properties.addnext(run)


def _written(value: int, form: str) -> str:
    if form in ("lowerRoman", "upperRoman"):
        text = ""
        for letters, size in _ROMAN.items():
            text += letters * (value // size)
            value %= size
        return text.upper() if form == "upperRoman" else text
    if form in ("lowerLetter", "upperLetter"):
        letter = chr(ord("a") + (value - 1) % 26) * ((value - 1) // 26 + 1) if value > 0 else ""
        return letter.upper() if form == "upperLetter" else letter
    return f"{value:02d}" if form == "decimalZero" else str(value)


def _value(node: Any, default: str) -> str:
    return default if node is None else str(node.get(f"{_W}val") or default)


def _whole(node: Any, name: str) -> int:
    return int(node.get(name) or 0)
