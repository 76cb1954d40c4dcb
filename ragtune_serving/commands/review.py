"""`review`: pairs out to a spreadsheet or an annotation tool, decisions back in, and how far people are."""

from pathlib import Path
from typing import Annotated

import typer

from ragtune.dataset.reviews.files import export_pairs, import_decisions
from ragtune.errors import SettingsError
from ragtune.settings import load_settings
from ragtune_serving.keys import KeyStore
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Have people accept, reject or correct pairs.", no_args_is_help=True)


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="a .csv or .jsonl file to write")],
    reviewer: Annotated[str, typer.Option(help="only the pairs that this person still has to decide")] = "",
    count: Annotated[int, typer.Option(min=0, help="with --reviewer: give them up to this many more pairs first")] = 0,
) -> None:
    """Write pairs with their passages; fill in `verdict` (accept, reject, correct or comment) and import the file."""
    if count and not reviewer:
        raise SettingsError("--count gives pairs to a reviewer, and none is named.", "--reviewer NAME")
    desk = ReviewDesk(load_settings())
    dataset = desk.dataset()
    if count:
        desk.claim(reviewer, count)
    written = export_pairs(dataset.pairs, list(dataset.chunks.values()), file, reviewer, desk.reviews)
    out.print(f"{written} pairs in {file}.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="an exported .csv or .jsonl file with verdicts")],
    reviewer: Annotated[str, typer.Option(help="who decided, where the file does not say")] = "",
) -> None:
    """Take the decisions of a file, all or none; taking a file twice changes nothing."""
    desk = ReviewDesk(load_settings())
    taken = import_decisions(file, desk.reviews, reviewer)
    out.print(f"{len(taken)} new decisions. `ragtune materialize` brings them into the dataset.")
    gone = sum(each.pair_key not in desk.dataset().by_key for each in taken)
    if gone:
        out.print(f"{gone} of them are on pairs that are no longer written; they are kept.")


@app.command("status")
def status(json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """Show what was decided and how far each reviewer is."""
    told = ReviewDesk(load_settings()).progress()
    if json_:
        print_json(told)
        return
    for name, value in told.items():
        if name != "reviewers":
            out.print(f"{name:<10} {value}")
    for each in told["reviewers"]:
        out.print(f"  {each['reviewer']}: {each['decided']} decided, {each['assigned']} assigned")


@app.command("key")
def key(name: Annotated[str, typer.Argument(help="the reviewer")]) -> None:
    """Make a key for a reviewer and show it this once; an earlier key of the same name ends."""
    out.print(KeyStore(load_settings().home / "keys").create(name))
