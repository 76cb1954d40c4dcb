"""The search index on an Elasticsearch cluster (8.12 or later). It uses only what the free licence includes.

Readers search through an alias whose filter selects one generation of chunks. An update writes the next generation,
which readers do not see, and then changes the filter in one step. The next update cleans up after a killed one.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ragtune.backends.elastic_errors import checked_version, explained
from ragtune.backends.elastic_lease import WriterLease
from ragtune.errors import SearchIndexError
from ragtune.knowledge.indexing import SCHEMA_VERSION, best_first, checked_filter, stored_fields
from ragtune.ports import IndexQuery, SearchIndex
from ragtune.records import Chunk, Hit, content_id
from ragtune.text.search_terms import query_terms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

Result = TypeVar("Result")
# Chosen by hand, not sensitive: some 2 MB per bulk request.
ROWS_PER_REQUEST = 500
SEARCHES_PER_REQUEST = 64
MIN_CANDIDATES = 150
"""Neighbours that a search of the vector graph visits at least. More is more exact and slower. Chosen by hand; the
recall on Elasticsearch is in benchmarks/retrieval/backends.json."""

RESCORING = (8, 18)
"""Elasticsearch scores the best candidates again with the unquantised vectors from this version on."""

ANALYSIS = {"analyzer": {"terms": {"type": "custom", "tokenizer": "whitespace"}}}
"""The core made the terms; Elasticsearch only cuts them at spaces."""


class ElasticIndex(SearchIndex):
    """Chunks in the index behind the alias `name`. Several threads may use one object.

    A writer retries for `patience` seconds while the cluster restarts.
    """

    def __init__(
        self, url: str, api_key: str, name: str, embedder: str, dimension: int, scratch: Path, patience: float = 120.0
    ) -> None:
        from elasticsearch import Elasticsearch

        self.url, self.name, self.embedder, self.dimension = url, name, embedder, dimension
        self.scratch, self.location = scratch, f"{url}/{name}"
        self.patience = patience
        fingerprint = content_id(SCHEMA_VERSION, embedder, str(dimension))
        self._index, self._vector_field = f"{name}-{fingerprint}", f"vector_{fingerprint}"
        self._client = Elasticsearch(url, api_key=api_key or None, request_timeout=60, max_retries=2)
        self._lease = WriterLease(self._client, f"{name}-writer")
        self._version: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def versions(self) -> dict[str, tuple[str, str]]:
        """Return {chunk id: (document id, chunk version)} of the chunks that readers see."""
        with self._explaining_errors():
            return self._retrying(self._stored_versions)

    def state(self) -> str:
        """Return the index behind the alias with its unique id, and the generation that readers see."""
        with self._explaining_errors():
            reply = self._client.options(ignore_status=404).indices.get(
                index=self.name, features=["aliases", "settings"]
            )
        if reply.meta.status == 404:
            return ""
        seen = [(name, index["settings"]["index"]["uuid"], index["aliases"]) for name, index in reply.items()]
        return json.dumps(sorted(seen, key=lambda row: str(row[0])), sort_keys=True)

    def vectors(self, ids: Sequence[str]) -> "dict[str, Vector]":
        """Return the stored vectors of these chunks."""
        vectors: dict[str, Vector] = {}
        with self._explaining_errors():
            for part in _parts(ids, ROWS_PER_REQUEST):
                vectors |= self._retrying(partial(self._stored_vectors, part))
        return vectors

    def _stored_versions(self) -> dict[str, tuple[str, str]]:
        index, _ = self._published()
        if index != self._index:
            return {}
        rows = self._scan(self.name, {"match_all": {}}, ["id", "document_id", "version"])
        return {row["id"]: (row["document_id"], row["version"]) for _, row in rows}

    def _stored_vectors(self, ids: Sequence[str]) -> "dict[str, Vector]":
        import numpy as np

        rows = self._scan(self.name, {"terms": {"id": list(ids)}}, ["id", self._vector_field])
        return {row["id"]: np.array(row[self._vector_field], dtype=np.float32) for _, row in rows}

    def size_bytes(self) -> int:
        """Return the size of the index that readers see, without its replicas."""
        with self._explaining_errors():
            index, _ = self._published()
            stats = self._client.indices.stats(index=index, metric="store") if index else None
        return int(stats["_all"]["primaries"]["store"]["size_in_bytes"]) if stats else 0

    def updating(self) -> AbstractContextManager[None]:
        """Hold the cluster's lease for the one writer. It expires if this process dies."""
        return self._hold_lease()

    @contextmanager
    def _hold_lease(self) -> Iterator[None]:
        with self._explaining_errors():
            self._lease.acquire()
        try:
            yield
        finally:
            with self._explaining_errors():
                self._lease.release()

    def apply(self, added: "Iterable[tuple[Chunk, Vector]]", deleted: Sequence[str]) -> None:
        """Write the next generation, show it to readers in one step, then remove what it replaced."""
        with self._explaining_errors():
            old_index, generation = self._retrying(self._published)
            self._retrying(lambda: self._drop_unused(old_index))
            if old_index == self._index:
                self._retrying(lambda: self._undo_unfinished(generation))
            else:
                generation = 0
                self._retrying(self._create)
            after = generation + 1
            stale = list(deleted)
            for part in _iterable_parts(added, ROWS_PER_REQUEST):
                stale += [chunk.id for chunk, _ in part]
                self._bulk([self._document(chunk, vector, after) for chunk, vector in part])
            if generation:
                for ids in _parts(stale, ROWS_PER_REQUEST):
                    self._retrying(partial(self._mark_removed, ids, after))
            self._retrying(lambda: self._client.indices.refresh(index=self._index))
            self._retrying(lambda: self._publish(old_index, after))
            self._retrying(lambda: self._delete_where({"range": {"removed": {"lte": after}}}))

    def search(self, queries: Sequence[IndexQuery]) -> list[list[Hit]]:
        """Return the hits of all queries, in as few requests as possible. An index that was never built has no hits."""
        results: list[list[Hit]] = []
        with self._explaining_errors():
            for part in _parts(queries, SEARCHES_PER_REQUEST):
                searches = [line for query in part for line in ({"index": self.name}, self._search_body(query))]
                for query, response in zip(part, self._client.msearch(searches=searches)["responses"], strict=True):
                    results.append(self._hits(query, response))
        return results

    def _hits(self, query: IndexQuery, response: Mapping[str, Any]) -> list[Hit]:
        if "error" in response:
            if response["error"].get("type") == "index_not_found_exception":
                return []
            raise explained(self.location, int(response["status"]), str(response["error"]["type"]), str(response))
        rows = response["hits"]["hits"]
        if query.vector is not None and not rows:
            self._check_embedder()
        # Elasticsearch reports (1 + cosine) / 2, because its scores are never negative.
        scores = [row["_score"] if query.vector is None else 2 * row["_score"] - 1 for row in rows]
        return best_first([row["_source"]["record"] for row in rows], scores)

    def _check_embedder(self) -> None:
        """Raise SearchIndexError if readers see an index with vectors of another embedder."""
        index, _ = self._published()
        if index not in ("", self._index):
            meta = self._client.indices.get_mapping(index=index)[index]["mappings"].get("_meta", {})
            raise SearchIndexError(
                f"The index at {self.location} was built with the embedder '{meta.get('embedder')}'.",
                expected=f"'{self.embedder}', as the settings say",
                fix="run `ragtune index` or `ragtune materialize` to build it again, or restore the old setting",
            )

    def _search_body(self, query: IndexQuery) -> dict[str, Any]:
        where = [{"term": {name: value}} for name, value in checked_filter(query.where or {}).items()]
        body: dict[str, Any] = {"size": query.limit, "_source": ["record"], "track_total_hits": False}
        if query.vector is None:
            match = {"match": {"body": {"query": " ".join(query_terms(query.text))}}}
            return {**body, "query": {"bool": {"must": [match], "filter": where}}}
        knn: dict[str, Any] = {
            "field": self._vector_field,
            "query_vector": query.vector.tolist(),
            "k": query.limit,
            "num_candidates": min(10_000, max(MIN_CANDIDATES, 2 * query.limit)),
            "filter": where,
        }
        if self._version >= RESCORING:
            knn["rescore_vector"] = {"oversample": 2.0}
        return {**body, "knn": knn}

    def _published(self) -> tuple[str, int]:
        """Return the index behind the alias and the generation that its filter selects; ("", 0) before the first."""
        reply = self._client.options(ignore_status=404).indices.get_alias(name=self.name)
        if reply.meta.status == 404:
            return "", 0
        (index, state), *others = reply.items()
        if others:
            raise SearchIndexError(
                f"The alias '{self.name}' points at {', '.join(sorted(reply.keys()))}.",
                expected="one index",
                fix="remove the alias from all but the newest of them",
            )
        visible = state["aliases"][self.name].get("filter", {}).get("bool", {}).get("filter", [])
        return index, int(visible[0]["range"]["added"]["lte"]) if visible else 0

    def _publish(self, old_index: str, generation: int) -> None:
        if self._lease.held:
            self._lease.confirm()
        self._lease.check()
        visible = {
            "bool": {
                "filter": [{"range": {"added": {"lte": generation}}}],
                "must_not": [{"range": {"removed": {"lte": generation}}}],
            }
        }
        actions: list[dict[str, Any]] = [{"add": {"index": self._index, "alias": self.name, "filter": visible}}]
        if old_index and old_index != self._index:
            actions.insert(0, {"remove": {"index": old_index, "alias": self.name}})
        self._client.indices.update_aliases(actions=actions)

    def _drop_unused(self, old_index: str) -> None:
        """Delete our indices that readers do not see: replaced ones, and one whose first build was killed."""
        ours = re.compile(re.escape(self.name) + "-[0-9a-f]{16}")
        for index in self._client.indices.get(index=f"{self.name}-*", features="aliases"):
            if ours.fullmatch(index) and index != old_index:
                self._client.indices.delete(index=index)

    def _create(self) -> None:
        text = ("id", "version", "document_id", "source", "title", "topic", "names")
        vector = {
            "type": "dense_vector",
            "dims": self.dimension,
            "index": True,
            "similarity": "cosine",
            "index_options": {"type": "int8_hnsw"},
        }
        properties: dict[str, Any] = {name: {"type": "keyword", "ignore_above": 8000} for name in text}
        properties |= {
            "body": {"type": "text", "analyzer": "terms"},
            "record": {"type": "keyword", "index": False, "doc_values": False},
            "added": {"type": "long"},
            "removed": {"type": "long"},
            self._vector_field: vector,
        }
        self._client.options(ignore_status=404).indices.delete(index=self._index)
        self._client.indices.create(
            index=self._index,
            settings={"number_of_shards": 1, "auto_expand_replicas": "0-1", "analysis": ANALYSIS},
            mappings={"dynamic": "strict", "properties": properties, "_meta": {"embedder": self.embedder}},
        )

    def _undo_unfinished(self, generation: int) -> None:
        """Undo what a killed update wrote, and remove chunks that readers no longer see."""
        self._client.indices.refresh(index=self._index)
        self._delete_where({"range": {"added": {"gt": generation}}})
        self._delete_where({"range": {"removed": {"lte": generation}}})
        marked = [row_id for row_id, _ in self._scan(self._index, {"range": {"removed": {"gt": generation}}}, ["id"])]
        self._bulk([{"_op_type": "update", "_id": row_id, "doc": {"removed": None}} for row_id in marked])
        if marked:
            self._client.indices.refresh(index=self._index)

    def _delete_where(self, query: dict[str, Any]) -> None:
        row_ids = [row_id for row_id, _ in self._scan(self._index, query, ["id"])]
        self._bulk([{"_op_type": "delete", "_id": row_id} for row_id in row_ids])
        if row_ids:
            self._client.indices.refresh(index=self._index)

    def _document(self, chunk: Chunk, vector: "Vector", generation: int) -> dict[str, Any]:
        fields = {**stored_fields(chunk), "added": generation, self._vector_field: vector.tolist()}
        return {"_op_type": "index", "_id": f"{chunk.id}.{generation}", "_source": fields}

    def _scan(self, index: str, query: dict[str, Any], fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        from elasticsearch import helpers

        body = {"query": query, "_source": fields, "sort": ["_doc"]}
        for row in helpers.scan(self._client, index=index, query=body, size=1000, preserve_order=True):
            yield row["_id"], row["_source"]

    def _mark_removed(self, ids: Sequence[str], generation: int) -> None:
        row_ids = [row_id for row_id, _ in self._scan(self.name, {"terms": {"id": list(ids)}}, ["id"])]
        self._bulk([{"_op_type": "update", "_id": row_id, "doc": {"removed": generation}} for row_id in row_ids])

    def _bulk(self, actions: Sequence[dict[str, Any]]) -> None:
        for part in _parts(actions, ROWS_PER_REQUEST):
            self._retrying(partial(self._send, part))

    def _send(self, actions: Sequence[dict[str, Any]]) -> None:
        from elasticsearch import helpers

        self._lease.check()
        rows = helpers.streaming_bulk(
            self._client, actions, index=self._index, raise_on_error=False, max_retries=3, initial_backoff=0.3
        )
        self._check_rows([item for ok, item in rows if not ok])

    def _retrying(self, step: Callable[[], Result]) -> Result:
        """Run a step that may run twice. A writer repeats it for `patience` seconds while the cluster restarts."""
        from elasticsearch import ApiError, TransportError

        deadline, pause = time.monotonic() + self.patience * self._lease.held, 0.5
        while True:
            try:
                return step()
            except (TransportError, ApiError) as error:
                restarting = not isinstance(error, ApiError) or error.status_code in (502, 503, 504)
                if not restarting or time.monotonic() > deadline:
                    raise
                time.sleep(pause)
                pause = min(5.0, 2 * pause)

    def _check_rows(self, failed: Sequence[Mapping[str, Any]]) -> None:
        for item in failed:
            (operation, result), *_ = item.items()
            gone = operation in ("delete", "update") and result.get("status") == 404
            if not gone:
                error = result.get("error") or {}
                raise explained(self.location, int(result.get("status", 500)), str(error.get("type")), str(error))

    @contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        """Turn errors of the client into ours. Check the server's version before the first request."""
        from elasticsearch import ApiError, TransportError, UnsupportedProductError

        try:
            if not self._version:
                self._version = checked_version(self.url, self._client.info().body)
            yield
        except UnsupportedProductError as error:
            raise explained(self.location, 0, "UnsupportedProductError", str(error)) from error
        except ApiError as error:
            raise explained(self.location, error.status_code, error.error, str(error)) from error
        except TransportError as error:
            raise explained(self.location, 0, type(error).__name__, str(error)) from error


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _iterable_parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
