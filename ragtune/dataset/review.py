"""Keeps what people decided about pairs: accept, reject, correct, comment; who and when.

Decisions are only ever added and are keyed by what the pair says, not by its id, so they
survive a regeneration of the dataset; those that no pair matches any more are listed.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, cast, get_args

import sqlalchemy as sa

from ragtune.dataset.sentences import flat
from ragtune.errors import DatasetError
from ragtune.records import Chunk, QAPair, content_id
from ragtune.store.database import open_database
from ragtune.store.feedback import now

Verdict = Literal["accept", "reject", "correct", "comment"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
WRITER = "review"

_tables = sa.MetaData()
_decisions = sa.Table(
    "review_decisions",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("pair_key", sa.String(16), nullable=False, index=True),
    sa.Column("reviewer", sa.String(200), nullable=False),
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
    sa.Column("pair_key", sa.String(16), primary_key=True),
    sa.Column("reviewer", sa.String(200), primary_key=True),
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
    """Return the key of what a pair says: the same question and answer have the same key in every dataset."""
    return content_id("review", flat(pair.question).lower(), flat(pair.answer).lower())


def drafted(
    pair: QAPair, reviewer: str, verdict: str, question: str = "", answer: str = "", comment: str = ""
) -> Decision:
    """Return a checked decision that is not stored yet; see `ReviewStore.decide`."""
    name, asked, answered = reviewer.strip(), flat(question), flat(answer)
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
        with self._engine.begin() as connection:
            for each in stamped:
                row = {name: value for name, value in asdict(each).items() if name != "sequence"}
                connection.execute(_decisions.insert().values(**{**row, "pair": json.dumps(each.pair)}))
        wanted = {each.id for each in stamped}
        return [each for each in self.decisions() if each.id in wanted]

    def decisions(self) -> list[Decision]:
        """Return every decision, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_decisions).order_by(_decisions.c.sequence)).mappings().all()
        return [Decision(**{**row, "pair": json.loads(row["pair"])}) for row in rows]

    def standing(self) -> dict[str, dict[str, Decision]]:
        """Return {pair key: {reviewer: newest verdict}}; comments decide nothing and are left out."""
        found: dict[str, dict[str, Decision]] = defaultdict(dict)
        for each in self.decisions():
            if each.verdict != "comment":
                found[each.pair_key][each.reviewer] = each
        return dict(found)

    def assign(self, pairs: Sequence[QAPair], reviewers: Sequence[str], per_pair: int = 1) -> dict[str, int]:
        """Give every pair to `per_pair` reviewers, the same work to each; return {reviewer: newly assigned}.

        Pairs keep the reviewers they have. Raises DatasetError when there are fewer reviewers than wanted.
        """
        names = list(dict.fromkeys(name.strip() for name in reviewers if name.strip()))
        if not 1 <= per_pair <= len(names):
            raise DatasetError(f"{per_pair} reviewers per pair of {len(names)}.", expected="1 to all of the reviewers")
        held: dict[str, set[str]] = defaultdict(set)
        load = dict.fromkeys(names, 0)
        given = dict.fromkeys(names, 0)
        with self._engine.begin() as connection:
            for key, name in connection.execute(sa.select(_assignments.c.pair_key, _assignments.c.reviewer)):
                held[key].add(name)
                load[name] = load.get(name, 0) + 1
            for pair in pairs:
                key = pair_key(pair)
                while len(held[key]) < per_pair:
                    name = min((name for name in names if name not in held[key]), key=lambda name: (load[name], name))
                    connection.execute(_assignments.insert().values(pair_key=key, reviewer=name, created_at=now()))
                    held[key].add(name)
                    load[name] += 1
                    given[name] += 1
        return given

    def assigned(self, reviewer: str, pairs: Sequence[QAPair]) -> list[QAPair]:
        """Return the reviewer's pairs that they have not decided yet, in the order of the dataset."""
        query = sa.select(_assignments.c.pair_key).where(_assignments.c.reviewer == reviewer)
        with self._engine.connect() as connection:
            mine = set(connection.execute(query).scalars())
        decided = {key for key, verdicts in self.standing().items() if reviewer in verdicts}
        return [pair for pair in pairs if pair_key(pair) in mine - decided]

    def progress(self, pairs: Sequence[QAPair]) -> dict[str, tuple[int, int]]:
        """Return {reviewer: (decided, assigned)} over the pairs of a dataset."""
        keys = {pair_key(pair) for pair in pairs}
        assigned: dict[str, set[str]] = defaultdict(set)
        with self._engine.connect() as connection:
            for key, name in connection.execute(sa.select(_assignments.c.pair_key, _assignments.c.reviewer)):
                assigned[name].add(key)
        decided: dict[str, set[str]] = defaultdict(set)
        for key, verdicts in self.standing().items():
            for name in verdicts:
                decided[name].add(key)
        names = sorted({*assigned, *decided})
        return {name: (len(decided[name] & keys), len(assigned[name] & keys)) for name in names}

    def close(self) -> None:
        """Close every connection; the store can be used again afterwards."""
        self._engine.dispose()


def apply_reviews(
    pairs: Sequence[QAPair], store: ReviewStore, chunks: Sequence[Chunk] = (), wanted: int = 1
) -> Reviewed:
    """Return the dataset as its reviewers left it: rejected pairs gone, corrections in place of the writer's text.

    A pair counts as decided with `wanted` verdicts. Where reviewers differ the larger side wins, and a tie
    keeps the writer's text and is listed as a conflict.
    """
    standing = store.standing()
    texts = {chunk.id: chunk.text for chunk in chunks}
    result = Reviewed([], 0, [], [], [], [], [])
    accepted = 0
    for pair in pairs:
        verdicts = tuple(standing.pop(pair_key(pair), {}).values())
        if len(verdicts) < wanted:
            result.undecided.append(pair)
            result.pairs.append(pair)
            continue
        winner = _winner(verdicts)
        if winner is None:
            result.conflicts.append((pair, verdicts))
            result.pairs.append(pair)
        elif winner.verdict == "reject":
            result.rejected.append((pair, winner.comment or f"rejected by {winner.reviewer}"))
        elif winner.verdict == "correct":
            changed = corrected(pair, winner, texts.get(pair.chunk_id, ""))
            result.corrected.append(changed)
            result.pairs.append(changed)
        else:
            accepted += 1
            result.pairs.append(pair)
    orphans = [each for verdicts_ in standing.values() for each in verdicts_.values()]
    return replace(result, accepted=accepted, orphans=sorted(orphans, key=lambda each: each.sequence))


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


def _winner(verdicts: Iterable[Decision]) -> Decision | None:
    """Return the newest decision of the largest group of equal decisions; None for a tie."""
    groups: dict[tuple[str, str, str], list[Decision]] = defaultdict(list)
    for each in verdicts:
        text = (each.question, each.answer) if each.verdict == "correct" else ("", "")
        groups[(each.verdict, *text)].append(each)
    sizes = sorted((len(group) for group in groups.values()), reverse=True)
    if len(sizes) > 1 and sizes[0] == sizes[1]:
        return None
    largest = next(group for group in groups.values() if len(group) == sizes[0])
    return max(largest, key=lambda each: each.sequence)
