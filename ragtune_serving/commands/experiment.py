"""`experiment`: starts, pauses and stops comparisons of models on real users, and says where they stand."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ragtune.errors import ExperimentError
from ragtune.experiments.assignment import RAMP, shares_at
from ragtune.experiments.control import replay_decision, run_once
from ragtune.experiments.outcomes import METRICS
from ragtune.experiments.ramp import USERS_PER_STEP
from ragtune.experiments.starting import Wish
from ragtune.experiments.starting import start as start_experiment
from ragtune.experiments.status import ExperimentStatus, status_now
from ragtune.settings import Settings, load_settings
from ragtune.store.experiments import Experiment, ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune_serving.audit import record_command
from ragtune_serving.terminal import out, print_json

OF_USERS = ("start", "status", "stop", "pause", "resume", "ramp", "look", "replay")
"""Commands of `experiment` that somebody may look for in `experiments`."""
OF_RUNS = ("show", "compare", "repeat")
"""Commands of `experiments` that somebody may look for in `experiment`."""


def pointing_to(command: str, others: Sequence[str]) -> type[TyperGroup]:
    """Return a group of commands that names `ragtune COMMAND` if somebody asks for one of the commands there."""

    class Pointing(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args and args[0] in others:
                raise ExperimentError(
                    f"`{ctx.command_path}` has no command '{args[0]}'.",
                    f"one of {', '.join(self.list_commands(ctx))}",
                    f"`ragtune {' '.join([command, *args])}`; `ragtune --help` says what the two are about",
                )
            return super().resolve_command(ctx, args)

    return Pointing


app = typer.Typer(
    cls=pointing_to("experiments", OF_RUNS),
    help="A/B tests: compare released models on real users. (Tracked runs of training: `ragtune experiments`.)",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help="the experiment")]
Json = Annotated[bool, typer.Option("--json", help="print as JSON")]


@app.command("start")
def start(
    name: Annotated[str, typer.Argument(help="a new name")],
    candidate: Annotated[list[str], typer.Option(help="a version in the registry; may be repeated")],
    control: Annotated[str, typer.Option(help="the version to compare with; default: the champion")] = "",
    share: Annotated[float, typer.Option(help="final share of users of all candidates together")] = 0.5,
    ramp: Annotated[float, typer.Option(help="share of users of all candidates together at first")] = RAMP[0],
    metric: Annotated[str, typer.Option(help=f"what decides: {', '.join(METRICS)}")] = "thumbs",
    smallest: Annotated[float, typer.Option(help="smallest difference worth having, in points or seconds")] = 5.0,
    margin: Annotated[float, typer.Option(help="largest difference that counts as equivalent")] = 2.0,
    budget: Annotated[int, typer.Option(min=1, help="responses after which it ends undecided")] = 10_000,
    window_hours: Annotated[float, typer.Option(min=0, help="hours in which a user's responses count")] = 24.0,
    missing_as_zero: Annotated[bool, typer.Option(help="count a missing verdict as thumbs down")] = False,
    users_per_step: Annotated[int, typer.Option(min=1, help="users before the ramp's next step")] = USERS_PER_STEP,
    promote: Annotated[
        bool | None, typer.Option(help="make a winner champion; default: the setting experiments.promote")
    ] = None,
) -> None:
    """Start an experiment. A running gateway follows within seconds, and starts the engines that it needs."""
    settings = load_settings()
    wish = Wish(
        name=name,
        candidates=candidate,
        control=control,
        share=share,
        ramp=ramp,
        metric=metric,
        smallest=smallest,
        margin=margin,
        budget=budget,
        window_hours=window_hours,
        missing_as_zero=missing_as_zero,
        users_per_step=users_per_step,
        promote=settings.experiments.promote if promote is None else promote,
    )
    experiment = start_experiment(wish, settings, ModelRegistry(settings), _store(settings))
    record_command(settings.home, "experiment start", name)
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
        if promotion := content["decision"].get("promotion"):
            out.print(promotion)
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
    record_command(settings.home, "experiment stop", f"{name}: {reason}")
    out.print("\n".join([*_lines(experiment, now), f"Stopped '{name}'."]))


@app.command("pause")
def pause(name: Name, reason: Annotated[str, typer.Option(help="why, for the log")] = "paused by hand") -> None:
    """Give every user the control until `resume`."""
    settings = load_settings()
    _store(settings).pause(name, reason)
    record_command(settings.home, "experiment pause", f"{name}: {reason}")
    out.print(f"'{name}' is paused: every user gets the control.")


@app.command("resume")
def resume(name: Name, reason: Annotated[str, typer.Option(help="why, for the log")] = "resumed by hand") -> None:
    """End a pause; users get their arms back. The ratio of the arms is tested from now on."""
    settings = load_settings()
    _store(settings).resume(name, reason)
    record_command(settings.home, "experiment resume", f"{name}: {reason}")
    out.print(f"'{name}' goes on.")


@app.command("ramp")
def ramp_(
    name: Name,
    share: Annotated[float, typer.Argument(help="share of users of all candidates together, above 0, at most 1")],
    reason: Annotated[str, typer.Option(help="why, for the log")] = "set by hand",
) -> None:
    """Set the share of the candidates by hand."""
    settings = load_settings()
    store = _store(settings)
    shares_at(store.get(name).design.weights, share)
    experiment = store.set_ramp(name, share, reason)
    record_command(settings.home, "experiment ramp", f"{name} to {share:.0%}: {reason}")
    out.print(f"'{name}': {experiment.ramp:.0%} of users for candidates.")


@app.command("look")
def look(json_: Json = False) -> None:
    """Look at the running experiment once and do what has to be done, as a running gateway does every minute."""
    settings = load_settings()
    advice = run_once(_store(settings), _log(settings), ModelRegistry(settings), datetime.now(UTC))
    if json_:
        print_json(None if advice is None else asdict(advice))
        return
    out.print(f"{advice.action}: {advice.reason}" if advice else "No experiment runs.")


@app.command("list")
def list_(json_: Json = False) -> None:
    """List all experiments, oldest first."""
    experiments = _store(load_settings()).list()
    if json_:
        rows = [{"name": e.name, "started_at": e.started_at, "stopped": e.stopped, **_design(e)} for e in experiments]
        print_json(rows)
        return
    if not experiments:
        out.print("No experiment yet. Start one with `ragtune experiment start NAME --candidate VERSION`.")
    for experiment in experiments:
        state = "stopped" if experiment.stopped else "paused" if experiment.paused else "running"
        out.print(f"{experiment.name:<20} {state}  {experiment.started_at}  {_versions(experiment)}")


@app.command("replay")
def replay_(name: Name) -> None:
    """Compute the decision of a stopped experiment again from the log; the exit code is 1 if it differs."""
    settings = load_settings()
    store = _store(settings)
    experiment = store.get(name)
    recorded, again = replay_decision(experiment, store, _log(settings))
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
    shown = "paused, every user gets the control" if experiment.paused else f"{experiment.ramp:.0%} of users"
    lines = [f"{_versions(experiment)} ({shown}), {now.responses} of {design.budget} responses"]
    if not now.is_balanced:
        lines.append(
            "Do not trust this: the arms do not have the users that they should have "
            f"(p = {now.mismatch_p_value:.2g}). Look for requests that are lost or counted twice in one arm."
        )
    else:
        lines.append(f"The arms have the users that they should have (p = {now.mismatch_p_value:.2g}).")
    for candidate in now.candidates:
        lines += [candidate.words[0], f"  p = {candidate.comparison.p_value:.3g}, valid at every look"]
        users = candidate.users
        lines.append(
            f"  users {users.assigned[0]} and {users.assigned[1]}, still waiting {sum(users.waiting)}; "
            f"rated {_rate(users.rated[0], users.responses[0])} and {_rate(users.rated[1], users.responses[1])} "
            f"of responses, {sum(users.late)} verdicts too late"
        )
        if candidate.harm:
            lines.append(f"  worse than allowed: {', '.join(candidate.harm)}")
        lines += [f"  also: {words}" for words in candidate.words[1:]] if any(users.responses) else []
    return lines


def _rate(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "none"
