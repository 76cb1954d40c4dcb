"""Bring a search index up to date with a set of chunks, doing only the work that is new.

What is embedded is put by as it comes, so an update that was killed goes on where it stopped;
readers see none of it until the index has all of it.
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

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

SCHEMA_VERSION = "2"
"""Changes with what `stored_fields` returns or how a back end analyses it: every index is then built anew."""

_STOP_WORDS = (
    "a an and are as at be but by can did do does for from had has have how i if in into is it its no not of on or "
    "s such t that the their then there these they this to was were what when where which who why will with you"
)
STOP_WORDS = _STOP_WORDS.split()
"""Words that BM25 skips, the same in every back end, so that their scores agree."""

FILTERS = ("document_id", "source", "title", "topic", "names")

SLICE = 512
"""Chunks embedded between two savings: some seconds of work are lost by a kill."""


def chunk_version(chunk: Chunk) -> str:
    """Return `TEXT.META`: hashes of what is embedded and of the metadata that hits carry."""
    meta = content_id(chunk.document_id, chunk.source, chunk.topic, str(chunk.position))
    return f"{content_id(chunk.embedded_text)}.{meta}"


def stored_fields(chunk: Chunk) -> dict[str, Any]:
    """Return the fields that every index keeps of a chunk; `record` is the whole chunk as JSON."""
    return {
        "id": chunk.id,
        "version": chunk_version(chunk),
        "document_id": chunk.document_id,
        "source": chunk.source,
        "title": chunk.title,
        "topic": chunk.topic,
        "names": object_names(chunk.title),
        "body": body_text(chunk),
        "record": json.dumps(asdict(chunk)),
    }


@lru_cache(maxsize=8192)
def chunk_from(record: str) -> Chunk:
    """Return the chunk of a stored `record`; the same ones are found again and again."""
    fields = json.loads(record)
    return Chunk(**{**fields, "heading_path": tuple(fields["heading_path"])})


def best_first(records: Sequence[str], scores: Sequence[float]) -> list[Hit]:
    """Return the hits of stored `records`, best first; equal scores go by chunk id, whenever each was written."""
    hits = [Hit(chunk_from(record), float(score)) for record, score in zip(records, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))


def checked_filter(where: Mapping[str, str]) -> Mapping[str, str]:
    """Return the filter; raise SearchIndexError that lists the valid fields when it names another."""
    unknown = sorted(set(where) - set(FILTERS))
    if unknown:
        raise SearchIndexError(
            f"There is no field to filter on named {', '.join(unknown)}.", expected=f"one of {', '.join(FILTERS)}"
        )
    return where


def update_index(
    index: SearchIndex, embedder: Embedder, chunks: Sequence[Chunk], progress: Progress = silent
) -> IndexUpdate:
    """Make the index hold exactly these chunks, less those that are marked as duplicates.

    Only texts that the index has no vector of are embedded. In the result a new chunk that takes
    the place of one of the same document counts as updated, any other as added; seconds are wall time.
    """
    began = time.perf_counter()
    wanted = {chunk.id: chunk for chunk in chunks if not chunk.duplicate_of}
    with index.updating():
        stored = index.versions()
        new = [chunk for chunk in wanted.values() if stored.get(chunk.id, ("", ""))[1] != chunk_version(chunk)]
        gone = [each for each in stored if each not in wanted]
        embedded = 0
        if new or gone:
            known = _stored_vectors(index, stored, new)
            pile = VectorPile(index.scratch, embedder)
            embedded = pile.embed([chunk for chunk in new if chunk.id not in known], progress)
            progress("writing the index", 0, len(new))
            index.apply(((chunk, known[chunk.id] if chunk.id in known else pile.vector(chunk)) for chunk in new), gone)
            progress("writing the index", len(new), len(new))
            pile.clear()
    replaced = sum(chunk.id in stored for chunk in new)
    moved = _same_document([c.document_id for c in new if c.id not in stored], [stored[each][0] for each in gone])
    return IndexUpdate(
        documents=len({chunk.document_id for chunk in wanted.values()}),
        chunks=len(wanted),
        added=len(new) - replaced - moved,
        updated=replaced + moved,
        deleted=len(gone) - moved,
        embedded=embedded,
        seconds=time.perf_counter() - began,
    )


def _stored_vectors(
    index: SearchIndex, stored: dict[str, tuple[str, str]], new: Sequence[Chunk]
) -> "dict[str, Vector]":
    """Return the vectors of chunks whose text is as stored, though their metadata changed."""
    same = [c.id for c in new if c.id in stored and stored[c.id][1].split(".")[0] == chunk_version(c).split(".")[0]]
    return index.vectors(same) if same else {}


def _same_document(added: Sequence[str], deleted: Sequence[str]) -> int:
    return (Counter(added) & Counter(deleted)).total()


class VectorPile:
    """Vectors of an update that is not finished, one file per slice in a folder of their own."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.folder, self.embedder = folder, embedder
        self._prefix = content_id(embedder.name, str(embedder.dimension))
        self._vectors: dict[str, Vector] = {}

    def embed(self, chunks: Sequence[Chunk], progress: Progress = silent) -> int:
        """Embed what earlier, killed updates have not embedded yet; return how many texts that was."""
        self._load()
        texts = {content_id(chunk.embedded_text): chunk.embedded_text for chunk in chunks}
        missing = sorted((key for key in texts if key not in self._vectors), key=lambda key: -len(texts[key]))
        for start in range(0, len(missing), SLICE):
            part = missing[start : start + SLICE]
            vectors = self.embedder.embed([texts[key] for key in part])
            self._save(part, vectors)
            self._vectors.update(zip(part, vectors, strict=True))
            progress("embedding", start + len(part), len(missing))
        return len(missing)

    def vector(self, chunk: Chunk) -> "Vector":
        """Return the vector of a chunk that was embedded."""
        return self._vectors[content_id(chunk.embedded_text)]

    def clear(self) -> None:
        """Forget the slices: the index has them now."""
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
