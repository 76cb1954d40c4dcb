"""Word files (.docx), by way of mammoth's HTML."""

import io
import zipfile

from ragtune.knowledge.readers.dom import DomReader, parse_fragment
from ragtune.knowledge.readers.reading import Reading, UnreadableError


def read_word(raw: bytes) -> Reading:
    """Return a Word file; raise UnreadableError if it is damaged."""
    import mammoth

    try:
        page = mammoth.convert_to_html(io.BytesIO(raw)).value
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise UnreadableError(f"the DOCX is damaged: {error}") from error
    reader = DomReader()
    blocks = reader.read(parse_fragment(page)) if page.strip() else []
    return Reading(blocks=tuple(blocks), left_out=tuple(reader.left_out))
