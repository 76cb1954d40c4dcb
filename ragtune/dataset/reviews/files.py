"""Takes pairs out to a spreadsheet or an annotation tool, and decisions back in: JSONL and CSV.

One row is one pair with the text it came from; a reviewer fills in `verdict` and, for a
correction, `corrected_question` or `corrected_answer`.
"""

import csv
import io
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from ragtune.dataset.reviews.decisions import VERDICTS, Decision, ReviewStore, drafted, pair_key, standing
from ragtune.errors import DatasetError
from ragtune.records import Chunk, QAPair

TOLD = ("key", "id", "question", "answer", "kind", "answerable", "document_id", "chunk_id", "title", "text")
ASKED = ("verdict", "corrected_question", "corrected_answer", "comment", "reviewer")
# A spreadsheet runs a cell that begins with one of these as a formula; an apostrophe marks a cell of ours.
_APART = ("=", "+", "-", "@", "\t", "\r", "'")
_MARKED = (*TOLD, "reviewer")
_LONGEST_NUMBER = 40


def export_pairs(
    pairs: Sequence[QAPair], chunks: Sequence[Chunk], path: Path, reviewer: str = "", store: ReviewStore | None = None
) -> int:
    """Write the pairs for review and return how many; the ending of the path chooses JSONL or CSV.

    With a store and a reviewer, only what is assigned to them and not decided yet.
    """
    chosen = store.assigned(reviewer, pairs) if store is not None and reviewer else list(pairs)
    texts = {chunk.id: chunk for chunk in chunks}
    rows = [_row(pair, texts.get(pair.chunk_id), reviewer) for pair in chosen]
    path.parent.mkdir(parents=True, exist_ok=True)
    csv_wanted = _is_csv(path)
    # Spreadsheets take UTF-8 for what it is only behind a byte order mark.
    with path.open("w", newline="", encoding="utf-8-sig" if csv_wanted else "utf-8") as stream:
        if csv_wanted:
            writer = csv.DictWriter(stream, fieldnames=[*TOLD, *ASKED])
            writer.writeheader()
            writer.writerows({name: _safe(value) for name, value in row.items()} for row in rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def import_decisions(path: Path, store: ReviewStore, reviewer: str = "") -> list[Decision]:
    """Add the decisions of a file, all or none, and return the new ones; rows without a verdict are skipped.

    A decision that its reviewer made already is not added again, so importing twice changes nothing. The key
    proves that question and answer are as exported. `reviewer` stands in where a row names none.
    Raises DatasetError that lists every bad line.
    """
    known = store.decisions()
    newest, comments = standing(known), {(d.pair_key, d.reviewer, d.comment) for d in known if d.verdict == "comment"}
    drafts: dict[tuple[str, str], tuple[str, Decision]] = {}
    problems: list[str] = []
    for place, row in _rows(path):
        if not row["verdict"].strip():
            if any(row[name].strip() for name in ("corrected_question", "corrected_answer", "comment")):
                problems.append(f"{place}: there is a correction or a comment, but no verdict")
            continue
        try:
            decision = _drafted(row, reviewer)
        except DatasetError as error:
            problems.append(f"{place}: {error.found} Expected: {error.expected}.")
            continue
        earlier = drafts.setdefault((decision.pair_key, decision.reviewer), (place, decision))
        if earlier[0] != place:
            problems.append(f"{place}: {decision.reviewer} decides the same pair on {earlier[0]}")
    if problems:
        raise DatasetError(
            f"{path} has {len(problems)} lines that cannot be imported:\n" + "\n".join(problems[:20]),
            expected=f"`verdict` is one of {', '.join(VERDICTS)}, and what was exported is as it was",
            fix="correct these lines and import the file again; nothing of it was taken",
        )
    new = [each for _, each in drafts.values() if not _known(each, newest, comments)]
    return store.add(new) if new else []


def _drafted(row: dict[str, str], reviewer: str) -> Decision:
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
            expected="changes in `corrected_question` and `corrected_answer`, and the other columns as they were",
        )
    texts = (row["corrected_question"], row["corrected_answer"], row["comment"])
    return drafted(pair, row["reviewer"].strip() or reviewer, row["verdict"].strip().lower(), *texts)


def _known(
    new: Decision, newest: Mapping[str, Mapping[str, Decision]], comments: Container[tuple[str, str, str]]
) -> bool:
    if new.verdict == "comment":
        return (new.pair_key, new.reviewer, new.comment) in comments
    old = newest.get(new.pair_key, {}).get(new.reviewer)
    said = (new.verdict, new.question, new.answer, new.comment)
    return old is not None and (old.verdict, old.question, old.answer, old.comment) == said


def _row(pair: QAPair, chunk: Chunk | None, reviewer: str) -> dict[str, str]:
    told = {
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
    return {**told, **dict.fromkeys(ASKED, ""), "reviewer": reviewer}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where it stands, row) with every column of an export, those that a tool left out empty."""
    reading = _csv_rows if _is_csv(path) else _json_rows
    if not path.is_file():
        raise DatasetError(
            f"There is no file {path}.",
            expected="a JSONL or CSV file with decisions",
            fix="look at its path, or make one with `ragtune review export`",
        )
    try:
        for place, row in reading(path.read_bytes().decode("utf-8-sig")):
            missing = [name for name in ("key", "question", "answer", "verdict") if name not in row]
            if missing:
                raise DatasetError(
                    f"{path}, {place} has no {', '.join(missing)}.",
                    expected=f"the names {', '.join((*TOLD, *ASKED))}",
                    fix="put the columns of the export back and import the file again; nothing of it was taken",
                )
            yield place, {name: row.get(name, "") for name in (*TOLD, *ASKED)}
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{path}, line {line} is not UTF-8.", expected="text in UTF-8", fix="save it as `CSV UTF-8`"
        ) from error
    except (csv.Error, ValueError) as error:
        raise DatasetError(
            f"{path}, {error}",
            expected="one JSON object a line, or CSV with a header",
            fix="correct that line and import the file again; nothing of it was taken",
        ) from error


def _csv_rows(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Read CSV as spreadsheets save it: by comma, semicolon or tab; a cell may hold several lines."""
    header = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=header.count), strict=True)
    names = [name.strip() for name in next(reader, [])]
    begins = reader.line_num + 1
    try:
        for cells in reader:
            place, begins = f"line {begins}", reader.line_num + 1
            if not any(cells):
                continue
            if any(cells[len(names) :]):
                raise ValueError(f"{place} has {len(cells)} cells and the header {len(names)}")
            row = dict(zip_longest(names, cells[: len(names)], fillvalue=""))
            yield place, {name: cell.removeprefix("'") if name in _MARKED else cell for name, cell in row.items()}
    except csv.Error as error:
        raise ValueError(f"line {begins}: {error}") from error


def _json_rows(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"line {number} is no object")
        nested = [name for name in (*TOLD, *ASKED) if isinstance(values.get(name), dict | list)]
        if nested:
            raise ValueError(f"line {number}: `{nested[0]}` is no text")
        yield f"line {number}", {name: "" if value is None else str(value) for name, value in values.items()}


def _is_csv(path: Path) -> bool:
    if path.suffix not in (".csv", ".jsonl"):
        raise DatasetError(
            f"{path} ends in '{path.suffix}'.",
            expected=".csv or .jsonl",
            fix="save it as `CSV UTF-8`, or as JSON lines",
        )
    return path.suffix == ".csv"


def _safe(value: str) -> str:
    """Put an apostrophe before what a spreadsheet would run as a formula, or read as a number, a date or a truth."""
    mistaken = len(value) <= _LONGEST_NUMBER and any(character.isdigit() for character in value)
    truth = value.lower() in ("true", "false")
    return f"'{value}" if value.startswith(_APART) or mistaken or truth else value
