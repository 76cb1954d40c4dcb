"""A gateway for tests of the console: in this process, quick to start, over the documents of a folder."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from ragtune.backends.catalog import engine_from
from ragtune.backends.lance_index import LanceIndex
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.library import Library
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Chunk, QAPair
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune_serving.deployment import Deployment, Engines, Needed, Publisher
from ragtune_serving.gateway import build_app, services_over
from ragtune_serving.grounding import Grounding
from ragtune_serving.keys import KeyStore
from ragtune_serving.routes import Services
from tests.support.answering_fakes import WordEvidence
from tests.support.counting_embedder import CountingEmbedder
from tests.support.scripted_upstream import ScriptedUpstream, ServedApp


class ConsoleGateway:
    """The gateway with the console; passages are embedded by their words and evidence is shared words.

    `chunks` are the passages of the documents. Keyword arguments are sections of the settings.
    """

    def __init__(self, home: Path, documents: Path, upstream: ScriptedUpstream, **sections: Any) -> None:
        engine = {"backend": "openai", "url": upstream.url, "model": upstream.name}
        sections = {"gateway": {"poll_seconds": 0.1}, "sources": [f"folder:{documents}"], **sections}
        # Tests of one page ask the same question of engines that behave differently.
        gateway = {"cache": {"entries": 0}, **sections.pop("gateway", {})}
        self.settings: Settings = load_settings({"home": home, "engine": engine, "gateway": gateway, **sections})
        self.upstream, self.embedder = upstream, CountingEmbedder()
        self.index = LanceIndex(home / "index", self.embedder.name, self.embedder.dimension)
        corpus = Library(self.settings).read()
        self.chunks = chunk_changed(corpus.documents, self.settings, self.embedder)
        update_index(self.index, self.embedder, self.chunks)
        self.keys = KeyStore(home / "keys")
        self.keys.ensure()
        self.services = self._services()
        self.start()

    def start(self, port: int = 0) -> None:
        """Serve on a free port, or on this one again."""
        self.served = ServedApp(build_app(self.services, self.settings, self.keys), port=port)
        self.url = self.served.url
        end = time.monotonic() + 60
        while not (ready := httpx.get(f"{self.url}/health/readiness")).json()["retrieval"] or ready.status_code != 200:
            assert time.monotonic() < end, ready.text
            time.sleep(0.05)

    def key(self, name: str, role: str, **options: Any) -> str:
        """Create a key for somebody."""
        return self.keys.create(name, role, **options)

    def with_dataset(self, pairs: Sequence[QAPair], chunks: Sequence[Chunk] = ()) -> None:
        """Make these pairs the dataset that people review."""
        store = ArtifactStore(self.settings.home / "artifacts")
        records = (("chunks", chunks or self.chunks), ("qa_candidates", pairs), ("qa_dataset", pairs))
        for name, rows in records:
            store.set_current(store.write_records(name, rows))

    def close(self) -> None:
        self.served.close()

    def _services(self) -> Services:
        settings = self.settings
        grounding = Grounding(
            settings, lambda: Retriever(self.index, self.embedder, settings.index), evidence=WordEvidence()
        )
        registry = ModelRegistry(settings)

        def engines(publisher: Publisher, needed: Needed) -> Engines:
            return Deployment(
                settings, engine_from(settings), registry, lambda: (Path(), "bf16"), publisher, needed=needed
            )

        return services_over(settings, grounding, registry, engines)
