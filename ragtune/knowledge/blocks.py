"""The document model: what every reader returns and passages are cut from.

A document is a flat list of blocks in reading order. The text of a document is its blocks joined by blank
lines, so a block is a span of that text, and a passage can be traced back to a page and an offset.

What a block's text looks like:

    heading     the heading's text, without marks; `level` is 1 to 6
    paragraph   one line; a line break of the source (`<br>`) stays one
    list        one item a line, `- ` or `1. ` in front, nested items indented
    table       a Markdown table: one row a line, `|` in a cell escaped, merged cells filled in
    code        fenced with backticks, the lines as they are
    quote       `> ` in front of every line
    note        a footnote, `[^1]: ` in front
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ragtune.records import BlockSpan

Kind = Literal["heading", "paragraph", "list", "table", "code", "quote", "note"]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document that is understood as a whole.

    `level` is 1 to 6 for headings and 0 for the rest. `page` counts from 1; 0 means that the format has no pages.
    """

    kind: Kind
    text: str
    level: int = 0
    page: int = 0

    @property
    def shown(self) -> str:
        """The block as it stands in the document's text: a heading with its `#` marks, others as they are."""
        return f"{'#' * self.level} {self.text}" if self.kind == "heading" else self.text


def join(blocks: Sequence[Block]) -> tuple[str, tuple[BlockSpan, ...]]:
    """Return the text of a document and where each block stands in it; empty blocks are dropped."""
    parts: list[str] = []
    spans: list[BlockSpan] = []
    at = 0
    for block in blocks:
        block_text = block.shown.strip("\n").rstrip()
        if not block_text.strip():
            continue
        spans.append(BlockSpan(kind=block.kind, level=block.level, page=block.page, start=at, end=at + len(block_text)))
        parts.append(block_text)
        at += len(block_text) + 2
    return "\n\n".join(parts), tuple(spans)
