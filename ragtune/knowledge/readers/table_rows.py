"""Reads the rows of tables as spreadsheet programs save them: CSV in its many forms, and Excel workbooks.

Programs differ in the separator, the line ends, the encoding and the spelling of the header, and some write a line
`sep=;` above it.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ragtune.errors import DatasetError

_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_ZIP, _OLD_EXCEL = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
# Excel's line that names the separator; a program that does not know it may quote it or fill it up with empty cells.
SEPARATOR_LINE = re.compile(r"\"?sep=(.)\"?[,;\t]*(?:\n|$)", re.IGNORECASE)
_BLANK_LINES = re.compile(r"(?:[ \t,;]*\n)*")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table: its place, such as `line 3`, and {column: cell}.

    `problem` says what is wrong with a damaged row, which has no cells; it is "" for the others.
    """

    place: str
    cells: dict[str, str]
    problem: str = ""


def read_table(raw: bytes, name: str) -> Iterator[TableRow]:
    """Yield every row that is not empty; `name` is for messages.

    Names of columns are in lower case with underscores: `Corrected answer` is `corrected_answer`.

    Raises:
        DatasetError: if the file is no table that can be read; it says what it is.
        ValueError: if the header is damaged; it says how.
    """
    if raw.startswith(_OLD_EXCEL):
        raise DatasetError(
            f"{name} is a workbook of Excel 97 to 2003 (.xls).",
            expected="a CSV file or an .xlsx workbook",
            fix="open it and save it as `CSV UTF-8` or as .xlsx",
        )
    rows = _workbook_rows(raw, name) if raw.startswith(_ZIP) else _csv_rows(decode_table(raw, name))
    header: list[str] = []
    for place, cells in rows:
        if isinstance(cells, str):
            yield TableRow(place, {}, cells)
        elif not any(cell.strip() for cell in cells):
            continue
        elif not header:
            header = _column_names(place, cells)
        elif any(cell.strip() for cell in cells[len(header) :]):
            yield TableRow(place, {}, f"it has {len(cells)} cells and the header {len(header)}")
        else:
            yield TableRow(place, dict(zip_longest(header, cells[: len(header)], fillvalue="")))


def column_name(name: str) -> str:
    """Return the name of a column in lower case, with underscores for spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip().removeprefix("'").strip("\"'").lower())


def decode_table(raw: bytes, name: str) -> str:
    r"""Return the text with `\n` line ends: UTF-8, UTF-16 with or without a mark, or else Windows-1252.

    Raises DatasetError if it is none of these.
    """
    encodings = [encoding for mark, encoding in _MARKS if raw.startswith(mark)] or _likely_encodings(raw)
    for encoding in encodings:
        try:
            return raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
    raise DatasetError(
        f"{name} is not text in {' or '.join(encodings)}.",
        expected="text in UTF-8, UTF-16 or Windows-1252",
        fix="save it as `CSV UTF-8`",
    )


def _likely_encodings(raw: bytes) -> list[str]:
    """Return the encodings to try on bytes without a mark; in UTF-16 every second byte of Latin text is zero."""
    if b"\0" in raw:
        return ["utf-16-le" if raw[1::2].count(0) >= raw[0::2].count(0) else "utf-16-be"]
    return ["utf-8", "cp1252"]


def _csv_rows(text: str) -> Iterator[tuple[str, list[str] | str]]:
    """Yield (place, cells) of a text with commas, semicolons or tabs between cells; a cell may contain line ends.

    A damaged row has a text that says what is wrong in place of its cells; the reader goes on with the next line.
    """
    top = _BLANK_LINES.match(text)
    start = top.end() if top else 0
    separator_line = SEPARATOR_LINE.match(text, start)
    if separator_line:
        start, separator = separator_line.end(), separator_line[1]
    else:
        header = text[start:].split("\n", 1)[0]
        separator = max(",;\t", key=header.count)
    lines_above = text[:start].count("\n")
    reader = csv.reader(io.StringIO(text[start:]), delimiter=separator, strict=True)
    first_line = lines_above + 1
    while True:
        place = f"line {first_line}"
        try:
            cells: list[str] | str = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = str(error)
        first_line = lines_above + reader.line_num + 1
        yield place, cells


def _workbook_rows(raw: bytes, name: str) -> Iterator[tuple[str, list[str] | str]]:
    """Yield (place, cells) of the first sheet of an .xlsx workbook; a formula counts as its last value."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
        for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
            yield f"line {number}", [_cell_text(cell) for cell in cells]
    except (KeyError, TypeError, OSError, IndexError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{name} is a damaged workbook, or a document of another program.",
            expected="a CSV file or an .xlsx workbook",
            fix="open it in the program that wrote it and save it as `CSV UTF-8`",
        ) from error


def _cell_text(value: object) -> str:
    """Return what a cell shows: a whole number has no `.0`, and a line break in it is one."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).replace("_x000D_", "").replace("\r\n", "\n").replace("\r", "\n")


def _column_names(place: str, cells: Sequence[str]) -> list[str]:
    names = [column_name(cell) for cell in cells]
    while names and not names[-1]:
        names.pop()
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"{place} names the column {twice[0]} twice")
    return names
