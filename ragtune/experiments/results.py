"""Results and decisions of all experiments as rows: for the warehouse, for plots, and for pages."""

import json
from collections.abc import Sequence
from datetime import datetime

from ragtune.experiments.control import replay_decision
from ragtune.experiments.outcomes import METRICS
from ragtune.experiments.status import Look, compare_on, look_again, look_now
from ragtune.store.experiments import Experiment, ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.report_rows import ExperimentDecision, ExperimentResult


def all_results(store: ExperimentStore, log: FeedbackLog, at: datetime) -> list[ExperimentResult]:
    """Return a row for every experiment, candidate and metric; one with a decision as that decision saw it."""
    rows: list[ExperimentResult] = []
    for experiment in store.list():
        look = look_again(experiment, store, log) if _is_decided(experiment) else look_now(experiment, store, log, at)
        rows += _results(experiment, look)
    return rows


def all_decisions(store: ExperimentStore, log: FeedbackLog) -> list[ExperimentDecision]:
    """Return a row for every stopped experiment with a decision that can be replayed, in the order of their starts."""
    rows = []
    for experiment in filter(_is_decided, store.list()):
        content = experiment.events[-1].content
        recorded, again = replay_decision(experiment, store, log)
        advice = content["decision"].get("advice", {})
        rows.append(
            ExperimentDecision(
                experiment=experiment.name,
                stopped_at=experiment.events[-1].created_at,
                versions=", ".join(experiment.design.versions),
                metric=experiment.design.metric,
                reason=content["reason"],
                winner=advice.get("winner", ""),
                promotion=content["decision"].get("promotion", ""),
                replayed=recorded == again,
            )
        )
    return rows


def _is_decided(experiment: Experiment) -> bool:
    """Return whether the experiment was stopped, and its decision recorded which rows it saw: its `Cut`."""
    return experiment.stopped and "cut" in experiment.events[-1].content["decision"]


def _results(experiment: Experiment, look: Look) -> Sequence[ExperimentResult]:
    design = experiment.design
    rows = []
    for arm, version in enumerate(design.versions[1:], 1):
        for name, metric in METRICS.items():
            comparison, users = compare_on(look, metric, arm)
            rows.append(
                ExperimentResult(
                    experiment=experiment.name,
                    state="stopped" if experiment.stopped else "paused" if experiment.paused else "running",
                    version=version,
                    control=design.versions[0],
                    metric=name,
                    decides=name == design.metric,
                    declaration=comparison.declaration,
                    difference=comparison.difference * metric.scale,
                    low=comparison.low * metric.scale,
                    high=comparison.high * metric.scale,
                    unit=metric.unit,
                    p_value=comparison.p_value,
                    users_control=users.assigned[0],
                    users_candidate=users.assigned[1],
                    path=json.dumps(
                        [(blocks, low * metric.scale, high * metric.scale) for blocks, low, high in comparison.path]
                    ),
                )
            )
    return rows
