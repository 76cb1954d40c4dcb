"""Reads an experiment's outcomes from the logs and says where it stands; a stopped one is replayed the same way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ragtune.experiments.comparison import LOOKS, Comparison, Plan, block_differences, compare, falls_below
from ragtune.experiments.imbalance import MISMATCH, StepCounts, mismatch_p_value
from ragtune.experiments.outcomes import METRICS, Metric, Observation, Users, observations, users_at
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
class Look:
    """Everything that a look reads from both logs, so that all numbers of the look come from the same rows."""

    experiment: Experiment
    cut: Cut
    exposures: Sequence[Exposure]
    responses: Mapping[str, ResponseRecord]
    events: Sequence[FeedbackEvent]

    @property
    def at(self) -> datetime:
        """The time of the look."""
        return datetime.fromisoformat(self.cut.at)

    @property
    def plan(self) -> Plan:
        """What was fixed about the comparison before the experiment started."""
        design = self.experiment.design
        return Plan(design.smallest_difference, design.margin, design.alpha)

    def observations(self, metric: Metric, arm: int) -> list[Observation]:
        """Return the requests that the budget allows with their outcomes, for the control and one candidate."""
        exposures = self.exposures[: self.experiment.design.budget]
        return observations(metric, exposures, self.responses, self.events, arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateStatus:
    """How a candidate compares with the control: on the metric that decides, and in words on all metrics.

    `harm` names the guardrails on which the candidate is worse than its design allows.
    """

    version: str
    comparison: Comparison
    users: Users
    words: tuple[str, ...]
    harm: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentStatus:
    """Where an experiment stands; `mismatch_p_value` is that of the sample ratio, `responses` all that were given.

    `users_in_step` counts the users that came since the share of the candidates last changed.
    """

    cut: Cut
    responses: int
    budget_spent: bool
    mismatch_p_value: float
    users_in_step: int
    candidates: tuple[CandidateStatus, ...]

    @property
    def is_balanced(self) -> bool:
        """Whether the arms have the users that they should have."""
        return self.mismatch_p_value >= MISMATCH

    @property
    def waiting(self) -> int:
        """How many users are still within their window."""
        return max(sum(candidate.users.waiting) for candidate in self.candidates)

    def decision(self) -> dict[str, Any]:
        """Return what the log keeps of this look: what it had seen, and the comparisons without their paths."""
        rows = []
        for candidate in self.candidates:
            row = {"version": candidate.version, **asdict(candidate.comparison), "harm": list(candidate.harm)}
            del row["path"]
            rows.append(row)
        return {"cut": asdict(self.cut), "mismatch_p_value": self.mismatch_p_value, "candidates": rows}


def look_now(experiment: Experiment, store: ExperimentStore, log: FeedbackLog, at: datetime) -> Look:
    """Return everything that is in both logs about an experiment at a time."""
    exposures, events = store.exposures(experiment), log.events()
    last = exposures[-1].sequence if exposures else 0
    cut = Cut(last, events[-1].sequence if events else 0, at.isoformat())
    responses = log.responses([exposure.response_id for exposure in exposures])
    return Look(experiment=experiment, cut=cut, exposures=exposures, responses=responses, events=events)


def look_again(experiment: Experiment, store: ExperimentStore, log: FeedbackLog) -> Look:
    """Return what the look that stopped an experiment had read."""
    cut = Cut(**experiment.events[-1].content["decision"]["cut"])
    exposures = store.exposures(experiment, cut.exposures)
    events = [event for event in log.events() if event.sequence <= cut.verdicts]
    responses = log.responses([exposure.response_id for exposure in exposures])
    before = replace(experiment, events=experiment.events[:-1])
    return Look(experiment=before, cut=cut, exposures=exposures, responses=responses, events=events)


def status_now(experiment: Experiment, store: ExperimentStore, log: FeedbackLog, at: datetime) -> ExperimentStatus:
    """Return where an experiment stands at a time, from everything in both logs."""
    return status_of(look_now(experiment, store, log, at))


def status_of(look: Look) -> ExperimentStatus:
    """Return what a look shows."""
    experiment, design = look.experiment, look.experiment.design
    spent = len(look.exposures) >= design.budget
    candidates = []
    for arm in range(1, len(design.versions)):
        compared = {name: compare_on(look, metric, arm) for name, metric in METRICS.items()}
        days = (look.at - datetime.fromisoformat(experiment.started_at)) / timedelta(days=1)
        name = f"version {design.versions[arm]}"
        first = [design.metric, *(other for other in METRICS if other != design.metric)]
        words = [result_in_words(name, compared[one][0], METRICS[one], days, spent) for one in first]
        comparison, users = compared[design.metric]
        candidates.append(
            CandidateStatus(
                version=design.versions[arm],
                comparison=comparison,
                users=users,
                words=tuple(words),
                harm=broken_guardrails(look, arm),
            )
        )
    changed_at = [event.created_at for event in experiment.events if event.kind != "pause"][-1]
    return ExperimentStatus(
        cut=look.cut,
        responses=len(look.exposures),
        budget_spent=spent,
        mismatch_p_value=mismatch_p_value(_steps(look)),
        users_in_step=len(_first_exposures(look.exposures, changed_at)),
        candidates=tuple(candidates),
    )


def compare_on(look: Look, metric: Metric, arm: int) -> tuple[Comparison, Users]:
    """Return the comparison of one candidate on one metric, from the responses that the budget allows."""
    design = look.experiment.design
    window = timedelta(hours=design.window_hours)
    users = users_at(look.observations(metric, arm), look.at, window, design.missing if metric.verdict else None)
    looks = LOOKS if metric.name == design.metric else 1
    return compare(block_differences(users.outcomes), look.plan, len(design.versions) - 1, looks), users


def broken_guardrails(look: Look, arm: int) -> tuple[str, ...]:
    """Return the guardrails on which a candidate is worse than the control by more than its design allows.

    A user counts once in each span of `guardrail_minutes`, and not once for good: an engine that breaks after a week
    breaks for users who came long ago. Spans of one user are not independent, so a guardrail may stop a harmless
    candidate more often than alpha says.
    """
    design = look.experiment.design
    span = timedelta(minutes=design.guardrail_minutes)
    harm = []
    for name, loss in design.guardrails:
        seen = [
            replace(one, user=f"{one.user} {math.floor(one.at.timestamp() / span.total_seconds())}")
            for one in look.observations(METRICS[name], arm)
        ]
        differences = block_differences(users_at(seen, look.at, span).outcomes)
        if falls_below(differences, loss, look.plan, len(design.versions) - 1):
            harm.append(name)
    return tuple(harm)


def _steps(look: Look) -> list[StepCounts]:
    """Return how many users came to each arm during each step of the ramp, since a person last ended a pause.

    The person who ends a pause has looked at the ratio before, so the users until then do not count again.
    """
    resumed = [event.created_at for event in look.experiment.events if event.kind == "resume"]
    counts: dict[tuple[float, ...], list[int]] = {}
    for exposure in _first_exposures(look.exposures, resumed[-1] if resumed else ""):
        counts.setdefault(exposure.shares, [0] * len(exposure.shares))[exposure.arm] += 1
    return [StepCounts(tuple(users), shares) for shares, users in counts.items()]


def _first_exposures(exposures: Sequence[Exposure], since: str) -> list[Exposure]:
    """Return the first exposure of each user who came at or after a time (UTC, ISO 8601)."""
    firsts: dict[str, Exposure] = {}
    for exposure in exposures:
        firsts.setdefault(exposure.unit, exposure)
    return [exposure for exposure in firsts.values() if exposure.created_at >= since]
