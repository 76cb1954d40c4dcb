"""Writes Word's formulas as text on one line: a fraction becomes `(a + b)/2`, a power `x^2`, a root `√(x + 1)`.

mammoth drops formulas. The elements are those of ECMA-376 Part 1, section 22.1 (Office Math Markup); the notation
follows Unicode Technical Note 28, "Nearly plain-text encoding of mathematics".
"""

import re
from collections.abc import Callable
from typing import Any

from lxml import etree

from ragtune.knowledge.readers.word_markup import W, text_element

_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_SIMPLE = re.compile(r"-?[\w.,]*|\(.*\)")
_PROPERTIES = "Pr"


def write_formulas(root: Any) -> None:
    """Write the formulas of a part of a Word file as text in runs."""
    for formula in [*root.iter(f"{_M}oMath")]:
        run = etree.Element(f"{W}r")
        run.append(text_element(formula_text(formula)))
        run.tail = formula.tail
        formula.getparent().replace(formula, run)
    for frame in [*root.iter(f"{_M}oMathPara")]:
        # A formula on a line of its own. Several of them stand on several lines.
        place, runs = frame.getparent().index(frame), [child for child in frame if child.tag == f"{W}r"]
        for run in runs[1:]:
            run.insert(0, etree.Element(f"{W}br"))
        frame.getparent()[place : place + 1] = runs


def formula_text(node: Any) -> str:
    """Return what an element of Office Math says, on one line."""
    name = _name(node)
    if name == "t":
        return node.text or ""
    if name.endswith(_PROPERTIES):
        return ""
    if name in _WRITERS:
        return _WRITERS[name](node)
    text = ""
    for child in node:
        part = formula_text(child)
        # `3` and the fraction `1/2` are not `31/2`; the base of a power follows its factor directly, as in `mc^2`.
        is_apart = _name(child) in _WRITERS and _name(child) not in _WITH_BASE
        text += f" {part}" if (is_apart or _ends_apart(child)) and text[-1:].isalnum() and part[:1].isalnum() else part
    return text


def _ends_apart(node: Any) -> bool:
    """Return whether a structure of a formula stands before this node."""
    before = node.getprevious()
    return before is not None and _name(before) in _WRITERS


def _name(node: Any) -> str:
    # Word's own runs and their properties may stand inside; a comment has no name.
    return etree.QName(node).localname if isinstance(node.tag, str) else _PROPERTIES


def _part(node: Any, name: str) -> str:
    part = node.find(f"{_M}{name}")
    return "" if part is None else formula_text(part).strip()


def grouped(text: str) -> str:
    """Return the text in brackets, unless it is one name or number, or has brackets already."""
    return text if _SIMPLE.fullmatch(text) else f"({text})"


def _property(node: Any, name: str, default: str) -> str:
    element = node.find(f"{_M}{_name(node)}Pr/{_M}{name}")
    return default if element is None else str(element.get(f"{_M}val") or "")


def _fraction(node: Any) -> str:
    return f"{grouped(_part(node, 'num'))}/{grouped(_part(node, 'den'))}"


def _scripts(node: Any) -> str:
    """Return a base with what stands below and above it."""
    below, above = _part(node, "sub"), _part(node, "sup")
    scripts = (f"_{grouped(below)}" if below else "") + (f"^{grouped(above)}" if above else "")
    return f"{grouped(_part(node, 'e'))}{scripts}"


def _scripts_before(node: Any) -> str:
    return f"_{grouped(_part(node, 'sub'))}^{grouped(_part(node, 'sup'))} {_part(node, 'e')}"


def _root(node: Any) -> str:
    degree = _part(node, "deg")
    return f"{f'^{grouped(degree)}' if degree else ''}√{grouped(_part(node, 'e'))}"


def _sum(node: Any) -> str:
    below, above = _part(node, "sub"), _part(node, "sup")
    scripts = (f"_{grouped(below)}" if below else "") + (f"^{grouped(above)}" if above else "")
    # Word leaves the sign out if it is an integral.
    return f"{_property(node, 'chr', '∫')}{scripts} {_part(node, 'e')}"


def _brackets(node: Any) -> str:
    parts = [formula_text(part).strip() for part in node.findall(f"{_M}e")]
    inner = f" {_property(node, 'sepChr', '|')} ".join(parts)
    return f"{_property(node, 'begChr', '(')}{inner}{_property(node, 'endChr', ')')}"


def _function(node: Any) -> str:
    return f"{_part(node, 'fName')} {_part(node, 'e')}"


def _limit(node: Any) -> str:
    mark = "_" if _name(node) == "limLow" else "^"
    return f"{_part(node, 'e')}{mark}{grouped(_part(node, 'lim'))}"


def _matrix(node: Any) -> str:
    rows = (", ".join(formula_text(cell).strip() for cell in row) for row in node.findall(f"{_M}mr"))
    return f"[{'; '.join(rows)}]"


def _lines(node: Any) -> str:
    return "; ".join(formula_text(line).strip() for line in node.findall(f"{_M}e"))


_WITH_BASE = frozenset({"sSub", "sSup", "sSubSup", "limLow", "limUpp"})
"""Structures that begin with what their scripts belong to."""
_WRITERS: dict[str, Callable[[Any], str]] = {
    "f": _fraction,
    "sSub": _scripts,
    "sSup": _scripts,
    "sSubSup": _scripts,
    "sPre": _scripts_before,
    "rad": _root,
    "nary": _sum,
    "d": _brackets,
    "func": _function,
    "limLow": _limit,
    "limUpp": _limit,
    "m": _matrix,
    "eqArr": _lines,
}
