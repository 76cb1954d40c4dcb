"""Takes pairs out to a spreadsheet or an annotation tool, and decisions back in: JSONL and CSV.

One row is one pair with the text it came from; a reviewer fills in `verdict` and, for a
correction, `corrected_question` or `corrected_answer`.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ragtune.dataset.review import VERDICTS, Decision, ReviewStore, drafted, pair_key
from ragtune.errors import DatasetError
from ragtune.records import Chunk, QAPair

TOLD = ("key", "id", "question", "answer", "kind", "answerable", "document_id", "chunk_id", "title", "text")
ASKED = ("verdict", "corrected_question", "corrected_answer", "comment", "reviewer")
# A spreadsheet runs a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


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
    with path.open("w", newline="", encoding="utf-8") as stream:
        if _is_csv(path):
            writer = csv.DictWriter(stream, fieldnames=[*TOLD, *ASKED])
            writer.writeheader()
            writer.writerows({name: _safe(str(value)) for name, value in row.items()} for row in rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def import_decisions(path: Path, pairs: Sequence[QAPair], store: ReviewStore, reviewer: str = "") -> list[Decision]:
    """Add the decisions of a file, all or none, and return the new ones; rows without a verdict are skipped.

    A decision that its reviewer made already is not added again, so importing twice changes nothing.
    Raises DatasetError that lists every bad line.
    """
    by_key = {pair_key(pair): pair for pair in pairs}
    by_id = {pair.id: pair for pair in pairs}
    standing = store.standing()
    new: list[Decision] = []
    problems: list[str] = []
    for number, row in _rows(path):
        verdict = row.get("verdict", "").strip().lower()
        if not verdict:
            continue
        pair = by_key.get(row.get("key", "")) or by_id.get(row.get("id", ""))
        name = row.get("reviewer", "").strip() or reviewer
        if pair is None:
            problems.append(f"line {number}: no pair has the key {row.get('key', '')!r}")
            continue
        texts = (row.get("corrected_question", ""), row.get("corrected_answer", ""), row.get("comment", ""))
        try:
            decision = drafted(pair, name, verdict, *texts)
        except DatasetError as error:
            problems.append(f"line {number}: {error.found} Expected: {error.expected}")
            continue
        if not _same(standing.get(decision.pair_key, {}).get(name), decision):
            new.append(decision)
    if problems:
        raise DatasetError(
            f"{path} has {len(problems)} lines that cannot be imported:\n" + "\n".join(problems[:20]),
            expected=f"`verdict` is one of {', '.join(VERDICTS)}, `key` is as exported",
            mend="correct these lines and import the file again; nothing of it was taken",
        )
    return store.add(new)


def _same(old: Decision | None, new: Decision) -> bool:
    if old is None:
        return False
    return (old.verdict, old.question, old.answer) == (new.verdict, new.question, new.answer)


def _row(pair: QAPair, chunk: Chunk | None, reviewer: str) -> dict[str, str | bool]:
    told: dict[str, str | bool] = {
        "key": pair_key(pair),
        "id": pair.id,
        "question": pair.question,
        "answer": pair.answer,
        "kind": pair.kind,
        "answerable": pair.answerable,
        "document_id": pair.document_id,
        "chunk_id": pair.chunk_id,
        "title": chunk.title if chunk else "",
        "text": chunk.text if chunk else "",
    }
    asked: dict[str, str | bool] = dict.fromkeys(ASKED, "")
    return {**told, **asked, "reviewer": reviewer}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise DatasetError(f"There is no file {path}.", expected="a JSONL or CSV file with decisions")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        if _is_csv(path):
            reader = csv.DictReader(stream)
            for row in reader:
                yield reader.line_num, {name: _plain(value or "") for name, value in row.items() if name}
            return
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{path}, line {number}: {error}", expected="one JSON object a line") from error
            if not isinstance(values, dict):
                raise DatasetError(f"{path}, line {number} is no object.", expected="one JSON object a line")
            yield number, {name: "" if value is None else str(value) for name, value in values.items()}


def _is_csv(path: Path) -> bool:
    if path.suffix not in (".csv", ".jsonl"):
        raise DatasetError(f"{path} ends in '{path.suffix}'.", expected=".csv or .jsonl")
    return path.suffix == ".csv"


def _safe(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) or value.startswith("'") else value


def _plain(value: str) -> str:
    return value[1:] if value.startswith("'") else value
