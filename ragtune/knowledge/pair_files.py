"""Reads questions and answers that exist already: JSON lines, JSON, tables and FAQ pages.

A record that cannot be used is listed with its place and the reason, and all others are read.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ragtune.errors import DatasetError, SourceError
from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.encoding import decode, whole_characters
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.reading import UnreadableError
from ragtune.knowledge.readers.table_rows import column_name, read_table
from ragtune.records import ExistingPair
from ragtune.text.whitespace import collapse_whitespace

TABLES, PAGES = (".csv", ".tsv", ".xlsx"), (".md", ".markdown", ".html", ".htm", ".xhtml")
FORMATS = ("JSON lines (.jsonl)", "JSON (.json)", "a table (.csv, .tsv, .xlsx)", "a FAQ page (.md, .html)")
# Names of columns and JSON fields for the same thing, the usual one first.
_NAMES = {
    "question": ("question", "query", "prompt"),
    "answer": ("answer", "answers", "response", "reply"),
    "answerable": ("answerable",),
    "impossible": ("is_impossible", "unanswerable"),
    "context": ("context", "passage"),
    "document": ("document", "source", "title", "url"),
}
_YES, _NO = ("true", "yes", "y", "1", "1.0"), ("false", "no", "n", "0", "0.0")
_RECORD = '{"question": ..., "answer": ...}'
_NESTED = '{"data": [{"paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": [{"text": ...}]}]}]}]}'


@dataclass(slots=True)
class PairFile:
    """The pairs of a file, and (place, reason) of every record that cannot be used."""

    pairs: list[ExistingPair] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


class _RecordError(ValueError):
    """A record that is no pair; the text says why."""


def read_pairs(source: str, path: Path, raw: bytes) -> PairFile:
    """Return the pairs of a file and what is wrong with its other records.

    Args:
        source: the source as it is listed, such as `pairs:/data/faq.csv`.
        path: the file; its ending decides the format.
        raw: the bytes of the file.

    Raises:
        SourceError: if no record can be read: an unknown format, damaged JSON, a table without a question column.
    """
    suffix = path.suffix.lower()
    readers: dict[str, Callable[[str, bytes], Iterator[_Record]]] = {
        ".jsonl": _json_lines,
        ".json": _json,
        **dict.fromkeys(TABLES, _table),
        **dict.fromkeys(PAGES, _faq_page),
    }
    if suffix not in readers:
        raise SourceError(
            f"{path} ends in '{suffix}'.",
            expected=f"questions and answers as {', '.join(FORMATS)}",
            fix="save the file in one of these formats; `folder:` is for documents",
        )
    result = PairFile()
    try:
        for place, record in readers[suffix](str(path), raw):
            try:
                result.pairs.append(_pair(source, place, record))
            except _RecordError as error:
                result.problems.append((place, str(error)))
    except (UnreadableError, DatasetError) as error:
        raise SourceError(f"{path} cannot be read: {error}", expected=" or ".join(FORMATS)) from error
    except ValueError as error:
        raise SourceError(
            f"{path} cannot be read: {error}.",
            expected="a table with the columns question and answer",
            fix="correct the first line",
        ) from error
    if not result.pairs and not result.problems:
        raise SourceError(
            f"{path} holds no question.",
            expected="a page with questions as headings" if suffix in PAGES else f"records such as {_RECORD}",
        )
    return result


_Record = tuple[str, Mapping[str, Any] | _RecordError]
"""(place, fields of the record, or what is wrong with it)."""


def _json_lines(name: str, raw: bytes) -> Iterator[_Record]:  # noqa: ARG001 all readers are called alike
    for number, line in enumerate(decode(raw).split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            yield place, _fields(json.loads(line))
        except json.JSONDecodeError as error:
            yield place, _RecordError(f"not JSON: {error.msg} at column {error.colno}; expected {_RECORD}")
        except _RecordError as error:
            yield place, error
        except (ValueError, RecursionError) as error:
            # A number of thousands of digits, or brackets nested thousands deep.
            yield place, _RecordError(f"not JSON that can be read: {error}")


def _json(name: str, raw: bytes) -> Iterator[_Record]:
    """Yield the records of a list, or of the nested form of reading-comprehension sets (SQuAD)."""
    try:
        content = json.loads(decode(raw))
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{name}, line {error.lineno} is not JSON: {error.msg}.",
            expected=f"a list of {_RECORD}, or {_NESTED}",
            fix="write one record a line and call the file .jsonl if it is JSON lines",
        ) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{name} is not JSON that can be read: {error}.", expected=f"a list of {_RECORD}") from error
    if isinstance(content, Mapping) and isinstance(content.get("data"), list):
        yield from _nested_records(content["data"])
    elif isinstance(content, list):
        for number, record in enumerate(content, 1):
            try:
                yield f"record {number}", _fields(record)
            except _RecordError as error:
                yield f"record {number}", error
    else:
        kind = f"an object with {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else "no list"
        raise SourceError(f"{name} is {kind}.", expected=f"a list of {_RECORD}, or {_NESTED}")


def _nested_records(articles: Sequence[Any]) -> Iterator[_Record]:
    for number, article in enumerate(articles, 1):
        place = f"data[{number - 1}]"
        paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
        if not isinstance(paragraphs, list):
            yield place, _RecordError('it has no list "paragraphs"')
            continue
        title = str(article.get("title") or "").replace("_", " ")
        for position, paragraph in enumerate(paragraphs):
            yield from _paragraph_records(f"{place}.paragraphs[{position}]", title, paragraph)


def _paragraph_records(place: str, title: str, paragraph: Any) -> Iterator[_Record]:
    questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
    if not isinstance(questions, list):
        yield place, _RecordError('it has no list "qas"')
        return
    for position, question in enumerate(questions):
        where = f"{place}.qas[{position}]"
        try:
            yield where, {"title": title, "context": paragraph.get("context") or "", **_fields(question)}
        except _RecordError as error:
            yield where, error


def _table(name: str, raw: bytes) -> Iterator[_Record]:
    for row in read_table(raw, name):
        if row.problem:
            yield row.place, _RecordError(row.problem)
            continue
        if not any(column in row.cells for column in _NAMES["question"]):
            raise SourceError(
                f"{name} has the columns {', '.join(row.cells)}.",
                expected="the columns question and answer; answerable, context and document may follow",
                fix="name the columns in the first line",
            )
        yield row.place, row.cells


def _faq_page(name: str, raw: bytes) -> Iterator[_Record]:
    """Yield a record for each heading that is a question, with the text below it up to the next heading."""
    reading = read_bytes(PurePosixPath(name).name, raw)
    headings = [number for number, block in enumerate(reading.blocks) if block.kind == "heading"]
    for start, end in zip(headings, [*headings[1:], len(reading.blocks)], strict=True):
        heading = collapse_whitespace(reading.blocks[start].text)
        if not _is_question(heading):
            continue
        answer = "\n\n".join(_spoken(block) for block in reading.blocks[start + 1 : end])
        yield f"heading '{heading}'", {"question": heading, "answer": answer}


def _is_question(heading: str) -> bool:
    """Return whether a heading has a question mark at the end of a word."""
    return re.search(r"[?？؟](?:\W|$)", heading) is not None


def _spoken(block: Block) -> str:
    return re.sub(r"^- ", "", block.text, flags=re.MULTILINE) if block.kind == "list" else block.text


def _fields(record: Any) -> Mapping[str, Any]:
    """Return the fields of a record by the names of columns; raise _RecordError if it is no object."""
    if not isinstance(record, Mapping):
        raise _RecordError(f"a {type(record).__name__} in place of {_RECORD}")
    return {column_name(str(name)): value for name, value in record.items()}


def _pair(source: str, place: str, record: Mapping[str, Any] | _RecordError) -> ExistingPair:
    if isinstance(record, _RecordError):
        raise record
    question = collapse_whitespace(_text(record, "question"))
    if not question:
        raise _RecordError("the question is empty")
    answerable = _flag(record, "answerable", True) and not _flag(record, "impossible", False)
    answer, start = _answer(record)
    if answerable and not answer:
        raise _RecordError(
            "the answer is empty; write one, or set answerable to false if the documents do not answer the question"
        )
    return ExistingPair(
        source=source,
        place=place,
        question=question,
        answer=answer if answerable else "",
        answerable=answerable,
        context=_text(record, "context"),
        answer_start=start if answerable else -1,
        document=collapse_whitespace(_text(record, "document")),
    )


def _value(record: Mapping[str, Any], name: str) -> Any:
    return next((record[key] for key in _NAMES[name] if record.get(key) not in (None, "")), None)


def _text(record: Mapping[str, Any], name: str) -> str:
    value = _value(record, name)
    if isinstance(value, Mapping | list):
        raise _RecordError(f"its {name} is a {type(value).__name__}, not a text")
    return "" if value is None else whole_characters(str(value)).strip()


def _flag(record: Mapping[str, Any], name: str, default: bool) -> bool:
    value = _value(record, name)
    word = "" if value is None else str(value).strip().lower()
    if word not in ("", *_YES, *_NO):
        raise _RecordError(f"its {name} is '{value}'; expected true or false")
    return default if not word else word in _YES


def _answer(record: Mapping[str, Any]) -> tuple[str, int]:
    """Return (answer, its offset in the context or -1); of a list the first counts.

    Reading-comprehension sets list the answers of several people, as `{"text", "answer_start"}`.
    """
    value = _value(record, "answer")
    if isinstance(value, list):
        value = value[0] if value else None
    start = -1
    if isinstance(value, Mapping):
        offset = value.get("answer_start")
        start = offset if isinstance(offset, int) and not isinstance(offset, bool) else -1
        value = value.get("text")
    if isinstance(value, Mapping | list):
        raise _RecordError(f"its answer is a {type(value).__name__}, not a text")
    return ("" if value is None else whole_characters(str(value)).strip()), start
