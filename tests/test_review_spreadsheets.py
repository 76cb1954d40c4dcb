"""Review files in the ways in which spreadsheet programs save them: read, or refused in words that help."""

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.dataset.reviews.files import PAIR_COLUMNS, REVIEW_COLUMNS, export_pairs, import_decisions
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.errors import DatasetError
from ragtune.records import QAPair

PAIR = QAPair(
    id="p", question="When is the café open?", answer="At “9”, or\nlater.", kind="fact", document_id="d", chunk_id="c"
)
QUOTED = replace(PAIR, answer="'utf-8' is the default")
FORMULA = replace(PAIR, answer="=1+1", question="＝SUM(1)?")
PAIRS = [PAIR, QUOTED, FORMULA]
VERDICTS = ["accept", "correct", "reject"]
CORRECTION = "Dès 9 h;\nsoon, très\ttôt"
Rows = list[list[str]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReviewStore]:
    with closing(ReviewStore(f"sqlite:///{tmp_path}/reviews.db")) as opened:
        yield opened


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """The cells of an export in which a person filled in the verdicts; the first row is the header."""
    export_pairs(PAIRS, [], tmp_path / "export.csv")
    with (tmp_path / "export.csv").open(newline="", encoding="utf-8-sig") as stream:
        cells = list(csv.reader(stream))
    for row, verdict in zip(cells[1:], VERDICTS, strict=True):
        row[-5:] = [verdict, "", CORRECTION if verdict == "correct" else "", "Où ?", "Zoë"]
    return cells


def saved(rows: Rows, separator: str = ",", line_end: str = "\r\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows(rows)
    return stream.getvalue()


def changed(rows: Rows, change: Callable[[str], str]) -> Rows:
    return [[change(cell) for cell in row] for row in rows]


def with_header(rows: Rows, change: Callable[[str], str]) -> Rows:
    return [[change(name) for name in rows[0]], *rows[1:]]


def moved(rows: Rows) -> Rows:
    """Return the rows with the verdict in the first column and the rest in reverse order."""
    place = rows[0].index("verdict")
    return [[row[place], *reversed(row[:place] + row[place + 1 :])] for row in rows]


def without(rows: Rows, *names: str) -> Rows:
    kept = [place for place, name in enumerate(rows[0]) if name not in names]
    return [[row[place] for place in kept] for row in rows]


def workbook(rows: Rows) -> bytes:
    import openpyxl

    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
        for cell in book.active[book.active.max_row]:
            cell.data_type = "s"
    book.save(stream)
    return stream.getvalue()


READ: dict[str, Callable[[Rows], bytes]] = {
    "commas": lambda rows: saved(rows).encode(),
    "semicolons": lambda rows: saved(rows, ";").encode(),
    "tabs": lambda rows: saved(rows, "\t").encode(),
    "byte order mark": lambda rows: saved(rows).encode("utf-8-sig"),
    "sep=; above the header": lambda rows: f"sep=;\r\n{saved(rows, ';')}".encode("utf-8-sig"),
    "sep=, filled up by another program": lambda rows: f'"sep=,",,,\r\n{saved(rows)}'.encode(),
    "CR line ends": lambda rows: saved(changed(rows, lambda cell: cell.replace("\n", "\r")), ";", "\r").encode(),
    "line breaks in quotes with CR LF": lambda rows: saved(
        changed(rows, lambda cell: cell.replace("\n", "\r\n")), quoting=csv.QUOTE_ALL
    ).encode(),
    "headers in capitals": lambda rows: saved(with_header(rows, str.upper)).encode(),
    "headers with spaces": lambda rows: saved(
        with_header(rows, lambda name: f" {name.replace('_', ' ').capitalize()} ")
    ).encode(),
    "apostrophes taken off": lambda rows: saved(changed(rows, lambda cell: cell.removeprefix("'"))).encode(),
    "UTF-16 with tabs": lambda rows: saved(rows, "\t").encode("utf-16"),
    "UTF-16, the big end first": lambda rows: b"\xfe\xff" + saved(rows, "\t").encode("utf-16-be"),
    "UTF-16 without a mark": lambda rows: saved(rows, "\t").encode("utf-16-le"),
    "Windows-1252": lambda rows: saved(without_wide(rows), ";").encode("cp1252"),
    "a column moved": lambda rows: saved(moved(rows)).encode(),
    "columns deleted that nobody needs": lambda rows: saved(without(rows, "title", "text", "kind")).encode(),
    "empty rows and columns": lambda rows: f"\r\n,,\r\n{saved([[*row, '', ''] for row in rows])},,,\r\n".encode(),
    "a workbook": lambda rows: workbook(rows),
}


def without_wide(rows: Rows) -> Rows:
    """Return the rows without the pair whose wide equals sign Windows-1252 does not have."""
    return rows[:3]


@pytest.mark.parametrize("way", READ)
def test_a_file_is_read_as_a_spreadsheet_program_saves_it(store: ReviewStore, rows: Rows, tmp_path: Path, way: str):
    path = tmp_path / ("review.xlsx" if way == "a workbook" else "review.csv")
    path.write_bytes(READ[way](rows))
    imported = import_decisions(path, store)
    count = 2 if way == "Windows-1252" else 3
    assert [decision.verdict for decision in imported] == VERDICTS[:count]
    assert [decision.pair["answer"] for decision in imported] == [pair.answer for pair in PAIRS[:count]]
    assert [decision.reviewer for decision in imported] == ["Zoë"] * count
    assert imported[1].answer == " ".join(CORRECTION.split())
    assert imported[0].comment == "Où ?"
    assert import_decisions(path, store) == []


@pytest.mark.parametrize("name", ["review.TXT", "review.tsv", "Review.CSV"])
def test_the_ending_of_the_name_may_be_that_of_the_program(store: ReviewStore, rows: Rows, tmp_path: Path, name: str):
    (tmp_path / name).write_text(saved(rows, "\t"), encoding="utf-16")
    assert len(import_decisions(tmp_path / name, store)) == 3


def test_a_workbook_with_the_name_of_a_csv_file_is_read(store: ReviewStore, rows: Rows, tmp_path: Path):
    (tmp_path / "review.csv").write_bytes(workbook(rows))
    assert len(import_decisions(tmp_path / "review.csv", store)) == 3


REFUSED: dict[str, tuple[Callable[[Rows], bytes], str]] = {
    "a column deleted": (lambda rows: saved(without(rows, "answer")).encode(), "has no answer; it has key, id, quest"),
    "the header deleted": (lambda rows: saved(rows[1:]).encode(), "has no key, question, answer, verdict"),
    "a column copied": (lambda rows: saved([[*row, row[10]] for row in rows]).encode(), "names the column verdict twi"),
    "a cell cut in two": (lambda rows: saved([*rows[:2], [*rows[2], "x"]]).encode(), "has 16 cells and the header 15"),
    "an old workbook": (lambda rows: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "workbook of Excel 97"),
    "a damaged workbook": (lambda rows: workbook(rows)[:900], "damaged workbook"),
    "letters that became ?": (
        lambda rows: saved(changed(rows, lambda cell: cell.replace("é", "?"))).encode(),
        "not what was exported under the key",
    ),
    "another encoding": (lambda rows: b"\x81" + saved(rows[:3]).encode("cp1252"), "is not text in utf-8 or cp1252"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_what_it_is(
    store: ReviewStore, rows: Rows, tmp_path: Path, way: str
):
    save, message = REFUSED[way]
    (tmp_path / "review.csv").write_bytes(save(rows))
    with pytest.raises(DatasetError) as refused:
        import_decisions(tmp_path / "review.csv", store)
    assert message in str(refused.value)
    assert refused.value.expected
    assert refused.value.fix
    assert store.decisions() == []


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "\t=", "\n=", "\r="])
def test_no_cell_of_an_export_begins_a_formula(tmp_path: Path, start: str):
    evil = replace(PAIR, question=f"{start}HYPERLINK(1)", answer=f"{start}cmd", id=f"{start}1", document_id=start)
    export_pairs([evil], [], tmp_path / "review.csv", reviewer=f"{start}me")
    with (tmp_path / "review.csv").open(newline="", encoding="utf-8-sig") as stream:
        header, row = csv.reader(stream)
    assert header == [*PAIR_COLUMNS, *REVIEW_COLUMNS]
    assert not [cell for cell in row if cell.lstrip()[:1] in tuple("=+-@＝＋－＠") and cell]
