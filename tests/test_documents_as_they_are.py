"""Nothing that a reader of the document sees is lost or changed on its way into the index."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.json_lines import read_json_lines
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.knowledge.sources import read_sources
from tests.support.office_files import paragraph, word_file
from tests.support.pdf_files import lines, pdf_file


def text_of(name: str, content: str | bytes) -> str:
    return read_bytes(name, content.encode() if isinstance(content, str) else content).text


MARKDOWN = [
    ("a sharp at the end of a heading is part of it", "## A# and B♭\n\nText.", "## A# and B♭"),
    ("a closing sequence of hashes is no part of a heading", "## Keys ##\n\nText.", "## Keys\n"),
    ("a heading without text below it stays", "# Top\n\n## Empty one\n\n## Next\n\nText.", "## Empty one"),
    ("a line of fences inside a paragraph opens no block", "Type ```go``` now.\n\n# Later\n\nText.", "# Later"),
    ("an address keeps its parameters", "See https://x.example/?a=1&reg=2&sect=3 now.", "/?a=1&reg=2&sect=3 now."),
    ("an address in code keeps its parameters", "`https://x.example/?a=1&copy=2`", "`https://x.example/?a=1&copy=2`"),
    ("an entity in code stays as it is typed", "Write `&lt;b&gt;`.", "`&lt;b&gt;`"),
    ("an entity in prose is the character", "Salt &amp; pepper", "Salt & pepper"),
    ("a line break in a cell keeps the row whole", "|A|B|\n|-|-|\n|1|x<br/>y|\n|2|z|", "| 1 | x y |\n| 2 | z |"),
    ("an escaped bar stays in its cell", "|A|B|\n|-|-|\n|x\\|y|2|", "| x\\|y | 2 |"),
    ("a bar in code in a cell stays in its cell", "|A|B|\n|-|-|\n|`x\\|y`|2|", "| `x\\|y` | 2 |"),
    ("a power is written with a caret", "10<sup>9</sup> and m<sup>2</sup>", "10^9 and m^2"),
    ("an ordinal in superscript is no power", "the 2<sup>nd</sup> gate", "the 2nd gate"),
    ("a subscript follows its letter", "H<sub>2</sub>O", "H2O"),
    ("a footnote stays, with its mark", "Paid first[^a].\n\n[^a]: In cash.", "[^1]: In cash."),
    ("a footnote that nothing refers to stays", "Text.\n\n[^7]: In silver.", "In silver."),
    ("a time in brackets with a colon is no link definition", "[08:15]: Ada came in.", "[08:15]: Ada came in."),
    ("a level in brackets with a colon is no link definition", "[ERROR]: disk is full", "[ERROR]: disk is full"),
    ("two pairs of brackets are no link", "Read grid[row][column] twice.", "grid[row][column]"),
    ("an index before a call is no link", "Use list[0](1) here.", "list[0](1)"),
    ("a placeholder in angle brackets stays", "Run `x` with <your-name> in it.", "<your-name>"),
    ("a comparison stays", "If a < b and c > d, stop.", "If a < b and c > d, stop."),
    ("stars inside a word stay", "2*3*4 is 24", "2*3*4"),
    ("underscores inside a word stay", "set max_file_size now", "max_file_size"),
    ("a struck word stays struck", "~~never~~ always", "~~never~~ always"),
    ("cells of an HTML table stay apart", "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>",
     "| A | B |\n| --- | --- |\n| 1 | 2 |"),
    ("items of an HTML list stay apart", "<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
    ("a folded part of a page is read", "<details><summary>More</summary>\n\nHidden until clicked.\n\n</details>",
     "Hidden until clicked."),
    ("a hard line break stays", "first  \nsecond", "first\nsecond"),
    ("a nested list keeps its levels", "- a\n  - b\n    - c\n- d", "- a\n  - b\n    - c\n- d"),
    ("a list keeps the number it starts with", "7. seven\n8. eight", "7. seven\n8. eight"),
    ("a quotation is marked as one", "> said\n> so", "> said so"),
    ("code keeps its indentation", "```py\nif a:\n    b\n```", "```py\nif a:\n    b\n```"),
    ("an indented block is code", "Text:\n\n    a  =  1\n", "```\na  =  1\n```"),
    ("a title of digits with a point stays", "---\ntitle: 2.10\n---\nText.", "Text."),
]  # fmt: skip


@pytest.mark.parametrize(("what", "source", "expected"), MARKDOWN, ids=[case[0] for case in MARKDOWN])
def test_in_markdown(what: str, source: str, expected: str) -> None:
    assert expected in text_of("page.md", source) + "\n"


@pytest.mark.parametrize("value", ["2.10", "00720", "07:45", "Yes", "null", "1e3", "2026-01-02"])
def test_the_title_in_the_front_matter_is_taken_as_written(value: str) -> None:
    assert read_bytes("page.md", f"---\ntitle: {value}\n---\n\nText.\n".encode()).title == value


def test_what_the_reader_of_a_page_cannot_see_is_left_out_and_listed() -> None:
    source = "# T\n\nSee [it](https://x.example/a). ![a boat](b.png) <!-- ask Kim -->\n\n[r]: https://y.example\n"
    reading = read_bytes("page.md", source.encode())
    assert reading.text == "# T\n\nSee it."
    assert {(one.reason, one.text) for one in reading.left_out} == {
        ("link target", "https://x.example/a"),
        ("link target", "https://y.example"),
        ("image", "a boat"),
        ("link target", "b.png"),
        ("comment", "ask Kim"),
    }


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    plain = "# T\n\n```\ncopy a b\n```\n\nRead <b>also</b> this. <!-- no -->\n"
    windows = b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode()
    assert text_of("page.md", windows) == text_of("page.md", plain)


HTML = [
    ("a page inside one form is read", "<form><p>Drain the tank.</p><input name=q value=7></form>", "Drain the tank."),
    ("every article of a page is read", "<p>Intro.</p><article>One.</article><article>Two.</article>", "Two."),
    ("a warning in the main part is read", "<main><aside>Never open it.</aside><p>Text.</p></main>", "Never open it."),
    ("a heading inside the page's header is read", "<header><h1>Boats</h1></header><p>Text.</p>", "# Boats"),
    ("tags that a text is about stay", "<p>Use &lt;table&gt; here.</p>", "Use <table> here."),
    ("a cell over two rows is filled in",
     "<table><tr><th>A<th>B<tr><td rowspan=2>x<td>1<tr><td>2</table>", "| x | 1 |\n| x | 2 |"),
    ("a cell over two columns is filled in", "<table><tr><th>A<th>B<tr><td colspan=2>x</table>", "| x | x |"),
    ("a table that only arranges the page is none",
     "<table><tr><td><h2>Left</h2>one</td><td>two</td></tr></table>", "## Left\n\none\n\ntwo"),
    ("a bar in a cell is escaped", "<table><tr><th>A</th></tr><tr><td>x|y</td></tr></table>", "| x\\|y |"),
    ("words around inline tags are not torn", "<p>un<b>believ</b>able</p>", "unbelievable"),
    ("a definition follows its term", "<dl><dt>Bollard</dt><dd>A post.</dd></dl>", "Bollard\n\nA post."),
    ("code keeps its lines", "<pre>a\n  b<br>c</pre>", "```\na\n  b\nc\n```"),
    ("a figure's caption is read", "<figure><img alt=x><figcaption>The key.</figcaption></figure>", "The key."),
    ("text next to a small main part is read",
     f"<main>Short.</main><div>{'The rest of the page tells more. ' * 9}</div>", "The rest"),
    ("a soft hyphen stays in the text", "<p>in\u00adsur\u00adance</p>", "in\u00adsur\u00adance"),
    ("a footnote's mark is no power", "<p>Paid<sup><a href='#n1'>1</a></sup>.</p>", "Paid[^1]."),
]  # fmt: skip


@pytest.mark.parametrize(("what", "body", "expected"), HTML, ids=[case[0] for case in HTML])
def test_on_a_web_page(what: str, body: str, expected: str) -> None:
    assert expected in text_of("page.html", f"<!DOCTYPE html><html><body>{body}</body></html>")


def test_the_furniture_of_a_web_page_is_left_out_and_listed() -> None:
    page = "<nav>Home | Shop</nav><main><p>The sluice opens at six in the morning.</p></main><footer>Imprint</footer>"
    reading = read_bytes("page.html", f"<body>{page}</body>".encode())
    assert reading.text == "The sluice opens at six in the morning."
    assert {(one.reason, one.text) for one in reading.left_out} >= {
        ("navigation", "Home | Shop"),
        ("page footer", "Imprint"),
    }


def test_a_page_ten_thousand_elements_deep_is_read() -> None:
    assert text_of("page.html", "<div>" * 10_000 + "At the bottom." + "</div>" * 10_000) == "At the bottom."


RESTRUCTURED = [
    ("a grid table becomes a table",
     "+---+---+\n| A | B |\n+===+===+\n| 1 | x |\n|   | y |\n+---+---+\n", "| 1 | x y |"),
    ("a figure's caption is read", ".. figure:: a.png\n\n   The second key.\n", "The second key."),
    ("text under only is read", ".. only:: html\n\n   Port 7171.\n", "Port 7171."),
    ("an unknown directive keeps its content", ".. tabs::\n\n   .. tab:: Linux\n\n      Use apt.\n", "Use apt."),
    ("an unknown role shows its words", "Call :py:func:`~a.b.open_gate` now.", "Call `open_gate` now."),
    ("a role with a title shows the title", "See :ref:`the list <ports>`.", "See the list."),
    ("a directive that docutils cannot read stays as written", ".. list-table::\n\n   * - a\n   * - b\n     - c\n",
     "* - a"),
    ("a footnote stays", "Paid [1]_.\n\n.. [1] In cash.\n", "[^1]: In cash."),
    ("a version note says what it is", ".. versionadded:: 3.1\n   The lamp.\n", "New in version 3.1: The lamp."),
    ("code keeps its language", ".. code-block:: sh\n   :linenos:\n\n   ls -l\n", "```sh\nls -l\n```"),
    ("a field list keeps names and values together", ":Depth: 4 m\n:Width: 9 m\n", "Depth: 4 m"),
    ("a power is written with a caret", r"10\ :sup:`6` litres", "10^6 litres"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "source", "expected"), RESTRUCTURED, ids=[case[0] for case in RESTRUCTURED])
def test_in_restructured_text(what: str, source: str, expected: str) -> None:
    assert expected in text_of("page.rst", f"Top\n===\n\n{source}")


NUMBERING = """<w:abstractNum w:abstractNumId="1">
<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%1.%2)"/></w:lvl>
</w:abstractNum>
<w:abstractNum w:abstractNumId="2">
<w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="•"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="1"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="2"/></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="1"/>
<w:lvlOverride w:ilvl="0"><w:startOverride w:val="5"/></w:lvlOverride></w:num>"""


def numbered(text: str, instance: int, level: int = 0) -> str:
    return paragraph(text, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{instance}"/></w:numPr>')


def test_a_word_file_shows_the_numbers_that_word_shows() -> None:
    body = [numbered("Scope", 1), numbered("Boats", 1, 1), numbered("Rafts", 1, 1), numbered("Term", 1),
            numbered("Days", 1, 1), numbered("a bullet", 2), numbered("Restarted", 3)]  # fmt: skip
    lines = text_of("hire.docx", word_file("".join(body), NUMBERING)).split("\n\n")
    assert lines == ["1. Scope", "1.a) Boats", "1.b) Rafts", "2. Term", "2.a) Days", "- a bullet", "5. Restarted"]


def test_a_word_file_is_read_with_its_changes_accepted() -> None:
    inserted = "<w:ins w:id='1'><w:r><w:t>750</w:t></w:r></w:ins>"
    deleted = "<w:del w:id='2'><w:r><w:delText>700</w:delText></w:r></w:del>"
    body = f"<w:p><w:r><w:t>The rent is </w:t></w:r>{deleted}{inserted}<w:r><w:t> euros.</w:t></w:r></w:p>"
    assert text_of("rent.docx", word_file(body)) == "The rent is 750 euros."


def test_the_header_of_a_word_file_is_left_out_and_listed() -> None:
    reading = read_bytes("a.docx", word_file(paragraph("Text."), header=paragraph("Strictly internal")))
    assert [(one.reason, one.text) for one in reading.left_out] == [("page header or footer", "Strictly internal")]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_json_line_ends_at_a_line_feed_alone(character: str) -> None:
    line = json.dumps({"id": "a", "text": f"Four euros.{character}Dogs ride free."}, ensure_ascii=False)
    [reading] = read_json_lines(line.encode())
    assert isinstance(reading, Reading)
    assert "Dogs ride free." in reading.text


def test_json_lines_with_the_id_null_are_all_read() -> None:
    lines = "\n".join(json.dumps({"id": None, "text": text}) for text in ("Oak.", "Birch.", "Alder."))
    assert [reading.text for reading in read_json_lines(lines.encode()) if isinstance(reading, Reading)] == [
        "Oak.",
        "Birch.",
        "Alder.",
    ]


ENCODINGS = [
    ("cp1252", "Le musée est fermé à Noël; l'entrée coûte 5 €."),
    ("latin-1", "Señor, el baño está cerrado."),
    ("cp1252", "Ölwechsel"),
    ("cp1250", "Zażółć gęślą jaźń, proszę."),
    ("cp1250", "Příliš žluťoučký kůň úpěl."),
    ("cp1251", "Дверь открыта каждый день."),
    ("koi8-r", "Дверь открыта, и стража стоит у ворот каждый день."),
    ("cp1253", "Η πόρτα είναι ανοιχτή και ο φύλακας στέκεται."),
    ("shift_jis", "会議室は三日前までに予約してください。"),
    ("gb18030", "仓库的冷藏室必须保持在零下十八度以下。"),
    ("euc_kr", "회의실은 사흘 전에 예약해 주세요."),
    ("utf-16", "Grüße an alle"),
]


@pytest.mark.parametrize(("encoding", "text"), ENCODINGS)
def test_a_text_in_an_old_encoding_is_read_with_the_right_letters(encoding: str, text: str) -> None:
    assert text_of("note.txt", text.encode(encoding)) == text


def test_one_bad_byte_costs_one_character() -> None:
    raw = "Die Prüfung erfolgt jährlich. Gepr".encode() + b"\xfc" + b"ft im Mai."
    assert text_of("note.md", raw) == "Die Prüfung erfolgt jährlich. Gepr\ufffdft im Mai."


def test_lines_of_a_table_in_columns_of_spaces_stay_lines() -> None:
    rows = [f"Part {number:<14}{number * 3:>6}{number / 2:>10.2f}" for number in range(1, 40)]
    assert text_of("prices.txt", "Price list\n\n" + "\n".join(rows)).split("\n\n")[1].split("\n") == rows


def fifo(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path)


def plug(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, dangling, loop, plug, device], ids=lambda make: make.__name__)
def test_what_is_no_regular_file_is_quarantined_and_the_others_are_read(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 characters
    (tmp_path / "hours.md").write_text("# Hours\n\nTen to six.\n")
    make(Path("odd.md"))
    corpus = read_sources([f"folder:{tmp_path}"])
    assert [document.path for document in corpus.documents] == ["hours.md"]
    assert [problem.path for problem in corpus.quarantine] == ["odd.md"]


def test_a_file_whose_name_is_no_utf_8_is_read(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.md", "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write(b"# Coffee\n\nEvery Friday.\n")
    corpus = read_sources([f"folder:{tmp_path}"])
    assert [(document.path, document.title) for document in corpus.documents] == [(r"caf\xe9.md", "Coffee")]


def test_an_office_file_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragtune.knowledge.readers.archives._MOST_UNPACKED", 1000)
    with pytest.raises(UnreadableError, match="would unpack to"):
        read_bytes("bomb.docx", word_file(paragraph("x" * 2000)))


@pytest.mark.parametrize(
    ("name", "source", "lost"),
    [
        ("a.md", "# T\n\n**Bold** [link](u.html) `code` &amp; 10<sup>6</sup>\n", ()),
        ("a.html", "<body><p>One <b>two</b></p><script>three()</script></body>", ()),
        ("a.txt", "one two\n", ()),
    ],
)
def test_every_word_of_a_file_is_accounted_for(name: str, source: str, lost: tuple[str, ...]) -> None:
    assert audit(name, source.encode(), read_bytes(name, source.encode()))[1] == lost


def test_a_word_that_a_reader_lost_is_found_by_the_account() -> None:
    reading = read_bytes("a.md", b"The gate opens at eight.")
    assert audit("a.md", b"The gate opens at eight or nine.", reading) == (7, ("nine", "or"))


PROSE = [
    "The ferry leaves from the northern pier, and passengers wait behind the",
    "yellow line until the bell has rung twice and the gate has been opened.",
]


def test_amounts_and_roman_words_in_a_pdf_are_no_page_numbers() -> None:
    amounts = ["Anchors", "1250", "Buoys", "38", "Size", "XL", "Law", "CIVIL", "Tool", "CLI", "Lamps", "417"]
    text = read_bytes("stock.pdf", pdf_file([[*lines(PROSE), *lines(amounts, top=640)]])).text
    assert [word for word in amounts if word not in text.split()] == []


def test_page_numbers_of_a_pdf_are_told_by_place_and_sequence_and_listed() -> None:
    head = lines(["Rules of the harbour"], top=760)
    fees = [47, 12, 98, 7, 61]
    pages = [
        [*head, *lines([*PROSE, f"It costs {fee} euros."]), (300, 30, 9, str(page))]
        for page, fee in enumerate(fees, start=7)
    ]
    reading = read_bytes("rules.pdf", pdf_file(pages))
    left_out = [(one.reason, one.text) for one in reading.left_out]
    assert [text for reason, text in left_out if reason == "page number"] == ["7", "8", "9", "10", "11"]
    assert ("running head", "Rules of the harbour") in left_out
    assert [fee for fee in fees if f"It costs {fee} euros." not in reading.text] == []
    assert [block.page for block in reading.blocks][-1] == 5


@pytest.mark.parametrize(
    ("before", "after", "whole"),
    [
        ("Start it with the option --keep-", "alive on every boat.", "--keep-alive on"),
        ("Order the seal under the number QR-7730-", "C4 at the desk.", "QR-7730-C4 at"),
        ("The hall was used in the years 2017-", "2021 by the rowing club.", "2017-2021 by"),
        ("It is a time-", "saving way to paint a hull.", "time-saving way"),
        ("The boats are painted every morn-", "ing before the bell.", "morning before"),
        ("Every passenger gets infor-", "mation at the gate.", "information at"),
        ("With xzip you get an xzip-", "compressed list of boats.", "xzip-compressed list"),
    ],
)
def test_a_hyphen_at_the_end_of_a_line_of_a_pdf_stays_if_it_belongs_to_the_word(
    before: str, after: str, whole: str
) -> None:
    # As wide as the lines of prose, so that the line is not a short one that ends on purpose.
    first = f"{'The keeper says it once more to everybody who asks. '[: 70 - len(before)]}{before}"
    text = read_bytes("a.pdf", pdf_file([lines([*PROSE, first, after])])).text
    assert whole in text


def test_the_columns_of_a_pdf_are_read_one_after_the_other() -> None:
    left = ["The left lock is opened by hand", "when the river is low, and the", "keeper writes down the hour."]
    right = ["The right lock moves by itself", "while a lamp burns above it, so", "that nobody walks on the gate."]
    rows = [line for pair in zip(lines(left), lines(right, left=330), strict=True) for line in pair]
    text = read_bytes("locks.pdf", pdf_file([rows])).text
    assert " ".join(left) in " ".join(text.split())
    assert " ".join(right) in " ".join(text.split())


def test_aligned_cells_of_a_pdf_become_a_table() -> None:
    cells = [("Rope", "Load", "Price"), ("Hemp", "2 t", "14"), ("Steel", "12 t", "95"), ("Nylon", "5 t", "40")]
    rows = [
        (72 + 150 * column, 700 - 16 * row, 11, cell)
        for row, line in enumerate(cells)
        for column, cell in enumerate(line)
    ]
    assert "| Steel | 12 t | 95 |" in read_bytes("ropes.pdf", pdf_file([rows])).text


@pytest.mark.parametrize("shift", [0, 6], ids=["on one base line", "half a line lower"])
def test_a_table_of_a_pdf_that_is_drawn_column_by_column_becomes_a_table(shift: float) -> None:
    columns = [("Rope", "Hemp yarn", "Steel", "Nylon"), ("Load", "2 t", "12 t", "5 t"), ("Price", "14", "95", "40")]
    cells = [
        (72 + 120 * column, 700 - 20 * row - (shift if column else 0), 11, cell)
        for column, texts in enumerate(columns)
        for row, cell in enumerate(texts)
    ]
    page = [(72, 740, 11, "Each row is a rope."), *cells, (72, 580, 11, "All ropes are looked at in spring.")]
    text = read_bytes("ropes.pdf", pdf_file([page])).text
    assert text.strip().startswith("Each row is a rope.")
    assert text.strip().endswith("All ropes are looked at in spring.")
    assert "| Hemp yarn | 2 t | 14 |" in text
    assert "| Steel | 12 t | 95 |" in text


def test_lists_of_a_pdf_beside_each_other_at_other_heights_stay_apart() -> None:
    left, right = ["Ropes", "Anchors", "Bells"], ["Monday", "Tuesday", "Friday"]
    page = [*lines(left, step=20), *lines(right, left=330, top=710, step=30)]
    text = " ".join(read_bytes("a.pdf", pdf_file([page])).text.split())
    assert " ".join(left) in text
    assert " ".join(right) in text


@pytest.mark.parametrize("given", ["Microsoft Word - Dokument7", "untitled", "manual_final.docx", "Presentation1"])
def test_the_title_of_a_pdf_is_the_line_in_the_largest_type_if_a_program_named_the_file(given: str) -> None:
    page = [(72, 740, 18, "Rules of the lock"), *lines(PROSE)]
    assert read_bytes("a.pdf", pdf_file([page], given)).title == "Rules of the lock"
    assert read_bytes("a.pdf", pdf_file([page], "Lock rules 2026")).title == "Lock rules 2026"
