"""What int8 weights in ONNX Runtime save and cost: cosine, texts a second, nDCG@10 on the dataset's test questions.

    PEERS/bin/pip install onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1
    PEERS/bin/python benchmarks/retrieval/int8_export.py WEIGHTS int8.onnx
    python -m benchmarks.retrieval.int8 --model int8.onnx

The home has the dataset (`ragtune materialize` made it). Both indexes are built anew and thrown away.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks.retrieval.quality import DEEP, from_home, table
from benchmarks.retrieval.results import chunks_sha256, scratch_settings, write_results
from ragtune.backends.catalog import search_index_from
from ragtune.backends.minilm import MiniLmEmbedder
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.ports import Embedder
from ragtune.records import Chunk

if TYPE_CHECKING:
    from ragtune.ports import Vectors

ROUNDS, TIMED = 3, 300


class Int8Embedder(MiniLmEmbedder):
    """The product's tokenizer, batches and threads around an exported network."""

    name = "all-MiniLM-L6-v2 int8"

    def __init__(self, model: Path, threads: int) -> None:
        super().__init__(threads=threads, device="cpu", precision="float32")
        self.model = model

    def _loaded_network(self) -> "Callable[[Sequence[Sequence[int]]], Vectors]":
        if self._network is None:
            import onnxruntime

            one_thread = onnxruntime.SessionOptions()
            one_thread.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(str(self.model), one_thread, providers=["CPUExecutionProvider"])
            self._network = lambda tokens: _vectors(session, tokens)
        return self._network


def _vectors(session: Any, tokens: Sequence[Sequence[int]]) -> "Vectors":
    """Return unit vectors, the mean over the tokens of each text."""
    import numpy as np

    mask = np.zeros((len(tokens), max(map(len, tokens))), dtype=np.int64)
    ids = np.zeros_like(mask)
    for row, each in enumerate(tokens):
        ids[row, : len(each)], mask[row, : len(each)] = each, 1
    (states,) = session.run(["states"], {"input_ids": ids, "attention_mask": mask})
    summed = (states * mask[:, :, None]).sum(axis=1)
    unit: Vectors = (summed / np.linalg.norm(summed, axis=1, keepdims=True)).astype(np.float32)
    return unit


def rankings(embedder: Embedder, chunks: Sequence[Chunk], texts: list[str]) -> dict[str, Any]:
    """Return {mode: hits of every question} from an index of this embedder's vectors."""
    with scratch_settings() as settings:
        index = search_index_from(settings, embedder)
        update_index(index, embedder, chunks)
        retriever = Retriever(index, embedder, settings.index)
        return {mode: retriever.search_many(texts, DEEP, mode) for mode in ("hybrid", "vector")}


def seconds(embedder: Embedder, texts: list[str]) -> float:
    """Return how long embedding takes."""
    began = time.perf_counter()
    embedder.embed(texts)
    return time.perf_counter() - began


def main() -> None:
    """Measure and write `int8.json` beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    chunks, questions, digest = from_home(None)
    kept = [chunk for chunk in chunks if not chunk.duplicate_of]
    asked, texts = [question.text for question in questions], [chunk.embedded_text for chunk in kept]
    embedders = {
        "float32": MiniLmEmbedder(threads=options.threads, device="cpu", precision="float32"),
        "int8": Int8Embedder(options.model, options.threads),
    }
    exact, rounded = (each.embed(texts) for each in embedders.values())
    cosines = (exact * rounded).sum(axis=1)
    rounds = [{name: seconds(each, texts[:TIMED]) for name, each in embedders.items()} for _ in range(ROUNDS)]
    alone = [embedders["int8"].embed([text])[0] for text in texts[:100]]
    found = {name: rankings(each, kept, asked) for name, each in embedders.items()}
    ways = {"hybrid": found["float32"]["hybrid"], "vector": found["float32"]["vector"]}
    ways |= {f"{mode}, int8": found["int8"][mode] for mode in ("hybrid", "vector")}
    facts = {
        "n": len(questions),
        "clusters": len({question.cluster for question in questions}),
        "seed": options.seed,
        "interval": "95%, bootstrap over clusters of near-duplicate documents",
        "dataset_sha256": digest,
        "passages": len(kept),
        "passages_sha256": chunks_sha256(kept),
    }
    results = {
        "cosine_to_float32": {"mean": float(cosines.mean()), "least": float(cosines.min())},
        "least_cosine_alone_to_in_a_batch": float(min(one @ other for one, other in zip(alone, rounded, strict=False))),
        "seconds": rounds,
        "times_faster": mean(each["float32"] / each["int8"] for each in rounds),
        "quality": table(ways, questions, options.seed),
    }
    with scratch_settings() as settings:
        write_results(options.out, settings, facts, results)


if __name__ == "__main__":
    main()
