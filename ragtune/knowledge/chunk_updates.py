"""Chunks only new and changed documents: the chunks of every document are stored for the next time.

The store is one JSON lines file, replaced as a whole. Its first line holds a hash of what the chunks depend on
and a hash of the other lines. If either does not match, everything is chunked again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ragtune.consistency import too_long_for
from ragtune.errors import SettingsError
from ragtune.knowledge import chunking, duplicates, structure
from ragtune.knowledge.chunking import ChunksByVersion, chunk_documents
from ragtune.ports import Embedder, Progress, silent
from ragtune.records import Chunk, Document, content_id
from ragtune.settings import Settings
from ragtune.store.artifacts import write_atomically
from ragtune.text import normal_form, segments, sentences, whitespace

_CODE = (chunking, duplicates, structure, normal_form, segments, sentences, whitespace)


def chunk_changed(
    documents: Sequence[Document], settings: Settings, embedder: Embedder, progress: Progress = silent
) -> list[Chunk]:
    """Return the chunks of all documents as `chunk_documents` does, but chunk only new and changed documents.

    Raises SettingsError if chunks may be longer than what the embedder reads.
    """
    if settings.chunking.max_tokens > embedder.max_tokens:
        raise SettingsError(
            f"{too_long_for(settings.chunking.max_tokens, embedder.max_tokens, f'the embedder {embedder.name}')}.",
            fix="if a server's model reads more, say so in embedder.max_tokens",
        )
    path, recipe = settings.home / "library" / "cuttings.jsonl", _recipe_hash(settings, embedder)
    stored = _read(path, recipe)
    versions_before = set(stored)
    chunks = chunk_documents(documents, settings.chunking, embedder.count_tokens, progress, stored)
    if stored.keys() != versions_before:
        _write(path, recipe, stored)
    return chunks


def _recipe_hash(settings: Settings, embedder: Embedder) -> str:
    """Return a hash of what chunks depend on in addition to their document: settings, tokenizer and code."""
    code = [Path(module.__file__ or "").read_text() for module in _CODE]
    return content_id(settings.chunking.model_dump_json(), embedder.name, str(embedder.max_tokens), *code)


def _read(path: Path, recipe: str) -> ChunksByVersion:
    """Return the stored chunks, or an empty mapping if there are none or they were made in another way."""
    head, _, body = path.read_bytes().partition(b"\n") if path.is_file() else (b"", b"", b"")
    if head != _head(recipe, body):
        return {}
    stored: ChunksByVersion = {}
    for line in body.splitlines():
        version, rows = json.loads(line)
        stored[version] = [
            (Chunk(**{**fields, "heading_path": tuple(fields["heading_path"])}), wording) for fields, wording in rows
        ]
    return stored


def _write(path: Path, recipe: str, stored: ChunksByVersion) -> None:
    lines = []
    for version, pairs in stored.items():
        rows = [[{name: getattr(chunk, name) for name in Chunk.__slots__}, wording] for chunk, wording in pairs]
        lines.append(json.dumps([version, rows]) + "\n")
    body = "".join(lines).encode()
    write_atomically(path, _head(recipe, body) + b"\n" + body)


def _head(recipe: str, body: bytes) -> bytes:
    return f"{recipe} {hashlib.sha256(body).hexdigest()}".encode()
