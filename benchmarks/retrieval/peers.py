"""Measures documents a second of RagTune, LlamaIndex, Haystack and txtai, with the same weights and documents.

    python -m benchmarks.retrieval.peers --python PEERS/bin/python --source package:dagster --source package:mlflow

PEERS is an environment made from `peers-requirements.txt`. Only documents that fit the embedder as one passage are
used, so that no library leaves text out. Each library works with its own defaults, has its model loaded and warm before
the clock starts, and writes its index to disk. RagTune also marks near-duplicates and indexes the words.
"""

import argparse
import json
import random
import subprocess
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.retrieval.ingest import ingest, write_jsonl
from benchmarks.retrieval.peer_ingest import PEERS
from benchmarks.retrieval.results import scratch_settings, write_results
from ragtune.backends.catalog import embedder_from
from ragtune.backends.minilm import minilm_folder
from ragtune.knowledge.sources import read_sources
from ragtune.ports import Embedder
from ragtune.records import Document
from ragtune.settings import Settings, child_environment


def single_passages(documents: list[Document], embedder: Embedder, limit: int) -> tuple[list[Document], list[int]]:
    """Return (the documents of at most `limit` tokens, title included; the tokens of each)."""
    counts = embedder.count_tokens([f"{document.title}\n{document.text}" for document in documents])
    fitting = [(document, count) for document, count in zip(documents, counts, strict=True) if count <= limit]
    return [document for document, _ in fitting], [count for _, count in fitting]


def ours(source: str, settings: Settings, embedder: Embedder) -> dict[str, Any]:
    """Index the documents with RagTune and return the same facts as a peer."""
    stages, chunks, count = ingest(source, settings, embedder)
    embedded = sum(not chunk.duplicate_of for chunk in chunks)
    return {"seconds": stages["all"], "documents": count, "passages": len(chunks), "embedded": embedded}


def ours_in_int8(source: str) -> dict[str, Any]:
    """Measure RagTune in a home of its own, with the embedder in 8-bit integers."""
    with scratch_settings() as settings:
        int8 = settings.embedder.model_copy(update={"precision": "int8"})
        int8_settings = settings.model_copy(update={"embedder": int8})
        embedder = embedder_from(int8_settings)
        embedder.embed(["warm up"])
        return ours(source, int8_settings, embedder)


def peer(name: str, python: str, corpus: Path, folder: Path) -> dict[str, Any]:
    """Index the documents with a peer in its own environment and return its facts."""
    script = str(Path(__file__).with_name("peer_ingest.py"))
    command = [python, script, name, str(corpus), str(minilm_folder()), str(folder)]
    result = subprocess.run(
        command, env=child_environment(HF_HUB_OFFLINE="1"), stdout=subprocess.PIPE, text=True, check=True
    )
    facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return facts


def main() -> None:
    """Measure and write `peers.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter of the peers' environment")
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--int8", action="store_true", help="also measure RagTune with embedder.precision int8")
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    with scratch_settings() as settings:
        embedder = embedder_from(settings)
        embedder.embed(["warm up"])
        fitting, counts = single_passages(
            read_sources(options.source).documents, embedder, settings.chunking.max_tokens
        )
        chosen = sorted(random.Random(options.seed).sample(range(len(fitting)), min(options.documents, len(fitting))))
        counts = [counts[place] for place in chosen]
        source = write_jsonl(settings.home / "corpus.jsonl", [fitting[place] for place in chosen])
        rows = {"ragtune": ours(source, settings, embedder)}
        print("ragtune", rows["ragtune"], flush=True)
        if options.int8:
            rows["ragtune in int8"] = ours_in_int8(source)
            print("ragtune in int8", rows["ragtune in int8"], flush=True)
        for name in options.peers:
            began = time.perf_counter()
            rows[name] = peer(name, options.python, settings.home / "corpus.jsonl", settings.home / name)
            print(name, rows[name], f"{time.perf_counter() - began:.0f} s with its start", flush=True)
        for row in rows.values():
            row["documents_per_second"] = row["documents"] / row["seconds"]
        best = max(rows[name]["documents_per_second"] for name in options.peers)
        facts = {
            "n": len(chosen),
            "seed": options.seed,
            "sources": options.source,
            "tokens_a_document": {"mean": mean(counts), "median": median(counts), "most": max(counts)},
            "tokens": sum(counts),
        }
        ratios = {name: row["documents_per_second"] / best for name, row in rows.items() if name not in PEERS}
        write_results(options.out, settings, facts, {"against_the_best_peer": ratios, "libraries": rows})


if __name__ == "__main__":
    main()
