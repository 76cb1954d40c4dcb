"""Measures what `embedder.precision: int8` saves and costs: cosine, speed, nDCG@10 on the dataset's test questions.

    python -m benchmarks.retrieval.int8
    python -m benchmarks.retrieval.int8 --ranges package:requests   # the table in ragtune/backends/minilm_int8.py

Needs a home with a dataset (from `ragtune materialize`). Both indexes are built for the benchmark and deleted.
"""

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.retrieval.quality import DEEP, facts, from_home, table
from benchmarks.retrieval.results import scratch_settings, write_results
from ragtune.backends.catalog import search_index_from
from ragtune.backends.minilm import MiniLmEmbedder, Network
from ragtune.backends.minilm_int8 import Linear
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.knowledge.sources import read_sources
from ragtune.ports import Embedder
from ragtune.records import Chunk
from ragtune.settings import load_settings

if TYPE_CHECKING:
    import torch

ROUNDS, TIMED, CALIBRATED = 3, 300, 400


def ranges(sources: Sequence[str], texts: int, seed: int) -> dict[tuple[int, str], tuple[float, float]]:
    """Return the lowest and highest input of each matrix product, over a sample of `texts` passages."""
    import torch

    limits: dict[tuple[int, str], tuple[float, float]] = {}

    def recording_linear(place: tuple[int, str], weight: "torch.Tensor", bias: "torch.Tensor") -> Linear:
        def product(x: "torch.Tensor") -> "torch.Tensor":
            low, high = limits.get(place, (0.0, 0.0))
            limits[place] = (min(low, float(x.min())), max(high, float(x.max())))
            return torch.nn.functional.linear(x, weight, bias)

        return product

    embedder = MiniLmEmbedder(device="cpu", precision="float32")
    embedder._network = Network(torch.float32, "cpu", recording_linear)
    chunks = chunk_documents(read_sources(sources).documents, load_settings().chunking, embedder.count_tokens)
    embedder.embed([chunk.embedded_text for chunk in random.Random(seed).sample(chunks, min(texts, len(chunks)))])
    return limits


def rankings(embedder: Embedder, chunks: Sequence[Chunk], texts: list[str]) -> dict[str, Any]:
    """Return {mode: hits of every question} from an index with this embedder's vectors."""
    with scratch_settings() as settings:
        index = search_index_from(settings, embedder)
        update_index(index, embedder, chunks)
        retriever = Retriever(index, embedder, settings.index)
        return {mode: retriever.search_many(texts, DEEP, mode) for mode in ("hybrid", "vector")}


def seconds(embedder: Embedder, texts: list[str]) -> float:
    """Return the seconds that embedding the texts takes."""
    began = time.perf_counter()
    embedder.embed(texts)
    return time.perf_counter() - began


def main() -> None:
    """Measure and write `int8.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ranges", nargs="+", metavar="SOURCE", help="only print the ranges of the inputs of the matrix products"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.ranges:
        for place, (low, high) in sorted(ranges(options.ranges, CALIBRATED, options.seed).items()):
            print(f"    {place}: ({low:.2f}, {high:.2f}),".replace("'", '"'))
        return
    chunks, questions, digest = from_home(None)
    distinct = [chunk for chunk in chunks if not chunk.duplicate_of]
    queries, texts = [question.text for question in questions], [chunk.embedded_text for chunk in distinct]
    embedders = {
        "float32": MiniLmEmbedder(threads=options.threads, device="cpu", precision="float32"),
        "int8": MiniLmEmbedder(threads=options.threads, device="cpu", precision="int8"),
    }
    exact, rounded = (embedder.embed(texts) for embedder in embedders.values())
    cosines = (exact * rounded).sum(axis=1)
    rounds = [{name: seconds(embedder, texts[:TIMED]) for name, embedder in embedders.items()} for _ in range(ROUNDS)]
    alone = [embedders["int8"].embed([text])[0] for text in texts[:100]]
    hits = {name: rankings(embedder, distinct, queries) for name, embedder in embedders.items()}
    ways = {"hybrid": hits["float32"]["hybrid"], "vector": hits["float32"]["vector"]}
    ways |= {f"{mode}, int8": hits["int8"][mode] for mode in ("hybrid", "vector")}
    results = {
        "cosine_to_float32": {"mean": float(cosines.mean()), "least": float(cosines.min())},
        "least_cosine_alone_to_in_a_batch": float(min(one @ other for one, other in zip(alone, rounded, strict=False))),
        "seconds": rounds,
        "times_faster": mean(times["float32"] / times["int8"] for times in rounds),
        "quality": table(ways, questions, options.seed),
    }
    with scratch_settings() as settings:
        write_results(options.out, settings, facts(questions, chunks, digest, options.seed), results)


if __name__ == "__main__":
    main()
