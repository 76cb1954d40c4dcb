"""Office files are ZIP archives of XML; this opens them without unpacking a bomb."""

import io
import zipfile
from collections.abc import Mapping

from ragtune.knowledge.readers.reading import UnreadableError

_MOST_UNPACKED = 512 << 20
"""A limit in bytes. A Word file of 64 MB, the largest that is read, unpacks to less unless it is a bomb."""


def open_archive(raw: bytes, name: str) -> zipfile.ZipFile:
    """Return the archive; `name` is what messages call the format.

    Raises UnreadableError if it is damaged, encrypted or would unpack to too much.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        if raw.startswith(b"\xd0\xcf\x11\xe0"):
            raise UnreadableError(f"the {name} is encrypted, or an older binary format") from error
        raise UnreadableError(f"the {name} is damaged: {error}") from error
    size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_UNPACKED:
        raise UnreadableError(f"the {name} would unpack to {size:,} bytes, more than {_MOST_UNPACKED:,}")
    return archive


def read_part(archive: zipfile.ZipFile, part: str, name: str) -> bytes | None:
    """Return one part of the archive, None if it has none; raise UnreadableError if the part is damaged."""
    if part not in archive.namelist():
        return None
    try:
        return archive.read(part)
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, NotImplementedError, ValueError) as error:
        raise UnreadableError(f"{part} in the {name} is damaged: {error}") from error


def with_parts(archive: zipfile.ZipFile, parts: Mapping[str, bytes], name: str) -> io.BytesIO:
    """Return a copy of the archive in which these parts have other content."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for part in archive.namelist():
            content = parts.get(part)
            target.writestr(part, content if content is not None else read_part(archive, part, name) or b"")
    copy.seek(0)
    return copy
