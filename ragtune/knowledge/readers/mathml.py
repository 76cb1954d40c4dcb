"""Writes MathML, the formulas of web pages, as text on one line: `x^2`, `(a + b)/2`, `√(x + 1)`."""

from typing import Any

from ragtune.knowledge.readers.word_math import grouped

_APART = frozenset({"mfrac", "msqrt", "mroot"})
_SCRIPTS = {"msub": "_", "msup": "^", "munder": "_", "mover": "^"}
_TWO_SCRIPTS = frozenset({"msubsup", "munderover"})
_STRUCTURES = _APART | _TWO_SCRIPTS | _SCRIPTS.keys()
_SOURCES = frozenset({"annotation", "annotation-xml"})  # the same formula once more, in another language


def mathml_text(node: Any) -> str:
    """Return what an element of MathML says."""
    if not isinstance(node.tag, str) or node.tag in _SOURCES:
        return ""
    children = [child for child in node if isinstance(child.tag, str)]
    parts = [mathml_text(child) for child in children]
    if not parts:
        return " ".join((node.text or "").split())
    if node.tag in _SCRIPTS and len(parts) == 2:
        return f"{grouped(parts[0])}{_SCRIPTS[node.tag]}{grouped(parts[1])}"
    if node.tag in _TWO_SCRIPTS and len(parts) == 3:
        return f"{grouped(parts[0])}_{grouped(parts[1])}^{grouped(parts[2])}"
    if node.tag == "mfrac" and len(parts) == 2:
        return f"{grouped(parts[0])}/{grouped(parts[1])}"
    if node.tag == "msqrt":
        return f"√{grouped(''.join(parts))}"
    if node.tag == "mroot" and len(parts) == 2:
        return f"^{grouped(parts[1])}√{grouped(parts[0])}"
    if node.tag in ("mtable", "mtr"):
        return ("; " if node.tag == "mtable" else ", ").join(parts)
    text = ""
    for part, child, before in zip(parts, children, [None, *children], strict=False):
        # `3` and the fraction `1/2` are not `31/2`; the base of a power follows its factor directly, as in `mc^2`.
        is_apart = child.tag in _APART or (before is not None and before.tag in _STRUCTURES)
        text += f" {part}" if is_apart and text[-1:].isalnum() and part[:1].isalnum() else part
    return text
