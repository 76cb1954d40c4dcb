"""Indexes a JSON lines file with another library, with its own defaults and the weights of our embedder.

    python benchmarks/retrieval/peer_ingest.py txtai corpus.jsonl path/to/weights folder/for/the/index

It runs in a separate environment (`peers-requirements.txt`), so it imports nothing of RagTune. The model is loaded and
warm before the clock starts. Reading, cutting, embedding and writing to disk are timed. Prints one JSON object.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ingest = Callable[[list[dict[str, str]], Path], int]


def llamaindex(weights: str) -> Ingest:
    """Return LlamaIndex's way: its sentence splitter and its in-memory vector store, saved to disk."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedder = HuggingFaceEmbedding(model_name=weights)
    embedder.get_text_embedding("warm up")

    def ingest(rows: list[dict[str, str]], folder: Path) -> int:
        documents = [Document(text=text_of(row), doc_id=row["id"]) for row in rows]
        index = VectorStoreIndex.from_documents(documents, embed_model=embedder)
        index.storage_context.persist(str(folder))
        return len(index.docstore.docs)

    return ingest


def haystack(weights: str) -> Ingest:
    """Return Haystack's way: its word splitter and its in-memory store, saved to disk."""
    from haystack import Document, Pipeline
    from haystack.components.preprocessors import DocumentSplitter
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder

    store = InMemoryDocumentStore()
    pipeline = Pipeline()
    pipeline.add_component("splitter", DocumentSplitter())
    pipeline.add_component("embedder", SentenceTransformersDocumentEmbedder(model=weights, progress_bar=False))
    pipeline.add_component("writer", DocumentWriter(document_store=store))
    pipeline.connect("splitter", "embedder")
    pipeline.connect("embedder", "writer")
    pipeline.warm_up()

    def ingest(rows: list[dict[str, str]], folder: Path) -> int:
        pipeline.run({"splitter": {"documents": [Document(content=text_of(row), id=row["id"]) for row in rows]}})
        store.save_to_disk(str(folder / "store.json"))
        return int(store.count_documents())

    return ingest


def txtai(weights: str) -> Ingest:
    """Return txtai's way: whole documents, words and vectors, saved to disk."""
    from txtai import Embeddings

    embeddings = Embeddings(path=weights, content=True, hybrid=True)
    embeddings.batchtransform(["warm up"])

    def ingest(rows: list[dict[str, str]], folder: Path) -> int:
        embeddings.index((row["id"], text_of(row), None) for row in rows)
        embeddings.save(str(folder))
        return int(embeddings.count())

    return ingest


def text_of(row: dict[str, str]) -> str:
    """Return title and text, as RagTune's passages have them."""
    return f"{row['title']}\n{row['text']}"


PEERS: dict[str, tuple[str, Callable[[str], Ingest]]] = {
    "llamaindex": ("llama-index-core", llamaindex),
    "haystack": ("haystack-ai", haystack),
    "txtai": ("txtai", txtai),
}


def main() -> None:
    """Index the file and print how long it took."""
    name, corpus, weights, folder = sys.argv[1:]
    package, make = PEERS[name]
    ingest = make(weights)
    Path(folder).mkdir(parents=True)
    began = time.perf_counter()
    rows = [json.loads(line) for line in Path(corpus).read_text().splitlines()]
    passages = ingest(rows, Path(folder))
    facts: dict[str, Any] = {
        "seconds": time.perf_counter() - began,
        "documents": len(rows),
        "passages": passages,
        "version": importlib.metadata.version(package),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
