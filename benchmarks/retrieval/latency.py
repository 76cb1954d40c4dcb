"""Measures the time of a search, embedding included, and the memory that it needs, as the index grows.

    python -m benchmarks.retrieval.latency --source package:dagster --source package:peft

The first passages are real. The others mix the words of two real ones and have a vector near that of one of them,
because embedding 100,000 passages would take long and change nothing here. The questions are written from the real
passages. Building and searching each run in a separate process.
"""

import argparse
import random
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.retrieval.results import chunks_sha256, scratch_settings, write_results
from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.evaluation.benchmark import percentile
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.retrieval import MODES, Retriever
from ragtune.knowledge.sources import read_sources
from ragtune.ports import SearchIndex
from ragtune.records import Chunk, content_id
from ragtune.settings import ChunkingSettings, Settings, load_settings

if TYPE_CHECKING:
    from ragtune.ports import Vectors

WARM_UP = 20
NOISE = 0.5
"""Length of the vector added to a unit vector; the result has a cosine of about 0.9 to the original."""


def grown(chunks: list[Chunk], vectors: "Vectors", size: int, seed: int) -> Iterator[tuple[Chunk, "Vectors"]]:
    """Yield `size` passages with unit vectors: the real ones, then mixtures of two."""
    words, numbers = random.Random(seed), np.random.default_rng(seed)
    yield from list(zip(chunks, vectors, strict=True))[:size]
    for number in range(len(chunks), size):
        one, other = words.randrange(len(chunks)), words.randrange(len(chunks))
        mixed = [*chunks[one].text.split(), *chunks[other].text.split()]
        text = " ".join(words.sample(mixed, max(1, len(mixed) // 2)))
        document = f"{chunks[one].document_id}-{number}"
        noise = numbers.normal(size=vectors.shape[1])
        vector = vectors[one] + NOISE * noise / np.linalg.norm(noise)
        chunk = replace(chunks[one], id=content_id(document, text), document_id=document, text=text)
        yield chunk, (vector / np.linalg.norm(vector)).astype(np.float32)


def embedded(settings: Settings, chunks: list[Chunk]) -> "Vectors":
    """Return the vectors of the real passages."""
    return embedder_from(settings).embed([chunk.embedded_text for chunk in chunks])


def build(settings: Settings, chunks: list[Chunk], vectors: "Vectors", size: int, seed: int) -> float:
    """Write an index of `size` passages and return the seconds that it took, without embedding."""
    return fill(search_index_from(settings, embedder_from(settings)), chunks, vectors, size, seed)


def fill(index: SearchIndex, chunks: list[Chunk], vectors: "Vectors", size: int, seed: int) -> float:
    """Write `size` passages into an empty index and return the seconds that it took."""
    began = time.perf_counter()
    with index.updating():
        index.apply(grown(chunks, vectors, size, seed), [])
    return time.perf_counter() - began


def exactness(settings: Settings, questions: list[str]) -> float:
    """Return the share of the ten nearest passages that a vector search finds; the nearest ones are found exactly."""
    embedder = embedder_from(settings)
    index = search_index_from(settings, embedder)
    stored = index.vectors(sorted(index.versions()))
    ids, matrix = np.array(list(stored)), np.stack(list(stored.values()))
    shares = []
    for vector in embedder.embed(questions):
        nearest = {*ids[np.argsort(-(matrix @ vector), kind="stable")[:10]].tolist()}
        shares.append(len(nearest & {hit.chunk.id for hit in index.search_vector(vector, 10)}) / len(nearest))
    return mean(shares)


def search(settings: Settings, questions: list[str]) -> dict[str, Any]:
    """Return p50 and p95 of each search mode in milliseconds, peak memory of the process, and size on disk."""
    embedder = embedder_from(settings)
    index = search_index_from(settings, embedder)
    retriever = Retriever(index, embedder, settings.index)
    latencies: dict[str, Any] = {}
    for mode in MODES:
        times: list[float] = []
        warm = questions[:WARM_UP]
        for question in [*warm, *questions]:
            began = time.perf_counter()
            retriever.search(question, 10, mode)
            times.append((time.perf_counter() - began) * 1000)
        measured = times[len(warm) :]
        latencies[mode] = {"p50_ms": percentile(measured, 50), "p95_ms": percentile(measured, 95)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**latencies, "peak_memory_mib": peak, "index_mib": index.size_bytes() / (1 << 20)}


def alone(function: Any, *arguments: Any) -> Any:
    """Run the function in a new process and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def passages_and_questions(sources: list[str], most: int, seed: int) -> tuple[list[Chunk], list[str]]:
    """Return (the passages of the sources, a sample of at most `most` questions about them)."""
    chunks = chunk_documents(
        read_sources(sources).documents, ChunkingSettings(), embedder_from(load_settings()).count_tokens
    )
    real = [chunk for chunk in chunks if not chunk.duplicate_of]
    pairs = ExtractiveWriter(seed).write(real)
    return real, random.Random(seed).sample([pair.question for pair in pairs], min(most, len(pairs)))


def main() -> None:
    """Measure and write `latency.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    real, queries = passages_and_questions(options.source, options.questions, options.seed)
    rows, vectors = [], alone(embedded, load_settings(), real)
    for size in options.sizes:
        with scratch_settings() as settings:
            seconds = alone(build, settings, real, vectors, size, options.seed)
            measured = alone(search, settings, queries)
            exact = alone(exactness, settings, queries)
            rows.append({"passages": size, "write_seconds": seconds, **measured, "vector_recall_10": exact})
            print(rows[-1], flush=True)
    facts = {
        "n": len(queries),
        "seed": options.seed,
        "sources": options.source,
        "real_passages": len(real),
        "passages_sha256": chunks_sha256(real),
    }
    write_results(options.out, settings, facts, rows)


if __name__ == "__main__":
    main()
