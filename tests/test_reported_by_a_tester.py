"""Files that a tester wrote to break the readers: words that ran together, values that changed, rows that were lost."""

import gzip
import io
import random
from typing import Any

import openpyxl
import pytest
from openpyxl.styles.numbers import FORMAT_GENERAL

from ragtune.knowledge.audit import audit
from ragtune.knowledge.duplicates import fingerprint
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.reading import UnreadableError
from ragtune.records import Chunk
from tests.support.office_files import paragraph, saved, word_file


def text_of(name: str, content: str | bytes) -> str:
    return read_bytes(name, content.encode() if isinstance(content, str) else content).text


def workbook(*rows: list[Any], code: str = FORMAT_GENERAL) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for cell in book.active[book.active.max_row]:
        cell.number_format = code
    return saved(book)


@pytest.mark.parametrize("kind", ["page", "column", "textWrapping"])
def test_the_words_around_a_break_in_a_word_paragraph_stay_apart(kind: str) -> None:
    body = f"<w:p><w:r><w:t>End of part one.</w:t><w:br w:type='{kind}'/><w:t>Part two</w:t></w:r></w:p>"
    assert text_of("a.docx", word_file(body)) == "End of part one.\nPart two"


def test_a_row_of_a_word_table_that_skips_columns_keeps_its_cells_in_theirs() -> None:
    cells = "<w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr>".format(paragraph("Ship"), paragraph("Berth"))
    skipping = f"<w:tr><w:trPr><w:gridBefore w:val='1'/></w:trPr><w:tc>{paragraph('7 North')}</w:tc></w:tr>"
    assert "|  | 7 North |" in text_of("a.docx", word_file(f"<w:tbl>{cells}{skipping}</w:tbl>"))


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [(12.5, '0.0"%"', "12.5%"), (7, '0 "%"', "7 %"), (85, r"0\%", "85%"), (0.125, "0.0%", "12.5%")],
)
def test_a_percent_sign_in_the_literal_part_of_a_format_multiplies_nothing(value: float, code: str, shown: str) -> None:
    assert f"| {shown} |" in text_of("a.xlsx", workbook(["Share", "Rest"], [value, 1], code=code))


@pytest.mark.parametrize(
    ("days", "code", "shown"),
    [
        (83.456 / 86_400, "mm:ss.000", "00:01:23.456"),
        (1 + 0.75 / 86_400, "[h]:mm:ss.00", "24:00:00.750"),
        (83.456 / 86_400, "mm:ss", "00:01:23"),
    ],
)
def test_a_lap_time_keeps_the_fractions_of_a_second_that_its_format_shows(days: float, code: str, shown: str) -> None:
    assert f"| {shown} |" in text_of("a.xlsx", workbook(["Lap", "Next"], [days, days], code=code))


def test_a_row_of_equal_cells_is_a_row_of_the_table() -> None:
    rows = [["value", "value"], ["n/a", "n/a"], ["4", "5"]]
    table = "| value | value |\n| --- | --- |\n| n/a | n/a |\n| 4 | 5 |"
    assert text_of("a.csv", "\n".join(map(",".join, rows))) == table
    assert text_of("a.xlsx", workbook(*rows)) == f"## Sheet\n\n{table}"


def test_a_title_over_merged_cells_is_no_row_of_the_table() -> None:
    book = openpyxl.load_workbook(io.BytesIO(workbook(["Fees"], ["a", "b"], ["1", "2"])))
    book.active.merge_cells("A1:B1")
    assert text_of("a.xlsx", saved(book)) == "## Sheet\n\nFees\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("name", "source", "rows"),
    [
        ("a.tsv", 'pipe\tsize\n"wide\t7\nlast\t"9\n', ['| "wide | 7 |', '| last | "9 |']),
        ("a.csv", 'part,size\nA1,"3" bolt\nA2,5" nut\n', ['| A1 | "3" bolt |', '| A2 | 5" nut |']),
        ("a.csv", 'part,says\nA1,"one,\ntwo"\nA2,"he said ""no"""\n', ["| A1 | one, two |", '| A2 | he said "no" |']),
    ],
)
def test_quotes_that_are_signs_swallow_no_rows(name: str, source: str, rows: list[str]) -> None:
    assert text_of(name, source).split("\n")[2:] == rows


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p><code>mount<br>umount</code></p>", "`mount umount`"),
        ("<pre><code><div>a = 1</div><div>b = 2</div></code></pre>", "```\na = 1\nb = 2\n```"),
        ("<pre><div>a = 1\n</div><div>b = 2\n</div></pre>", "```\na = 1\nb = 2\n```"),
        ("<pre><ol><li>cd x</li><li>ls</li></ol></pre>", "```\ncd x\nls\n```"),
        ("<pre>\n  <b>a</b>\n  <i>b</i></pre>", "```\n  a\n  b\n```"),
    ],
)
def test_lines_of_code_on_a_web_page_stay_apart(page: str, text: str) -> None:
    assert text_of("a.html", page) == text


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.py", "a.html"])
def test_compressed_bytes_under_the_name_of_a_text_are_refused(name: str) -> None:
    words = random.Random(4).choices(["gate", "lock", "boat", "quay", "tide"], k=20_000)
    with pytest.raises(UnreadableError, match="not text"):
        read_bytes(name, gzip.compress(" ".join(words).encode(), mtime=0))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Stop if a<b and c>d here.", "Stop if a<b and c>d here."),
        ("Use vector<a> and list<i> now.", "Use vector<a> and list<i> now."),
        ("It is <b>not</b> so; H<sub>2</sub>O; un<i>believ</i>able.", "It is not so; H2O; unbelievable."),
        ('See <a name="top"></a>here <a id="x"> there.', "See here there."),
    ],
)
def test_a_comparison_in_markdown_is_no_tag(source: str, text: str) -> None:
    assert text_of("a.md", source) == text


def test_the_account_counts_the_words_of_a_comparison() -> None:
    reading = read_bytes("a.md", b"Stop if a<b and c>d here.")
    words, lost = audit("a.md", b"Stop if a<b and c>d here.", reading)
    assert (words, lost) == (8, ())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pressed: ✅", "Pressed: ❌"),
        ("Start it with -v.", "Start it with -V."),
        ("It sends 5 mW.", "It sends 5 MW."),
        ("It takes 10 MB.", "It takes 10 Mb."),
        ("salt and/or sugar", "salt and or sugar"),
        ("in 5-7 days", "in 5 7 days"),
        ("Copy C:\\a.", "Copy C:/a."),
        ("It weighs ~5 kg.", "It weighs 5 kg."),
        ("if (!ready)", "if (ready)"),
        ("The gate is open?", "The gate is open."),
        ("Comfort ★★★☆☆", "Comfort ★★★★★"),
        ("Kiel → Oslo", "Kiel ← Oslo"),
        ("Smoke 🚭 here", "Smoke 🚬 here"),
        ("area = a * b", "area = a / b"),
        ("Rated A+ in May", "Rated A- in May"),
        ("The fee is ~~5 euros~~ waived", "The fee is 5 euros waived"),
    ],
)
def test_passages_that_differ_in_one_sign_are_no_duplicates(one: str, other: str) -> None:
    prints = {fingerprint(passage(text)) for text in (one, other)}
    assert len(prints) == 2


def test_passages_that_differ_in_markup_alone_are_duplicates() -> None:
    same = ("The gate opens at nine.", "the **gate** opens at nine", "* The gate opens at _nine_.")
    assert len({fingerprint(passage(text)) for text in same}) == 1


def passage(text: str) -> Chunk:
    return Chunk(id="c", document_id="d", text=text, title="Harbour", source="s", position=0, heading_path=())
