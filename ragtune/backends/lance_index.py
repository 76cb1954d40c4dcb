"""The embedded search index: one LanceDB table with terms and vectors.

A small pointer file names the table and the version that readers see. An update writes new versions, which no reader
sees, and then changes the pointer. The next update rolls back a killed one.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.errors import SearchIndexError
from ragtune.knowledge.indexing import SCHEMA_VERSION, best_first, checked_filter, stored_fields
from ragtune.ports import IndexQuery, SearchIndex
from ragtune.records import Chunk, Hit, content_id
from ragtune.store.artifacts import write_json
from ragtune.store.write_lock import write_lock
from ragtune.text.search_terms import query_terms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

ROWS_PER_BATCH = 1024
VECTOR_INDEX_FROM = 200_000
"""Up to this many chunks, a search compares every vector in memory, which is exact and takes milliseconds. At 100,000
LanceDB's graph is no faster (benchmarks/retrieval/latency_exact.json); 200,000 itself was chosen by hand."""
GRAPH_WIDTH = 3200
"""Candidates that a search of the graph keeps. Recall at 10 is 0.96, with LanceDB's default 0.44 to 0.48
(benchmarks/retrieval/graph.json)."""
GRAPH_REFINE = 2
"""Candidates per hit that are compared with their full vectors, because the graph stores 8-bit ones. Raises recall at
10 from 0.96 to 0.985 (benchmarks/retrieval/graph.json)."""
TIES = 16
"""Extra hits to fetch. LanceDB orders hits with equal scores by when they were written; with these, ties at the end of
the list are ordered by us. Chosen by hand."""
KEEP_OLD = timedelta(minutes=10)
"""How long a replaced version stays on disk. Chosen by hand: longer than any search takes."""
CLEAN_FROM = 40
"""Number of old versions that are removed together, because a removal costs as much as an update. An update makes about
four. Chosen by hand."""
COMPACT_FROM = 20
"""Number of fragments that are rewritten as one; each update makes one. Chosen by hand, see
docs/decisions/lancedb-indexes-rebuilt.md."""


class LanceIndex(SearchIndex):
    """LanceDB in a folder. Readers, also in other processes, read the pointer at every search."""

    def __init__(self, folder: Path, embedder: str, dimension: int, graph_from: int = VECTOR_INDEX_FROM) -> None:
        self.folder, self.embedder, self.dimension, self.graph_from = folder, embedder, dimension, graph_from
        self.scratch = folder / "unfinished"
        self.location = str(folder)
        self._table_name = f"chunks_{content_id(SCHEMA_VERSION, embedder, str(dimension))}"
        self._seen: tuple[str, Any] = ("", None)
        self._in_memory: tuple[Any, npt.NDArray[np.uint64], Vector] | None = None
        self._connection: Any = None

    def versions(self) -> dict[str, tuple[str, str]]:
        """Return {chunk id: (document id, chunk version)} of the chunks that readers see."""
        table = self._reader()
        if table is None or self._pointer().get("table") != self._table_name:
            return {}
        columns = table.search().select(["id", "document_id", "version"]).limit(None).to_arrow().to_pydict()
        rows = zip(columns["id"], columns["document_id"], columns["version"], strict=True)
        return {chunk: (document, version) for chunk, document, version in rows}

    def state(self) -> str:
        """Return which pointer file readers see: each update writes a new one."""
        try:
            file = (self.folder / "current.json").stat()
        except FileNotFoundError:
            return ""
        return f"{file.st_mtime_ns}.{file.st_ino}"

    def vectors(self, ids: Sequence[str]) -> "dict[str, Vector]":
        """Return the stored vectors of these chunks."""
        import numpy as np

        table = self._reader()
        vectors: dict[str, Vector] = {}
        for part in _parts(ids, ROWS_PER_BATCH):
            rows = table.search().where(f"id IN ({_quoted(part)})").select(["id", "vector"]).limit(None).to_arrow()
            values = rows.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, self.dimension)
            vectors |= dict(zip(rows.column("id").to_pylist(), values.astype(np.float32), strict=True))
        return vectors

    def size_bytes(self) -> int:
        """Return the size of the folder, including old versions that readers may still use."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Hold the folder's write lock; wait for another writer. The operating system frees it if its process dies."""
        with write_lock(self.folder / ".write.lock", "the search index"):
            yield

    def apply(self, added: "Iterable[tuple[Chunk, Vector]]", deleted: Sequence[str]) -> None:
        """Write a new version of the table, then point readers at it."""
        try:
            table = self._writable_table()
            rows = list(added)
            stale = {*deleted, *(chunk.id for chunk, _ in rows)}
            for part in _parts(sorted(stale), ROWS_PER_BATCH):
                table.delete(f"id IN ({_quoted(part)})")
            if rows:
                import pyarrow as pa

                table.add(pa.RecordBatchReader.from_batches(self._schema(), self._batches(rows)))
            crowded = _old_versions(table) >= CLEAN_FROM
            if crowded or table.stats()["fragment_stats"]["num_fragments"] >= COMPACT_FROM:
                self._compact(table)
            self._build_indexes(table)
        except (OSError, RuntimeError) as error:
            raise SearchIndexError(
                f"The index at {self.folder} could not be written: {error}",
                expected="free space on the disk and permission to write there",
                fix="free some space or change the permissions, then run the same command again; readers still see the "
                "old state",
            ) from error
        write_json(self.folder / "current.json", self._description(table))
        if crowded:
            table.optimize(cleanup_older_than=KEEP_OLD)

    def search(self, queries: Sequence[IndexQuery]) -> list[list[Hit]]:
        """Return the hits of all queries from one version of the table. An index that was never built has no hits."""
        table = self._reader()
        if table is None:
            return [[] for _ in queries]
        exact = table.count_rows() < self.graph_from
        in_memory = [n for n, query in enumerate(queries) if exact and query.vector is not None and not query.where]
        hits = dict(zip(in_memory, self._nearest(table, [queries[n] for n in in_memory]), strict=True))
        rest = [n for n in range(len(queries)) if n not in hits]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if len(rest) > 1 else 1) as pool:
            hits |= zip(rest, pool.map(lambda n: self._search_one(table, queries[n]), rest), strict=True)
        return [hits[n] for n in range(len(queries))]

    def _nearest(self, table: Any, queries: Sequence[IndexQuery]) -> list[list[Hit]]:
        """Return the hits with the nearest vectors, exactly: compare all of them by a matrix product."""
        if not queries:
            return []
        import numpy as np

        self._check_embedder()
        row_ids, stored = self._loaded_vectors(table)
        if not len(row_ids):
            return [[] for _ in queries]
        neighbours: list[list[tuple[int, float]]] = []
        for part in _parts(queries, ROWS_PER_BATCH // 4):
            scores = np.stack([query.vector for query in part]).astype(np.float32) @ stored.T
            for query, row in zip(part, scores, strict=True):
                best = np.argpartition(-row, min(query.limit, len(row) - 1))[: query.limit]
                neighbours.append([*zip(row_ids[best].tolist(), row[best].tolist(), strict=True)])
        unique_ids = {row_id for nearest in neighbours for row_id, _ in nearest}
        rows = table.take_row_ids([*unique_ids]).select(["record"]).with_row_id().to_arrow().to_pydict()
        records = dict(zip(rows["_rowid"], rows["record"], strict=True))
        return [
            best_first([records[row_id] for row_id, _ in nearest], [score for _, score in nearest])
            for nearest in neighbours
        ]

    def _loaded_vectors(self, table: Any) -> "tuple[npt.NDArray[np.uint64], Vector]":
        """Return row ids and vectors of the table. They stay in memory until readers see another version."""
        cached = self._in_memory
        if cached is None or cached[0] is not table:
            rows = table.search().select(["vector"]).with_row_id(True).limit(None).to_arrow()
            vectors = rows.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, self.dimension)
            cached = self._in_memory = (table, rows.column("_rowid").to_numpy(), vectors)
        return cached[1:]

    def _search_one(self, table: Any, query: IndexQuery) -> list[Hit]:
        from lancedb import query as lance_query

        if query.vector is None:
            terms = query_terms(query.text)
            if not terms:
                return []
            words: Any = lance_query.MatchQuery(" ".join(terms), "body")
            search = table.search(words, query_type="fts").select(["record", "_score"])
        else:
            self._check_embedder()
            search = table.search(query.vector, vector_column_name="vector", query_type="vector")
            search = search.ef(max(GRAPH_WIDTH, GRAPH_REFINE * query.limit)).refine_factor(GRAPH_REFINE)
            search = search.distance_type("dot").select(["record", "_distance"])
        if query.where:
            search = search.where(_condition(query.where), prefilter=True)
        rows = search.limit(query.limit + TIES).to_arrow().to_pydict()
        scores = rows["_score"] if query.vector is None else [1.0 - distance for distance in rows["_distance"]]
        return best_first(rows["record"], scores)[: query.limit]

    def _check_embedder(self) -> None:
        pointer = self._pointer()
        if pointer.get("table") != self._table_name:
            raise SearchIndexError(
                f"The index at {self.folder} was built with the embedder '{pointer.get('embedder')}'.",
                expected=f"'{self.embedder}', as the settings say",
                fix="run `ragtune index` or `ragtune materialize` to build it again, or restore the old setting",
            )

    def _pointer(self) -> dict[str, Any]:
        path = self.folder / "current.json"
        pointer: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return pointer

    def _reader(self) -> Any:
        """Return the table at the published version, or None before the first update."""
        path = self.folder / "current.json"
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        if text != self._seen[0]:
            pointer = json.loads(text)
            try:
                table = self._database().open_table(pointer["table"])
                table.checkout(pointer["version"])
            except (OSError, RuntimeError, ValueError) as error:
                raise SearchIndexError(
                    f"The index at {self.folder} is damaged: {error}",
                    expected=f"version {pointer['version']} of table {pointer['table']}",
                    fix=f"delete {self.folder} and run `ragtune index` or `ragtune materialize`",
                ) from error
            self._seen = (text, table)
        return self._seen[1]

    def _database(self) -> Any:
        if self._connection is None:
            import lancedb

            self._connection = lancedb.connect(str(self.folder))
        return self._connection

    def _writable_table(self) -> Any:
        """Return the table with the content that readers see, after undoing what a killed update wrote."""
        database = self._database()
        pointer = self._pointer()
        if pointer.get("table") == self._table_name:
            table = database.open_table(self._table_name)
            if table.version != pointer["version"]:
                table.checkout(pointer["version"])
                table.restore()
            return table
        for name in database.list_tables(limit=1000).tables:
            if name != pointer.get("table"):
                database.drop_table(name)
        return database.create_table(self._table_name, schema=self._schema())

    def _schema(self) -> Any:
        import pyarrow as pa

        text = [(name, pa.string()) for name in ("id", "version", "document_id", "source", "title", "topic")]
        return pa.schema(
            [
                *text,
                ("names", pa.list_(pa.string())),
                ("body", pa.string()),
                ("record", pa.string()),
                ("vector", pa.list_(pa.float32(), self.dimension)),
            ]
        )

    def _batches(self, rows: "Sequence[tuple[Chunk, Vector]]") -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        schema = self._schema()
        for part in _parts(rows, ROWS_PER_BATCH):
            flat = np.concatenate([vector for _, vector in part]).astype(np.float32)
            rows_of = [stored_fields(chunk) for chunk, _ in part]
            columns: dict[str, Any] = {name: [row[name] for row in rows_of] for name in schema.names[:-1]}
            columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), self.dimension)
            yield pa.RecordBatch.from_pydict(columns, schema=schema)

    def _build_indexes(self, table: Any) -> None:
        """Build the indexes of words and names again.

        That is four to ten times as fast as LanceDB's merge of the changes
        (docs/decisions/lancedb-indexes-rebuilt.md). An existing graph stays
        as it is; LanceDB compares vectors that are not in it one by one.
        """
        from lancedb.index import FTS, HnswSq, LabelList

        # The core made the terms; LanceDB only cuts them at spaces.
        words = FTS(
            base_tokenizer="whitespace",
            lower_case=False,
            stem=False,
            remove_stop_words=False,
            ascii_folding=False,
            max_token_length=None,
        )
        table.create_index("body", config=words)
        table.create_index("names", config=LabelList())
        built = {index.name for index in table.list_indices()}
        if "vector_idx" not in built and table.count_rows() >= self.graph_from:
            table.create_index("vector", config=HnswSq(distance_type="dot"))

    def _compact(self, table: Any) -> None:
        """Write all fragments as one. Drop the indexes of words and names first, or LanceDB would merge them slowly."""
        for name in {index.name for index in table.list_indices()} - {"vector_idx"}:
            table.drop_index(name)
        table.optimize(cleanup_older_than=timedelta(days=3650))

    def _description(self, table: Any) -> dict[str, Any]:
        return {
            "table": self._table_name,
            "version": table.version,
            "embedder": self.embedder,
            "dimension": self.dimension,
            "chunks": table.count_rows(),
        }


def _old_versions(table: Any) -> int:
    """Return the number of versions that no reader uses any more."""
    times = [version["timestamp"] for version in table.list_versions()]
    return sum(times[-1] - time > KEEP_OLD for time in times)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _quoted(values: Sequence[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def _condition(where: Mapping[str, str]) -> str:
    tests = [
        f"array_has(names, {_quoted([value])})" if name == "names" else f"{name} = {_quoted([value])}"
        for name, value in checked_filter(where).items()
    ]
    return " AND ".join(tests)
