"""Runs an experiment by itself: the ramp, the guardrails, the declaration, and the promotion of a winner.

All that it knows is in the logs, so it can stop and start again at any time. A look that is cut off between promoting
and stopping is taken again and does the same: promoting twice changes nothing.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from ragtune.errors import ExperimentError
from ragtune.experiments.comparison import Declaration
from ragtune.experiments.ramp import next_ramp, ramp_decision
from ragtune.experiments.status import ExperimentStatus, look_again, look_now, status_of
from ragtune.store.experiments import Experiment, ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry

Action = Literal["advance", "hold", "pause", "stop"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do with an experiment, and why; `ramp` is the new share, `winner` the version that is better, or ""."""

    action: Action
    reason: str
    ramp: float = 0.0
    winner: str = ""


def advise(experiment: Experiment, status: ExperimentStatus) -> Advice:
    """Return what to do with a running experiment.

    Harm comes first: a candidate that breaks a guardrail ends the experiment, and all users get the control again. A
    sample ratio mismatch comes next, because no declaration can be trusted then.
    """
    if experiment.paused:
        return Advice("hold", "a person has to resume or stop it")
    harm: dict[str, Declaration] = {
        f"{name} (version {candidate.version})": "worse" for candidate in status.candidates for name in candidate.harm
    }
    step = ramp_decision(status.users_in_step, harm, status.mismatch_p_value, experiment.design.users_per_step)
    if step.step == "roll back":
        return Advice("stop", f"rolled back: {step.reason}")
    if step.step == "pause":
        return Advice("pause", step.reason)
    better = [one for one in status.candidates if one.comparison.declaration == "better"]
    if better:
        best = max(better, key=lambda one: one.comparison.difference)
        return Advice("stop", best.words[0], winner=best.version)
    if all(one.comparison.declaration != "undecided" for one in status.candidates):
        return Advice("stop", " ".join(one.words[0] for one in status.candidates))
    if status.budget_spent and not status.waiting:
        return Advice("stop", "undecided at the budget")
    ramp = next_ramp(experiment.ramp, experiment.design.weights)
    if step.step == "advance" and ramp > experiment.ramp:
        return Advice("advance", step.reason, ramp)
    return Advice("hold", step.reason if ramp > experiment.ramp else "the candidates have their final share")


def run_once(store: ExperimentStore, log: FeedbackLog, registry: ModelRegistry, at: datetime) -> Advice | None:
    """Look at the running experiment, do what has to be done, and return it; None if no experiment runs."""
    experiment = store.running()
    if experiment is None:
        return None
    status = status_of(look_now(experiment, store, log, at))
    advice = advise(experiment, status)
    if advice.action == "advance":
        store.set_ramp(experiment.name, advice.ramp, advice.reason)
    elif advice.action == "pause":
        store.pause(experiment.name, advice.reason)
    elif advice.action == "stop":
        stop(experiment, status, advice, store, registry)
    return advice


def stop(
    experiment: Experiment, status: ExperimentStatus, advice: Advice, store: ExperimentStore, registry: ModelRegistry
) -> Experiment:
    """Promote the winner if the design says so, then stop the experiment for good and record its decision."""
    promoted = ""
    if advice.winner and experiment.design.promote:
        champion = registry.alias_version("champion")
        if champion in (experiment.design.versions[0], advice.winner):
            registry.move("champion", advice.winner)
            promoted = f"Version {advice.winner} is champion; `ragtune rollback` takes it back."
        else:
            promoted = f"Nothing was promoted: meanwhile version {champion} became champion."
    decision = {**status.decision(), "advice": asdict(advice), "promotion": promoted}
    return store.stop(experiment.name, advice.reason, decision)


def replay_decision(
    experiment: Experiment, store: ExperimentStore, log: FeedbackLog
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (the decision that a stopped experiment recorded, the one that its logs give today); they should be equal.

    The second one is computed from the rows that the first one had seen, at the time at which it was taken. Only what
    was recorded is compared: an earlier release and a person who stops an experiment record less.

    Raises:
        ExperimentError: the experiment is running.
    """
    if not experiment.stopped:
        raise ExperimentError(
            f"'{experiment.name}' is running.",
            "a stopped experiment",
            f"run `ragtune experiment status {experiment.name}`",
        )
    recorded: dict[str, Any] = dict(experiment.events[-1].content["decision"])
    recorded.pop("promotion", None)  # it is what the registry did, not what the logs say
    look = look_again(experiment, store, log)
    status = status_of(look)
    again = {**status.decision(), "advice": asdict(advise(look.experiment, status))}
    rows = [
        {name: value for name, value in row.items() if name in old}
        for old, row in zip(recorded["candidates"], again["candidates"], strict=True)
    ]
    return recorded, {name: value for name, value in {**again, "candidates": rows}.items() if name in recorded}
