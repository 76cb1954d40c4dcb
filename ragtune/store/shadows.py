"""The log of shadow deployments: what is mirrored to which versions, the pairs of answers, and how many were dropped.

Rows are only added, never changed. The tables are in the database of the feedback log.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from ragtune.errors import ExperimentError, SettingsError
from ragtune.store.database import exclusive_transaction, open_database
from ragtune.store.timestamps import now

_tables = sa.MetaData()
_events = sa.Table(
    "shadow_events",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("shadow", sa.String(64), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
_pairs = sa.Table(
    "shadow_pairs",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("shadow", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("response_id", sa.String(64), nullable=False),
    sa.Column("user", sa.String(200), nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("chunk_ids", sa.Text, nullable=False),
    sa.Column("live", sa.Text, nullable=False),
    sa.Column("mirrored", sa.Text, nullable=False),
    sa.UniqueConstraint("shadow", "version", "response_id"),
    sqlite_autoincrement=True,
)
_counts = sa.Table(
    "shadow_counts",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("shadow", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("counts", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
_preferences = sa.Table(
    "shadow_preferences",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("shadow", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("judge", sa.String(200), nullable=False),
    sa.Column("response_id", sa.String(64), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.UniqueConstraint("shadow", "version", "judge", "response_id"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowDesign:
    """What is mirrored: a share of all requests, or the share that `shares_of_keys` gives a key, to each version.

    `requests` and `tokens` are totals for each version after which nothing is mirrored any more; `queue` requests may
    wait at a time. With `when_idle` a mirror waits until no engine has a request, which one machine needs.
    """

    versions: tuple[str, ...]
    share: float
    requests: int = 10_000
    tokens: int = 10_000_000
    queue: int = 100
    shares_of_keys: Mapping[str, float] = field(default_factory=dict)
    when_idle: bool = True

    def __post_init__(self) -> None:
        for share in (self.share, *self.shares_of_keys.values()):
            if not 0 <= share <= 1:
                raise SettingsError(f"The share of mirrored requests is {share}.", "a number from 0 to 1")
        if not self.versions or len(set(self.versions)) < len(self.versions):
            raise SettingsError(f"The versions are {', '.join(self.versions) or 'none'}.", "different versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A shadow deployment as its events describe it."""

    id: str
    name: str
    design: ShadowDesign
    started_at: str
    stopped_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two answers of a pair.

    `failures` are the reasons why its text, or an earlier one in its place, failed the checks. `generation_ms` is the
    time without the search for passages.
    """

    version: str
    answer: str
    refused: bool
    cited_chunk_ids: tuple[str, ...]
    failures: tuple[str, ...]
    generation_ms: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPair:
    """A request that two versions answered from the same passages; `live` is what the user got."""

    response_id: str
    user: str
    question: str
    chunk_ids: tuple[str, ...]
    live: Side
    mirrored: Side
    created_at: str = ""


class ShadowStore:
    """Shadow deployments and their pairs in the database at a SQLAlchemy URL. Tables are created on first use."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url, _tables, "log of shadow deployments", ExperimentError)

    def start(self, name: str, design: ShadowDesign) -> Shadow:
        """Start to mirror; raise ExperimentError if the name is taken or another shadow deployment runs."""
        with exclusive_transaction(self._engine) as connection:
            existing = _read(connection)
            if any(shadow.name == name for shadow in existing):
                raise ExperimentError(f"There is a shadow deployment '{name}' already.", expected="a new name")
            if running := [shadow.name for shadow in existing if not shadow.stopped_at]:
                raise ExperimentError(
                    f"The shadow deployment '{running[0]}' is running.",
                    expected="one at a time; it may have several versions",
                    fix=f"run `ragtune shadow stop {running[0]}`",
                )
            _add(connection, f"sh-{uuid.uuid4().hex[:16]}", name, "start", asdict(design))
        return self.get(name)

    def stop(self, name: str) -> Shadow:
        """Stop to mirror for good; stopping twice changes nothing."""
        shadow = self.get(name)
        with exclusive_transaction(self._engine) as connection:
            if not next(one for one in _read(connection) if one.name == name).stopped_at:
                _add(connection, shadow.id, name, "stop", {})
        return self.get(name)

    def get(self, name: str) -> Shadow:
        """Return a shadow deployment; raise ExperimentError if there is none of this name."""
        shadows = self.list()
        for shadow in shadows:
            if shadow.name == name:
                return shadow
        if not shadows:
            fix = "start one with `ragtune shadow start NAME --version VERSION`"
            raise ExperimentError(f"There is no shadow deployment '{name}': none was started yet.", fix=fix)
        names = ", ".join(shadow.name for shadow in shadows)
        raise ExperimentError(f"There is no shadow deployment '{name}'.", expected=f"one of: {names}")

    def list(self) -> "Sequence[Shadow]":
        """Return all shadow deployments, oldest first."""
        with self._engine.connect() as connection:
            return _read(connection)

    def running(self) -> Shadow | None:
        """Return the shadow deployment that has not been stopped, or None."""
        return next((shadow for shadow in self.list() if not shadow.stopped_at), None)

    def add(self, shadow: Shadow, pair: ShadowPair) -> None:
        """Add a pair; its time is now."""
        values = {
            "created_at": now(),
            "shadow": shadow.id,
            "version": pair.mirrored.version,
            "response_id": pair.response_id,
            "user": pair.user,
            "question": pair.question,
            "chunk_ids": json.dumps(pair.chunk_ids),
            "live": json.dumps(asdict(pair.live)),
            "mirrored": json.dumps(asdict(pair.mirrored)),
        }
        with exclusive_transaction(self._engine) as connection:
            connection.execute(_pairs.insert().values(**values))

    def pairs(self, shadow: Shadow, version: str) -> "Sequence[ShadowPair]":
        """Return the pairs of one version, oldest first."""
        query = sa.select(_pairs).where(_pairs.c.shadow == shadow.id, _pairs.c.version == version)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_pairs.c.sequence)).mappings().all()
        return [
            ShadowPair(
                response_id=row["response_id"],
                user=row["user"],
                question=row["question"],
                chunk_ids=tuple(json.loads(row["chunk_ids"])),
                live=_side(row["live"]),
                mirrored=_side(row["mirrored"]),
                created_at=row["created_at"],
            )
            for row in rows
        ]

    def add_preferences(
        self, shadow: Shadow, version: str, judge: str, contents: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Add what a judge prefers of pairs: {response id: content}; a pair that it judged before keeps its content."""
        common = {"created_at": now(), "shadow": shadow.id, "version": version, "judge": judge}
        with exclusive_transaction(self._engine) as connection:
            query = sa.select(_preferences.c.response_id).where(
                _preferences.c.shadow == shadow.id, _preferences.c.version == version, _preferences.c.judge == judge
            )
            judged = set(connection.execute(query).scalars())
            rows = [
                {**common, "response_id": name, "content": json.dumps(dict(content))}
                for name, content in contents.items()
                if name not in judged
            ]
            if rows:
                connection.execute(_preferences.insert(), rows)

    def preferences(self, shadow: Shadow, version: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Return {judge: {response id: what it prefers}} of the pairs of one version, oldest first."""
        query = sa.select(_preferences).where(_preferences.c.shadow == shadow.id, _preferences.c.version == version)
        contents: dict[str, dict[str, dict[str, Any]]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query.order_by(_preferences.c.sequence)).mappings():
                contents.setdefault(row["judge"], {})[row["response_id"]] = json.loads(row["content"])
        return contents

    def record_counts(self, shadow: Shadow, version: str, queue: str, counts: Mapping[str, int]) -> None:
        """Record what became of the sampled requests of one queue so far; `queue` is an id of its own."""
        values = {"created_at": now(), "shadow": shadow.id, "version": version, "queue": queue}
        with exclusive_transaction(self._engine) as connection:
            connection.execute(_counts.insert().values(**values, counts=json.dumps(dict(counts))))

    def counts(self, shadow: Shadow, version: str) -> dict[str, int]:
        """Return the sums over all queues of a version, each as it was recorded last."""
        query = sa.select(_counts).where(_counts.c.shadow == shadow.id, _counts.c.version == version)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_counts.c.sequence)).mappings().all()
        newest = {row["queue"]: json.loads(row["counts"]) for row in rows}
        total: dict[str, int] = {}
        for counts in newest.values():
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
        return total

    def close(self) -> None:
        """Close all connections. The store opens new ones if it is used again."""
        self._engine.dispose()


def _add(connection: sa.Connection, shadow: str, name: str, kind: str, content: Mapping[str, Any]) -> None:
    values = {"created_at": now(), "shadow": shadow, "name": name, "kind": kind}
    connection.execute(_events.insert().values(**values, content=json.dumps(content)))


def _read(connection: sa.Connection) -> list[Shadow]:
    rows = connection.execute(sa.select(_events).order_by(_events.c.sequence)).mappings().all()
    stops = {row["shadow"]: row["created_at"] for row in rows if row["kind"] == "stop"}
    shadows = []
    for row in rows:
        if row["kind"] == "start":
            content = json.loads(row["content"])
            content["versions"] = tuple(content["versions"])
            shadows.append(
                Shadow(
                    id=row["shadow"],
                    name=row["name"],
                    design=ShadowDesign(**content),
                    started_at=row["created_at"],
                    stopped_at=stops.get(row["shadow"], ""),
                )
            )
    return shadows


def _side(text: str) -> Side:
    values: dict[str, Any] = json.loads(text)
    for name in ("cited_chunk_ids", "failures"):
        values[name] = tuple(values[name])
    return Side(**values)
