"""Cuts only what changed: the passages of every document are kept in the home from one time to the next.

They are one JSON lines file, replaced as a whole, whose first line says what it was cut with and
what the rest must hash to. A file that does not fit is no error: everything is cut anew.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ragtune.behaviour import behaviour_sha256
from ragtune.knowledge.chunking import Cuttings, cut
from ragtune.knowledge.duplicates import Fingerprint
from ragtune.ports import Embedder, Progress, silent
from ragtune.records import Chunk, Document, content_id
from ragtune.settings import Settings


def chunk_changed(
    documents: Sequence[Document], settings: Settings, embedder: Embedder, progress: Progress = silent
) -> list[Chunk]:
    """Return the passages of all documents as `cut` does, having cut only those documents that are new or changed."""
    path, how = settings.home / "library" / "cuttings.jsonl", _how(settings, embedder)
    kept = _read(path, how)
    before = set(kept)
    chunks = cut(documents, settings.chunking, embedder.count_tokens, progress, kept)
    if kept.keys() != before:
        _write(path, how, kept)
    return chunks


def _how(settings: Settings, embedder: Embedder) -> str:
    """Return a hash of what passages depend on beside their document: settings, tokenizer, and the code that cuts."""
    tokenizer = embedder.name, str(embedder.max_tokens)
    return content_id(settings.chunking.model_dump_json(), *tokenizer, behaviour_sha256(cut))


def _read(path: Path, how: str) -> Cuttings:
    head, _, body = path.read_bytes().partition(b"\n") if path.is_file() else (b"", b"", b"")
    if head != _head(how, body):
        return {}
    kept: Cuttings = {}
    for line in body.splitlines():
        version, rows = json.loads(line)
        kept[version] = [
            (
                Chunk(**{**fields, "heading_path": tuple(fields["heading_path"])}),
                Fingerprint(wording, *map(tuple, keys)),
            )
            for fields, wording, keys in rows
        ]
    return kept


def _write(path: Path, how: str, kept: Cuttings) -> None:
    lines = []
    for version, pieces in kept.items():
        rows = [
            [{name: getattr(chunk, name) for name in Chunk.__slots__}, own.wording, [own.paragraphs, own.bands]]
            for chunk, own in pieces
        ]
        lines.append(json.dumps([version, rows]) + "\n")
    body = "".join(lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(_head(how, body) + b"\n" + body)
    scratch.replace(path)


def _head(how: str, body: bytes) -> bytes:
    return f"{how} {hashlib.sha256(body).hexdigest()}".encode()
