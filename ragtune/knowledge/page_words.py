"""The words of an HTML page, found by Python's own parser: the account compares them with what the reader found."""

import re
from html.parser import HTMLParser

_INLINE = frozenset(
    {"a", "b", "code", "em", "font", "i", "kbd", "small", "span", "strong", "sub", "sup", "tt", "u", "wbr"}
)
_SILENT = frozenset({"script", "style", "template", "noscript", "svg"})
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NUMBER = re.compile(r"[+−–-]?\d+")


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

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the interface of HTMLParser
        if tag == "body":
            self.parts.clear()
        self._silent += tag in _SILENT
        self._raised = len(self.parts)
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(self._silent - 1, 0)
        if tag == "sup" and _NUMBER.fullmatch("".join(self.parts[self._raised :])):
            self.parts.insert(self._raised, " ")
            self.parts.append(" ")
        self._part(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)

    def unknown_decl(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data.removeprefix("CDATA["))

    def _part(self, tag: str) -> None:
        if tag not in _INLINE:
            self.parts.append(" ")
