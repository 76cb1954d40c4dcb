"""Brings a search index up to date with a set of chunks, doing only the work that is new.

Vectors are saved as they are made, so an update that was killed continues where it stopped. Readers see the old
index until the update is complete.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.errors import SearchIndexError
from ragtune.knowledge.names import body_text, object_names
from ragtune.ports import Embedder, Progress, SearchIndex, silent
from ragtune.records import Chunk, Hit, IndexUpdate, content_id
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.search_terms import index_terms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

SCHEMA_VERSION = "4"
"""Bump when `stored_fields`, its text tools or the analysis of a back end changes; every index is then rebuilt."""

FILTERS = ("document_id", "source", "title", "topic", "names")

SLICE = 512
"""Chunks embedded between two saves. Chosen by hand: a kill then loses some seconds of work."""


def chunk_version(chunk: Chunk) -> str:
    """Return `TEXT.META`: hashes of what is embedded and of the metadata that hits carry."""
    place = (chunk.path, str(chunk.position), str(chunk.page), str(chunk.start))
    meta = content_id(chunk.document_id, chunk.source, chunk.topic, *place, chunk.language)
    return f"{content_id(chunk.embedded_text)}.{meta}"


def stored_fields(chunk: Chunk) -> dict[str, Any]:
    """Return the fields that every index stores for a chunk.

    `body` holds the terms of word search with spaces between them, `record` the whole chunk as JSON.
    """
    return {
        "id": chunk.id,
        "version": chunk_version(chunk),
        "document_id": chunk.document_id,
        "source": chunk.source,
        "title": chunk.title,
        "topic": chunk.topic,
        "names": object_names(chunk.title),
        "body": " ".join(index_terms(body_text(chunk), chunk.language)),
        "record": json.dumps(asdict(chunk)),
    }


# The same chunks are hits again and again. 8,192 of them take some 20 MB.
@lru_cache(maxsize=8192)
def chunk_from(record: str) -> Chunk:
    """Return the chunk that a stored `record` holds."""
    fields = json.loads(record)
    return Chunk(**{**fields, "heading_path": tuple(fields["heading_path"])})


def best_first(records: Sequence[str], scores: Sequence[float]) -> list[Hit]:
    """Return the hits of stored `records`, best first; equal scores go by chunk id, so that all indexes agree."""
    hits = [Hit(chunk_from(record), float(score)) for record, score in zip(records, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))


def checked_filter(where: Mapping[str, str]) -> Mapping[str, str]:
    """Return the filter, or raise a SearchIndexError that lists the valid fields if it names another."""
    unknown = sorted(set(where) - set(FILTERS))
    if unknown:
        raise SearchIndexError(
            f"Search cannot filter on {', '.join(unknown)}.", expected=f"one of {', '.join(FILTERS)}"
        )
    return where


def update_index(
    index: SearchIndex, embedder: Embedder, chunks: Sequence[Chunk], progress: Progress = silent
) -> IndexUpdate:
    """Make the index hold exactly these chunks, except those that are marked as duplicates.

    Only texts without a vector in the index are embedded. In the result, a new chunk that replaces one of the same
    document counts as updated, any other new chunk as added; seconds are wall time.
    """
    began = time.perf_counter()
    targets = {chunk.id: chunk for chunk in chunks if not chunk.duplicate_of}
    with index.updating():
        stored = index.versions()
        new = [chunk for chunk in targets.values() if stored.get(chunk.id, ("", ""))[1] != chunk_version(chunk)]
        gone = [chunk_id for chunk_id in stored if chunk_id not in targets]
        embedded = 0
        if new or gone:
            vectors = _stored_vectors(index, stored, new)
            pile = VectorPile(index.scratch, embedder)
            embedded = pile.embed([chunk for chunk in new if chunk.id not in vectors], progress)
            rows = ((chunk, vectors[chunk.id] if chunk.id in vectors else pile.vector(chunk)) for chunk in new)
            progress("writing the index", 0, len(new))
            index.apply(rows, gone)
            progress("writing the index", len(new), len(new))
            pile.clear()
    rewritten = sum(chunk.id in stored for chunk in new)
    replaced = _count_replaced(
        [chunk.document_id for chunk in new if chunk.id not in stored], [stored[chunk_id][0] for chunk_id in gone]
    )
    return IndexUpdate(
        documents=len({chunk.document_id for chunk in targets.values()}),
        chunks=len(targets),
        added=len(new) - rewritten - replaced,
        updated=rewritten + replaced,
        deleted=len(gone) - replaced,
        embedded=embedded,
        seconds=time.perf_counter() - began,
    )


def _stored_vectors(
    index: SearchIndex, stored: dict[str, tuple[str, str]], new: Sequence[Chunk]
) -> "dict[str, Vector]":
    """Return the vectors of the chunks of which only the metadata changed and not the text."""
    same_text = [
        chunk.id
        for chunk in new
        if chunk.id in stored and _text_hash(stored[chunk.id][1]) == _text_hash(chunk_version(chunk))
    ]
    return index.vectors(same_text) if same_text else {}


def _text_hash(version: str) -> str:
    return version.split(".")[0]


def _count_replaced(added: Sequence[str], deleted: Sequence[str]) -> int:
    """Return how many added chunks replace a deleted one of the same document; both lists hold document ids."""
    return (Counter(added) & Counter(deleted)).total()


class VectorPile:
    """The vectors of an unfinished update, one file per slice in a folder of their own."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.folder, self.embedder = folder, embedder
        self._prefix = content_id(embedder.name, str(embedder.dimension))
        self._vectors: dict[str, Vector] = {}

    def embed(self, chunks: Sequence[Chunk], progress: Progress = silent) -> int:
        """Embed the chunks that an earlier, killed update did not get to; return how many texts were embedded."""
        self._load()
        # Texts of like length share a batch, so that little of it is padding.
        texts = {content_id(chunk.embedded_text): chunk.embedded_text for chunk in chunks}
        missing = sorted((key for key in texts if key not in self._vectors), key=lambda key: -len(texts[key]))
        if missing:
            progress("embedding", 0, len(missing))
        for start in range(0, len(missing), SLICE):
            part = missing[start : start + SLICE]
            vectors = self.embedder.embed([normalize_for_search(texts[key]) for key in part])
            self._save(part, vectors)
            self._vectors.update(zip(part, vectors, strict=True))
            progress("embedding", start + len(part), len(missing))
        return len(missing)

    def vector(self, chunk: Chunk) -> "Vector":
        """Return the vector of an embedded chunk."""
        return self._vectors[content_id(chunk.embedded_text)]

    def clear(self) -> None:
        """Delete the slices, because the index holds their vectors now."""
        for path in self.folder.glob("*.npz"):
            path.unlink()

    def _load(self) -> None:
        import numpy as np

        for path in self.folder.glob(f"{self._prefix}-*.npz"):
            with np.load(path) as part:
                self._vectors.update(zip(part["keys"].tolist(), part["vectors"], strict=True))

    def _save(self, keys: Sequence[str], vectors: "Vector") -> None:
        import numpy as np

        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"{self._prefix}-{content_id(*keys)}.npz"
        scratch = final.with_suffix(".part")
        with scratch.open("wb") as stream:
            np.savez(stream, keys=np.array(keys), vectors=vectors)
        scratch.replace(final)
