"""Tables in files: CSV and its relatives, and Excel workbooks (.xlsx)."""

import csv
import datetime as dt
import io
import zipfile
from typing import Any

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.archives import open_archive
from ragtune.knowledge.readers.dom import table_text
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.text.whitespace import collapse_whitespace

_SEPARATORS = ",;\t|"
# Both chosen by hand, not sensitive: the separator shows in a few lines, and Python's own limit of a cell is 131,072.
_SAMPLE_CHARACTERS = 20_000
_LONGEST_CELL = 1 << 20


def read_csv(raw: bytes) -> Reading:
    """Return a CSV or TSV file as one table whose first row names the columns.

    A line `sep=;` at the top, as Excel writes it, names the separator; else the one that fits most lines is taken.
    """
    text = decode(raw)
    separator = ""
    if text[:4].lower() == "sep=" and len(text.split("\n", 1)[0]) == len("sep=,"):
        separator, text = text[4], text.split("\n", 1)[-1]
    csv.field_size_limit(_LONGEST_CELL)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=separator or _separator(text)))
    except csv.Error as error:
        raise UnreadableError(f"it is no table of separated values: {error}") from error
    return Reading(blocks=_table([[collapse_whitespace(cell) for cell in row] for row in rows]))


def read_workbook(raw: bytes) -> Reading:
    """Return an Excel workbook: a heading and a table a sheet, merged cells filled in, formulas as their values."""
    import openpyxl

    open_archive(raw, "XLSX").close()
    try:
        book = openpyxl.load_workbook(io.BytesIO(raw), data_only=True)
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise UnreadableError(f"the XLSX is damaged: {error}") from error
    blocks: list[Block] = []
    for sheet in book.worksheets:
        rows = [[_cell_text(cell) for cell in row] for row in sheet.iter_rows()]
        for area in sheet.merged_cells.ranges:
            value = rows[area.min_row - 1][area.min_col - 1]
            for row in range(area.min_row - 1, area.max_row):
                for column in range(area.min_col - 1, area.max_col):
                    rows[row][column] = value
        table = _table(rows)
        if table:
            blocks += [Block("heading", sheet.title, 2), *table]
    return Reading(blocks=tuple(blocks), title=str(book.properties.title or ""))


def _separator(text: str) -> str:
    """Return the separator that cuts the first lines into most columns, the same number in most lines."""
    lines = [line for line in text[:_SAMPLE_CHARACTERS].split("\n")[:50] if line.strip()]
    best, most = ",", 0.0
    for candidate in _SEPARATORS:
        widths = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        if not widths:
            continue
        usual = max(set(widths), key=widths.count)
        steady = widths.count(usual) / len(widths)
        if usual > 1 and steady * usual > most:
            best, most = candidate, steady * usual
    return best


def _table(rows: list[list[str]]) -> tuple[Block, ...]:
    width = max((place + 1 for row in rows for place, cell in enumerate(row) if cell.strip()), default=0)
    text = table_text([row[:width] for row in rows])
    return (Block("table", text),) if text else ()


def _cell_text(cell: Any) -> str:
    """Return a cell roughly as a spreadsheet shows it, so that search matches it: percentages, dates, whole numbers."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float | int) and "%" in (cell.number_format or ""):
        return f"{round(value * 100, 6):g}%"
    if isinstance(value, float):
        return repr(value) if value != int(value) else str(int(value))
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ", timespec="minutes").removesuffix(" 00:00")
    if isinstance(value, dt.time):
        return value.isoformat(timespec="minutes")
    return collapse_whitespace(str(value))
