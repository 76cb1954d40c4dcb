"""Tables in files: CSV and its relatives, and Excel workbooks (.xlsx)."""

import csv
import datetime as dt
import html
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lxml import etree

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.archives import open_archive, read_part, with_parts
from ragtune.knowledge.readers.charts import chart_title
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.marks import superscript, table_text
from ragtune.knowledge.readers.number_formats import is_percentage, shown_number
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.knowledge.readers.table_rows import SEPARATOR_LINE
from ragtune.records import LeftOut
from ragtune.text.whitespace import collapse_whitespace

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_TEXT_BOX = "{http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing}txBody"
_SEPARATORS = ";,\t|"  # the first of equals: a comma may be one of a decimal number
_COMMA_OF_A_TABLE = re.compile(r"(?<!\d),|,(?!\d)")
_NO_SEPARATOR = "\x1f"  # for a file of one column: a sign that no program writes
_FRACTION_OF_SECONDS = re.compile(r"s\]?[.,]0", re.IGNORECASE)  # in a number format, such as `mm:ss.000`
# Both chosen by hand, not sensitive: the separator shows in a few lines, and Python's own limit of a cell is 131,072.
_SAMPLE_CHARACTERS = 20_000
_LONGEST_CELL = 64 << 20  # as large as the largest file: a cell may hold what stands in a quote that never closes
_MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\s+ref=["']([A-Z]+\d+:[A-Z]+\d+)["'][^>]*/>""")
_UNCOMPUTED = re.compile(rb"""<c\b[^>]*?\br="([A-Z]+\d+)"[^>]*><f\b[^>]*?(?:/>|>([^<]*)</f>)(?:<v\s*/>|<v></v>)?</c>""")
_ESCAPED_QUOTE = re.compile(r'\\"(?![,;\t|\n]|\Z)')
# Chosen by hand: a merged cell of more than a thousand rows of a hundred columns is a frame, not a table's.
_LARGEST_MERGE = 100_000
# A grid of more cells than this with more than 50 empty ones to a full one is a list of cells instead.
_MOST_CELLS, _MOST_SCATTERED = 1_000_000, 50


def read_csv(raw: bytes) -> Reading:
    """Return a CSV or TSV file as one table whose first row names the columns.

    A line `sep=;` at the top, as Excel writes it, names the separator; else the one that fits most lines is taken.
    Lines above the table, such as a title, are paragraphs.
    """
    text = decode(raw)
    separator, left_out = "", []
    if named := SEPARATOR_LINE.match(text):
        separator, text = named[1], text[named.end() :]
        left_out = [LeftOut(reason="separator line", text=named[0].strip())]
    csv.field_size_limit(_LONGEST_CELL)
    # Some programs write `\"` for a quote in a cell, most write `""`.
    is_escaped = _ESCAPED_QUOTE.search(text) is not None and '""' not in text
    escape = "\\" if is_escaped else None
    try:
        rows = _separated(text, separator or _separator(text), escape)
    except csv.Error as error:
        raise UnreadableError(f"it is no table of separated values: {error}") from error
    table = _table([[collapse_whitespace(cell) for cell in row] for row in rows])
    return Reading(blocks=table, left_out=tuple(left_out))


def _separated(text: str, separator: str, escape: str | None) -> list[list[str]]:
    """Return the rows of a text; quotes that cannot be those around cells, as in `3" pipe`, are signs like others.

    They are signs if they break the rules of quoting or make rows of different widths, and all rows have the same
    width if they are read as signs.
    """
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=separator, escapechar=escape, strict=True))
        is_broken = len(_widths(rows)) > 1
    except csv.Error:
        rows, is_broken = list(csv.reader(io.StringIO(text), delimiter=separator, escapechar=escape)), True
    if is_broken and '"' in text:
        plain = list(csv.reader(io.StringIO(text), delimiter=separator, quoting=csv.QUOTE_NONE))
        if len(_widths(plain)) == 1:
            return plain
    return rows


def _widths(rows: list[list[str]]) -> set[int]:
    return {len(row) for row in rows if row}


def read_workbook(raw: bytes) -> Reading:
    """Return an Excel workbook: a heading and a table a sheet, merged cells filled in, formulas as their values.

    Text boxes and the titles of charts come first. Left out are hidden sheets, comments, the targets of links, what
    stands at the edge of printed pages, and formulas whose value the file does not hold.
    """
    import openpyxl

    archive = open_archive(raw, "XLSX")
    try:
        book = openpyxl.load_workbook(_without_huge_merges(raw, archive), data_only=True, rich_text=True)
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile, AttributeError, SyntaxError) as error:
        raise UnreadableError(f"the XLSX is damaged: {error}") from error
    blocks = [Block("paragraph", text) for text in (*_text_boxes(archive), *_chart_titles(archive))]
    left_out = [LeftOut(reason="formula without a value", text=formula) for formula in _formulas_without_value(archive)]
    for sheet in book.worksheets:
        table = _sheet_table(sheet)
        left_out += [*_notes_and_links(sheet), *_edges(sheet)]
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


def _chart_titles(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield the titles of charts; what they draw stands in the cells."""
    for name in archive.namelist():
        is_chart = re.fullmatch(r"xl/charts/chart\d+\.xml", name) is not None
        if is_chart and (title := chart_title(read_part(archive, name, "XLSX") or b"<a/>")):
            yield title


def _formulas_without_value(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield the formulas that no program has computed yet: a library wrote them, and the file was never opened."""
    for name in archive.namelist():
        if re.fullmatch(r"xl/worksheets/[^/]+\.xml", name):
            for cell in _UNCOMPUTED.finditer(read_part(archive, name, "XLSX") or b""):
                formula = html.unescape(cell[2].decode("utf-8", "replace"))
                yield f"{cell[1].decode()}: ={formula}" if formula else cell[1].decode()


def _edges(sheet: Any) -> Iterator[LeftOut]:
    """Yield what stands at the head and foot of each printed page."""
    for name in ("oddHeader", "oddFooter", "evenHeader", "evenFooter", "firstHeader", "firstFooter"):
        parts = (getattr(getattr(sheet, name), side).text for side in ("left", "center", "right"))
        if text := collapse_whitespace(" ".join(part for part in parts if part)):
            yield LeftOut(reason="page header or footer", text=text)


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
    written = Counter(row for row, _ in cells)
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
    return _table(grid, [written[row] for row in rows])


def _separator(text: str) -> str:
    """Return the separator that cuts the first lines into most columns, the same number in most lines.

    A separator counts half if the first line, which names the columns, has another number of them.
    """
    lines = [line for line in text[:_SAMPLE_CHARACTERS].split("\n")[:50] if line.strip()]
    candidates = [candidate for candidate in _SEPARATORS if lines and not _is_prose(lines, candidate)]
    if len(candidates) > 1 and "," in candidates and not _COMMA_OF_A_TABLE.search("\n".join(lines)):
        candidates.remove(",")  # all commas belong to numbers, such as 12,5 and 1,200
    best, most = next(iter(candidates), _NO_SEPARATOR), 0.0
    for candidate in candidates:
        widths = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        # Lines above the table have no separator, unless they are sentences.
        rows = widths[next((place for place, width in enumerate(widths) if width > 1), 0) :]
        usual = max(set(rows), key=lambda width: (rows.count(width), width))
        steady = rows.count(usual) / len(widths) * (1 if widths[0] == usual else 0.5)
        if usual > 1 and steady * usual > most:
            best, most = candidate, steady * usual
    return best


def _is_prose(lines: list[str], separator: str) -> bool:
    """Return whether a sign stands in sentences only: never in the first line, and always before a space."""
    text = "\n".join(lines)
    return separator not in lines[0] and text.count(separator) == text.count(f"{separator} ")


def _table(rows: list[list[str]], counts: Sequence[int] = ()) -> tuple[Block, ...]:
    """Return the rows as a table; rows above it with one cell, such as its title, are paragraphs.

    `counts` has the number of cells of each row without the parts of merged ones, if the rows have some.
    """
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    counts = counts or [sum(1 for cell in row if cell.strip()) for row in rows]
    titles = next((place for place, count in enumerate(counts) if count > 1), 0)
    width = max((place + 1 for row in rows[titles:] for place, cell in enumerate(row) if cell.strip()), default=0)
    text = table_text([row[:width] for row in rows[titles:]])
    paragraphs = (next(cell for cell in row if cell.strip()) for row in rows[:titles])
    return (*(Block("paragraph", words) for words in paragraphs), *((Block("table", text),) if text else ()))


def _cell_text(cell: Any) -> str:
    """Return a cell as a spreadsheet shows it, so that search matches it; dates are written as ISO 8601."""
    from openpyxl.utils.escape import unescape

    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float | int) and is_percentage(cell.number_format or ""):
        return f"{round(value * 100, 6):g}%"
    if isinstance(value, float | int) and (shown := shown_number(value, cell.number_format or "General")):
        return shown
    if isinstance(value, float):
        return repr(value) if value != int(value) else str(int(value))
    has_fractions = _FRACTION_OF_SECONDS.search(cell.number_format or "") is not None
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ", timespec=_timespec(value, has_fractions)).removesuffix(" 00:00")
    if isinstance(value, dt.time):
        return value.isoformat(timespec=_timespec(value, has_fractions))
    if isinstance(value, dt.timedelta):
        milliseconds = int(round(value / dt.timedelta(milliseconds=1), 0 if has_fractions else -3))
        minutes, rest = divmod(milliseconds, 60_000)
        fraction = f".{rest % 1000:03d}" if has_fractions else ""
        return f"{minutes // 60}:{minutes % 60:02d}:{rest // 1000:02d}{fraction}"
    return collapse_whitespace(unescape("".join(map(_run_text, value)) if isinstance(value, list) else str(value)))


def _run_text(run: Any) -> str:
    """Return a part of a cell whose letters are set in several ways."""
    if isinstance(run, str):
        return run
    return superscript(run.text) if run.font.vertAlign == "superscript" else str(run.text)


def _timespec(time: dt.datetime | dt.time, has_fractions: bool) -> str:
    if has_fractions:
        return "milliseconds"
    return "seconds" if time.second else "minutes"
