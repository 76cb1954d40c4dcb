"""`validate`: looks up every acceptance criterion in the home and says whether it is met."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ragtune.evaluation.acceptance import CRITERIA, Row
from ragtune.evaluation.acceptance import validate as look_up
from ragtune.evaluation.benchmark import hardware
from ragtune.settings import load_settings
from ragtune_serving.terminal import out, print_json

_COLUMNS = ("verdict", "criterion", "target", "measured", "n", "when", "command")


def validate(
    json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print as Markdown, with the date and the machine")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 unless every criterion is met")] = False,
) -> None:
    """Say of every criterion whether it is met, missed, stale or not run, with the number behind it."""
    rows = look_up(load_settings(), CRITERIA)
    if json_:
        print_json([_plain(row) for row in rows])
    elif markdown:
        out.print(_markdown(rows))
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


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="Acceptance")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _markdown(rows: Sequence[Row]) -> str:
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *(_cells(row) for row in rows)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)
    return f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {hardware()}\n\n{table}"


def _cells(row: Row) -> Sequence[str]:
    criterion, finding = row.criterion, row.finding
    n = str(finding.n) if finding.n else ""
    cells = (finding.verdict, criterion.name, criterion.target, finding.measured, n, finding.when)
    return (*cells, f"`{criterion.command}`")
