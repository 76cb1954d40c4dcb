"""`audit`: shows who changed what."""

from dataclasses import asdict
from typing import Annotated

import typer

from ragtune.settings import load_settings
from ragtune_serving.audit import AuditLog
from ragtune_serving.terminal import out, print_json


def audit(
    actor: Annotated[str, typer.Option(help="only what this key or user did")] = "",
    last: Annotated[int, typer.Option(min=1, help="how many of the newest entries")] = 50,
    json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Show who changed what: over HTTP, in the console and on the command line, the newest last."""
    entries = [entry for entry in AuditLog(load_settings().home).entries() if actor in ("", entry.actor)][-last:]
    if json_:
        print_json([asdict(entry) for entry in entries])
        return
    for entry in entries:
        status = f" -> {entry.status}" if entry.status else ""
        target = f" ({entry.target})" if entry.target else ""
        out.print(f"{entry.at}  {entry.actor:<16} {entry.via:<8} {entry.action}{target}{status}")
    if not entries:
        out.print("Nothing was changed yet.")
