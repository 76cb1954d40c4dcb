"""Tables in files: CSV and its relatives, and Excel workbooks (.xlsx)."""

import csv
import datetime as dt
import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from lxml import etree

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.archives import open_archive, read_part, with_parts
from ragtune.knowledge.readers.dom import table_text
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.number_formats import shown_number
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.records import LeftOut
from ragtune.text.whitespace import collapse_whitespace

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_TEXT_BOX = "{http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing}txBody"
_SEPARATORS = ",;\t|"
# Both chosen by hand, not sensitive: the separator shows in a few lines, and Python's own limit of a cell is 131,072.
_SAMPLE_CHARACTERS = 20_000
_LONGEST_CELL = 64 << 20  # as large as the largest file: a cell may hold what stands in a quote that never closes
_MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\s+ref=["']([A-Z]+\d+:[A-Z]+\d+)["'][^>]*/>""")
# Chosen by hand: a merged cell of more than a thousand rows of a hundred columns is a frame, not a table's.
_LARGEST_MERGE = 100_000
# A grid of more cells than this with more than 50 empty ones to a full one is a list of cells instead.
_MOST_CELLS, _MOST_SCATTERED = 1_000_000, 50


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
    """Return an Excel workbook: a heading and a table a sheet, merged cells filled in, formulas as their values.

    Text boxes come first. Hidden sheets, comments and the targets of links are left out.
    """
    import openpyxl

    archive = open_archive(raw, "XLSX")
    try:
        book = openpyxl.load_workbook(_without_huge_merges(raw, archive), data_only=True)
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile, AttributeError, SyntaxError) as error:
        raise UnreadableError(f"the XLSX is damaged: {error}") from error
    blocks = [Block("paragraph", text) for text in _text_boxes(archive)]
    left_out: list[LeftOut] = []
    for sheet in book.worksheets:
        table = _sheet_table(sheet)
        left_out += _notes_and_links(sheet)
        if table and sheet.sheet_state != "visible":
            text = " ".join([sheet.title, *(block.text for block in table)])
            left_out.append(LeftOut(reason="hidden sheet", text=collapse_whitespace(text)))
        elif table:
            blocks += [Block("heading", sheet.title, 2), *table]
    return Reading(blocks=tuple(blocks), title=str(book.properties.title or ""), left_out=tuple(left_out))


def _text_boxes(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield the texts of the boxes that are drawn over the sheets."""
    for name in archive.namelist():
        if re.fullmatch(r"xl/drawings/drawing\d+\.xml", name):
            parser = etree.XMLParser(recover=True, resolve_entities=False)
            drawing = etree.fromstring(read_part(archive, name, "XLSX") or b"<a/>", parser)
            for box in drawing.iter(_TEXT_BOX) if drawing is not None else ():
                lines = (collapse_whitespace("".join(line.itertext(f"{_A}t"))) for line in box.iter(f"{_A}p"))
                if text := "\n".join(line for line in lines if line):
                    yield text


def _notes_and_links(sheet: Any) -> Iterator[LeftOut]:
    for cell in sheet._cells.values():
        if cell.comment is not None and cell.comment.text.strip():
            yield LeftOut(reason="comment", text=f"{cell.coordinate}: {collapse_whitespace(cell.comment.text)}")
        if cell.hyperlink is not None and cell.hyperlink.target and cell.hyperlink.target != cell.value:
            yield LeftOut(reason="link target", text=cell.hyperlink.target)


def _without_huge_merges(raw: bytes, archive: zipfile.ZipFile) -> io.BytesIO:
    """Return the workbook without merged areas so large that openpyxl would make millions of cells of them."""
    parts = {}
    for name in archive.namelist():
        if re.fullmatch(r"xl/worksheets/[^/]+\.xml", name):
            page = read_part(archive, name, "XLSX") or b""
            reduced = _MERGED.sub(lambda area: b"" if _size(area) > _LARGEST_MERGE else area[0], page)
            if reduced != page:
                parts[name] = reduced
    return with_parts(archive, parts, "XLSX") if parts else io.BytesIO(raw)


def _size(area: re.Match[bytes]) -> int:
    from openpyxl.utils.cell import range_boundaries

    left, top, right, bottom = range_boundaries(area[1].decode())
    return int(right - left + 1) * int(bottom - top + 1)


def _sheet_table(sheet: Any) -> tuple[Block, ...]:
    """Return the sheet as a table; columns and rows that are empty throughout are left out.

    A sheet whose few cells are scattered too widely for a table is a list of them.
    """
    # `sheet.rows` would be every cell of the area, up to 17 billion.
    cells = {place: text for place, cell in sheet._cells.items() if (text := _cell_text(cell))}
    for area in sheet.merged_cells.ranges:
        value = cells.get((area.min_row, area.min_col), "")
        if value:
            cells |= {place: value for row in area.rows for place in row}
    rows = {row: place for place, row in enumerate(sorted({row for row, _ in cells}))}
    columns = {column: place for place, column in enumerate(sorted({column for _, column in cells}))}
    if len(rows) * len(columns) > max(_MOST_SCATTERED * len(cells), _MOST_CELLS):
        items = (f"- {sheet.cell(*place).coordinate}: {text}" for place, text in sorted(cells.items()))
        return (Block("list", "\n".join(items)),)
    grid = [[""] * len(columns) for _ in rows]
    for (row, column), text in cells.items():
        grid[rows[row]][columns[column]] = text
    return _table(grid)


def _separator(text: str) -> str:
    """Return the separator that cuts the first lines into most columns, the same number in most lines.

    A separator counts half if the first line, which names the columns, has another number of them.
    """
    lines = [line for line in text[:_SAMPLE_CHARACTERS].split("\n")[:50] if line.strip()]
    best, most = ",", 0.0
    for candidate in _SEPARATORS:
        widths = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        if not widths:
            continue
        usual = max(set(widths), key=widths.count)
        steady = widths.count(usual) / len(widths) * (1 if widths[0] == usual else 0.5)
        if usual > 1 and steady * usual > most:
            best, most = candidate, steady * usual
    return best


def _table(rows: list[list[str]]) -> tuple[Block, ...]:
    width = max((place + 1 for row in rows for place, cell in enumerate(row) if cell.strip()), default=0)
    text = table_text([row[:width] for row in rows])
    return (Block("table", text),) if text else ()


def _cell_text(cell: Any) -> str:
    """Return a cell as a spreadsheet shows it, so that search matches it; dates are written as ISO 8601."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float | int) and "%" in (cell.number_format or ""):
        return f"{round(value * 100, 6):g}%"
    if isinstance(value, float | int) and (shown := shown_number(value, cell.number_format or "General")):
        return shown
    if isinstance(value, float):
        return repr(value) if value != int(value) else str(int(value))
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ", timespec="minutes").removesuffix(" 00:00")
    if isinstance(value, dt.time):
        return value.isoformat(timespec="minutes")
    return collapse_whitespace(str(value))
