"""Documents a second of RagTune, LlamaIndex, Haystack and txtai, with the same weights on the same documents.

    python -m benchmarks.retrieval.peers --python PEERS/bin/python --source package:dagster --source package:mlflow

PEERS is an environment made from `peers-requirements.txt`. Only documents that fit the embedder as one passage are
taken, so that nobody leaves text out. Each library works with its own defaults, its model loaded and warm before
the clock starts, and writes its index to disk; ours also reads, marks near-duplicates and indexes the words.
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


def whole(documents: list[Document], embedder: Embedder, limit: int) -> tuple[list[Document], list[int]]:
    """Return the documents that are one passage of at most so many tokens, title included, with their tokens."""
    counts = embedder.count_tokens([f"{each.title}\n{each.text}" for each in documents])
    kept = [(each, count) for each, count in zip(documents, counts, strict=True) if count <= limit]
    return [each for each, _ in kept], [count for _, count in kept]


def ours(source: str, settings: Settings, embedder: Embedder) -> dict[str, Any]:
    """Index the documents with the product and return the facts that a peer returns."""
    stages, chunks, count = ingest(source, settings, embedder)
    kept = sum(not chunk.duplicate_of for chunk in chunks)
    return {"seconds": stages["all"], "documents": count, "passages": len(chunks), "embedded": kept}


def in_int8(source: str) -> dict[str, Any]:
    """Do the same in a home of its own with the embedder in 8-bit integers."""
    with scratch_settings() as settings:
        chosen = settings.embedder.model_copy(update={"precision": "int8"})
        rounded = settings.model_copy(update={"embedder": chosen})
        embedder = embedder_from(rounded)
        embedder.embed(["warm up"])
        return ours(source, rounded, embedder)


def peer(name: str, python: str, corpus: Path, folder: Path) -> dict[str, Any]:
    """Let a peer index the documents in its own environment and return its facts."""
    script = str(Path(__file__).with_name("peer_ingest.py"))
    command = [python, script, name, str(corpus), str(minilm_folder()), str(folder)]
    done = subprocess.run(
        command, env=child_environment(HF_HUB_OFFLINE="1"), stdout=subprocess.PIPE, text=True, check=True
    )
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def main() -> None:
    """Measure and write `peers.json` beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter of the peers' environment")
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--int8", action="store_true", help="also with embedder.precision int8")
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    with scratch_settings() as settings:
        embedder = embedder_from(settings)
        embedder.embed(["warm up"])
        fitting, counts = whole(read_sources(options.source).documents, embedder, settings.chunking.max_tokens)
        chosen = sorted(random.Random(options.seed).sample(range(len(fitting)), min(options.documents, len(fitting))))
        counts = [counts[place] for place in chosen]
        source = write_jsonl(settings.home / "corpus.jsonl", [fitting[place] for place in chosen])
        found = {"ragtune": ours(source, settings, embedder)}
        print("ragtune", found["ragtune"], flush=True)
        if options.int8:
            found["ragtune in int8"] = in_int8(source)
            print("ragtune in int8", found["ragtune in int8"], flush=True)
        for name in options.peers:
            began = time.perf_counter()
            found[name] = peer(name, options.python, settings.home / "corpus.jsonl", settings.home / name)
            print(name, found[name], f"{time.perf_counter() - began:.0f} s with its start", flush=True)
        for facts in found.values():
            facts["documents_per_second"] = facts["documents"] / facts["seconds"]
        best = max(found[name]["documents_per_second"] for name in options.peers)
        facts = {
            "n": len(chosen),
            "seed": options.seed,
            "sources": options.source,
            "tokens_a_document": {"mean": mean(counts), "median": median(counts), "most": max(counts)},
            "tokens": sum(counts),
        }
        ratios = {name: each["documents_per_second"] / best for name, each in found.items() if name not in PEERS}
        write_results(options.out, settings, facts, {"against_the_best_peer": ratios, "libraries": found})


if __name__ == "__main__":
    main()
