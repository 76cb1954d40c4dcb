"""The words of an HTML page, found by Python's own parser: the account compares them with what the reader found."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

from ragtune.knowledge.readers.elements import INLINE
from ragtune.knowledge.readers.html_tables import LINE_NUMBERS
from ragtune.knowledge.readers.marks import superscript

_CODE = frozenset({"code", "kbd", "samp", "tt"})
_JOINED = INLINE - _CODE - {"button", "noscript", "rt", "select", "svg", "template"}
"""Elements within a word. Some others are in a line, too, but what they say stands for itself."""
_SILENT = frozenset({"script", "style", "annotation", "annotation-xml"})
_SCRIPTS = frozenset({"msup", "msub", "msubsup", "munder", "mover", "munderover"})
_STRUCTURES = _SCRIPTS | {"mfrac", "mroot", "msqrt", "mtr"}
"""Parts of formulas whose own parts stand apart; what has a script follows the sign before it directly."""
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


def page_words(page: str) -> str:
    """Return the text of an HTML page, found without the parser of the reader."""
    words = _PageWords()
    # The parser looks for the end of each comment that has none to the end of the page.
    words.feed(_COMMENT.sub("", page))
    words.close()
    return "".join(words.parts)


class _PageWords(HTMLParser):
    """Collects the text of a page in one pass; words of different blocks stay apart."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._silent = 0
        self._raised = 0
        self._code = 0
        self._apart: list[str] = []
        self._formula: list[tuple[str, bool]] = []  # the open elements, and whether each has a part already

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag == "body":
            self.parts.clear()
        is_formula = tag == "script" and (dict(attrs).get("type") or "").startswith("math/")
        self._silent += tag in _SILENT and not is_formula
        self._raised = len(self.parts)
        if self._formula or tag == "math":
            self._formula_part(tag)
        if is_formula or LINE_NUMBERS.search(dict(attrs).get("class") or ""):
            self._apart.append(tag)
            self.parts.append(" ")
        self._part(tag)
        self._code += tag in _CODE

    def handle_endtag(self, tag: str) -> None:
        if tag in _CODE:
            self._code = max(self._code - 1, 0)
        if tag in _SILENT:
            self._silent = max(self._silent - 1, 0)
        if any(name == tag for name, _ in self._formula):
            while self._formula.pop()[0] != tag:
                pass
            self.parts += [" "] if tag == "math" or tag in _STRUCTURES else []
        if self._apart and tag == self._apart[-1]:
            self._apart.pop()
            self.parts.append(" ")
        words = "".join(self.parts[self._raised :])
        if tag == "sup" and superscript(words) != words:
            self.parts.insert(self._raised, " ")
            self.parts.append(" ")
        self._part(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)

    def unknown_decl(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data.removeprefix("CDATA["))

    def _formula_part(self, tag: str) -> None:
        if self._formula:
            outer, has_part = self._formula[-1]
            if (has_part and outer in _STRUCTURES) or tag in _STRUCTURES - _SCRIPTS:
                self.parts.append(" ")
            self._formula[-1] = outer, True
        self._formula.append((tag, False))

    def _part(self, tag: str) -> None:
        if tag not in _JOINED and not self._formula and (tag not in _CODE or self._code == 0):
            self.parts.append(" ")
