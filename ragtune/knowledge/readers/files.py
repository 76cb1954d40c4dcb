"""Reads one file: chooses the reader by the file's name and completes what the reader found.

A file that cannot be read raises UnreadableError with the reason, which the caller writes into the quarantine.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from mimetypes import MimeTypes
from pathlib import PurePosixPath

from ragtune.knowledge.readers.markdown import read_markdown
from ragtune.knowledge.readers.notebook import read_notebook
from ragtune.knowledge.readers.pandoc import FORMATS, read_with_pandoc
from ragtune.knowledge.readers.pdf import read_pdf
from ragtune.knowledge.readers.plain_text import read_plain_text
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.knowledge.readers.restructured_text import read_restructured_text
from ragtune.knowledge.readers.sheets import read_csv, read_workbook
from ragtune.knowledge.readers.slides import read_slides
from ragtune.knowledge.readers.source_code import LANGUAGES, read_source_code
from ragtune.knowledge.readers.web_page import read_web_page
from ragtune.knowledge.readers.word import read_word
from ragtune.text.language import guess_language

Reader = Callable[[bytes], Reading]
MAX_TITLE = 160
"""Characters of a title. Chosen by hand: a longer one is a paragraph."""
_BARE_NAMES = {"README", "CHANGES", "CHANGELOG", "NEWS", "HISTORY", "AUTHORS", "INSTALL", "FAQ", "TODO", "NOTES"}
_KINDS = MimeTypes()  # without the list of the machine, so that every machine reads the same files
_READERS: dict[str, Reader] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".mdx": read_markdown,
    ".rst": read_restructured_text,
    ".txt": read_plain_text,
    ".text": read_plain_text,
    ".html": read_web_page,
    ".htm": read_web_page,
    ".xhtml": read_web_page,
    ".pdf": read_pdf,
    ".docx": read_word,
    ".pptx": read_slides,
    ".xlsx": read_workbook,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".ipynb": read_notebook,
}


def can_read(path: str) -> bool:
    """Return whether there is a reader for the file, by its name."""
    return _reader(path) is not None


def read_bytes(path: str, raw: bytes) -> Reading:
    """Return the content of a file; `path` decides the format.

    Raises UnreadableError that says why when the file is damaged, empty or not text.
    """
    reader = _reader(path)
    if reader is None:
        raise UnreadableError(f"there is no reader for '{PurePosixPath(path).suffix}' files")
    if not raw.strip():
        raise UnreadableError("the file is empty")
    reading = reader(raw)
    if not reading.blocks:
        raise UnreadableError("no text was found in it (a scan, or images only?)")
    return complete(reading, PurePosixPath(path).stem)


def complete(reading: Reading, name: str) -> Reading:
    """Return the reading with a title and a language, taken from its text or from the file's name."""
    heading = next((b.text for b in reading.blocks if b.kind == "heading" and b.level <= 2), "")
    title = " ".join((reading.title or re.sub(r"[`*]", "", heading) or _spoken(name)).split())
    if len(title) > MAX_TITLE:
        title = title[: MAX_TITLE - 1].rsplit(" ", 1)[0] + "…"
    sample = "\n".join(block.text for block in reading.blocks[:200] if block.kind != "code")
    language = (reading.language or guess_language(sample)).split("-")[0].split("_")[0].lower()
    return replace(reading, title=title, language=language)


def _spoken(name: str) -> str:
    return re.sub(r"[-_\s]+", " ", name).strip() or name


def _reader(path: str) -> Reader | None:
    pure = PurePosixPath(path)
    if not pure.suffix and pure.name.upper() in _BARE_NAMES:
        return read_plain_text
    if pure.suffix.lower() in LANGUAGES:
        return partial(read_source_code, pure.name)
    if pure.suffix.lower() in FORMATS:
        return partial(read_with_pandoc, pure.name)
    reader = _READERS.get(pure.suffix.lower())
    if reader is None and pure.stem.upper() in _BARE_NAMES and _may_be_text(pure):
        return read_plain_text  # `README.de`, `CHANGES.2`
    return reader


def _may_be_text(path: PurePosixPath) -> bool:
    """Return whether no kind of file that is not text has the ending of the name, by Python's own list."""
    kind, packing = _KINDS.guess_type(path.name)
    return packing is None and (kind is None or kind.startswith("text/"))
