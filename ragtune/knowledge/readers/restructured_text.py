"""reStructuredText."""

import re

from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.markdown import markdown_blocks
from ragtune.knowledge.readers.reading import Reading
from ragtune.knowledge.restructured import to_markdown, unwrap


def read_restructured_text(raw: bytes) -> Reading:
    """Return a reStructuredText file."""
    text = decode(raw)
    fields = re.match(r"\s*((?::[\w-]+:.*\n)+)", text)
    title = re.search(r"^:title:\s*(.+)$", fields[1], re.MULTILINE) if fields else None
    blocks, left_out = markdown_blocks(unwrap(to_markdown(text[fields.end() :] if fields else text)))
    return Reading(blocks=tuple(blocks), left_out=tuple(left_out), title=title[1] if title else "")
