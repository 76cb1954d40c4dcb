"""Keeps what people decided about pairs: accept, reject, correct, comment; who and when.

Decisions are only ever added and are keyed by what the pair says, not by its id, so they
survive a regeneration of the dataset; those that no pair matches any more are listed.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, cast, get_args

import sqlalchemy as sa

from ragtune.errors import DatasetError
from ragtune.records import Chunk, QAPair, content_id
from ragtune.store.database import exclusive_transaction, open_database
from ragtune.store.feedback import now
from ragtune.text.whitespace import collapse_whitespace

Verdict = Literal["accept", "reject", "correct", "comment"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
WRITER, REVIEWED = "review", "reviewed"
_NAME_CHARACTERS = 200

_tables = sa.MetaData()
_decisions = sa.Table(
    "review_decisions",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("pair_key", sa.String(32), nullable=False, index=True),
    sa.Column("reviewer", sa.String(_NAME_CHARACTERS), nullable=False),
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
    sa.Column("reviewer", sa.String(_NAME_CHARACTERS), primary_key=True),
    sa.Column("created_at", sa.String(40), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict on one pair; `question` and `answer` are the corrected text of a `correct`."""

    pair_key: str
    reviewer: str
    verdict: Verdict
    question: str = ""
    answer: str = ""
    comment: str = ""
    pair: dict[str, object] = field(default_factory=dict)
    id: str = ""
    created_at: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A dataset after its reviews. `orphans` are decisions whose pair is in the dataset no more."""

    pairs: list[QAPair]
    accepted: int
    rejected: list[tuple[QAPair, str]]
    corrected: list[QAPair]
    undecided: list[QAPair]
    conflicts: list[tuple[QAPair, tuple[Decision, ...]]]
    orphans: list[Decision]


def pair_key(pair: QAPair) -> str:
    """Return the key of what a pair says: the same question and answer have the same key in every dataset.

    It begins with a letter, so that no spreadsheet takes it for a number.
    """
    return "q" + content_id(
        "review", collapse_whitespace(pair.question).lower(), collapse_whitespace(pair.answer).lower()
    )


def standing(decisions: Iterable[Decision]) -> dict[str, dict[str, Decision]]:
    """Return {pair key: {reviewer: newest verdict}}; comments decide nothing and are left out."""
    found: dict[str, dict[str, Decision]] = defaultdict(dict)
    for each in sorted(decisions, key=lambda each: each.sequence):
        if each.verdict != "comment":
            found[each.pair_key][each.reviewer] = each
    return dict(found)


def drafted(
    pair: QAPair, reviewer: str, verdict: str, question: str = "", answer: str = "", comment: str = ""
) -> Decision:
    """Return a checked decision that is not stored yet; see `ReviewStore.decide`."""
    name, asked, answered = _named(reviewer), collapse_whitespace(question), collapse_whitespace(answer)
    if verdict not in VERDICTS:
        raise DatasetError(f"The verdict is {verdict!r}.", expected=f"one of {', '.join(VERDICTS)}")
    if not name:
        raise DatasetError("The decision names no reviewer.", expected="who decided")
    if verdict == "correct" and not asked and not answered:
        raise DatasetError("The correction is empty.", expected="a corrected question or a corrected answer")
    if verdict == "comment" and not comment.strip():
        raise DatasetError("The comment is empty.", expected="what the reviewer wants to say")
    told = {"id": pair.id, "question": pair.question, "answer": pair.answer, "chunk_id": pair.chunk_id}
    return Decision(pair_key(pair), name, cast(Verdict, verdict), asked, answered, comment.strip(), dict(told))


class ReviewStore:
    """Decisions and assignments at a SQLAlchemy URL; safe with several reviewers at once."""

    def __init__(self, url: str) -> None:
        try:
            self._engine = open_database(url, _tables)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise DatasetError(
                f"The review store cannot be opened: {error}", expected="a SQLAlchemy URL of SQLite or PostgreSQL"
            ) from error

    def decide(
        self, pair: QAPair, reviewer: str, verdict: str, question: str = "", answer: str = "", comment: str = ""
    ) -> Decision:
        """Add a verdict and return it; an empty text of a correction means that it stays as it was.

        Raises DatasetError for an unknown verdict, a missing reviewer or an empty correction.
        """
        return self.add([drafted(pair, reviewer, verdict, question, answer, comment)])[0]

    def add(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Add all decisions or none of them, and return them with id, moment and sequence number."""
        stamped = [replace(each, id=f"rv-{uuid.uuid4().hex}", created_at=now()) for each in decisions]
        with exclusive_transaction(self._engine) as connection:
            for each in stamped:
                row = {name: value for name, value in asdict(each).items() if name != "sequence"}
                connection.execute(_decisions.insert().values(**{**row, "pair": json.dumps(each.pair)}))
        return self.decisions([each.id for each in stamped])

    def decisions(self, ids: Sequence[str] | None = None) -> list[Decision]:
        """Return every decision, or those with these ids, oldest first."""
        query = sa.select(_decisions).order_by(_decisions.c.sequence)
        with self._engine.connect() as connection:
            rows = connection.execute(query if ids is None else query.where(_decisions.c.id.in_(ids))).mappings().all()
        return [Decision(**{**row, "pair": json.loads(row["pair"])}) for row in rows]

    def count_since(self, sequence: int) -> int:
        """Return how many verdicts, comments not counted, came after a sequence number."""
        newer = (_decisions.c.sequence > sequence) & (_decisions.c.verdict != "comment")
        with self._engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(_decisions).where(newer)
            return int(connection.execute(query).scalar_one())

    def assign(self, pairs: Sequence[QAPair], reviewers: Sequence[str], per_pair: int = 1) -> dict[str, int]:
        """Give every pair to `per_pair` reviewers, the same work to each; return {reviewer: newly assigned}.

        Pairs keep the reviewers they have. Raises DatasetError when there are fewer reviewers than wanted.
        """
        names = list(dict.fromkeys(_named(name) for name in reviewers if name.strip()))
        if not 1 <= per_pair <= len(names):
            raise DatasetError(f"{per_pair} reviewers per pair of {len(names)}.", expected="1 to all of the reviewers")
        given = dict.fromkeys(names, 0)
        with self._assigning() as (connection, held):
            load = {name: sum(name in inside for inside in held.values()) for name in names}
            for key in dict.fromkeys(pair_key(pair) for pair in pairs):
                while len(held[key]) < per_pair and not held[key].issuperset(names):
                    name = min((name for name in names if name not in held[key]), key=lambda name: (load[name], name))
                    _assign(connection, key, name)
                    held[key].add(name)
                    load[name] += 1
                    given[name] += 1
        return given

    def claim(self, pairs: Sequence[QAPair], reviewer: str, count: int, per_pair: int = 1) -> int:
        """Give a reviewer up to `count` of the pairs that have fewer than `per_pair` reviewers; return how many."""
        reviewer = _named(reviewer)
        with self._assigning() as (connection, held):
            keys = dict.fromkeys(pair_key(pair) for pair in pairs)
            free = [key for key in keys if len(held[key]) < per_pair and reviewer not in held[key]][:count]
            for key in free:
                _assign(connection, key, reviewer)
        return len(free)

    def assignments(self) -> dict[str, set[str]]:
        """Return {pair key: its reviewers}."""
        with self._engine.connect() as connection:
            return _held(connection)

    def assigned(self, reviewer: str, pairs: Sequence[QAPair]) -> list[QAPair]:
        """Return the reviewer's pairs that they have not decided yet, in the order of the dataset."""
        held = self.assignments()
        reviewer = _named(reviewer)
        decided = {key for key, verdicts in standing(self.decisions()).items() if reviewer in verdicts}
        return [pair for pair in pairs if reviewer in held[(key := pair_key(pair))] and key not in decided]

    def progress(self, pairs: Sequence[QAPair]) -> dict[str, tuple[int, int]]:
        """Return {reviewer: (decided, assigned)} over the pairs of a dataset."""
        keys = {pair_key(pair) for pair in pairs}
        held = {key: names for key, names in self.assignments().items() if key in keys}
        decided = {key: found for key, found in standing(self.decisions()).items() if key in keys}
        names = sorted({name for found in (*held.values(), *decided.values()) for name in found})
        return {
            name: (sum(name in found for found in decided.values()), sum(name in found for found in held.values()))
            for name in names
        }

    @contextmanager
    def _assigning(self) -> Iterator[tuple[sa.Connection, dict[str, set[str]]]]:
        with exclusive_transaction(self._engine) as connection:
            yield connection, _held(connection)

    def close(self) -> None:
        """Close every connection; the store can be used again afterwards."""
        self._engine.dispose()


def apply_reviews(
    pairs: Sequence[QAPair], decisions: Iterable[Decision], chunks: Sequence[Chunk] = (), wanted: int = 1
) -> Reviewed:
    """Return the dataset as its reviewers left it: rejected pairs gone, corrections in place of the writer's text.

    A pair counts as decided with `wanted` verdicts. Where reviewers differ the larger side wins, and a tie
    keeps the text and is listed as a conflict. A corrected pair can be reviewed again. What people accepted
    or corrected has the score `reviewed`.
    """
    found = standing(decisions)
    texts = {chunk.id: chunk.text for chunk in chunks}
    result = Reviewed([], 0, [], [], [], [], [])
    accepted = 0
    matched: set[str] = set()
    for pair in pairs:
        read = list(_readings(pair, found, texts.get(pair.chunk_id, ""), wanted))
        matched.update(pair_key(text) for text, _ in read)
        last, verdicts = read[-1]
        winner = settled(verdicts, wanted)
        if winner is None and len(verdicts) >= wanted:
            result.conflicts.append((last, verdicts))
        elif winner is None and len(read) == 1:
            result.undecided.append(last)
        if winner is not None and winner.verdict == "reject":
            result.rejected.append((last, winner.comment or f"rejected by {winner.reviewer}"))
            continue
        accepted += winner is not None and winner.verdict == "accept"
        if winner is not None or len(read) > 1:
            last = replace(last, scores={**last.scores, REVIEWED: 1.0})
        if len(read) > 1:
            result.corrected.append(last)
        result.pairs.append(last)
    orphans = [each for key, verdicts in found.items() if key not in matched for each in verdicts.values()]
    return replace(result, accepted=accepted, orphans=sorted(orphans, key=lambda each: each.sequence))


def _readings(
    pair: QAPair, found: Mapping[str, Mapping[str, Decision]], text: str, wanted: int
) -> Iterator[tuple[QAPair, tuple[Decision, ...]]]:
    """Yield the pair and each corrected form of it, with the verdicts on that form; no form comes twice."""
    seen: set[str] = set()
    while (key := pair_key(pair)) not in seen:
        seen.add(key)
        verdicts = tuple(found.get(key, {}).values())
        yield pair, verdicts
        winner = settled(verdicts, wanted)
        if winner is not None and winner.verdict == "correct":
            pair = corrected(pair, winner, text)


def corrected(pair: QAPair, decision: Decision, text: str) -> QAPair:
    """Return the pair with a reviewer's text; the span is where the answer stands, else the writer's."""
    question, answer = decision.question or pair.question, decision.answer or pair.answer
    start = text.find(answer) if answer else -1
    return replace(
        pair,
        id=content_id(pair.chunk_id, question, answer),
        question=question,
        answer=answer,
        answerable=bool(answer),
        span=(start, start + len(answer)) if start >= 0 else pair.span,
        writer=WRITER,
    )


def settled(verdicts: Collection[Decision], wanted: int) -> Decision | None:
    """Return the newest decision of the largest group of equal ones; None for a tie or fewer than `wanted`."""
    if len(verdicts) < wanted:
        return None
    groups: dict[tuple[str, str, str], list[Decision]] = defaultdict(list)
    for each in verdicts:
        text = (each.question, each.answer) if each.verdict == "correct" else ("", "")
        groups[(each.verdict, *text)].append(each)
    sizes = sorted((len(group) for group in groups.values()), reverse=True)
    if not sizes or (len(sizes) > 1 and sizes[0] == sizes[1]):
        return None
    largest = next(group for group in groups.values() if len(group) == sizes[0])
    return max(largest, key=lambda each: each.sequence)


def _held(connection: sa.Connection) -> dict[str, set[str]]:
    held: dict[str, set[str]] = defaultdict(set)
    for key, name in connection.execute(sa.select(_assignments.c.pair_key, _assignments.c.reviewer)):
        held[key].add(name)
    return held


def _named(reviewer: str) -> str:
    name = reviewer.strip()
    if len(name) > _NAME_CHARACTERS:
        found = f"The reviewer's name begins with {name[:40]!r} and has {len(name)} characters."
        raise DatasetError(found, expected=f"at most {_NAME_CHARACTERS}")
    return name


def _assign(connection: sa.Connection, key: str, reviewer: str) -> None:
    connection.execute(_assignments.insert().values(pair_key=key, reviewer=reviewer, created_at=now()))
