"""`experiments`: lists, shows, compares and repeats tracked runs: what was trained, quantised, evaluated, measured."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from ragtune.extras import require
from ragtune.model.runs.comparison import Difference, LoggedScore, RunComparison, ScorePair, compare, settings_of
from ragtune.model.runs.log import SCORED, TRAINED, LoggedRun, RunLog
from ragtune.model.runs.record import CODE, DATA, REPEATS, SAME, flat, public_settings
from ragtune.settings import Settings, load_settings
from ragtune.store.home_lock import exclusive
from ragtune_serving.commands.experiment import OF_USERS, pointing_to
from ragtune_serving.terminal import out, print_json, progress_bar

Run = Annotated[str, typer.Argument(help="a tracked run: the first digits of its id are enough")]
Json = Annotated[bool, typer.Option("--json", help="print as JSON")]


app = typer.Typer(
    cls=pointing_to("experiment", OF_USERS),
    help="Tracked runs of training, quantisation, evaluation and benchmarks: list, compare, repeat. "
    "(A/B tests on real users: `ragtune experiment`.)",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="runs of all assets, not only trainings")] = False,
    asset: Annotated[str, typer.Option(help="runs of this asset, such as benchmark_runs")] = "",
    limit: Annotated[int, typer.Option(min=1, help="the most that are shown")] = 20,
    json_: Json = False,
) -> None:
    """List tracked runs, the newest first; by default those that trained a model, with the score of its test."""
    settings = load_settings()
    runs = RunLog(settings).runs("" if every else asset or TRAINED, limit=limit)[:limit]
    if json_:
        print_json([asdict(run) for run in runs])
        return
    if not runs:
        out.print("No run is tracked yet. `ragtune materialize` tracks every training, evaluation and benchmark.")
        return
    metric = settings.evaluation.metric
    table = Table("run", "what", "started", "state", "time", f"{metric} on the test", box=None)
    for run in runs:
        score = _interval(run.metrics, f"test/{metric}")
        table.add_row(run.short_id, _what(run), run.started_at[:16], run.status.lower(), _time(run.seconds), score)
    out.print(table)


@app.command("show")
def show(run: Run, json_: Json = False) -> None:
    """Show a run: its settings that are not the defaults, its data, what it ran on, its numbers and its links."""
    settings = load_settings()
    log = RunLog(settings)
    one = log.run(run)
    if json_:
        print_json({**asdict(one), "below": [asdict(child) for child in log.below(one)]})
        return
    out.print(f"{one.id}  {_what(one)}  {one.status.lower()}  {one.started_at}  {_time(one.seconds)}")
    out.print(f"MLflow   {settings.mlflow_pages}/#/runs/{one.id}")
    if dagster_run := one.tags.get("dagster_run_id"):
        out.print(f"Dagster  http://127.0.0.1:{settings.ports.dagster}/runs/{dagster_run}")
    if one.training_run not in ("", one.id):
        out.print(f"Trained  {one.training_run[:8]}")
    defaults = flat(public_settings(Settings()))
    own = {name: value for name, value in settings_of(one).items() if defaults.get(name) != value}
    _print_values("Settings that are not the defaults", own)
    _print_values("Data", _without(one.params, DATA))
    _print_values("Ran on", _without(one.params, CODE))
    numbers = {name: value for name, value in one.metrics.items() if not name.endswith(("/low", "/high", "/n"))}
    _print_values("Numbers", {name: _interval(one.metrics, name) for name in sorted(numbers)})
    for title, others in (("Below", log.below(one)), ("Repeated by", log.repetitions(one))):
        if others:
            out.print(f"\n{title}")
            for child in others:
                out.print(f"  {child.short_id}  {_what(child)}  {child.status.lower()}")


@app.command("compare")
def compare_(a: Run, b: Run, json_: Json = False) -> None:
    """Say what differs between two runs in settings, data, code and scores; gains are paired by question."""
    log = RunLog(load_settings())
    comparison = compare(log, log.run(a), log.run(b))
    if json_:
        print_json(asdict(comparison))
        return
    print_comparison(comparison)


@app.command("repeat")
def repeat_(run: Run, json_: Json = False) -> None:
    """Run a run again from what was logged, and say whether the result is the same; the exit code is 1 if it is not."""
    require("train")
    from ragtune.model.repetition import repeat

    settings = load_settings()
    log = RunLog(settings)
    one = log.run(run)
    with exclusive(settings.home, "`ragtune experiments repeat`"), progress_bar() as progress:
        done = repeat(one, log, progress)
    if json_:
        print_json(asdict(done))
    elif done.same:
        out.print(f"The same: {done.compared} of run {done.run_id[:8]} equal those of {done.repeats[:8]}, bit for bit.")
    else:
        differing = (
            "" if done.largest_difference is None else f" The largest difference is {done.largest_difference:g}."
        )
        out.print(f"Not the same: {done.compared} of run {done.run_id[:8]} differ from {done.repeats[:8]}.{differing}")
        _print_differences("What changed since", done.changed, done.repeats[:8], done.run_id[:8])
        if not done.changed:
            out.print("Code, packages, threads and machine are the same as then.")
    if not done.same:
        raise typer.Exit(1)


def print_comparison(found: RunComparison) -> None:
    """Print a comparison for people."""
    a, b = found.a.short_id, found.b.short_id
    out.print(f"A = {a} ({_what(found.a)}), B = {b} ({_what(found.b)})")
    for title, differing in (("Settings", found.settings), ("Data", found.data), ("Code and machine", found.code)):
        _print_differences(title, differing, "A", "B")
        if not differing:
            out.print(f"\n{title}: the same")
    if found.scores:
        out.print("\nScores on the test, with 95% intervals; gains are paired by question")
        table = Table("precision", "metric", "A", "B", "B - A", box=None)
        for pair in found.scores:
            table.add_row(pair.precision, pair.metric, _score(pair.a), _score(pair.b), _gain(pair))
        out.print(table)
    for note in found.notes:
        out.print(f"\n{note}")


def _print_differences(title: str, differing: tuple[Difference, ...], a: str, b: str) -> None:
    if differing:
        out.print(f"\n{title}")
        table = Table("", a, b, box=None)
        for one in differing:
            table.add_row(one.name, _shortened(one.a), _shortened(one.b))
        out.print(table)


def _print_values(title: str, values: dict[str, str]) -> None:
    if values:
        out.print(f"\n{title}")
        for name, value in values.items():
            out.print(f"  {name:<36} {_shortened(value)}")


def _without(params: Any, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def _shortened(value: str) -> str:
    """Return a value for a line: hashes by their first digits, as everywhere else."""
    if len(value) == 64 and all(digit in "0123456789abcdef" for digit in value):
        return value[:12]
    return value or "-"


def _what(run: LoggedRun) -> str:
    if original := run.tags.get(REPEATS):
        verdict = {"yes": ", the same", "no": ", not the same"}.get(run.tags.get(SAME, ""), "")
        return f"{run.asset}, repeats {original[:8]}{verdict}"
    return run.name if run.asset in ("", SCORED) else run.asset


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _interval(metrics: Any, name: str) -> str:
    if name not in metrics:
        return ""
    if f"{name}/low" not in metrics:
        return f"{metrics[name]:.4g}"
    return f"{metrics[name]:.3f} [{metrics[f'{name}/low']:.3f}, {metrics[f'{name}/high']:.3f}]"


def _score(score: LoggedScore | None) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" if score else "-"


def _gain(pair: ScorePair) -> str:
    gain = pair.gain
    return f"{gain.gain:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], n = {gain.n}" if gain else "-"
