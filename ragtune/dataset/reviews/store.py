"""Stores reviewers' decisions, and who reviews which pair, in a SQL database.

Decisions are only ever added. SQLite and PostgreSQL both work, with several reviewers at once.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import sqlalchemy as sa

from ragtune.dataset.reviews.decisions import (
    MAX_NAME_CHARACTERS,
    Decision,
    new_decision,
    newest_verdicts,
    pair_key,
    reviewer_name,
)
from ragtune.errors import DatasetError
from ragtune.records import QAPair
from ragtune.store.database import exclusive_transaction, open_database
from ragtune.store.timestamps import now

_tables = sa.MetaData()
_decisions = sa.Table(
    "review_decisions",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("pair_key", sa.String(32), nullable=False, index=True),
    sa.Column("reviewer", sa.String(MAX_NAME_CHARACTERS), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("pair", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
_assignments = sa.Table(
    "review_assignments",
    _tables,
    sa.Column("pair_key", sa.String(32), primary_key=True),
    sa.Column("reviewer", sa.String(MAX_NAME_CHARACTERS), primary_key=True),
    sa.Column("created_at", sa.String(40), nullable=False),
)


class ReviewStore:
    """Decisions and assignments at a SQLAlchemy URL; safe with several reviewers at once."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url, _tables, "review store", DatasetError)

    def decide(
        self, pair: QAPair, reviewer: str, verdict: str, question: str = "", answer: str = "", comment: str = ""
    ) -> Decision:
        """Store a verdict and return it; raise DatasetError for what `new_decision` refuses."""
        return self.add([new_decision(pair, reviewer, verdict, question, answer, comment)])[0]

    def add(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Store all decisions or none, and return them with their id, time and sequence number."""
        stamped = [replace(decision, id=f"rv-{uuid.uuid4().hex}", created_at=now()) for decision in decisions]
        with exclusive_transaction(self._engine) as connection:
            for decision in stamped:
                row = {name: value for name, value in asdict(decision).items() if name != "sequence"}
                connection.execute(_decisions.insert().values(**{**row, "pair": json.dumps(decision.pair)}))
        return self.decisions([decision.id for decision in stamped])

    def decisions(self, ids: Sequence[str] | None = None) -> list[Decision]:
        """Return the decisions with these ids, or all of them if `ids` is None, oldest first."""
        query = sa.select(_decisions).order_by(_decisions.c.sequence)
        if ids is not None:
            query = query.where(_decisions.c.id.in_(ids))
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [Decision(**{**row, "pair": json.loads(row["pair"])}) for row in rows]

    def count_since(self, sequence: int) -> int:
        """Return the number of verdicts after a sequence number, comments not counted."""
        newer = (_decisions.c.sequence > sequence) & (_decisions.c.verdict != "comment")
        with self._engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(_decisions).where(newer)
            return int(connection.execute(query).scalar_one())

    def newest_sequence(self) -> int:
        """Return the sequence number of the newest decision, or 0 if there is none."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.max(_decisions.c.sequence))).scalar_one() or 0)

    def assign(self, pairs: Sequence[QAPair], reviewers: Sequence[str], per_pair: int = 1) -> dict[str, int]:
        """Give every pair `per_pair` reviewers, the same amount of work to each; return {reviewer: new pairs}.

        Pairs keep the reviewers that they have. Raises DatasetError if there are fewer reviewers than `per_pair`.
        """
        names = list(dict.fromkeys(reviewer_name(name) for name in reviewers if name.strip()))
        if not 1 <= per_pair <= len(names):
            raise DatasetError(
                f"There are {len(names)} reviewers, which does not allow {per_pair} reviewers per pair.",
                expected="at least 1 per pair, and at most as many as there are reviewers",
            )
        new = dict.fromkeys(names, 0)
        with self._assigning() as (connection, assignments):
            load = {name: sum(name in assigned for assigned in assignments.values()) for name in names}
            for key in dict.fromkeys(pair_key(pair) for pair in pairs):
                assigned = assignments[key]
                while len(assigned) < per_pair and not assigned.issuperset(names):
                    name = min((name for name in names if name not in assigned), key=lambda name: (load[name], name))
                    _insert_assignment(connection, key, name)
                    assigned.add(name)
                    load[name] += 1
                    new[name] += 1
        return new

    def claim(self, pairs: Sequence[QAPair], reviewer: str, count: int, per_pair: int = 1) -> int:
        """Give a reviewer up to `count` of the pairs that have fewer than `per_pair` reviewers; return how many."""
        reviewer = reviewer_name(reviewer)
        with self._assigning() as (connection, assignments):
            keys = dict.fromkeys(pair_key(pair) for pair in pairs)
            free = [key for key in keys if len(assignments[key]) < per_pair and reviewer not in assignments[key]]
            for key in free[:count]:
                _insert_assignment(connection, key, reviewer)
        return len(free[:count])

    def assignments(self) -> dict[str, set[str]]:
        """Return {pair key: names of its reviewers}; a key without reviewers gives an empty set."""
        with self._engine.connect() as connection:
            return _select_assignments(connection)

    def pairs_to_review(self, reviewer: str, pairs: Sequence[QAPair]) -> list[QAPair]:
        """Return the pairs that the reviewer has to decide and has not decided yet, in the order of the dataset."""
        assignments = self.assignments()
        reviewer = reviewer_name(reviewer)
        decided = {key for key, verdicts in newest_verdicts(self.decisions()).items() if reviewer in verdicts}
        return [pair for pair in pairs if reviewer in assignments[(key := pair_key(pair))] and key not in decided]

    def progress(self, pairs: Sequence[QAPair]) -> dict[str, tuple[int, int]]:
        """Return {reviewer: (pairs decided, pairs assigned)}, counting only the given pairs."""
        keys = {pair_key(pair) for pair in pairs}
        assigned = {key: names for key, names in self.assignments().items() if key in keys}
        decided = {key: set(verdicts) for key, verdicts in newest_verdicts(self.decisions()).items() if key in keys}
        reviewers = sorted({name for names in (*assigned.values(), *decided.values()) for name in names})
        return {
            reviewer: (
                sum(reviewer in names for names in decided.values()),
                sum(reviewer in names for names in assigned.values()),
            )
            for reviewer in reviewers
        }

    @contextmanager
    def _assigning(self) -> Iterator[tuple[sa.Connection, dict[str, set[str]]]]:
        """Yield a connection and all assignments, while no other process can change them."""
        with exclusive_transaction(self._engine) as connection:
            yield connection, _select_assignments(connection)

    def close(self) -> None:
        """Close every connection; the store can be used again afterwards."""
        self._engine.dispose()


def _select_assignments(connection: sa.Connection) -> dict[str, set[str]]:
    assignments: dict[str, set[str]] = defaultdict(set)
    for key, name in connection.execute(sa.select(_assignments.c.pair_key, _assignments.c.reviewer)):
        assignments[key].add(name)
    return assignments


def _insert_assignment(connection: sa.Connection, key: str, reviewer: str) -> None:
    connection.execute(_assignments.insert().values(pair_key=key, reviewer=reviewer, created_at=now()))
