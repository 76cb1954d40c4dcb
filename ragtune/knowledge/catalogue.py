"""Lists the documents of a home for people who look through them, without holding their text in memory."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ragtune.errors import SourceError
from ragtune.knowledge.library import Decisions
from ragtune.records import Document, QuarantinedDocument
from ragtune.settings import Settings

Files = tuple[tuple[int, int], ...]
"""Time of change and inode of the files that say what was read; equal if nothing changed."""
_DOCUMENT = TypeAdapter(Document)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A document without its text.

    `words` counts the words of the file, 0 if nobody counted, and `lost_words` those that no account explains.
    `origin` is what a person knows the document by: its URL or its path. `file` and `offset` say where the library
    keeps it.
    """

    id: str
    source: str
    path: str
    title: str
    topic: str
    language: str
    modified: str
    words: int
    lost_words: int
    characters: int
    removed: bool
    file: Path
    offset: int

    @property
    def origin(self) -> str:
        """The document's URL, its path in the folder, or the id of its JSONL record, as `Chunk.origin`."""
        return f"{self.source}/{self.path}" if "://" in self.source else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueSource:
    """A source as it was last read: how many documents, existing pairs and unreadable files it had."""

    spec: str
    read_at: str
    documents: int
    pairs: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that the last read found."""

    entries: tuple[CatalogueEntry, ...] = ()
    quarantine: tuple[QuarantinedDocument, ...] = ()
    sources: tuple[CatalogueSource, ...] = ()


class Catalogue:
    """The documents that were last read into a home; it reads the library again when that changes."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "library"
        self._lock = threading.Lock()
        self._cached: tuple[Files, Contents, dict[str, CatalogueEntry]] = ((), Contents(), {})

    def contents(self) -> Contents:
        """Return what the last read found; empty before the first read."""
        return self._current()[1]

    def find(self, where: Mapping[str, str], text: str = "") -> list[CatalogueEntry]:
        """Return the entries with these values (source, title, topic, document_id) whose title or path has the text."""
        wanted = text.casefold()
        return [
            entry
            for entry in self.contents().entries
            if matches(entry, where) and (wanted in entry.title.casefold() or wanted in entry.path.casefold())
        ]

    def entry(self, document_id: str) -> CatalogueEntry | None:
        """Return the entry with this id, or None."""
        return self._current()[2].get(document_id)

    def by_origin(self, origin: str) -> CatalogueEntry | None:
        """Return the first entry with this path or URL, or None."""
        return next((entry for entry in self.contents().entries if entry.origin == origin), None)

    def document(self, entry: CatalogueEntry) -> Document:
        """Return a document with its text.

        Raises:
            SourceError: the library changed after the entry was listed.
        """
        with entry.file.open("rb") as stream:
            stream.seek(entry.offset)
            row = json.loads(stream.readline())
        if row.get("id") != entry.id:
            raise SourceError(f"The documents of {entry.source} were read again meanwhile.", fix="open the list again")
        return _DOCUMENT.validate_python(row)

    def _current(self) -> tuple[Files, Contents, dict[str, CatalogueEntry]]:
        with self._lock:
            files = tuple(_state(self._folder / name) for name in ("shelf.json", "decisions.json"))
            if files != self._cached[0]:
                contents = self._read()
                self._cached = (files, contents, {entry.id: entry for entry in contents.entries})
            return self._cached

    def _read(self) -> Contents:
        decisions = self._folder / "decisions.json"
        removed = TypeAdapter(Decisions).validate_json(decisions.read_bytes()).removed if decisions.is_file() else ()
        removed_ids = {document.id for document in removed}
        shelf = self._folder / "shelf.json"
        entries: list[CatalogueEntry] = []
        quarantine: list[QuarantinedDocument] = []
        sources: list[CatalogueSource] = []
        for row in json.loads(shelf.read_bytes()) if shelf.is_file() else []:
            documents, unreadable, pairs = _read_shelf(self._folder / row["file"], removed_ids)
            entries += documents
            quarantine += unreadable
            counts = {"documents": len(documents), "pairs": pairs, "unreadable": len(unreadable)}
            sources.append(CatalogueSource(spec=row["spec"], read_at=row["read_at"], **counts))
        return Contents(tuple(entries), tuple(quarantine), tuple(sources))


def matches(entry: CatalogueEntry, where: Mapping[str, str]) -> bool:
    """Return whether a document has the values of a filter, as the passages of a search have to."""
    fields = {"document_id": entry.id, "source": entry.source, "title": entry.title, "topic": entry.topic}
    return all(fields.get(name) == value for name, value in where.items())


def _read_shelf(path: Path, removed: set[str]) -> tuple[list[CatalogueEntry], list[QuarantinedDocument], int]:
    """Return the entries, the unreadable files and the number of existing pairs in a file of the library."""
    entries: list[CatalogueEntry] = []
    quarantine: list[QuarantinedDocument] = []
    pairs = offset = 0
    with path.open("rb") as stream:
        for line in stream:
            row: dict[str, Any] = json.loads(line)
            if "reason" in row:
                quarantine.append(QuarantinedDocument(**row))
            elif "question" in row:
                pairs += 1
            else:
                entries.append(_entry(row, removed, path, offset))
            offset += len(line)
    return entries, quarantine, pairs


def _entry(row: dict[str, Any], removed: set[str], file: Path, offset: int) -> CatalogueEntry:
    names: Sequence[str] = ("id", "source", "path", "title", "topic", "language", "modified", "words", "lost_words")
    return CatalogueEntry(
        **{name: row[name] for name in names if name in row},
        characters=len(row["text"]),
        removed=row["id"] in removed,
        file=file,
        offset=offset,
    )


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat() if path.is_file() else None
    return (stat.st_mtime_ns, stat.st_ino) if stat else (0, 0)
