"""The feedback log: every response, and every verdict on a response. Rows are only added, never changed.

It is one of the two contracts between the wings: the serving wing writes it, the asset wing reads it. It is a SQLite
database in WAL mode by default, or PostgreSQL by URL.
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import sqlalchemy as sa

from ragtune.errors import FeedbackError
from ragtune.records import Exposure, FeedbackEvent, ResponseRecord
from ragtune.store.database import exclusive_transaction, open_database
from ragtune.store.experiments import insert_exposures
from ragtune.store.timestamps import now

RATINGS = ("up", "neutral", "down")
MOST_STARS = 5
MOST_TAGS, LONGEST_TAG = 10, 50
"""Tags of a verdict, and characters of a tag. Chosen by hand."""
LONGEST_TEXT = 8000
"""Characters in a correction or a comment. Chosen by hand: a few pages."""
_JSON = ("chunk_ids", "cited_chunk_ids", "dials", "checks", "tags")
"""Columns of lists and mappings, which are stored as JSON."""
_IDS_PER_QUERY = 500
"""Below the 999 variables that old versions of SQLite allow in a statement."""

_tables = sa.MetaData()
_responses = sa.Table(
    "responses",
    _tables,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("model_version", sa.String(200), nullable=False),
    sa.Column("chunk_ids", sa.Text, nullable=False),
    sa.Column("cited_chunk_ids", sa.Text, nullable=False),
    sa.Column("refused", sa.Boolean, nullable=False),
    sa.Column("user", sa.String(200), nullable=False),
    sa.Column("latency_ms", sa.Float, nullable=False),
    sa.Column("key", sa.String(200), nullable=False, server_default=""),
    sa.Column("dials", sa.Text, nullable=False, server_default="{}"),
    sa.Column("evidence", sa.Float),
    sa.Column("checks", sa.Text, nullable=False, server_default="{}"),
)
_feedback = sa.Table(
    "feedback",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("response_id", sa.String(64), sa.ForeignKey("responses.id"), nullable=False, index=True),
    sa.Column("rating", sa.String(8), nullable=False),
    sa.Column("correction", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("user", sa.String(200), nullable=False),
    sa.Column("stars", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tags", sa.Text, nullable=False, server_default="[]"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class Activity:
    """What a response says about the load: when it was given, how long it took, and whether it is a refusal."""

    created_at: str
    latency_ms: float
    refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What somebody says about a response.

    `user` is who says it. `id` is a name that the sender gives it, or "": the same verdict under the same name is
    stored once, also if another one came in between.
    """

    response_id: str
    rating: str
    correction: str = ""
    comment: str = ""
    user: str = ""
    stars: int = 0
    tags: Sequence[str] = ()
    id: str = ""


class FeedbackLog:
    """Responses and verdicts in the database at a SQLAlchemy URL. The tables are created on first use."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url, _tables, "feedback log", FeedbackError)

    def record_response(self, response: ResponseRecord) -> None:
        """Add a response of the gateway."""
        self.record_responses([response])

    def record_responses(self, responses: Sequence[ResponseRecord], exposures: Sequence[Exposure] = ()) -> None:
        """Add responses of the gateway with their exposures, all of them or, on an error of the database, none.

        Exposures need the tables of an `ExperimentStore` in the same database.
        """
        rows = [asdict(response) for response in responses]
        for row in rows:
            for name in _JSON:
                if name in row:
                    row[name] = json.dumps(row[name])
        with exclusive_transaction(self._engine) as connection:
            if rows:
                connection.execute(_responses.insert(), rows)
            insert_exposures(connection, exposures)

    def response(self, response_id: str) -> ResponseRecord | None:
        """Return a recorded response, or None if there is none with this id."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_responses).where(_responses.c.id == response_id)).mappings().first()
        return None if row is None else ResponseRecord(**_with_tuples(row))

    def responses(self, response_ids: Sequence[str]) -> dict[str, ResponseRecord]:
        """Return the recorded responses among these ids, by id."""
        records = {}
        with self._engine.connect() as connection:
            for first in range(0, len(response_ids), _IDS_PER_QUERY):
                ids = response_ids[first : first + _IDS_PER_QUERY]
                for row in connection.execute(sa.select(_responses).where(_responses.c.id.in_(ids))).mappings():
                    records[row["id"]] = ResponseRecord(**_with_tuples(row))
        return records

    def newest_responses(self, limit: int) -> list[ResponseRecord]:
        """Return the newest recorded responses, the newest first."""
        query = sa.select(_responses).order_by(_responses.c.created_at.desc(), _responses.c.id).limit(limit)
        with self._engine.connect() as connection:
            return [ResponseRecord(**_with_tuples(row)) for row in connection.execute(query).mappings()]

    def add(
        self,
        response_id: str,
        rating: str,
        correction: str = "",
        comment: str = "",
        user: str = "",
        stars: int = 0,
        tags: Sequence[str] = (),
    ) -> FeedbackEvent:
        """Add a verdict on a recorded response and return it with its sequence number; see `add_once`."""
        return self.add_once(response_id, rating, correction, comment, user, stars, tags)[0]

    def add_once(
        self,
        response_id: str,
        rating: str,
        correction: str = "",
        comment: str = "",
        user: str = "",
        stars: int = 0,
        tags: Sequence[str] = (),
    ) -> tuple[FeedbackEvent, bool]:
        """Add a verdict on a recorded response; see `add_verdict`."""
        verdict = Verdict(
            response_id=response_id,
            rating=rating,
            correction=correction,
            comment=comment,
            user=user,
            stars=stars,
            tags=tags,
        )
        return self.add_verdict(verdict)

    def add_verdict(self, verdict: Verdict) -> tuple[FeedbackEvent, bool]:
        """Add a verdict on a recorded response; return it with its sequence number, and whether it is new.

        Nothing is added if it equals the newest verdict of this user on the response, which is returned instead: a
        client may send a verdict again when it got no reply. The same holds for a verdict that has the `id` and the
        content of any earlier one of this user.

        Raises:
            FeedbackError: the response or the rating is unknown, or a text is too long.
        """
        _check(verdict)
        if self.response(verdict.response_id) is None:
            raise FeedbackError(
                f"There is no response '{verdict.response_id}'.",
                expected="the `ragtune.response_id` of a response from this gateway",
            )
        content = {
            "response_id": verdict.response_id,
            "rating": verdict.rating,
            "correction": verdict.correction.strip(),
            "comment": verdict.comment.strip(),
            "user": verdict.user,
            "stars": verdict.stars,
            "tags": json.dumps(list(verdict.tags)),
        }
        named = hashlib.sha256(json.dumps([verdict.id, content], sort_keys=True).encode()).hexdigest()[:32]
        values = {**content, "id": f"fb-{named if verdict.id else uuid.uuid4().hex}", "created_at": now()}
        by_user = (_feedback.c.response_id == verdict.response_id) & (_feedback.c.user == verdict.user)
        with exclusive_transaction(self._engine) as connection:
            rows = (
                connection.execute(sa.select(_feedback).where(by_user).order_by(_feedback.c.sequence)).mappings().all()
            )
            same = [
                row
                for row in rows
                if row["id"] == values["id"]
                or (row is rows[-1] and all(row[name] == content[name] for name in content))
            ]
            if same:
                sequence = int(same[0]["sequence"])
            else:
                inserted = connection.execute(_feedback.insert().values(**values))
                sequence = int(cast(Any, inserted.inserted_primary_key)[0])
        return self.events(sequence - 1, limit=1)[0], not same

    def events(self, after_sequence: int = 0, limit: int = 0) -> list[FeedbackEvent]:
        """Return the verdicts after a sequence number, oldest first, with the responses' questions and chunks."""
        return self._events(_feedback.c.sequence > after_sequence, limit)

    def corrections(self) -> list[FeedbackEvent]:
        """Return the verdicts with a correction, oldest first."""
        return self._events(_feedback.c.correction != "")

    def event(self, feedback_id: str) -> FeedbackEvent | None:
        """Return a verdict, or None if there is none with this id."""
        return next(iter(self._events(_feedback.c.id == feedback_id)), None)

    def _events(self, condition: sa.ColumnElement[bool], limit: int = 0) -> list[FeedbackEvent]:
        columns = ("question", "answer", "chunk_ids", "cited_chunk_ids", "model_version", "dials", "checks")
        query = (
            sa.select(_feedback, *(_responses.c[name] for name in columns))
            .join(_responses, _responses.c.id == _feedback.c.response_id)
            .where(condition)
            .order_by(_feedback.c.sequence)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query.limit(limit) if limit else query).mappings().all()
        return [_event(_with_tuples(row)) for row in rows]

    def newest_correction(self) -> int:
        """Return the sequence number of the newest verdict with a correction, or 0 if there is none."""
        query = sa.select(sa.func.max(_feedback.c.sequence)).where(_feedback.c.correction != "")
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one() or 0)

    def all_responses(self, since: str = "") -> list[ResponseRecord]:
        """Return the responses that were given at or after a time (UTC, ISO 8601), oldest first."""
        query = sa.select(_responses).where(_responses.c.created_at >= since)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_responses.c.created_at, _responses.c.id)).mappings().all()
        return [ResponseRecord(**_with_tuples(row)) for row in rows]

    def count_since(self, sequence: int) -> int:
        """Return the number of verdicts after a sequence number."""
        query = sa.select(sa.func.count()).select_from(_feedback).where(_feedback.c.sequence > sequence)
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def count_responses(self) -> int:
        """Return the number of recorded responses."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(_responses)).scalar_one())

    def activity(self, since: str, limit: int) -> list[Activity]:
        """Return the newest responses given at or after a time (UTC, ISO 8601), at most `limit`, oldest first."""
        columns = [_responses.c[field.name] for field in fields(Activity)]
        query = sa.select(*columns).where(_responses.c.created_at >= since)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_responses.c.created_at.desc()).limit(limit)).all()
        return [Activity(*row) for row in reversed(rows)]

    def verdicts_by_day(self) -> dict[str, dict[str, int]]:
        """Return {day (ISO 8601): {rating: number of verdicts}}, oldest first."""
        day = sa.func.substr(_feedback.c.created_at, 1, 10)
        query = sa.select(day, _feedback.c.rating, sa.func.count()).group_by(day, _feedback.c.rating).order_by(day)
        days: dict[str, dict[str, int]] = {}
        with self._engine.connect() as connection:
            for date, rating, number in connection.execute(query):
                days.setdefault(date, dict.fromkeys(RATINGS, 0))[rating] = int(number)
        return days

    def close(self) -> None:
        """Close all connections. The log opens new ones if it is used again."""
        self._engine.dispose()


def _check(verdict: Verdict) -> None:
    """Raise FeedbackError if the rating is unknown, or a text is too long."""
    if verdict.rating not in RATINGS:
        raise FeedbackError(f"The rating is {verdict.rating!r}.", expected=" or ".join(RATINGS))
    if verdict.stars and verdict.rating != thumb_of(verdict.stars):
        raise FeedbackError(
            f"{verdict.stars} stars are rated {verdict.rating!r}.", expected=f"{thumb_of(verdict.stars)!r}"
        )
    if len(verdict.tags) > MOST_TAGS or any(not 0 < len(tag) <= LONGEST_TAG for tag in verdict.tags):
        raise FeedbackError("The tags are too many or too long.", f"{MOST_TAGS} of 1 to {LONGEST_TAG} characters")
    for name, text in (("correction", verdict.correction), ("comment", verdict.comment)):
        if len(text) > LONGEST_TEXT:
            raise FeedbackError(f"The {name} has {len(text)} characters.", expected=f"at most {LONGEST_TEXT}")


def thumb_of(stars: int) -> str:
    """Return the rating that a number of stars stands for; raise FeedbackError if it is not 1 to 5."""
    if not 1 <= stars <= MOST_STARS:
        raise FeedbackError(f"The rating has {stars} stars.", expected=f"1 to {MOST_STARS}")
    middle = (MOST_STARS + 1) / 2
    return "neutral" if stars == middle else "up" if stars > middle else "down"


def _event(values: dict[str, Any]) -> FeedbackEvent:
    """Return a verdict from its columns and those of its response."""
    dials, checks = values.pop("dials"), values.pop("checks")
    return FeedbackEvent(**values, unlike_prompt=_unlike_prompt(dials, checks))


def _unlike_prompt(dials: dict[str, float], checks: dict[str, Any]) -> str:
    """Return why the model would not write a response again if it were asked the question alone, or ""."""
    if "delivered" not in checks:
        return "recorded by an earlier version"
    if checks["earlier_turns"] or checks["instructed"]:
        return "earlier turns or instructions"
    if dials:
        return "dials or switches"
    return "" if checks["delivered"] in ("answer", "refusal") else "quotation"


def _with_tuples(row: sa.RowMapping) -> dict[str, Any]:
    values: dict[str, Any] = dict(row)
    for name in _JSON:
        if name in values:
            value = json.loads(values[name])
            values[name] = tuple(value) if isinstance(value, list) else value
    return values
