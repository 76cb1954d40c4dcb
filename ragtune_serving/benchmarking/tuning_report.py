"""The report of a search for settings: the winner with its gain, every trial, and the patch."""

from collections.abc import Iterator
from pathlib import Path

from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.report.content import Card, Report, Section, Table
from ragtune.evaluation.report.pages import write_report
from ragtune_serving.benchmarking.advice import recommendations
from ragtune_serving.benchmarking.gateways import in_words
from ragtune_serving.benchmarking.report import FOLDER, comparison_table
from ragtune_serving.benchmarking.tuning import RATES, Tuning

PATCH = "tuned.patch"


def write(tuning: Tuning, home: Path) -> Path:
    """Write the report, and the patch if there is a winner; return the HTML file."""
    page = write_report(build(tuning), home / FOLDER / tuning.run.id)
    if tuning.patch:
        (page.parent / PATCH).write_text(tuning.patch)
    return page


def build(tuning: Tuning) -> Report:
    """Return the report."""
    level = tuning.run.level
    rows = tuple((in_words(trial.settings), f"{trial.value:.2f}", trial.state) for trial in tuning.trials)
    rates = ", ".join(f"{share:g}" for share in RATES)
    trials = Section(
        title="Trials",
        text=f"Mean goodput per second over {rates} times the saturation of the settings at the beginning. A pruned "
        "trial was given up early, a failed one did not start.",
        tables=(Table(("settings", "goodput/s", "state"), rows),),
    )
    proof = Section(
        title="Proof",
        text="The best settings and the present ones run at the same time and get the same questions in turn." if
        tuning.differences else "",
        tables=tuple(comparison_table(found, title) for found, title in
                     ((tuning.differences, ""), (tuning.noise, "The same settings twice: the noise floor")) if found),
    )  # fmt: skip
    facts = {
        "run": tuning.run.id,
        "machine": hardware(),
        "model": f"version {tuning.run.version} {tuning.run.precision}",
        "service level": f"first text within {level.first_token_ms:.0f} ms, answer within {level.answer_ms:.0f} ms",
    }
    sections = (
        Section(title="What to do next", items=tuple(_next_steps(tuning))),
        proof,
        trials,
        Section(title="Where this comes from", tables=(Table(("what", "value"), tuple(facts.items())),)),
    )
    return Report(
        title="Settings for this machine",
        badge="Better settings found" if tuning.winner else "The settings stay",
        good=bool(tuning.winner),
        summary=in_words(tuning.winner) if tuning.winner else "Nothing was better beyond the noise and nowhere worse.",
        cards=(Card("trials", str(len(tuning.trials)), "combinations of settings"),),
        sections=tuple(section for section in sections if section.items or section.tables),
    )


def _next_steps(tuning: Tuning) -> Iterator[str]:
    yield from recommendations(tuning.differences, tuning.run.settings)
    if tuning.winner:
        yield f"Apply it with `patch -p0 < {PATCH}` in the folder of the settings file, or with `ragtune tune --apply`."
