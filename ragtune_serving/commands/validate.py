"""`validate`: looks up every acceptance criterion in the home and says whether it is met."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ragtune.evaluation.acceptance import CRITERIA, Row
from ragtune.evaluation.acceptance import validate as look_up
from ragtune.settings import load_settings
from ragtune_serving.terminal import out, print_json


def validate(
    json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 unless every criterion is met")] = False,
) -> None:
    """Say of every criterion whether it is met, missed, stale or not run, with the number behind it."""
    rows = look_up(load_settings(), CRITERIA)
    if json_:
        print_json([_plain(row) for row in rows])
    else:
        out.print(_table(rows))
    if strict and any(row.finding.verdict != "met" for row in rows):
        raise typer.Exit(1)


def _plain(row: Row) -> dict[str, object]:
    criterion = row.criterion
    return {
        "criterion": criterion.name,
        "target": criterion.target,
        "command": criterion.command,
        **asdict(row.finding),
    }


def _table(rows: list[Row]) -> Table:
    table = Table(title="Acceptance")
    for column in ("verdict", "criterion", "target", "measured", "n", "when", "command"):
        table.add_column(column, overflow="fold")
    for row in rows:
        criterion, finding = row.criterion, row.finding
        n = str(finding.n) if finding.n else ""
        cells = (finding.verdict, criterion.name, criterion.target, finding.measured, n, finding.when)
        table.add_row(*cells, criterion.command)
    return table
