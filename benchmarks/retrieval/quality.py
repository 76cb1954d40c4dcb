"""Measures how well words, vectors and both together find the right passage, and what each setting changes.

    python -m benchmarks.retrieval.quality
    python -m benchmarks.retrieval.quality --source jsonl:corpus.jsonl --queries queries.jsonl --qrels qrels.txt

The first command searches for the test questions of the home's dataset (from `ragtune materialize`), the second one for
the queries of any judged collection. Queries are `{"id", "text"}`, judgements are TREC qrels or lines of query,
document, gain. The index is built in a folder that is deleted afterwards.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.retrieval.results import chunks_sha256, interval, scratch_settings, write_results
from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.errors import DatasetError
from ragtune.evaluation.retrieval import RANKING_METRICS, passage_gains, ranking_metrics
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Mode, Retriever, fuse
from ragtune.knowledge.sources import read_sources
from ragtune.ports import Embedder
from ragtune.records import Chunk, Hit, SplitItem
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore

DEEP = 50
Rankings = list[list[Hit]]


@dataclass(frozen=True)
class Question:
    """A question: the gains of a ranking for it, the gains of the ideal ranking, and the cluster for resampling."""

    text: str
    cluster: str
    gains: Callable[[Sequence[Hit]], list[float]]
    ideal: Sequence[float]


def from_home(limit: int | None) -> tuple[list[Chunk], list[Question], str]:
    """Return (passages, test questions, hash of the dataset) of the home that the settings name."""
    store = ArtifactStore(load_settings().home / "artifacts")
    chunks, splits = store.current("chunks"), store.current("qa_splits")
    if chunks is None or splits is None:
        raise DatasetError(
            f"{store.root} has no dataset.", "chunks and qa_splits", "run `ragtune materialize --select +qa_splits`"
        )
    items = [i for i in store.read_records(splits, SplitItem) if i.split == "test" and i.pair.answerable][:limit]
    questions = [Question(item.pair.question, item.cluster, partial(passage_gains, item.pair), [1.0]) for item in items]
    return store.read_records(chunks, Chunk), questions, splits.sha256


def from_collection(
    source: str, queries: Path, qrels: Path, limit: int, embedder: Embedder, settings: Settings
) -> tuple[list[Chunk], list[Question], str]:
    """Return (passages, judged questions, hash) of a collection; a document counts once, by its best passage."""
    documents = read_sources([source]).documents
    names = {document.id: document.path for document in documents}
    judged: dict[str, dict[str, float]] = {}
    for line in qrels.read_text().splitlines():
        parts = line.split()
        if len(parts) in (3, 4) and parts[-1].lstrip("-").isdigit():
            judged.setdefault(parts[0], {})[parts[-2]] = max(0.0, float(parts[-1]))

    def gains_of(relevant: dict[str, float]) -> Callable[[Sequence[Hit]], list[float]]:
        return lambda hits: [
            relevant.get(names[document_id], 0.0)
            for document_id in dict.fromkeys(hit.chunk.document_id for hit in hits)
        ]

    questions = []
    for row in map(json.loads, queries.read_text().splitlines()):
        relevant = judged.get(str(row["id"]), {})
        if any(relevant.values()):
            ideal = [gain for gain in relevant.values() if gain]
            questions.append(Question(row["text"], str(row["id"]), gains_of(relevant), ideal))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (queries, qrels))).hexdigest()
    return chunk_documents(documents, settings.chunking, embedder.count_tokens), questions[:limit], digest


def ways(settings: Settings, embedder: Embedder, chunks: Sequence[Chunk], texts: list[str]) -> dict[str, Rankings]:
    """Return {way to search: hits of every question}; `hybrid` is what the product does by default."""
    distinct = [chunk for chunk in chunks if not chunk.duplicate_of]
    index = search_index_from(settings, embedder)
    update_index(index, embedder, distinct)

    def search(mode: Mode, queries: list[str] = texts, **changes: float) -> Rankings:
        changed = settings.index.model_copy(update=changes)
        return Retriever(index, embedder, changed).search_many(queries, DEEP, mode)

    words, vectors, hybrid = search("text"), search("vector"), search("hybrid")
    rankings = {"hybrid": hybrid, "text": words, "vector": vectors}
    for weight in (0.0, 1.0, 2.0, 8.0):
        rankings[f"hybrid, name_weight {weight:g}"] = search("hybrid", name_weight=weight)
    for k in (10, 30, 120):
        rankings[f"hybrid, rrf_k {k}"] = search("hybrid", rrf_k=k)
    for candidates in (100, 200):
        rankings[f"hybrid, candidates {candidates}"] = search("hybrid", candidates=candidates)
    for weights in ((2.0, 1.0), (1.0, 2.0)):
        label = f"hybrid without names, words {weights[0]:g} to vectors {weights[1]:g}"
        rankings[label] = [fuse(pair, DEEP, settings.index.rrf_k, weights) for pair in zip(words, vectors, strict=True)]
    for most in (1, 2):
        rankings[f"hybrid, at most {most} of a document"] = [spread(hits, most) for hits in hybrid]
    rankings["hybrid, each hit with its section"] = [with_section(hits, distinct) for hits in hybrid]
    longer = [
        " ".join([text, *(hit.chunk.title for hit in hits[:3])]) for text, hits in zip(texts, hybrid, strict=True)
    ]
    expanded = search("text", queries=longer)
    rankings["hybrid without names, words expanded by three titles"] = [
        fuse(pair, DEEP, settings.index.rrf_k) for pair in zip(expanded, vectors, strict=True)
    ]
    bare = [replace(chunk, title="", heading_path=()) for chunk in distinct]
    update_index(index, embedder, bare)
    return rankings | {f"{mode}, titles not indexed": search(mode) for mode in ("text", "vector", "hybrid")}


def spread(hits: Sequence[Hit], most: int) -> list[Hit]:
    """Return the hits with at most `most` of one document; the others go to the end."""
    counts: dict[str, int] = {}
    first: list[Hit] = []
    rest: list[Hit] = []
    for hit in hits:
        counts[hit.chunk.document_id] = counts.get(hit.chunk.document_id, 0) + 1
        (first if counts[hit.chunk.document_id] <= most else rest).append(hit)
    return first + rest


def with_section(hits: Sequence[Hit], chunks: Sequence[Chunk]) -> list[Hit]:
    """Return each hit followed by the other passages under its heading, each passage once."""
    sections: dict[tuple[str, tuple[str, ...]], list[Chunk]] = {}
    for chunk in chunks:
        sections.setdefault((chunk.document_id, chunk.heading_path), []).append(chunk)
    by_id: dict[str, Hit] = {}
    for hit in hits:
        by_id.setdefault(hit.chunk.id, hit)
        for chunk in sections[hit.chunk.document_id, hit.chunk.heading_path]:
            by_id.setdefault(chunk.id, Hit(chunk, hit.score))
    return list(by_id.values())


def table(
    rankings_by_way: dict[str, Rankings], questions: Sequence[Question], seed: int
) -> dict[str, dict[str, list[float]]]:
    """Return {way to search: {metric: [mean, low, high]}}, with the gain in nDCG over `hybrid`, paired by question."""
    scored = {
        name: [ranking_metrics(q.gains(hits), q.ideal) for q, hits in zip(questions, rankings, strict=True)]
        for name, rankings in rankings_by_way.items()
    }
    clusters = [question.cluster for question in questions]
    rows = {}
    for name, scores in scored.items():
        rows[name] = {m: interval([score[m] for score in scores], clusters, seed) for m in RANKING_METRICS}
        if name != "hybrid":
            gains = [a["ndcg_10"] - b["ndcg_10"] for a, b in zip(scores, scored["hybrid"], strict=True)]
            rows[name]["ndcg_10_over_hybrid"] = interval(gains, clusters, seed) if any(gains) else [0.0, 0.0, 0.0]
        print(f"{name:<55}", "  ".join(f"{m} {value[0]:+.3f}" for m, value in rows[name].items()), flush=True)
    return rows


def facts(questions: Sequence[Question], chunks: Sequence[Chunk], digest: str, seed: int) -> dict[str, Any]:
    """Return the facts that are written next to every result of `table`: questions, passages and hashes."""
    return {
        "n": len(questions),
        "clusters": len({question.cluster for question in questions}),
        "seed": seed,
        "interval": "95%, bootstrap over clusters of near-duplicate documents (over queries of a collection)",
        "dataset_sha256": digest,
        "passages": sum(not chunk.duplicate_of for chunk in chunks),
        "passages_sha256": chunks_sha256(chunks),
    }


def main() -> None:
    """Measure and write the results next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="the collection's documents, such as jsonl:corpus.jsonl")
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--qrels", type=Path)
    parser.add_argument("--limit", type=int, help="largest number of questions")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if len({options.source is None, options.queries is None, options.qrels is None}) > 1:
        parser.error("--source, --queries and --qrels belong together")
    with scratch_settings() as settings:
        embedder = embedder_from(settings)
        if options.source:
            chunks, questions, digest = from_collection(
                options.source, options.queries, options.qrels, options.limit, embedder, settings
            )
        else:
            chunks, questions, digest = from_home(options.limit)
        rankings = ways(settings, embedder, chunks, [question.text for question in questions])
        results = table(rankings, questions, options.seed)
        write_results(options.out, settings, facts(questions, chunks, digest, options.seed), results)


if __name__ == "__main__":
    main()
