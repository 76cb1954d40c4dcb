"""Finds the headings of a Word file that mammoth takes for paragraphs, and gives them the style of a heading.

mammoth knows a heading by the name of its style. Word also makes one of an outline level, of the paragraph itself or of
its style, and of every style that is based on such a style. Source of the rules: ECMA-376 Part 1, sections 17.3.1.20
(outlineLvl), 17.7.4.3 (basedOn) and 17.7.4.9 (name).
"""

import re
from dataclasses import dataclass
from typing import Any

from lxml import etree

from ragtune.knowledge.readers.elements import whole_number
from ragtune.knowledge.readers.word_markup import W, parse_part

_BODY_LEVEL = 9
"""The outline level of a paragraph that is no heading."""
_DEEPEST = 6
_HEADING_NAME = re.compile(r"heading ([1-9])", re.IGNORECASE)
"""The names of Word's own styles in the file, whatever the language of the program."""
_TITLE_NAME = "title"


@dataclass(frozen=True, slots=True)
class _Style:
    name: str
    based_on: str
    outline: int | None


class WordHeadings:
    """The outline levels of the styles of one document."""

    def __init__(self, styles: bytes | None) -> None:
        """Read `word/styles.xml`, which may be missing."""
        self._styles = _styles(parse_part(styles)) if styles else {}

    def mark_in(self, root: Any) -> None:
        """Give every heading below `root` the style that mammoth knows, such as `Heading2`."""
        for paragraph in root.iter(f"{W}p"):
            level = self._level(paragraph)
            if level and "".join(paragraph.itertext(f"{W}t")).strip():
                _set_style(paragraph, f"Heading{min(level, _DEEPEST)}")

    def _level(self, paragraph: Any) -> int:
        """Return the level of a heading from 1, 0 for other paragraphs."""
        properties = paragraph.find(f"{W}pPr")
        if properties is None:
            return 0
        own, style = _outline(properties), properties.find(f"{W}pStyle")
        if own is not None:
            return 0 if own >= _BODY_LEVEL else own + 1
        identifier, seen = "" if style is None else style.get(f"{W}val") or "", set[str]()
        while identifier in self._styles and identifier not in seen:
            seen.add(identifier)
            current = self._styles[identifier]
            if current.outline is not None:
                return 0 if current.outline >= _BODY_LEVEL else current.outline + 1
            if named := _HEADING_NAME.fullmatch(current.name):
                return int(named[1])
            if current.name.casefold() == _TITLE_NAME:
                return 1
            identifier = current.based_on
        return 0


def _styles(root: Any) -> dict[str, _Style]:
    styles = {}
    for style in root.iter(f"{W}style"):
        if style.get(f"{W}type") not in (None, "paragraph"):
            continue
        name, base = (style.find(f"{W}{tag}") for tag in ("name", "basedOn"))
        properties = style.find(f"{W}pPr")
        styles[style.get(f"{W}styleId") or ""] = _Style(
            "" if name is None else name.get(f"{W}val") or "",
            "" if base is None else base.get(f"{W}val") or "",
            None if properties is None else _outline(properties),
        )
    return styles


def _outline(properties: Any) -> int | None:
    element = properties.find(f"{W}outlineLvl")
    return None if element is None else whole_number(element.get(f"{W}val"), _BODY_LEVEL)


def _set_style(paragraph: Any, identifier: str) -> None:
    properties = paragraph.find(f"{W}pPr")
    style = properties.find(f"{W}pStyle")
    if style is None:
        style = etree.Element(f"{W}pStyle")
        properties.insert(0, style)
    style.set(f"{W}val", identifier)
