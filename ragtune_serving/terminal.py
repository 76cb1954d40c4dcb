"""What people see: progress, tables and JSON. Progress goes to stderr, results to stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_LINE_SECONDS = 5.0


def print_json(value: Any) -> None:
    """Write one JSON document to stdout, readable by people and programs."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a progress callback: bars on a terminal, a line every few seconds elsewhere."""
    if not err.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


def _lines() -> Callable[[str, int, int], None]:
    shown, at = "", 0.0

    def show(what: str, done: int, total: int) -> None:
        nonlocal shown, at
        if what == shown and done != total and time.monotonic() - at < _LINE_SECONDS:
            return
        shown, at = what, time.monotonic()
        err.print(f"{what}: {done}/{total}" if total else what)

    return show
