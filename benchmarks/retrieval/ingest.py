"""Measures how many documents a second become searchable, compared with the embedder alone, which is the limit.

    python -m benchmarks.retrieval.ingest --source package:dagster --source package:peft

The documents are first written to one JSONL file, so that reading them means reading a file. Both measurements take
turns. The embedder alone gets all texts at once; it is warm in both.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.retrieval.results import chunks_sha256, scratch_settings, write_results
from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.library import Library
from ragtune.knowledge.sources import read_sources
from ragtune.ports import Embedder
from ragtune.records import Chunk, Document
from ragtune.settings import Settings


def write_jsonl(path: Path, documents: list[Document]) -> str:
    """Write the documents as JSON lines and return the source that names the file."""
    rows = ({"id": document.id, "title": document.title, "text": document.text} for document in documents)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def ingest(source: str, settings: Settings, embedder: Embedder) -> tuple[dict[str, float], list[Chunk], int]:
    """Read, cut and index a source as the product does; return (seconds per stage, passages, number of documents)."""
    began = time.perf_counter()
    documents = Library(settings).read([source]).documents
    read = time.perf_counter()
    chunks = chunk_changed(documents, settings, embedder)
    cut = time.perf_counter()
    update_index(search_index_from(settings, embedder), embedder, chunks)
    end = time.perf_counter()
    stages = {"read": read - began, "cut": cut - read, "embed_and_write": end - cut, "all": end - began}
    return stages, chunks, len(documents)


def main() -> None:
    """Measure and write `ingest.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--limit", type=int, help="largest number of documents")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    documents = read_sources(options.source).documents[: options.limit]
    rounds: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        with scratch_settings() as settings:
            embedder = embedder_from(settings)
            embedder.embed(["warm up"])
            stages, chunks, count = ingest(write_jsonl(settings.home / "corpus.jsonl", documents), settings, embedder)
            texts = [chunk.embedded_text for chunk in chunks if not chunk.duplicate_of]
            tokens = sum(embedder.count_tokens(texts))
            began = time.perf_counter()
            embedder.embed(texts)
            alone = time.perf_counter() - began
            rounds.append(
                {"seconds": stages, "embedder_alone_seconds": alone, "share_of_the_limit": alone / stages["all"]}
            )
            print(rounds[-1], flush=True)
    results = {
        "documents_per_second": median(count / row["seconds"]["all"] for row in rounds),
        "documents_per_second_of_the_embedder_alone": median(count / row["embedder_alone_seconds"] for row in rounds),
        "share_of_the_limit": median(row["share_of_the_limit"] for row in rounds),
        "rounds": rounds,
    }
    facts = {
        "n": count,
        "sources": options.source,
        "passages": len(texts),
        "tokens": tokens,
        "passages_sha256": chunks_sha256(chunks),
    }
    write_results(options.out, settings, facts, results)


if __name__ == "__main__":
    main()
