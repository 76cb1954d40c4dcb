"""The composition root: one word in the settings becomes one object behind a seam."""

import os
from functools import lru_cache

from ragtune.backends.elastic_index import ElasticIndex
from ragtune.backends.embedders import OpenAiEmbedder, SentenceTransformersEmbedder
from ragtune.backends.engines import OpenAIEngine, VllmEngine
from ragtune.backends.lance_index import LanceIndex
from ragtune.backends.minilm import MiniLmEmbedder
from ragtune.backends.rerankers import CrossEncoderReranker, LanguageModelRewriter
from ragtune.knowledge.retrieval import Retriever, SearchLog, no_log, search_log
from ragtune.ports import Embedder, Engine, Progress, SearchIndex, silent
from ragtune.settings import EmbedderSettings, Settings


def embedder_from(settings: Settings) -> Embedder:
    """Return the embedder of the settings; one process loads one once."""
    chosen = settings.embedder
    return _embedder(
        chosen, settings.threads or os.cpu_count() or 1, settings.device, settings.base_model.allow_download
    )


@lru_cache(maxsize=4)
def _embedder(chosen: EmbedderSettings, threads: int, device: str, allow_download: bool) -> Embedder:
    if chosen.backend == "minilm":
        return MiniLmEmbedder(chosen.batch_size, threads, device, chosen.precision)
    if chosen.backend == "openai":
        return OpenAiEmbedder(chosen.url, chosen.model, chosen.api_key.get_secret_value(), chosen.batch_size)
    return SentenceTransformersEmbedder(chosen.model, chosen.batch_size, allow_download)


def search_index_from(settings: Settings, embedder: Embedder) -> SearchIndex:
    """Return the search index of the settings, for vectors of this embedder."""
    folder, chosen = settings.home / "index", settings.index
    if chosen.backend == "elasticsearch":
        key = chosen.api_key.get_secret_value()
        return ElasticIndex(
            chosen.url, key, chosen.name, embedder.name, embedder.dimension, scratch=folder / "unfinished"
        )
    return LanceIndex(folder, embedder.name, embedder.dimension)


def retriever_from(settings: Settings) -> Retriever:
    """Return a retriever over the index of the settings that logs to `logs/retrieval.jsonl` in the home."""
    embedder = embedder_from(settings)
    log = search_log(settings.home / "logs" / "retrieval.jsonl")
    return retriever_over(search_index_from(settings, embedder), embedder, settings, log)


def retriever_over(index: SearchIndex, embedder: Embedder, settings: Settings, log: SearchLog = no_log) -> Retriever:
    """Return a retriever with the reranker and the rewriter of the settings, where they name one."""
    chosen = settings.index
    rerank = _reranker(chosen.reranker, settings.base_model.allow_download) if chosen.reranker else None
    cache = settings.home / "rewordings"
    reword = LanguageModelRewriter(chosen.rewriter, cache, settings.seed) if chosen.rewriter.model else None
    return Retriever(index, embedder, chosen, log, rerank, reword)


@lru_cache(maxsize=2)
def _reranker(model: str, allow_download: bool) -> CrossEncoderReranker:
    return CrossEncoderReranker(model, allow_download)


def engine_from(settings: Settings, progress: Progress = silent) -> Engine:
    """Return the generation engine of the settings: a local vLLM, or the server at `engine.url`."""
    if settings.engine.backend == "openai":
        return OpenAIEngine(settings.engine, settings.home)
    return VllmEngine(settings.engine, settings.home, settings.device, progress)
