"""Plain text: paragraphs between blank lines, wrapped ones on one line."""

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.reading import Reading
from ragtune.knowledge.restructured import refilled


def read_plain_text(raw: bytes) -> Reading:
    """Return a text file; verses, logs, tables and code keep their lines."""
    text = refilled(decode(raw).replace("\f", "\n\n"))
    parts = [part.strip("\n") for part in text.split("\n\n")]
    return Reading(blocks=tuple(Block("paragraph", part) for part in parts if part.strip()))
