"""How much of a test set leaks into training, by the way of splitting, with planted near duplicates.

Run: python benchmarks/dataset/leakage.py --source package:dagster --source package:peft --out benchmarks/dataset
Planted: copies of a share of the documents with a share of their words replaced, under other names.
"""

import argparse
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ragtune.backends.catalog import embedder_from
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.near_duplicates import clusters
from ragtune.dataset.splits import split_pairs
from ragtune.draws import draw
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.sources import read_sources
from ragtune.records import Document, QAPair, content_id
from ragtune.settings import ChunkingSettings, DatasetSettings, load_settings
from ragtune.text.shingles import jaccard, shingles


def planted(documents: list[Document], share: float, seed: int) -> tuple[list[Document], dict[str, str]]:
    """Return the documents with near copies behind them, and {copy id: original id}."""
    generator = random.Random(seed)
    vocabulary = sorted({word for document in documents[:300] for word in document.text.split() if word.isalpha()})
    copies, origin = [], {}
    for document in generator.sample(documents, int(share * len(documents))):
        first, *lines = document.text.split("\n")
        changed = generator.choice((0.02, 0.05, 0.1, 0.15))
        words = " ".join(
            generator.choice(vocabulary) if word.isalpha() and generator.random() < changed else word
            for word in "\n".join(lines).split(" ")
        )
        title = f"{document.title}_v2"
        copy = replace(
            document,
            id=content_id("copy", document.id),
            title=title,
            path=title,
            text=f"{first.replace(document.title, title)}\n{words}",
        )
        copies.append(copy)
        origin[copy.id] = document.id
    return [*documents, *copies], origin


def leaked(pairs: list[QAPair], split: dict[str, str], origin: dict[str, str], near: dict[str, set[str]]) -> float:
    """Return the share of test pairs whose document, planted twin or near document has pairs in train."""
    trained = {pair.document_id for pair in pairs if split[pair.id] == "train"}
    twins: dict[str, set[str]] = {}
    for copy, original in origin.items():
        twins.setdefault(original, set()).add(copy)
        twins.setdefault(copy, set()).add(original)
    test = [pair for pair in pairs if split[pair.id] == "test"]
    bad = [
        pair
        for pair in test
        if ({pair.document_id} | twins.get(pair.document_id, set()) | near.get(pair.document_id, set())) & trained
    ]
    return len(bad) / max(len(test), 1)


def neighbours(documents: list[Document], threshold: float) -> dict[str, set[str]]:
    """Return {document: near documents} by brute force over everything that shares a word triple."""
    sets = [shingles(document.text) for document in documents]
    places: dict[str, list[int]] = {}
    found: dict[str, set[str]] = {}
    for i, mine in enumerate(sets):
        shared = Counter(j for shingle in mine for j in places.get(shingle, ()))
        for j, count in shared.items():
            if count >= threshold * max(len(mine), len(sets[j])) and jaccard(mine, sets[j]) >= threshold:
                found.setdefault(documents[i].id, set()).add(documents[j].id)
                found.setdefault(documents[j].id, set()).add(documents[i].id)
        for shingle in mine:
            places.setdefault(shingle, []).append(i)
    return found


def main() -> None:
    """Measure and write `leakage.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--planted", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings, seed = DatasetSettings(), options.seed
    documents, origin = planted(read_sources(options.source).documents, options.planted, seed)
    count_tokens = embedder_from(load_settings()).count_tokens
    chunks = [replace(chunk, duplicate_of="") for chunk in chunk_documents(documents, ChunkingSettings(), count_tokens)]
    pairs = ExtractiveWriter(seed).write(chunks)
    near = neighbours(documents, 0.5)
    rows = {}

    def measure(name: str, split: dict[str, str]) -> None:
        chosen = [pair for pair in pairs if pair.id in split]
        counts = Counter(split.values())
        rows[name] = {
            "leaked": round(leaked(chosen, split, origin, near), 4),
            "pairs": len(split),
            **{
                f"{part}_share": round(counts[part] / len(split), 3) for part in ("train", "test", "gate", "validation")
            },
        }
        print(name, rows[name], flush=True)

    def by(unit: str, keys: dict[str, str]) -> dict[str, str]:
        return {
            key: "test" if draw(seed, unit, group) < settings.test_share else "train" for key, group in keys.items()
        }

    measure("random", by("random", {pair.id: pair.id for pair in pairs}))
    measure("by document", by("document", {pair.id: pair.document_id for pair in pairs}))
    for threshold in (0.7, 0.5, 0.35, 0.25):
        found = clusters(documents, threshold)
        measure(f"by cluster, Jaccard {threshold}", by("cluster", {pair.id: found[pair.document_id] for pair in pairs}))
    items = split_pairs(pairs, documents, settings, seed)
    measure("split_pairs (as shipped)", {item.pair.id: item.split for item in items})
    sizes = Counter(item.cluster for item in items)
    result = {
        "sources": options.source,
        "documents": len(documents),
        "planted": len(origin),
        "pairs": len(pairs),
        "clusters": len(sizes),
        "largest_cluster_share": round(max(sizes.values()) / len(items), 4),
        "splits": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "leakage.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
