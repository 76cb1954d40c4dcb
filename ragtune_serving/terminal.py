"""Prints progress to stderr, and results (tables, text and JSON) to stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

_LINE_SECONDS = 5.0
"""Least time between two progress lines of one task when stderr is a file; chosen by hand, not sensitive."""
_FILE_WIDTH = 160
"""Columns when stdout is a file or a pipe: wide enough for the score table of the demo."""


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""What is shown instead of control characters: in a title or a document they would steer the terminal."""


class _Console(Console):
    """A console on which control characters in a text are visible instead of obeyed."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text to print: of a line, or of a cell of a table."""
        return super().render_str(text.translate(_CONTROLS), **options)


def _console(stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that prints text as it is.

    Titles and names may contain `[draft]` or `:warning:`, which rich would take for markup and emoji.
    """
    return _Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


out = _console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
err = _console(stderr=True)


def print_json(value: Any) -> None:
    """Write one indented JSON document to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def progress_bar(console: Console = err) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a progress callback: it draws bars on a terminal, and writes a line every few seconds otherwise."""
    if not console.is_terminal:
        yield _line_writer(console)
        return
    description = TextColumn("{task.description}", markup=False)
    with Progress(description, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


class Stopped(KeyboardInterrupt):
    """Ctrl-C in a command that says what it keeps and how to go on."""


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Give a Ctrl-C during the block the sentences that say what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Stopped(kept) from interrupt


def words_of_interrupt(end: BaseException) -> str | None:
    """Return what to say about a Ctrl-C that ended a command, or None if it ended for another reason.

    Typer makes an exit with the code 130 of a Ctrl-C and says nothing, so the cause is looked up.
    """
    current: BaseException | None = end
    while current is not None:
        if isinstance(current, Stopped):
            return f"Stopped by Ctrl-C. {current}"
        if isinstance(current, KeyboardInterrupt):
            return "Stopped by Ctrl-C."
        current = current.__cause__ or current.__context__
    return None


def _line_writer(console: Console) -> Callable[[str, int, int], None]:
    last_task, last_time = "", 0.0

    def show(what: str, done: int, total: int) -> None:
        nonlocal last_task, last_time
        if what == last_task and done != total and time.monotonic() - last_time < _LINE_SECONDS:
            return
        last_task, last_time = what, time.monotonic()
        console.print(f"{what}: {done}/{total}" if total else what)

    return show
