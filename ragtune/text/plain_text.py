"""Removes Markdown from a text while it streams through, for people and programs that show text as it is."""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})")
_BLOCK_MARK = re.compile(r"\s*(?:>\s?)*(?:#{1,6}\s+)?")
"""What a quoted line or a heading begins with. Marks of list items stay: plain text has them, too."""
_RULE = re.compile(r"\s*(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})")
_WITHOUT_MARKUP = re.compile(r"\s*[^\W_](?:[^*_`~<\[\\!&\n]|\[\d+(?:,\s*\d+)*\](?=[^(\n])|!(?=[^\[\n]))*")
"""The beginning of a line that no later character can turn into markup; citation marks such as [1] are none."""


class PlainText:
    """Takes Markdown piece by piece and returns it as plain text.

    Emphasis, code marks, headings, quotation marks of blocks and fences go; a link becomes `text (address)`. Tables,
    lists and citation marks stay as they are. From the first character of a line on that may be markup, the rest of
    the line is held back until the line is complete.
    """

    def __init__(self) -> None:
        self._line = ""
        self._shown = 0
        self._in_code = False

    def feed(self, piece: str) -> str:
        """Return the text that can be shown now."""
        output = ""
        *complete, rest = piece.split("\n")
        for end in complete:
            self._line += end
            output += self._finish_line("\n")
        self._line += rest
        beginning = None if self._in_code else _WITHOUT_MARKUP.match(self._line)
        settled = len(self._line) if self._in_code and not _FENCE.match(self._line) else 0
        if beginning and beginning.end() < len(self._line):
            settled = len(beginning[0].rstrip())
        elif beginning:
            settled = len(self._line[:-1].rstrip())  # the last character may belong to what follows
        if settled > self._shown:
            output += self._line[self._shown : settled]
            self._shown = settled
        return output

    def end(self) -> str:
        """Return the text that is still held back at the end."""
        return self._finish_line("")

    def _finish_line(self, ending: str) -> str:
        line, shown = self._line, self._shown
        self._line, self._shown = "", 0
        if _FENCE.match(line):
            self._in_code = not self._in_code
            return ""
        return (line if self._in_code else _plain_line(line))[shown:] + ending


def plain_text(markdown: str) -> str:
    """Return a text without its Markdown; see `PlainText`."""
    stream = PlainText()
    return stream.feed(markdown) + stream.end()


def _plain_line(line: str) -> str:
    if _RULE.fullmatch(line):
        return ""
    body = line.strip()
    if body[:1] in ("#", ">"):
        return _inline(_BLOCK_MARK.sub("", line, count=1).strip())
    return line[: len(line) - len(line.lstrip())] + _inline(body) + (line[len(line.rstrip()) :] if body else "")


def _inline(line: str) -> str:
    (inline,) = _parser().parseInline(line)
    return _words(inline.children or [])


def _words(tokens: "list[Token]") -> str:
    """Return the words of one line; an address stands behind the words of its link."""
    words, addresses = "", []
    for token in tokens:
        if token.type in ("text", "code_inline"):
            words += token.content
        elif token.type == "image":
            words += _words(token.children or [])
        elif token.type in ("softbreak", "hardbreak"):
            words += " "
        elif token.type == "link_open":
            addresses.append((str(token.attrGet("href") or ""), len(words)))
        elif token.type == "link_close":
            address, start = addresses.pop()
            if address and address != words[start:]:
                words += f" ({address})"
    return words


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")
