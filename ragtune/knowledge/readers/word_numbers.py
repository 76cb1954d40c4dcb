"""Writes Word's automatic numbers into the text of a document.

A Word file does not hold "2.1" in front of a clause: it holds a list, a level and a pattern such as `%1.%2`, and
Word counts. A text that refers to clause 2.1 makes no sense without these numbers.
Source of the rules: ECMA-376 Part 1, section 17.9 (numbering).
"""

import re
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from ragtune.knowledge.readers.marks import written_number
from ragtune.knowledge.readers.word_markup import W, parse_part, text_element

_UNNUMBERED = {"bullet", "none"}
_LEVELS = 9


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
        self._styles = _numbered_styles(parse_part(styles)) if styles else {}
        if numbering:
            self._read(parse_part(numbering))

    def write_into(self, root: Any) -> None:
        """Write the numbers into `word/document.xml` as text; bulleted paragraphs stay lists."""
        for paragraph in root.iter(f"{W}p"):
            number = self._number(paragraph)
            if number:
                _write(paragraph, number)

    def _read(self, root: Any) -> None:
        for abstract in root.iter(f"{W}abstractNum"):
            levels = {_whole(level, f"{W}ilvl"): _level(level) for level in abstract.iter(f"{W}lvl")}
            self._lists[abstract.get(f"{W}abstractNumId")] = _List(levels)
        for instance in root.iter(f"{W}num"):
            starts = {}
            for change in instance.iter(f"{W}lvlOverride"):
                start = change.find(f"{W}startOverride")
                if start is not None and 0 <= _whole(change, f"{W}ilvl") < _LEVELS:
                    starts[_whole(change, f"{W}ilvl")] = _whole(start, f"{W}val")
            abstract = instance.find(f"{W}abstractNumId")
            if abstract is not None:
                self._instances[instance.get(f"{W}numId")] = (abstract.get(f"{W}val"), starts)

    def _number(self, paragraph: Any) -> str:
        """Return the number that Word shows in front of the paragraph, "" if there is none."""
        properties = paragraph.find(f"{W}pPr")
        if properties is None or not "".join(paragraph.itertext(f"{W}t")).strip():
            return ""
        numbering = properties.find(f"{W}numPr")
        style = properties.find(f"{W}pStyle")
        instance, level = self._styles.get(style.get(f"{W}val") if style is not None else "", ("", 0))
        if numbering is not None:
            instance = _value(numbering.find(f"{W}numId"), instance)
            level = int(_value(numbering.find(f"{W}ilvl"), str(level)))
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
            return written_number(counters[at] or 0, form)

        return re.sub(r"%(\d)", counter_text, shape.pattern).strip()


def _numbered_styles(root: Any) -> dict[str, tuple[str, int]]:
    """Return {style: (list, level)} for the paragraph styles that number, those they are based on included."""
    lists: dict[str, tuple[str, int]] = {}
    based: dict[str, str] = {}
    for style in root.iter(f"{W}style"):
        name = style.get(f"{W}styleId") or ""
        based[name] = _value(style.find(f"{W}basedOn"), "")
        numbers = style.find(f"{W}pPr/{W}numPr")
        if numbers is not None:
            lists[name] = (
                _value(numbers.find(f"{W}numId"), ""),
                int(_value(numbers.find(f"{W}ilvl"), "0")),
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
        start=int(_value(level.find(f"{W}start"), "1")),
        form=_value(level.find(f"{W}numFmt"), "decimal"),
        pattern=_value(level.find(f"{W}lvlText"), ""),
        legal=level.find(f"{W}isLgl") is not None,
    )


def _write(paragraph: Any, number: str) -> None:
    """Put the number in front of the paragraph's text and take the paragraph out of its list."""
    properties = paragraph.find(f"{W}pPr")
    numbers = properties.find(f"{W}numPr")
    if numbers is None:
        numbers = etree.SubElement(properties, f"{W}numPr")
    for child in list(numbers):
        numbers.remove(child)
    # numId 0 means "not in a list", also against the paragraph's style.
    etree.SubElement(numbers, f"{W}numId").set(f"{W}val", "0")
    run = etree.Element(f"{W}r")
    run.append(text_element(f"{number} "))
    properties.addnext(run)


def _value(node: Any, default: str) -> str:
    return default if node is None else str(node.get(f"{W}val") or default)


def _whole(node: Any, name: str) -> int:
    return int(node.get(name) or 0)
