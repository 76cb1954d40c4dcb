"""What the readers of an HTML tree ask of one element: its text, its numbers, where it stands."""

from typing import Any

from lxml import etree

HEADINGS = {f"h{level}": level for level in range(1, 7)}
"""{tag: level}."""
_INLINE_TEXT = """
a abbr acronym annotation audio b bdi bdo big blink button canvas cite code data datalist dfn del em embed font i iframe
img input ins kbd label link map mark math meta meter mi mn mo mrow mtext nobr noscript object output picture progress q
rb rp rt ruby s samp script select semantics small span strike strong style sub sup svg template textarea time tspan tt
u var video wbr
"""
INLINE = frozenset(_INLINE_TEXT.split())
"""Elements that stand within a line; those that are not shown do not end it either."""


def text_of(node: Any, breaks: bool = False) -> str:
    """Return the text of an element without comments; with `breaks` a `<br>` is a line end."""
    parts: list[str] = []
    for event, inner in etree.iterwalk(node, events=("start", "end", "comment", "pi")):
        if event == "start":
            if breaks and inner.tag == "br":
                parts.append("\n")
            parts.append(inner.text or "")
        elif inner is not node:
            parts.append(inner.tail or "")
    return "".join(parts)


def words_of(node: Any) -> str:
    """Return the text of an element on one line; words of different blocks, and of different options, stay apart."""
    parts: list[str] = []
    for event, inner in etree.iterwalk(node, events=("start", "end", "comment", "pi")):
        if event in ("start", "end") and (inner.tag == "option" or inner.tag not in INLINE):
            parts.append(" ")
        if event == "start":
            parts.append(inner.text or "")
        elif inner is not node:
            parts.append(inner.tail or "")
    return " ".join("".join(parts).split())


def is_inside(node: Any, tags: tuple[str, ...]) -> bool:
    """Return whether the element stands in one with one of these tags."""
    return next(node.iterancestors(*tags), None) is not None


def whole_number(text: str | None, default: int) -> int:
    """Return the number in an attribute, or `default` if it has none."""
    try:
        return int(text or default)
    except ValueError:
        return default
