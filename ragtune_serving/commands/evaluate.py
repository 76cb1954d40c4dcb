"""`evaluate`: has people rate answers or compare two models, and shows how far they agree."""

from pathlib import Path
from typing import Annotated

import typer

from ragtune.errors import DatasetError, SettingsError
from ragtune.evaluation.studies.approved import write_approved
from ragtune.evaluation.studies.files import export_tasks, import_ratings
from ragtune.evaluation.studies.results import StudyResults, study_results
from ragtune.evaluation.studies.study import MODES
from ragtune.settings import load_settings
from ragtune.text.counts import counted
from ragtune_serving.studies import STUDY_ITEMS, StudyDesk, StudyPlan
from ragtune_serving.study_schema import StudyReport
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Have people rate answers, or compare those of two models.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="the study")]
_SHOWN = 10
"""Disagreements that are printed. Chosen by hand; `--json` has all."""


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="a new name")],
    mode: Annotated[str, typer.Option(help=f"{' or '.join(MODES)}; default: rating, with --shadow pairwise")] = "",
    model: Annotated[list[str] | None, typer.Option(help="a model such as 'base bf16'; twice to compare two")] = None,
    split: Annotated[str, typer.Option(help="the held-out questions: test, gate or out_of_domain")] = "test",
    file: Annotated[list[Path] | None, typer.Option(help="JSON lines with answers; twice to compare two")] = None,
    count: Annotated[int, typer.Option(min=1, help="at most this many items")] = STUDY_ITEMS,
    guideline: Annotated[Path | None, typer.Option(help="a text file; default: the project's own")] = None,
    shadow: Annotated[str, typer.Option(help="a shadow deployment: people vote on its pairs of answers")] = "",
    version: Annotated[str, typer.Option(help="with --shadow: the version; needed if it mirrors to several")] = "",
) -> None:
    """Make a study from answers of models (--model), files (--file), mirrored requests (--shadow), or live traffic."""
    mode = mode or ("pairwise" if shadow else "rating")
    if mode not in MODES:
        raise SettingsError(f"There is no mode '{mode}'.", f"one of {', '.join(MODES)}")
    plan = StudyPlan(
        name=name,
        mode=mode,
        shadow=shadow,
        version=version,
        models=tuple(model or ()),
        split=split,
        files=tuple(file or ()),
        count=count,
        guideline=guideline.read_text() if guideline else "",
    )
    study, items = StudyDesk(load_settings()).create(plan)
    out.print(f"{study.name}: {items} items of {study.source}. Next: `ragtune evaluate assign {name} WHO ...`.")


@app.command("assign")
def assign(
    name: Name,
    annotators: Annotated[list[str], typer.Argument(help="the names of their keys")],
    per_item: Annotated[int, typer.Option(min=1, help="annotators of every item")] = 2,
) -> None:
    """Share the items out, the same amount of work to each annotator."""
    for annotator, items in StudyDesk(load_settings()).store.assign(name, annotators, per_item).items():
        out.print(f"{annotator}: {items} new items")


@app.command("export")
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="a .csv or .jsonl file to write")],
    annotator: Annotated[str, typer.Option(help="whose open tasks")],
) -> None:
    """Write an annotator's open tasks; fill in the columns of the questions and import the file."""
    store = StudyDesk(load_settings()).store
    count = export_tasks(store, name, annotator, file)
    study = store.study(name)
    out.print(study.guideline)
    out.print(f"{count} tasks in {file}. In {', '.join(study.questions)}: one of {', '.join(study.choices)}.")


@app.command("import")
def import_(
    name: Name,
    file: Annotated[Path, typer.Argument(help="an exported file with choices")],
    annotator: Annotated[str, typer.Option(help="who filled it in")],
) -> None:
    """Import ratings: all of a file, or none if a line is wrong. Importing a file twice changes nothing."""
    ratings = import_ratings(StudyDesk(load_settings()).store, name, annotator, file)
    out.print(f"{len(ratings)} ratings of {annotator}.")


@app.command("status")
def status(json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """List the studies with the progress of each annotator."""
    store = StudyDesk(load_settings()).store
    rows = [(study, store.progress(study.name)) for study in store.studies()]
    if json_:
        print_json(
            [
                {
                    "study": study.name,
                    "mode": study.mode,
                    "source": study.source,
                    "created_at": study.created_at,
                    "annotators": {row.annotator: {"rated": row.rated, "tasks": row.tasks} for row in progress},
                }
                for study, progress in rows
            ]
        )
        return
    if not rows:
        out.print("No study yet. Make one with `ragtune evaluate create NAME`.")
    for study, progress in rows:
        out.print(f"{study.name} ({study.mode}, {study.source})")
        for row in progress:
            pace = f", {row.seconds:.0f} s a task" if row.seconds else ""
            out.print(f"  {row.annotator}: {row.rated} of {row.tasks} rated, {row.skipped} put off{pace}")


@app.command("agreement")
def agreement(name: Name, json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """Show what the annotators say of the models, how far they agree, and the items on which they differ most."""
    results = study_results(StudyDesk(load_settings()).store, name)
    if json_:
        print_json(StudyReport.of(results).model_dump())
        return
    _print(results)


@app.command("adjudicate")
def adjudicate(
    name: Name,
    item: Annotated[str, typer.Argument(help="the item's id, as `agreement` prints it")],
    question: Annotated[str, typer.Argument(help="the question of the rubric, or `better`")],
    choice: Annotated[str, typer.Argument(help="the final choice")],
    by: Annotated[str, typer.Option(help="who decides")],
    comment: Annotated[str, typer.Option(help="why")] = "",
) -> None:
    """Settle an item on which annotators differ; their own ratings stay as they are."""
    made = StudyDesk(load_settings()).store.adjudicate(name, item, question, choice, by, comment)
    out.print(f"{made.item_id} {made.question}: {made.choice}, by {made.adjudicator}.")


@app.command("pairs")
def pairs(name: Name, file: Annotated[Path, typer.Argument(help="a .jsonl file to write")]) -> None:
    """Write the answers that people settled as correct, supported and complete as pairs for the dataset."""
    approved = StudyDesk(load_settings()).approved(name)
    if not approved.pairs:
        raise DatasetError(
            f"People approved no answer of '{name}' that may train: {approved.others} are not settled as right, "
            f"{approved.held_out} answer held-out questions.",
            "answers that most annotators call correct, supported and complete",
            "rate more answers, of live traffic for instance (`ragtune evaluate create NAME`)",
        )
    write_approved(approved, file)
    out.print(
        f"{counted(len(approved.pairs), 'pair')} in {file}. Left out: {approved.others} that are not settled as right, "
        f"or come twice; {approved.held_out} to held-out questions.\n"
        f"Next: `ragtune sources add pairs:{file}`. They are matched with passages, checked and reviewed."
    )


def _print(results: StudyResults) -> None:
    study = results.study
    rated = f"{results.ratings} ratings by {', '.join(results.annotators) or 'nobody yet'}"
    out.print(f"{study.name}: {results.items} items of {study.source}, {rated}, {results.cannot_judge} x cannot judge")
    for row in results.models:
        out.print(f"  {row.model} {row.question}: {row.value:.2f} [{row.low:.2f}, {row.high:.2f}], n = {row.n}")
    for agreed in (*results.overall, *results.pairs):
        out.print(f"  {agreed}")
    if results.consistency is not None:
        shares = ", ".join(f"{question} {share:.2f}" for question, share in results.consistency.items())
        out.print(f"  the same choice on {results.repeats} repeats: {shares}")
    for one in results.disagreements[:_SHOWN]:
        said = ", ".join(f"{name} {choice}" for name, choice in one.choices.items())
        settled = f"; settled: {one.adjudicated}" if one.adjudicated else ""
        out.print(f"  {one.item.id} {one.question}: {said}{settled}")
        out.print(f"    {one.item.question}")
