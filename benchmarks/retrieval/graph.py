"""Measures recall and time of LanceDB's vector graph by setting, compared with a search over every vector.

    python -m benchmarks.retrieval.graph --source package:peft --passages 100000

The corpus is that of `latency.py`. The graph is built at this size, although the product builds one only for more
passages. The time is that of the vector search alone, including the passages that it returns. The questions are
embedded before.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.retrieval.latency import alone, embedded, fill, passages_and_questions
from benchmarks.retrieval.results import chunks_sha256, scratch_settings, write_results
from ragtune.backends.catalog import embedder_from
from ragtune.backends.lance_index import LanceIndex
from ragtune.evaluation.benchmark import percentile
from ragtune.ports import Embedder
from ragtune.records import Chunk
from ragtune.settings import Settings, load_settings

if TYPE_CHECKING:
    from ragtune.ports import Vectors

LIMITS = (10, 50)
"""Hits that a vector search and a hybrid search request from the graph."""
WARM_UP = 10
Find = Callable[[Any, int], list[str]]


def graph(settings: Settings, embedder: Embedder) -> LanceIndex:
    """Return the index of the settings' home, which builds a graph from the first passage on."""
    return LanceIndex(settings.home / "index", embedder.name, embedder.dimension, graph_from=1)


def build(settings: Settings, chunks: list[Chunk], vectors: "Vectors", size: int, seed: int) -> float:
    """Write an index with a graph and return the seconds that it took, without embedding."""
    return fill(graph(settings, embedder_from(settings)), chunks, vectors, size, seed)


def through_graph(table: Any, width: int, refine: int, probes: int = 20) -> Find:
    """Return a search of the graph with at least `width` candidates; `refine` times the hits are compared exactly."""

    def find(vector: Any, limit: int) -> list[str]:
        query = table.search(vector, vector_column_name="vector", query_type="vector").distance_type("dot")
        query = query.nprobes(probes).ef(max(width, limit * max(1, refine) * 3 // 2))
        query = query.refine_factor(refine) if refine else query
        return list(query.select(["id", "record", "_distance"]).limit(limit).to_arrow()["id"].to_pylist())

    return find


def by_comparing(table: Any) -> Find:
    """Return LanceDB's own search over every vector."""

    def find(vector: Any, limit: int) -> list[str]:
        query = table.search(vector, vector_column_name="vector", query_type="vector").distance_type("dot")
        rows = query.bypass_vector_index().select(["id", "record", "_distance"]).limit(limit).to_arrow()
        return list(rows["id"].to_pylist())

    return find


def measured(find: Find, vectors: "Vectors", nearest: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return {recall_10, p50_ms_10, ...}: recall and milliseconds of a search for 10 and for 50 hits."""
    facts: dict[str, float] = {}
    for limit in LIMITS:
        times, shares = [], []
        for vector in vectors[:WARM_UP]:
            find(vector, limit)
        for vector, right in zip(vectors, nearest, strict=True):
            began = time.perf_counter()
            ids = find(vector, limit)
            times.append((time.perf_counter() - began) * 1000)
            shares.append(len({*ids} & {*right[:limit]}) / limit)
        facts |= {f"recall_{limit}": mean(shares)}
        facts |= {f"p50_ms_{limit}": percentile(times, 50), f"p95_ms_{limit}": percentile(times, 95)}
    return facts


def sweep(settings: Settings, questions: list[str], widths: list[int], refines: list[int]) -> dict[str, Any]:
    """Return {setting: result of `measured`}, the product's own search first, all on one index."""
    import lancedb

    embedder = embedder_from(settings)
    index = graph(settings, embedder)
    vectors = embedder.embed(questions)
    stored = index.vectors(sorted(index.versions()))
    ids, matrix = np.array(list(stored)), np.stack(list(stored.values()))
    nearest = [ids[np.argsort(-(matrix @ vector), kind="stable")[: max(LIMITS)]].tolist() for vector in vectors]
    del stored, matrix
    pointer = json.loads((index.folder / "current.json").read_text())
    table = lancedb.connect(str(index.folder)).open_table(pointer["table"])
    ways = {
        "the product": lambda vector, limit: [hit.chunk.id for hit in index.search_vector(vector, limit)],
        "LanceDB's defaults": through_graph(table, 0, 0),
        "every vector compared by LanceDB": by_comparing(table),
    }
    ways |= {f"ef {w}, refine_factor {r}": through_graph(table, w, r) for w in widths for r in refines}
    results = {}
    for name, find in ways.items():
        results[name] = measured(find, vectors, nearest)
        print(f"{name:<35}", {key: round(value, 3) for key, value in results[name].items()}, flush=True)
    return results


def main() -> None:
    """Measure and write `graph.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--ef", type=int, nargs="+", default=[100, 200, 400, 800])
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    real, queries = passages_and_questions(options.source, options.questions, options.seed)
    vectors = alone(embedded, load_settings(), real)
    with scratch_settings() as settings:
        seconds = alone(build, settings, real, vectors, options.passages, options.seed)
        results = alone(sweep, settings, queries, options.ef, options.refine)
    facts = {
        "n": len(queries),
        "seed": options.seed,
        "sources": options.source,
        "real_passages": len(real),
        "passages_sha256": chunks_sha256(real),
        "passages": options.passages,
        "write_seconds": seconds,
    }
    write_results(options.out, settings, facts, results)


if __name__ == "__main__":
    main()
