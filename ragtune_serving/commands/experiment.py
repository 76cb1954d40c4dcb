"""`experiment`: starts and stops comparisons of models on real users, and says where they stand."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ragtune.errors import ExperimentError, SettingsError
from ragtune.experiments.assignment import shares_at
from ragtune.experiments.comparison import Plan
from ragtune.experiments.outcomes import METRICS
from ragtune.experiments.status import ExperimentStatus, replay, status_now
from ragtune.settings import Settings, load_settings
from ragtune.store.experiments import Experiment, ExperimentDesign, ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Compare models on real users.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="the experiment")]
Json = Annotated[bool, typer.Option("--json", help="print as JSON")]


@app.command("start")
def start(
    name: Annotated[str, typer.Argument(help="a new name")],
    candidate: Annotated[list[str], typer.Option(help="a version in the registry; may be repeated")],
    control: Annotated[str, typer.Option(help="the version to compare with; default: the champion")] = "",
    share: Annotated[float, typer.Option(help="final share of users of all candidates together")] = 0.5,
    ramp: Annotated[float, typer.Option(help="share of users of all candidates together now")] = 0.01,
    metric: Annotated[str, typer.Option(help=f"what decides: {', '.join(METRICS)}")] = "thumbs",
    smallest: Annotated[float, typer.Option(help="smallest difference worth having, in points or seconds")] = 5.0,
    margin: Annotated[float, typer.Option(help="largest difference that counts as equivalent")] = 2.0,
    budget: Annotated[int, typer.Option(min=1, help="responses after which it ends undecided")] = 10_000,
    window_hours: Annotated[float, typer.Option(min=0, help="hours in which a user's responses count")] = 24.0,
    missing_as_zero: Annotated[bool, typer.Option(help="count a missing verdict as thumbs down")] = False,
) -> None:
    """Start an experiment. The gateway does not route by it yet: see docs/howto/experiments.md."""
    settings = load_settings()
    if metric not in METRICS:
        raise SettingsError(f"There is no metric '{metric}'.", f"one of {', '.join(METRICS)}")
    registry = ModelRegistry(settings)
    if not control:
        champion = registry.alias("champion")
        if champion is None:
            raise ExperimentError("There is no champion.", "a version to compare with", "give --control VERSION")
        control = champion.version
    versions = (control, *candidate)
    if len(set(versions)) < len(versions):
        raise SettingsError(f"The versions are {', '.join(versions)}.", "different versions")
    for version in versions:
        registry.version(version)
    scale = METRICS[metric].scale
    plan = Plan(smallest / scale, margin / scale)
    weights = (1 - share, *(share / len(candidate) for _ in candidate))
    shares_at(weights, ramp)
    design = ExperimentDesign(
        versions=versions,
        weights=weights,
        metric=metric,
        smallest_difference=plan.smallest_difference,
        margin=plan.margin,
        alpha=plan.alpha,
        budget=budget,
        window_hours=window_hours,
        missing=0.0 if missing_as_zero else None,
    )
    experiment = _store(settings).start(name, design, ramp)
    out.print(f"Started '{experiment.name}': {_versions(experiment)}, {experiment.ramp:.0%} of users for candidates.")


@app.command("status")
def status(name: Name, json_: Json = False) -> None:
    """Say what an experiment shows so far; looking often does not make it wrong."""
    settings = load_settings()
    store = _store(settings)
    experiment = store.get(name)
    if experiment.stopped:
        content = experiment.events[-1].content
        if json_:
            print_json(content)
            return
        out.print(f"'{name}' was stopped at {experiment.events[-1].created_at}: {content['reason']}.")
        for row in content["decision"]["candidates"]:
            out.print(f"version {row['version']}: {row['declaration']}, difference {row['difference']:+.4f}")
        return
    now = status_now(experiment, store, _log(settings), datetime.now(UTC))
    if json_:
        print_json(asdict(now))
        return
    out.print("\n".join(_lines(experiment, now)))


@app.command("stop")
def stop(name: Name, reason: Annotated[str, typer.Option(help="why, for the log")] = "stopped by hand") -> None:
    """Stop an experiment for good, and record what it shows."""
    settings = load_settings()
    store = _store(settings)
    experiment = store.get(name)
    now = status_now(experiment, store, _log(settings), datetime.now(UTC))
    store.stop(name, reason, now.decision())
    out.print("\n".join([*_lines(experiment, now), f"Stopped '{name}'."]))


@app.command("list")
def list_(json_: Json = False) -> None:
    """List all experiments, oldest first."""
    experiments = _store(load_settings()).list()
    if json_:
        rows = [{"name": e.name, "started_at": e.started_at, "stopped": e.stopped, **_design(e)} for e in experiments]
        print_json(rows)
        return
    for experiment in experiments:
        state = "stopped" if experiment.stopped else "running"
        out.print(f"{experiment.name:<20} {state}  {experiment.started_at}  {_versions(experiment)}")


@app.command("replay")
def replay_(name: Name) -> None:
    """Compute the decision of a stopped experiment again from the log; the exit code is 1 if it differs."""
    settings = load_settings()
    store = _store(settings)
    experiment = store.get(name)
    if not experiment.stopped:
        raise ExperimentError(
            f"'{name}' is running.", "a stopped experiment", f"run `ragtune experiment status {name}`"
        )
    recorded, again = replay(experiment, store, _log(settings))
    if recorded != again:
        print_json({"recorded": recorded, "replayed": again})
        raise typer.Exit(1)
    out.print(f"The log gives the recorded decision of '{name}' again.")


def _store(settings: Settings) -> ExperimentStore:
    return ExperimentStore(settings.feedback_url)


def _log(settings: Settings) -> FeedbackLog:
    return FeedbackLog(settings.feedback_url)


def _versions(experiment: Experiment) -> str:
    control, *candidates = experiment.design.versions
    return f"{', '.join(f'version {version}' for version in candidates)} against version {control}"


def _design(experiment: Experiment) -> dict[str, Any]:
    return {"ramp": experiment.ramp, **asdict(experiment.design)}


def _lines(experiment: Experiment, now: ExperimentStatus) -> list[str]:
    """Return what a person reads about an experiment."""
    design = experiment.design
    lines = [f"{_versions(experiment)}, {now.responses} of {design.budget} responses"]
    if not now.is_balanced:
        lines.append(
            "Do not trust this: the arms do not have the users that they should have "
            f"(p = {now.mismatch_p_value:.2g}). Look for requests that are lost or counted twice in one arm."
        )
    for candidate in now.candidates:
        lines += [candidate.words[0], f"  p = {candidate.comparison.p_value:.3g}, valid at every look"]
        users = candidate.users
        lines.append(
            f"  users {users.assigned[0]} and {users.assigned[1]}, still waiting {sum(users.waiting)}; "
            f"rated {_rate(users.rated[0], users.responses[0])} and {_rate(users.rated[1], users.responses[1])} "
            f"of responses, {sum(users.late)} verdicts too late"
        )
        lines += [f"  also: {words}" for words in candidate.words[1:]]
    return lines


def _rate(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "none"
