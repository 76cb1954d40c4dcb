"""Reads an experiment's outcomes from the logs and says where it stands; a stopped one is replayed the same way."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from ragtune.experiments.comparison import LOOKS, Comparison, Plan, block_differences, compare
from ragtune.experiments.imbalance import MISMATCH, StepCounts, mismatch_p_value
from ragtune.experiments.outcomes import METRICS, Metric, Users, observations, users_at
from ragtune.experiments.wording import result_in_words
from ragtune.records import Exposure, FeedbackEvent, ResponseRecord
from ragtune.store.experiments import Experiment, ExperimentStore
from ragtune.store.feedback import FeedbackLog


@dataclass(frozen=True, slots=True)
class Cut:
    """What a look has seen: everything up to these sequence numbers of both logs, at this time (UTC, ISO 8601)."""

    exposures: int
    verdicts: int
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateStatus:
    """How a candidate compares with the control: on the metric that decides, and in words on all metrics."""

    version: str
    comparison: Comparison
    users: Users
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentStatus:
    """Where an experiment stands; `mismatch_p_value` is that of the sample ratio, `responses` all that were given."""

    cut: Cut
    responses: int
    budget_spent: bool
    mismatch_p_value: float
    candidates: tuple[CandidateStatus, ...]

    @property
    def is_balanced(self) -> bool:
        """Whether the arms have the users that they should have."""
        return self.mismatch_p_value >= MISMATCH

    def decision(self) -> dict[str, Any]:
        """Return what the log keeps of this look: what it had seen, and the comparisons without their paths."""
        rows = []
        for candidate in self.candidates:
            row = {"version": candidate.version, **asdict(candidate.comparison)}
            del row["path"]
            rows.append(row)
        return {"cut": asdict(self.cut), "mismatch_p_value": self.mismatch_p_value, "candidates": rows}


def status_now(experiment: Experiment, store: ExperimentStore, log: FeedbackLog, at: datetime) -> ExperimentStatus:
    """Return where an experiment stands at a time, from everything in both logs."""
    exposures, events = store.exposures(experiment), log.events()
    last = exposures[-1].sequence if exposures else 0
    cut = Cut(last, events[-1].sequence if events else 0, at.isoformat())
    return _status(experiment, cut, exposures, events, log)


def replay(experiment: Experiment, store: ExperimentStore, log: FeedbackLog) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (the decision that a stopped experiment recorded, the one that its logs give today); they should be equal.

    The second one is computed from the rows that the first one had seen, at the time at which it was taken.
    """
    recorded: dict[str, Any] = experiment.events[-1].content["decision"]
    cut = Cut(**recorded["cut"])
    exposures = store.exposures(experiment, cut.exposures)
    events = [event for event in log.events() if event.sequence <= cut.verdicts]
    return recorded, _status(experiment, cut, exposures, events, log).decision()


def _status(
    experiment: Experiment,
    cut: Cut,
    exposures: Sequence[Exposure],
    events: Sequence[FeedbackEvent],
    log: FeedbackLog,
) -> ExperimentStatus:
    responses = log.responses([exposure.response_id for exposure in exposures])
    design = experiment.design
    spent = len(exposures) >= design.budget
    candidates = []
    for arm in range(1, len(design.versions)):
        compared = {
            name: _compare(experiment, metric, cut, exposures, responses, events, arm)
            for name, metric in METRICS.items()
        }
        days = (datetime.fromisoformat(cut.at) - datetime.fromisoformat(experiment.started_at)) / timedelta(days=1)
        name = f"version {design.versions[arm]}"
        first = [design.metric, *(other for other in METRICS if other != design.metric)]
        words = [result_in_words(name, compared[one][0], METRICS[one], days, spent) for one in first]
        comparison, users = compared[design.metric]
        candidates.append(
            CandidateStatus(version=design.versions[arm], comparison=comparison, users=users, words=tuple(words))
        )
    return ExperimentStatus(
        cut=cut,
        responses=len(exposures),
        budget_spent=spent,
        mismatch_p_value=mismatch_p_value(_steps(exposures)),
        candidates=tuple(candidates),
    )


def _compare(
    experiment: Experiment,
    metric: Metric,
    cut: Cut,
    exposures: Sequence[Exposure],
    responses: dict[str, ResponseRecord],
    events: Sequence[FeedbackEvent],
    arm: int,
) -> tuple[Comparison, Users]:
    """Return the comparison of one candidate on one metric, from the responses that the budget allows."""
    design = experiment.design
    seen = observations(metric, exposures[: design.budget], responses, events, arm)
    window = timedelta(hours=design.window_hours)
    users = users_at(seen, datetime.fromisoformat(cut.at), window, design.missing)
    plan = Plan(design.smallest_difference, design.margin, design.alpha)
    looks = LOOKS if metric.name == design.metric else 1
    return compare(block_differences(users.outcomes), plan, len(design.versions) - 1, looks), users


def _steps(exposures: Sequence[Exposure]) -> list[StepCounts]:
    """Return how many users came to each arm during each step of the ramp."""
    counts: dict[tuple[float, ...], list[int]] = {}
    known: set[str] = set()
    for exposure in exposures:
        users = counts.setdefault(exposure.shares, [0] * len(exposure.shares))
        if exposure.unit not in known:
            known.add(exposure.unit)
            users[exposure.arm] += 1
    return [StepCounts(tuple(users), shares) for shares, users in counts.items()]
