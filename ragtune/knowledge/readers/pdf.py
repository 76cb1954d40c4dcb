"""PDF files."""

from ragtune.knowledge.pdf import DamagedPdfError, pdf_text
from ragtune.knowledge.readers.markdown import markdown_blocks
from ragtune.knowledge.readers.reading import Reading, UnreadableError


def read_pdf(raw: bytes) -> Reading:
    """Return a PDF file; raise UnreadableError if it is damaged."""
    if raw.lstrip()[:5] != b"%PDF-":
        raise UnreadableError("it does not start with %PDF-: this is not a PDF")
    try:
        title, text = pdf_text(raw)
    except DamagedPdfError as error:
        raise UnreadableError(str(error)) from error
    blocks, left_out = markdown_blocks(text)
    return Reading(blocks=tuple(blocks), left_out=tuple(left_out), title=title)
