"""`review`: exports pairs for a spreadsheet or an annotation tool, imports decisions, and shows the progress."""

from pathlib import Path
from typing import Annotated

import typer

from ragtune.dataset.reviews.files import export_pairs, import_decisions
from ragtune.dataset.reviews.guideline import GUIDELINE
from ragtune.errors import SettingsError
from ragtune.evaluation.review_agreement import review_agreement
from ragtune.settings import load_settings
from ragtune.text.counts import counted
from ragtune_serving.audit import record_command
from ragtune_serving.keys import KeyStore
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.study_schema import ReviewAgreementReport
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Have people accept, reject or correct pairs.", no_args_is_help=True)
_SHOWN = 10
"""Disputed pairs that are printed. Chosen by hand; `--json` has all."""


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="a .csv or .jsonl file to write")],
    reviewer: Annotated[str, typer.Option(help="export only the pairs that this person still has to decide")] = "",
    count: Annotated[int, typer.Option(min=0, help="first assign up to this many more pairs to --reviewer")] = 0,
    corrections: Annotated[bool, typer.Option("--corrections", help="only corrections by users that wait")] = False,
) -> None:
    """Write pairs with their passages; fill in `verdict` (accept, reject, correct or comment) and import the file."""
    if count and not reviewer:
        raise SettingsError("--count assigns pairs to a reviewer, but --reviewer is missing.", "--reviewer NAME")
    desk = ReviewDesk(load_settings())
    dataset = desk.dataset()
    if count:
        desk.claim(reviewer, count)
    pairs = [pair for pair in desk.open_pairs() if pair.feedback_id] if corrections else dataset.pairs
    count_exported = export_pairs(pairs, list(dataset.chunks.values()), file, reviewer, desk.reviews)
    out.print(GUIDELINE)
    out.print(f"{counted(count_exported, 'pair')} in {file}.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="an exported .csv or .jsonl file with verdicts")],
    reviewer: Annotated[str, typer.Option(help="the reviewer of rows that name none")] = "",
) -> None:
    """Import the decisions of a file: all of them, or none if one is wrong. Importing a file twice changes nothing."""
    desk = ReviewDesk(load_settings())
    decisions = import_decisions(file, desk.reviews, reviewer)
    out.print(f"{len(decisions)} new decisions. Run `ragtune materialize` to apply them to the dataset.")
    orphans = sum(decision.pair_key not in desk.dataset().by_key for decision in decisions)
    if orphans:
        out.print(f"{orphans} of them are on pairs that the dataset no longer has; they are stored all the same.")


@app.command("status")
def status(json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """Count pairs by decision, and show the progress of each reviewer."""
    progress = ReviewDesk(load_settings()).progress()
    if json_:
        print_json(progress)
        return
    for name, value in progress.items():
        if name != "reviewers":
            out.print(f"{name:<10} {value}")
    for row in progress["reviewers"]:
        out.print(f"  {row['reviewer']}: {row['decided']} decided, {row['assigned']} assigned")


@app.command("agreement")
def agreement(
    reviewer: Annotated[list[str] | None, typer.Option(help="only these reviewers; default: all")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Show how far reviewers agree on the pairs that several of them decided, and the pairs that they judge apart."""
    settings = load_settings()
    result = review_agreement(ReviewDesk(settings).reviews.decisions(), reviewer or (), settings.seed)
    if json_:
        print_json(ReviewAgreementReport.of(result).model_dump())
        return
    if not result.pairs:
        out.print("No pair has verdicts of two reviewers yet. `dataset.reviews_per_pair: 2` asks two for every pair.")
    for one in (*result.overall, *result.between):
        out.print(str(one))
    for pair in result.disputed[:_SHOWN]:
        said = ", ".join(f"{name} {verdict}" for name, verdict in pair.verdicts.items())
        out.print(f"  {said}\n    {pair.question}\n    {pair.answer or '(no answer in the documents)'}")
        for name, comment in pair.comments.items():
            out.print(f"    {name}: {comment}")


@app.command("key")
def key(name: Annotated[str, typer.Argument(help="the reviewer")]) -> None:
    """Create a key for a reviewer and print it, only this once; an earlier key of that name no longer works."""
    settings = load_settings()
    out.print(KeyStore(settings.home / "keys").create(name, "reviewer"))
    record_command(settings.home, "review key", name)
