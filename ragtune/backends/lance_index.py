"""The embedded search index: one LanceDB table, full text with stemming beside vectors.

A small pointer file names the table and the version that readers see. An update writes new
versions, which nobody looks at, and then moves the pointer; a killed one is rolled back.
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
from ragtune.knowledge.indexing import BM25_STOP_WORDS, SCHEMA_VERSION, best_first, checked_filter, stored_fields
from ragtune.ports import IndexQuery, SearchIndex
from ragtune.records import Chunk, Hit, content_id
from ragtune.store.artifacts import write_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

ROWS_PER_BATCH = 1024
VECTOR_INDEX_FROM = 200_000
"""Below this many chunks every vector is compared, in memory: exact, and a few milliseconds."""
GRAPH_WIDTH = 3200
"""Candidates that a search keeps on its way through the graph; LanceDB's 1.5 a hit loses half of the nearest."""
GRAPH_REFINE = 2
"""So many candidates for each hit are compared with their whole vectors: the graph has them in 8 bits."""
TIES = 16
"""So many more hits are looked at than asked for: which of equal ones come first depends on when each was written."""
KEEP_OLD = timedelta(minutes=10)
"""How long a version stays on disk after its successor: longer than any search takes."""
CLEAN_FROM = 40
"""So many old versions are removed at once, because that costs as much as an update; one update makes some four."""
COMPACT_FROM = 20
"""So many fragments are written as one; each update makes one."""


class LanceIndex(SearchIndex):
    """LanceDB in a folder. Readers in other processes follow the pointer at every search."""

    def __init__(self, folder: Path, embedder: str, dimension: int, graph_from: int = VECTOR_INDEX_FROM) -> None:
        self.folder, self.embedder, self.dimension, self.graph_from = folder, embedder, dimension, graph_from
        self.scratch = folder / "unfinished"
        self.location = str(folder)
        self._table_name = f"chunks_{content_id(SCHEMA_VERSION, embedder, str(dimension))}"
        self._seen: tuple[str, Any] = ("", None)
        self._in_memory: tuple[Any, npt.NDArray[np.uint64], Vector] | None = None
        self._connection: Any = None

    def versions(self) -> dict[str, tuple[str, str]]:
        """Return {chunk id: (document id, chunk version)} of what readers see."""
        table = self._reader()
        if table is None or self._pointer().get("table") != self._table_name:
            return {}
        columns = table.search().select(["id", "document_id", "version"]).limit(None).to_arrow().to_pydict()
        rows = zip(columns["id"], columns["document_id"], columns["version"], strict=True)
        return {chunk: (document, version) for chunk, document, version in rows}

    def vectors(self, ids: Sequence[str]) -> "dict[str, Vector]":
        """Return the stored vectors of these chunks."""
        import numpy as np

        table = self._reader()
        found: dict[str, Vector] = {}
        for part in _parts(ids, ROWS_PER_BATCH):
            rows = table.search().where(f"id IN ({_quoted(part)})").select(["id", "vector"]).limit(None).to_arrow()
            values = rows.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, self.dimension)
            found |= dict(zip(rows.column("id").to_pylist(), values.astype(np.float32), strict=True))
        return found

    def size_bytes(self) -> int:
        """Return the size of the folder, with versions that are still kept for readers."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Hold the folder's write lock; the operating system frees it when its holder dies."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".write.lock"):
            yield

    def apply(self, added: "Iterable[tuple[Chunk, Vector]]", deleted: Sequence[str]) -> None:
        """Write a new version of the table and point readers at it, in that order."""
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
                expected="room on the disk and the right to write there",
                fix="free space or rights and run the same command again; readers still see the old state",
            ) from error
        write_json(self.folder / "current.json", self._description(table))
        if crowded:
            table.optimize(cleanup_older_than=KEEP_OLD)

    def search(self, queries: Sequence[IndexQuery]) -> list[list[Hit]]:
        """Answer all queries on one version of the table; an index never built has no hits."""
        table = self._reader()
        if table is None:
            return [[] for _ in queries]
        whole = table.count_rows() < self.graph_from
        near = [n for n, query in enumerate(queries) if whole and query.vector is not None and not query.where]
        found = dict(zip(near, self._nearest(table, [queries[place] for place in near]), strict=True))
        rest = [place for place in range(len(queries)) if place not in found]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if len(rest) > 1 else 1) as pool:
            found |= zip(rest, pool.map(lambda place: self._search_one(table, queries[place]), rest), strict=True)
        return [found[place] for place in range(len(queries))]

    def _nearest(self, table: Any, queries: Sequence[IndexQuery]) -> list[list[Hit]]:
        """Compare the query vectors with all stored ones by a matrix product: exact, as a scan is."""
        if not queries:
            return []
        import numpy as np

        self._check_embedder()
        row_ids, stored = self._loaded_vectors(table)
        if not len(row_ids):
            return [[] for _ in queries]
        found: list[list[tuple[int, float]]] = []
        for part in _parts(queries, ROWS_PER_BATCH // 4):
            scores = np.stack([query.vector for query in part]).astype(np.float32) @ stored.T
            for query, row in zip(part, scores, strict=True):
                best = np.argpartition(-row, min(query.limit, len(row) - 1))[: query.limit]
                found.append([*zip(row_ids[best].tolist(), row[best].tolist(), strict=True)])
        wanted = {row_id for nearest in found for row_id, _ in nearest}
        rows = table.take_row_ids([*wanted]).select(["record"]).with_row_id().to_arrow().to_pydict()
        records = dict(zip(rows["_rowid"], rows["record"], strict=True))
        return [best_first([records[row] for row, _ in nearest], [score for _, score in nearest]) for nearest in found]

    def _loaded_vectors(self, table: Any) -> "tuple[npt.NDArray[np.uint64], Vector]":
        """Return row ids and vectors of the table, kept in memory until readers see another version."""
        kept = self._in_memory
        if kept is None or kept[0] is not table:
            rows = table.search().select(["vector"]).with_row_id(True).limit(None).to_arrow()
            vectors = rows.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, self.dimension)
            kept = self._in_memory = (table, rows.column("_rowid").to_numpy(), vectors)
        return kept[1:]

    def _search_one(self, table: Any, query: IndexQuery) -> list[Hit]:
        from lancedb import query as lance_query

        if query.vector is None:
            if not query.text.strip():
                return []
            words: Any = lance_query.MatchQuery(query.text, "body")
            search = table.search(words, query_type="fts").select(["record", "_score"])
        else:
            self._check_embedder()
            search = table.search(query.vector, vector_column_name="vector", query_type="vector")
            search = search.ef(max(GRAPH_WIDTH, GRAPH_REFINE * query.limit)).refine_factor(GRAPH_REFINE)
            search = search.distance_type("dot").select(["record", "_distance"])
        if query.where:
            search = search.where(_condition(query.where), prefilter=True)
        rows = search.limit(query.limit + TIES).to_arrow().to_pydict()
        scores = rows["_score"] if query.vector is None else [1.0 - each for each in rows["_distance"]]
        return best_first(rows["record"], scores)[: query.limit]

    def _check_embedder(self) -> None:
        pointer = self._pointer()
        if pointer.get("table") != self._table_name:
            raise SearchIndexError(
                f"The index at {self.folder} was built with the embedder '{pointer.get('embedder')}'.",
                expected=f"'{self.embedder}', as the settings say",
                fix="run `ragtune index` or `ragtune materialize` to build it anew, or restore the old setting",
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
        """Return the table with the published content, whatever a killed update left in it."""
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
        """Index words and names anew, which is some ten times quicker than LanceDB's merge of what changed.

        A graph stays as it is: vectors that are not in it yet are compared one by one.
        """
        from lancedb.index import FTS, HnswSq, LabelList

        words = FTS(stem=True, language="English", custom_stop_words=BM25_STOP_WORDS, max_token_length=80)
        table.create_index("body", config=words)
        table.create_index("names", config=LabelList())
        built = {index.name for index in table.list_indices()}
        if "vector_idx" not in built and table.count_rows() >= self.graph_from:
            table.create_index("vector", config=HnswSq(distance_type="dot"))

    def _compact(self, table: Any) -> None:
        """Write all fragments as one; without the indexes of words and names there is nothing to merge with them."""
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
    """Return how many versions no reader looks at any more."""
    written = [version["timestamp"] for version in table.list_versions()]
    return sum(written[-1] - each > KEEP_OLD for each in written)


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
