"""The history of all measured numbers, in one DuckDB file.

Rows are only added. Views show the newest ones. DuckDB lets one process open the file for writing, so each call opens
it, runs one transaction and closes it again.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ragtune.errors import ResourceError
from ragtune.records import (
    AgreementRow,
    BenchmarkRow,
    GateDecision,
    GateLook,
    RatedModel,
    RetrievalRow,
    Score,
    ScoredAnswer,
)
from ragtune.store.report_rows import CompressionRow, ExperimentDecision, ExperimentResult, FeedbackTrend
from ragtune.store.speed_rows import LoadRow, SpeedRow
from ragtune.store.timestamps import now

if TYPE_CHECKING:
    import duckdb

Row = TypeVar(
    "Row",
    Score,
    BenchmarkRow,
    GateDecision,
    GateLook,
    RetrievalRow,
    ExperimentResult,
    ExperimentDecision,
    FeedbackTrend,
    RatedModel,
    AgreementRow,
    LoadRow,
    SpeedRow,
    CompressionRow,
)

_TYPES = {str: "VARCHAR", float: "DOUBLE", int: "BIGINT", bool: "BOOLEAN"}
_TABLES: dict[type[Any], str] = {
    Score: "scores",
    BenchmarkRow: "benchmarks",
    GateDecision: "decisions",
    GateLook: "gate_looks",
    RetrievalRow: "retrieval",
    ExperimentResult: "experiment_results",
    ExperimentDecision: "experiment_decisions",
    FeedbackTrend: "feedback_trends",
    RatedModel: "rated_models",
    AgreementRow: "agreement",
    LoadRow: "loads",
    SpeedRow: "speed_differences",
    CompressionRow: "compressions",
}
_NEWEST = {
    "newest_scores": ("scores", "model, precision, metric, split, origin, part"),
    "newest_benchmarks": ("benchmarks", "model, precision, concurrency"),
    "newest_decision": ("decisions", ""),
    "newest_experiment_results": ("experiment_results", "experiment, version, metric"),
    "newest_feedback_trends": ("feedback_trends", "kind, name"),
    "newest_rated_models": ("rated_models", "study, model, question"),
    "newest_agreement": ("agreement", "study, question, annotators"),
    "newest_loads": ("loads", "workload, scenario, part, model_version, precision, settings, hardware"),
    "newest_speed_differences": ("speed_differences", "before, after, workload, metric, hardware"),
    "newest_compressions": ("compressions", "precision, method"),
}
_COMPRESSED_MODELS = """
    SELECT c.*, s.value AS token_f1, s.low AS token_f1_low, s.high AS token_f1_high, s.n,
        b.concurrency, b.tokens_per_second, b.peak_memory_bytes, b.hardware
    FROM newest_compressions c
    LEFT JOIN newest_scores s ON s.model_version = c.model AND s.precision = c.precision AND s.model = 'fine-tuned'
        AND s.metric = 'token_f1' AND s.split = 'test' AND s.origin = '' AND s.part = ''
    LEFT JOIN newest_benchmarks b ON b.model = c.model AND b.precision IN (c.precision, c.precision || ' unpacked')
"""
"""Formats of the weights next to each other: bytes, predictions, scores, speed and memory; a row per concurrency."""
_JSON_COLUMNS = ("cited", "cited_texts", "metrics")
"""Columns of `answers` that hold lists and mappings."""
_WAIT_SECONDS = 30.0
"""How long to wait for another process. Chosen by hand; a transaction takes well under a second."""


class Warehouse:
    """The tables in `_TABLES` and the table `answers`; each view in `_NEWEST` has the newest rows of one table."""

    def __init__(self, path: Path, wait_seconds: float = _WAIT_SECONDS) -> None:
        self.path, self.wait_seconds = path, wait_seconds

    def append(
        self,
        rows: Sequence[Score]
        | Sequence[BenchmarkRow]
        | Sequence[GateDecision]
        | Sequence[GateLook]
        | Sequence[RetrievalRow]
        | Sequence[ExperimentResult]
        | Sequence[ExperimentDecision]
        | Sequence[FeedbackTrend]
        | Sequence[RatedModel]
        | Sequence[AgreementRow]
        | Sequence[LoadRow]
        | Sequence[SpeedRow]
        | Sequence[CompressionRow],
    ) -> None:
        """Add rows of one kind in one transaction, with the current time."""
        if not rows:
            return
        table = _TABLES[type(rows[0])]
        names = ["recorded_at", *(field.name for field in fields(rows[0]))]
        recorded_at = now()
        self._insert(table, names, [[recorded_at, *asdict(row).values()] for row in rows])

    def append_answers(self, run: str, model: str, precision: str, split: str, answers: Sequence[ScoredAnswer]) -> None:
        """Add every answer of a scoring run, so that a person can look into a score."""
        recorded_at = now()
        own = [f'"{field.name}"' for field in fields(ScoredAnswer)]
        names = ["recorded_at", "run", "model", "precision", "split", *own]
        rows = []
        for answer in answers:
            plain = {**asdict(answer), **{name: json.dumps(getattr(answer, name)) for name in _JSON_COLUMNS}}
            rows.append([recorded_at, run, model, precision, split, *plain.values()])
        self._insert("answers", names, rows)

    def scores(self, newest: bool = True) -> list[Score]:
        """Return the newest score per model, precision, metric, split, origin and part; all scores if not `newest`."""
        return self._read(Score, "newest_scores" if newest else "scores")

    def benchmarks(self, newest: bool = True) -> list[BenchmarkRow]:
        """Return the newest benchmark per model, precision and concurrency; all of them if not `newest`."""
        return self._read(BenchmarkRow, "newest_benchmarks" if newest else "benchmarks")

    def decisions(self) -> list[GateDecision]:
        """Return all promotion decisions, oldest first."""
        return self._read(GateDecision, "decisions")

    def gate_looks(self) -> list[GateLook]:
        """Return all comparisons at the gate, oldest first."""
        self._insert("gate_looks", [], [])  # creates the table in a file from an earlier release
        return self._read(GateLook, "gate_looks")

    def retrieval(self) -> list[RetrievalRow]:
        """Return all measurements of the index, oldest first."""
        return self._read(RetrievalRow, "retrieval")

    def experiment_decisions(self) -> list[ExperimentDecision]:
        """Return how all experiments ended, oldest first."""
        self._insert("experiment_decisions", [], [])  # creates the table in a file from an earlier release
        return self._read(ExperimentDecision, "experiment_decisions")

    def agreements(self) -> list[AgreementRow]:
        """Return the newest agreement per study, question and annotators."""
        self._insert("agreement", [], [])  # creates the table in a file from an earlier release
        return self._read(AgreementRow, "newest_agreement")

    def loads(self, newest: bool = False) -> list[LoadRow]:
        """Return all measurements of gateways under load, oldest first; the last of each kind if `newest`."""
        self._insert("loads", [], [])  # creates the table in a file from an earlier release
        return self._read(LoadRow, "newest_loads" if newest else "loads")

    def speed_differences(self, newest: bool = False) -> list[SpeedRow]:
        """Return all comparisons of speed, oldest first; the last of each pair, work load and metric if `newest`."""
        self._insert("speed_differences", [], [])  # creates the table in a file from an earlier release
        return self._read(SpeedRow, "newest_speed_differences" if newest else "speed_differences")

    def query(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return the column names and rows of a read-only query."""
        if not self.path.is_file():
            self._insert("scores", [], [])
        with self._open(read_only=True) as connection:
            cursor = connection.execute(sql)
            return [column[0] for column in cursor.description or []], cursor.fetchall()

    def _read(self, kind: type[Row], source: str) -> list[Row]:
        names = [field.name for field in fields(kind)]
        _, rows = self.query(f"SELECT {', '.join(names)} FROM {source} ORDER BY row_number")
        return [kind(**dict(zip(names, row, strict=True))) for row in rows]

    def _insert(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        with self._open() as connection:
            connection.execute("BEGIN")
            for statement in _schema():
                connection.execute(statement)
            if rows:
                marks = ", ".join("?" for _ in names)
                connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)
            connection.execute("COMMIT")

    @contextmanager
    def _open(self, read_only: bool = False) -> Iterator["duckdb.DuckDBPyConnection"]:
        """Open the file; wait up to `wait_seconds` if another process has it open."""
        import duckdb

        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                connection = duckdb.connect(str(self.path), read_only=read_only)
                break
            except duckdb.IOException as error:
                if "lock" not in str(error).lower() or time.monotonic() > deadline:
                    raise ResourceError(
                        f"The warehouse {self.path} cannot be opened: {error}",
                        "a DuckDB file that no other process has open",
                        "wait for the other process, or end it",
                    ) from error
                time.sleep(0.1)
        try:
            yield connection
        finally:
            connection.close()


def _schema() -> list[str]:
    statements = ["CREATE SEQUENCE IF NOT EXISTS row_numbers"]
    first = "row_number BIGINT DEFAULT nextval('row_numbers'), recorded_at VARCHAR"
    for kind, table in _TABLES.items():
        columns = ", ".join(f"{field.name} {_TYPES[_plain(field.type)]}" for field in fields(kind))
        statements.append(f"CREATE TABLE IF NOT EXISTS {table} ({first}, {columns})")
        # The file may come from an earlier release that did not have these columns.
        statements += [
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {_column_with_default(field)}"
            for field in fields(kind)
            if field.default is not MISSING
        ]
    statements.append(
        f"CREATE TABLE IF NOT EXISTS answers ({first}, run VARCHAR, model VARCHAR, precision VARCHAR, split VARCHAR, "
        "pair_id VARCHAR, question VARCHAR, expected VARCHAR, answer VARCHAR, kind VARCHAR, answerable BOOLEAN, "
        "refused BOOLEAN, retrieved BOOLEAN, cited JSON, metrics JSON, latency_ms DOUBLE, document_id VARCHAR)"
    )
    added = [field for field in fields(ScoredAnswer) if field.name in ("origin", "group", "scored_text")]
    statements.append("ALTER TABLE answers ADD COLUMN IF NOT EXISTS cited_texts JSON DEFAULT '[]'")
    statements += [f"ALTER TABLE answers ADD COLUMN IF NOT EXISTS {_column_with_default(field)}" for field in added]
    for view, (table, keys) in _NEWEST.items():
        partition = f"PARTITION BY {keys} " if keys else ""
        newest = f"row_number() OVER ({partition}ORDER BY {table}.row_number DESC) = 1"
        statements.append(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {table} QUALIFY {newest}")
    statements.append(f"CREATE OR REPLACE VIEW compressed_models AS {_COMPRESSED_MODELS}")
    return statements


def _column_with_default(field: "Field[Any]") -> str:
    """Return a column that has the field's default in the rows that are there already."""
    value = f"'{field.default}'" if field.type is str else field.default
    return f'"{field.name}" {_TYPES[_plain(field.type)]} DEFAULT {value}'


def _plain(annotation: Any) -> type:
    if annotation not in _TYPES:
        raise TypeError(f"The warehouse has no column type for {annotation!r}.")
    kind: type = annotation
    return kind
