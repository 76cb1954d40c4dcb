"""Exports pairs to JSONL or CSV for a spreadsheet or an annotation tool, and imports the decisions.

One row is one pair with the text that it came from. A reviewer fills in `verdict` and, for a correction,
`corrected_question` or `corrected_answer`.
"""

import csv
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from ragtune.dataset.reviews.decisions import VERDICTS, Decision, new_decision, newest_verdicts, pair_key
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.errors import DatasetError
from ragtune.knowledge.readers.table_rows import read_table
from ragtune.records import Chunk, QAPair

PAIR_COLUMNS = (
    "key",
    "id",
    "question",
    "answer",
    "kind",
    "answerable",
    "document_id",
    "chunk_id",
    "title",
    "text",
)
REVIEW_COLUMNS = ("verdict", "corrected_question", "corrected_answer", "comment", "reviewer")
# A spreadsheet runs a cell that begins with one of these as a formula, the wide ones in East Asian settings. The
# apostrophe is in the list because it is our own mark: a cell that begins with one gets a second one, and the import
# removes one.
_UNSAFE_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "'")
# What an import reads as a table: `.txt` is what Excel calls "Unicode Text".
_TABLES = (".csv", ".tsv", ".txt", ".xlsx")
# Columns that the export protects with an apostrophe.
_PROTECTED_COLUMNS = (*PAIR_COLUMNS, "reviewer")
# Spreadsheets read short texts with digits as numbers or dates. Chosen by hand; no number or date is longer.
_LONGEST_NUMBER = 40


def export_pairs(
    pairs: Sequence[QAPair], chunks: Sequence[Chunk], path: Path, reviewer: str = "", store: ReviewStore | None = None
) -> int:
    """Write the pairs for review and return their number; the path ends in `.jsonl` or `.csv`.

    With a store and a reviewer, write only the pairs that the reviewer has to decide and has not decided yet.
    """
    pairs_to_write = store.pairs_to_review(reviewer, pairs) if store is not None and reviewer else list(pairs)
    texts = {chunk.id: chunk for chunk in chunks}
    rows = [_row(pair, texts.get(pair.chunk_id), reviewer) for pair in pairs_to_write]
    path.parent.mkdir(parents=True, exist_ok=True)
    is_csv = _is_csv(path)
    # Spreadsheets recognise UTF-8 only by a byte order mark.
    with path.open("w", newline="", encoding="utf-8-sig" if is_csv else "utf-8") as stream:
        if is_csv:
            writer = csv.DictWriter(stream, fieldnames=[*PAIR_COLUMNS, *REVIEW_COLUMNS])
            writer.writeheader()
            writer.writerows({name: protected(value) for name, value in row.items()} for row in rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def import_decisions(path: Path, store: ReviewStore, reviewer: str = "") -> list[Decision]:
    """Store the decisions of a file, all or none, and return the new ones; rows without a verdict are skipped.

    A decision that its reviewer made already is not stored again, so importing twice changes nothing. The key of a
    row proves that its question and answer were not changed. `reviewer` is used for rows that name no reviewer.

    Raises:
        DatasetError: if a line is bad; it lists every bad line.
    """
    earlier = store.decisions()
    newest = newest_verdicts(earlier)
    comments = {(d.pair_key, d.reviewer, d.comment) for d in earlier if d.verdict == "comment"}
    drafts: dict[tuple[str, str], tuple[str, Decision]] = {}
    problems: list[str] = []
    for place, row in _rows(path):
        if not row["verdict"].strip():
            if any(row[name].strip() for name in ("corrected_question", "corrected_answer", "comment")):
                problems.append(f"{place}: there is a correction or a comment, but no verdict")
            continue
        try:
            decision = _decision(row, reviewer)
        except DatasetError as error:
            problems.append(f"{place}: {error.found} Expected: {error.expected}.")
            continue
        first_place, _ = drafts.setdefault((decision.pair_key, decision.reviewer), (place, decision))
        if first_place != place:
            problems.append(f"{place}: {decision.reviewer} decides the same pair on {first_place}")
    if problems:
        raise DatasetError(
            f"{path} has {len(problems)} lines that cannot be imported:\n" + "\n".join(problems[:20]),
            expected=f"`verdict` is one of {', '.join(VERDICTS)}, and the exported columns are unchanged",
            fix="correct these lines and import the file again; nothing was imported",
        )
    new = [decision for _, decision in drafts.values() if not _is_stored(decision, newest, comments)]
    return store.add(new) if new else []


def _decision(row: dict[str, str], reviewer: str) -> Decision:
    pair = QAPair(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        kind=row["kind"],
        document_id=row["document_id"],
        chunk_id=row["chunk_id"],
    )
    if pair_key(pair) != row["key"].strip():
        raise DatasetError(
            f"Question or answer is not what was exported under the key '{row['key']}'.",
            expected="changes only in `corrected_question` and `corrected_answer`, in a file saved as `CSV UTF-8`",
        )
    texts = (row["corrected_question"], row["corrected_answer"], row["comment"])
    return new_decision(pair, row["reviewer"].strip() or reviewer, row["verdict"].strip().lower(), *texts)


def _is_stored(
    new: Decision, newest: Mapping[str, Mapping[str, Decision]], comments: Container[tuple[str, str, str]]
) -> bool:
    if new.verdict == "comment":
        return (new.pair_key, new.reviewer, new.comment) in comments
    old = newest.get(new.pair_key, {}).get(new.reviewer)
    if old is None:
        return False
    return (old.verdict, old.question, old.answer, old.comment) == (new.verdict, new.question, new.answer, new.comment)


def _row(pair: QAPair, chunk: Chunk | None, reviewer: str) -> dict[str, str]:
    pair_values = {
        "key": pair_key(pair),
        "id": pair.id,
        "question": pair.question,
        "answer": pair.answer,
        "kind": pair.kind,
        "answerable": "yes" if pair.answerable else "no",
        "document_id": pair.document_id,
        "chunk_id": pair.chunk_id,
        "title": chunk.title if chunk else "",
        "text": chunk.text if chunk else "",
    }
    return {**pair_values, **dict.fromkeys(REVIEW_COLUMNS, ""), "reviewer": reviewer}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, such as `line 3`; row). A row has every column of an export, "" for those that a tool left out."""
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", *_TABLES):
        raise DatasetError(
            f"{path} ends in '{path.suffix}'.",
            expected=f"a CSV file, an .xlsx workbook or JSON lines: {', '.join((*_TABLES, '.jsonl'))}",
            fix="save it as `CSV UTF-8`",
        )
    if not path.is_file():
        raise DatasetError(
            f"There is no file {path}.",
            expected="a JSONL or CSV file with decisions",
            fix="correct the path, or write such a file with `ragtune review export`",
        )
    raw = path.read_bytes()
    try:
        for place, row in _json_rows(raw.decode("utf-8-sig")) if suffix == ".jsonl" else _table_rows(raw, str(path)):
            missing = [name for name in ("key", "question", "answer", "verdict") if name not in row]
            if missing:
                raise DatasetError(
                    f"{path}, {place} has no {', '.join(missing)}; it has {', '.join(row) or 'no column'}.",
                    expected=f"the columns {', '.join((*PAIR_COLUMNS, *REVIEW_COLUMNS))}",
                    fix="put the columns of the export back and import the file again; nothing was imported",
                )
            yield place, {name: row.get(name, "") for name in (*PAIR_COLUMNS, *REVIEW_COLUMNS)}
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{path}, line {line} is not UTF-8.", expected="text in UTF-8", fix="save it in UTF-8"
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{path}, {error}",
            expected="one JSON object a line, or a table with a header",
            fix="correct that line and import the file again; nothing was imported",
        ) from error


def _table_rows(raw: bytes, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, row) of a spreadsheet, without the apostrophes with which the export protected cells.

    Some programs remove that apostrophe when they save. An apostrophe that is then in front belongs to the text: the
    key shows which reading of question and answer was exported. Raises ValueError for a row that cannot be read.
    """
    for row in read_table(raw, name):
        if row.problem:
            raise ValueError(f"{row.place}: {row.problem}")
        cells = {
            column: cell.removeprefix("'") if column in _PROTECTED_COLUMNS else cell
            for column, cell in row.cells.items()
        }
        readings = _readings(row.cells, "question"), _readings(row.cells, "answer")
        texts = [(question, answer) for question in readings[0] for answer in readings[1]]
        for question, answer in texts:
            if _key(question, answer) == cells.get("key", "").strip():
                cells |= {"question": question, "answer": answer}
        yield row.place, cells


def _readings(row: Mapping[str, str], name: str) -> list[str]:
    """Return what the text of a cell may have been: without the apostrophe at its beginning, or with it."""
    return [row[name].removeprefix("'"), row[name]] if name in row else []


def _key(question: str, answer: str) -> str:
    return pair_key(QAPair(id="", question=question, answer=answer, kind="", document_id="", chunk_id=""))


def _json_rows(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"line {number} is not a JSON object")
        nested = [name for name in (*PAIR_COLUMNS, *REVIEW_COLUMNS) if isinstance(values.get(name), dict | list)]
        if nested:
            raise ValueError(f"line {number}: `{nested[0]}` is not a text")
        yield f"line {number}", {name: "" if value is None else str(value) for name, value in values.items()}


def _is_csv(path: Path) -> bool:
    """Return whether an export is written as CSV; raise DatasetError if its name ends in neither .csv nor .jsonl."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise DatasetError(
            f"{path} ends in '{path.suffix}'.",
            expected=".csv or .jsonl",
            fix="write a .csv file; spreadsheet programs open it",
        )
    return path.suffix.lower() == ".csv"


def protected(value: str) -> str:
    """Return the value, with an apostrophe in front if a spreadsheet would not read it as text.

    That is what may be a formula, a number, a date or a truth value.
    """
    may_be_number = len(value) <= _LONGEST_NUMBER and any(character.isdigit() for character in value)
    is_truth_value = value.lower() in ("true", "false")
    return f"'{value}" if value.startswith(_UNSAFE_STARTS) or may_be_number or is_truth_value else value
