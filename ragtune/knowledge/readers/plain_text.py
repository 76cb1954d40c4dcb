"""Plain text: paragraphs between blank lines, wrapped ones on one line; underlined lines are headings."""

import re

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.reading import Reading
from ragtune.knowledge.restructured import unwrap_plain_text

_UNDERLINED = re.compile(r"(\S[^\n]*)\n(={3,}|-{3,}|~{3,})[ \t]*")
_MARKED = re.compile(r"(#{1,6})[ \t]+(\S[^\n]*?)(?:[ \t]+#+)?[ \t]*")
# ECMA-48, section 5.4: control sequences, such as those for colours; and the choice of a character set.
_TERMINAL_CODE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0-9A-Z])")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+\S")


def read_plain_text(raw: bytes) -> Reading:
    """Return a text file; verses, logs, tables and code keep their lines."""
    text = unwrap_plain_text(_TERMINAL_CODE.sub("", decode(raw)).replace("\f", "\n\n"))
    parts = (part.strip("\n") for part in re.split(r"\n(?:[ \t]*\n)+", text))
    return Reading(blocks=tuple(_block(part) for part in parts if part.strip()))


def _block(part: str) -> Block:
    if underlined := _UNDERLINED.fullmatch(part):
        return Block("heading", underlined[1].strip(), 1 if underlined[2][0] == "=" else 2)
    if marked := _MARKED.fullmatch(part):
        return Block("heading", marked[2], len(marked[1]))
    return Block("list" if _ITEM.match(part) else "paragraph", part)
