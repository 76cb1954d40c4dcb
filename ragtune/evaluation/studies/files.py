"""Exports an annotator's tasks to CSV or JSON lines, and imports the ratings.

One row is one task. The annotator fills in the columns of the questions, or leaves them empty to skip the task.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ragtune.dataset.reviews.files import protected
from ragtune.errors import DatasetError
from ragtune.evaluation.studies.store import StudyStore
from ragtune.evaluation.studies.study import Rating, StudyItem, Task, new_rating, shown
from ragtune.knowledge.readers.table_rows import read_table

_TASK = "task"
_COMMENT = "comment"
_BETWEEN_SOURCES = "\n\n---\n\n"


def export_tasks(store: StudyStore, name: str, annotator: str, path: Path) -> int:
    """Write an annotator's open tasks and return their number; the path ends in `.csv` or `.jsonl`."""
    study, items = store.study(name), store.items(name)
    rows = [task_row(items[task.item_id], task, study.questions) for task in store.open_tasks(name, annotator)]
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise DatasetError(f"{path} ends in '{path.suffix}'.", ".csv or .jsonl", "spreadsheet programs open .csv files")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Spreadsheets recognise UTF-8 only by a byte order mark.
    is_csv = path.suffix.lower() == ".csv"
    with path.open("w", newline="", encoding="utf-8-sig" if is_csv else "utf-8") as stream:
        if is_csv and rows:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({name: protected(value) for name, value in row.items()} for row in rows)
        elif not is_csv:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def task_row(item: StudyItem, task: Task, questions: tuple[str, ...]) -> dict[str, str]:
    """Return what an annotator sees of a task, with empty columns to fill in; nothing names a model."""
    answers = shown(item, task)
    names = ("answer",) if len(answers) == 1 else ("left", "right")
    row = {_TASK: task.id, "question": item.question, "expected": item.expected}
    for label, answer in zip(names, answers, strict=True):
        row |= {label: answer.text, f"{label} sources": _BETWEEN_SOURCES.join(answer.sources)}
    return {**row, **dict.fromkeys((*questions, _COMMENT), "")}


def import_ratings(store: StudyStore, name: str, annotator: str, path: Path) -> list[Rating]:
    """Store the ratings of a file, all or none, and return them; rows without a choice are left open.

    Raises DatasetError that lists every bad line.
    """
    study = store.study(name)
    own = {task.id: task for task in store.tasks(name, annotator)}
    ratings: list[Rating] = []
    problems: list[str] = []
    for place, row in _rows(path):
        choices = {question: _cell(row, question).lower() for question in study.questions}
        if not any(choices.values()):
            continue
        task_id = _cell(row, _TASK)
        try:
            if task_id not in own:
                raise DatasetError(
                    f"The task '{task_id}' is not assigned to {annotator}.", "the exported column `task`"
                )
            ratings.append(new_rating(study, own[task_id], annotator, choices, _cell(row, _COMMENT)))
        except DatasetError as error:
            problems.append(f"{place}: {error.found} Expected: {error.expected}.")
    if problems:
        raise DatasetError(
            f"{path} has {len(problems)} lines that cannot be imported:\n" + "\n".join(problems[:20]),
            f"in {', '.join(study.questions)}: one of {', '.join(study.choices)}",
            "correct these lines and import the file again; nothing was imported",
        )
    return store.add(ratings)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, such as `line 3`; row) of a JSON lines file or a table; raise DatasetError if it is neither."""
    if not path.is_file():
        raise DatasetError(f"There is no file {path}.", "a file of `ragtune evaluate export`")
    try:
        if path.suffix.lower() == ".jsonl":
            for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
                if line.strip():
                    yield f"line {number}", dict(json.loads(line))
            return
        for row in read_table(path.read_bytes(), str(path)):
            if row.problem:
                raise ValueError(f"{row.place}: {row.problem}")
            yield row.place, dict(row.cells)
    except ValueError as error:
        raise DatasetError(
            f"{path}: {error}",
            "one JSON object a line, or a table with a header, in UTF-8",
            "correct the file and import it again; nothing was imported",
        ) from error


def _cell(row: dict[str, Any], name: str) -> str:
    """Return a cell without spaces around it and without the apostrophe that protected it; "" if it is missing."""
    return str(row.get(name) or "").strip().removeprefix("'")
