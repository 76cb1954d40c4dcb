"""The log of experiments: what was started, ramped and stopped, and which response belongs to which arm.

Rows are only added, never changed. An experiment is what its events say: it runs from its `start` to its `stop`, and
nothing comes after a stop. The tables are in the database of the feedback log, because outcomes are verdicts on
responses.
"""

import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from ragtune.errors import ExperimentError
from ragtune.records import Exposure
from ragtune.store.database import exclusive_transaction, open_database
from ragtune.store.timestamps import now

EventKind = Literal["start", "ramp", "pause", "resume", "stop"]

_tables = sa.MetaData()
_events = sa.Table(
    "experiment_events",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("experiment", sa.String(64), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
_exposures = sa.Table(
    "experiment_exposures",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("experiment", sa.String(64), nullable=False, index=True),
    sa.Column("response_id", sa.String(64), nullable=False, unique=True),
    sa.Column("unit", sa.String(400), nullable=False),
    sa.Column("arm", sa.Integer, nullable=False),
    sa.Column("shares", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("failure", sa.String(10), nullable=False, server_default=""),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentDesign:
    """What is fixed when an experiment starts; nobody can change it later.

    `versions` are the models, the control first, and `weights` their shares. `metric` is the one that decides.
    `smallest_difference` and `margin` are on the scale of the outcome (0.05 is 5 points). `budget` is the number of
    responses after which it ends undecided. Responses and verdicts count within `window_hours` of a user's first
    response. A response that nobody rated is left out, or counts as `missing` says.

    `guardrails` are pairs of a metric and of the loss on the outcome's scale that it may have. They count each user
    once in every `guardrail_minutes`. The ramp takes its next step when `users_per_step` more users have come.
    `promote` says that a winner becomes champion by itself.
    """

    versions: tuple[str, ...]
    weights: tuple[float, ...]
    metric: str
    smallest_difference: float
    margin: float
    alpha: float
    budget: int
    window_hours: float
    missing: float | None = None
    salt: str = ""
    guardrails: tuple[tuple[str, float], ...] = ()
    guardrail_minutes: float = 10.0
    users_per_step: int = 100
    promote: bool = False


@dataclass(frozen=True, slots=True)
class ExperimentEvent:
    """A start, a step of the ramp, a pause, its end or a stop, with what it says."""

    sequence: int
    created_at: str
    kind: EventKind
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment as its events describe it; `ramp` is the share that all candidates together have now."""

    id: str
    name: str
    design: ExperimentDesign
    ramp: float
    events: tuple[ExperimentEvent, ...]

    @property
    def stopped(self) -> bool:
        """Whether it has ended."""
        return self.events[-1].kind == "stop"

    @property
    def paused(self) -> bool:
        """Whether every user gets the control until a person resumes or stops it."""
        return [event.kind for event in self.events if event.kind != "ramp"][-1] == "pause"

    @property
    def started_at(self) -> str:
        """When it started: UTC, ISO 8601."""
        return self.events[0].created_at


class ExperimentStore:
    """Experiments and exposures in the database at a SQLAlchemy URL. The tables are created on first use."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url, _tables, "log of experiments", ExperimentError)

    def start(self, name: str, design: ExperimentDesign, ramp: float) -> Experiment:
        """Start an experiment and return it. An empty salt is drawn.

        Raises:
            ExperimentError: the name is taken, or another experiment is running. Two at once would share users.
        """
        content = {**{field: getattr(design, field) for field in design.__slots__}, "ramp": ramp}
        content["salt"] = design.salt or secrets.token_hex(8)
        with exclusive_transaction(self._engine) as connection:
            existing = _read(connection)
            if any(experiment.name == name for experiment in existing):
                raise ExperimentError(
                    f"There is an experiment '{name}' already, and a stopped one stays stopped.",
                    expected="a new name",
                    fix="run `ragtune experiment list` to see the names",
                )
            if running := [experiment.name for experiment in existing if not experiment.stopped]:
                raise ExperimentError(
                    f"The experiment '{running[0]}' is running.",
                    expected="one experiment at a time",
                    fix=f"wait for it, or run `ragtune experiment stop {running[0]}`",
                )
            _add(connection, f"ex-{uuid.uuid4().hex[:16]}", name, "start", content)
        return self.get(name)

    def set_ramp(self, name: str, ramp: float, reason: str) -> Experiment:
        """Record another share of all candidates together, in (0, 1]; `stop` lists the errors."""
        return self._add_to_running(name, "ramp", {"ramp": ramp, "reason": reason})

    def pause(self, name: str, reason: str) -> Experiment:
        """Give every user the control until `resume`; a second pause changes nothing. `stop` lists the errors."""
        experiment = self.get(name)
        return experiment if experiment.paused else self._add_to_running(name, "pause", {"reason": reason})

    def resume(self, name: str, reason: str) -> Experiment:
        """End a pause; `stop` lists the errors."""
        experiment = self.get(name)
        if not experiment.paused and not experiment.stopped:
            return experiment
        return self._add_to_running(name, "resume", {"reason": reason})

    def stop(self, name: str, reason: str, decision: Mapping[str, Any]) -> Experiment:
        """Stop an experiment for good and record its decision.

        Raises:
            ExperimentError: there is none of this name, or it was stopped before.
        """
        return self._add_to_running(name, "stop", {"reason": reason, "decision": dict(decision)})

    def get(self, name: str) -> Experiment:
        """Return an experiment; raise ExperimentError if there is none of this name."""
        experiments = self.list()
        for experiment in experiments:
            if experiment.name == name:
                return experiment
        if not experiments:
            fix = "start one with `ragtune experiment start NAME --candidate VERSION`"
            raise ExperimentError(f"There is no experiment '{name}': none was started yet.", fix=fix)
        names = ", ".join(experiment.name for experiment in experiments)
        raise ExperimentError(f"There is no experiment '{name}'.", expected=f"one of: {names}")

    def list(self) -> "Sequence[Experiment]":
        """Return all experiments, oldest first."""
        with self._engine.connect() as connection:
            return _read(connection)

    def running(self) -> Experiment | None:
        """Return the experiment that has not been stopped, or None."""
        return next((experiment for experiment in self.list() if not experiment.stopped), None)

    def expose(self, experiment: Experiment, response_id: str, unit: str, arm: int, shares: Sequence[float]) -> None:
        """Record which arm's model wrote a response, and for whom; `Exposure` says what the arguments mean."""
        self.record_exposures(
            [
                Exposure(
                    sequence=0,
                    experiment=experiment.id,
                    response_id=response_id,
                    unit=unit,
                    arm=arm,
                    shares=tuple(shares),
                    created_at=now(),
                )
            ]
        )

    def record_exposures(self, exposures: "Sequence[Exposure]") -> None:
        """Add exposures, all of them or, on an error of the database, none; their sequence numbers are drawn."""
        with exclusive_transaction(self._engine) as connection:
            insert_exposures(connection, exposures)

    def exposures(self, experiment: Experiment, up_to: int | None = None) -> "Sequence[Exposure]":
        """Return the exposures of an experiment, oldest first; with `up_to` only up to that sequence number."""
        query = sa.select(_exposures).where(_exposures.c.experiment == experiment.id).order_by(_exposures.c.sequence)
        if up_to is not None:
            query = query.where(_exposures.c.sequence <= up_to)
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [Exposure(**{**row, "shares": tuple(json.loads(row["shares"]))}) for row in rows]

    def close(self) -> None:
        """Close all connections. The store opens new ones if it is used again."""
        self._engine.dispose()

    def _add_to_running(self, name: str, kind: EventKind, content: Mapping[str, Any]) -> Experiment:
        experiment = self.get(name)
        with exclusive_transaction(self._engine) as connection:
            if next(one for one in _read(connection) if one.name == name).stopped:
                raise ExperimentError(
                    f"The experiment '{name}' was stopped.",
                    expected="a running experiment; a stopped one stays stopped",
                    fix="start a new one under another name",
                )
            _add(connection, experiment.id, name, kind, content)
        return self.get(name)


def insert_exposures(connection: sa.Connection, exposures: Sequence[Exposure]) -> None:
    """Add exposures within a transaction, which has to be exclusive so that readers see them in order."""
    for exposure in exposures:
        values = {**asdict(exposure), "shares": json.dumps(exposure.shares)}
        del values["sequence"]
        connection.execute(_exposures.insert().values(**values))


def _add(connection: sa.Connection, experiment: str, name: str, kind: EventKind, content: Mapping[str, Any]) -> None:
    values = {"created_at": now(), "experiment": experiment, "name": name, "kind": kind}
    connection.execute(_events.insert().values(**values, content=json.dumps(content)))


def _read(connection: sa.Connection) -> list[Experiment]:
    rows = connection.execute(sa.select(_events).order_by(_events.c.sequence)).mappings().all()
    by_id: dict[str, list[sa.RowMapping]] = {}
    for row in rows:
        by_id.setdefault(row["experiment"], []).append(row)
    return [_experiment(own) for own in by_id.values()]


def _experiment(rows: Sequence[sa.RowMapping]) -> Experiment:
    events = tuple(
        ExperimentEvent(row["sequence"], row["created_at"], row["kind"], json.loads(row["content"])) for row in rows
    )
    ramp = [event.content["ramp"] for event in events if "ramp" in event.content][-1]
    fixed = {name: value for name, value in events[0].content.items() if name != "ramp"}
    fixed |= {name: tuple(fixed[name]) for name in ("versions", "weights")}
    fixed["guardrails"] = tuple((name, loss) for name, loss in fixed.get("guardrails", ()))
    return Experiment(
        id=rows[0]["experiment"], name=rows[0]["name"], design=ExperimentDesign(**fixed), ramp=ramp, events=events
    )
