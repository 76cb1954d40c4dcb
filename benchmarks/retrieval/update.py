"""Measures what an update costs after a share of the documents changed, compared with building everything.

    python -m benchmarks.retrieval.update --source package:dagster --source package:peft

Both do all that `ragtune index` does: read the file, cut the changed documents, and compare the index with the result.
At the end the command itself makes one update, which includes the start of its process.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.retrieval.faults import run
from benchmarks.retrieval.ingest import ingest, write_jsonl
from benchmarks.retrieval.results import chunks_sha256, scratch_settings, write_results
from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.knowledge.sources import read_sources
from ragtune.records import Document


def edited(documents: list[Document], share: float, seed: int, number: int) -> list[Document]:
    """Return the documents with a sentence added to a share of them, or to at least one."""
    chosen = set(random.Random(seed * 1000 + number).sample(range(len(documents)), max(1, int(share * len(documents)))))
    note = f"\n\nSince revision {number} this page says one thing more.\n"
    return [
        replace(document, text=document.text + note) if i in chosen else document
        for i, document in enumerate(documents)
    ]


def main() -> None:
    """Measure and write `update.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--limit", type=int, help="largest number of documents")
    parser.add_argument("--share", type=float, default=0.01, help="share of the documents that change")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    documents = read_sources(options.source).documents[: options.limit]
    updates: list[dict[str, Any]] = []
    with scratch_settings() as settings:
        embedder = embedder_from(settings)
        embedder.embed(["warm up"])
        file = settings.home / "corpus.jsonl"
        full, chunks, count = ingest(write_jsonl(file, documents), settings, embedder)
        before = search_index_from(settings, embedder).versions()
        for number in range(options.repeats):
            documents = edited(documents, options.share, options.seed, number)
            stages, _, _ = ingest(write_jsonl(file, documents), settings, embedder)
            after = search_index_from(settings, embedder).versions()
            changed = len(after.items() - before.items())
            before = after
            ratio = {name: stages[name] / full[name] for name in stages}
            updates.append({"seconds": stages, "passages_written": changed, "share_of_full": ratio})
            print(updates[-1], flush=True)
        write_jsonl(file, edited(documents, options.share, options.seed, options.repeats))
        command = run(settings, f"jsonl:{file}").seconds
    facts = {
        "n": count,
        "share_changed": options.share,
        "seed": options.seed,
        "sources": options.source,
        "passages": len(chunks),
        "passages_sha256": chunks_sha256(chunks),
    }
    results = {
        "share_of_full": median(update["share_of_full"]["all"] for update in updates),
        "command_seconds": command,
        "command_share_of_full": command / full["all"],
        "full_seconds": full,
        "updates": updates,
    }
    write_results(options.out, settings, facts, results)


if __name__ == "__main__":
    main()
