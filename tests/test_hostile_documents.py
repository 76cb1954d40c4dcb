"""Documents that are malformed, or made to harm, cost neither words nor minutes."""

import io
import itertools
import json
import time
from pathlib import Path

import openpyxl
import pytest

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.json_lines import read_json_lines
from ragtune.knowledge.sources import read_sources
from tests.support.office_files import paragraph, word_file
from tests.support.pdf_files import pdf_file

_MOST_SECONDS = 20  # of processor time, for any file under a megabyte; all of these take under 5


def text_of(name: str, content: str | bytes) -> str:
    return read_bytes(name, content.encode() if isinstance(content, str) else content).text


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.md", "".join(f"{'  ' * level}- step{level}\n" for level in range(30)), "step29"),
        ("a.md", ">" * 4000 + " the innermost\n\nnext", "the innermost"),
        ("a.md", "Use the <select> element.\n\nLater words.", "Use the <select> element.\n\nLater words."),
        ("a.md", "<nav>\n\nwords\n\nmore words", "more words"),
        ("a.md", "a <main>b</main> c\n\nlast", "a b c\n\nlast"),
        ("a.html", "<table><td>six<tr><td>seven</table>", "six"),
        ("a.html", "<table><tr>loose<td>q</td></tr></table>", "loose"),
        ("a.html", b'<meta charset="idna"><p>caf\xe9 ol\xe9 words</p>', "café olé"),
        ("a.rst", "long " * 5000 + "end", "end"),
        ("a.rst", ".. raw:: html\n\n   <b>bold</b></body>\n\nThe end.", "The end."),
    ],
)
def test_words_in_malformed_markup_stay(name: str, source: str | bytes, expected: str) -> None:
    assert expected in text_of(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.html", "<table>" + "<tr>" + "<td colspan=1000 rowspan=1000>x" * 1000 + "<tr>" * 1000 + "</table>"),
        ("a.html", "<blockquote>" * 1500 + "word<br>" * 20_000),
        ("a.html", "<p>x<!-- " * 60_000),
        ("a.md", "[a](/b) " * 10_000),
        ("a.md", "words\n\n<div>\n" + "<!-- " * 100_000),
        ("a.rst", "`open " * 16_000),
        ("a.rst", "name_ " * 16_000),
        ("a.rst", ":ref:`a <b>` *c* " * 6_000),
        ("a.csv", ",".join(["h"] * 50_000) + "\n" + "x\n" * 50_000),
    ],
)
def test_a_small_file_takes_no_minutes(name: str, source: str) -> None:
    start = time.process_time()
    audit(name, source.encode(), read_bytes(name, source.encode()))
    assert time.process_time() - start < _MOST_SECONDS


def test_a_line_of_a_pdf_with_twenty_thousand_pieces_takes_no_minutes() -> None:
    raw = pdf_file([[(20 + place * 0.5, 700, 3, "tide turns") for place in range(20_000)]])
    start = time.process_time()
    assert audit("a.pdf", raw, read_bytes("a.pdf", raw))[0] > 0
    assert time.process_time() - start < _MOST_SECONDS


def test_a_cell_at_the_far_corner_of_a_sheet_is_read() -> None:
    book, file = openpyxl.Workbook(), io.BytesIO()
    book.active["A1"], book.active["XFD1048576"] = "first", "last"
    book.save(file)
    assert "| first |  |\n| --- | --- |\n|  | last |" in text_of("a.xlsx", file.getvalue())


def test_fields_and_moved_words_of_a_word_file_are_read() -> None:
    run = "<w:r><w:t>{}</w:t></w:r>"
    frames = "".join(f"<w:{tag}>{run.format(tag)}</w:{tag}>" for tag in ("fldSimple", "moveTo", "bdo"))
    assert text_of("a.docx", word_file(f"<w:p>{frames}</w:p>")) == "fldSimplemoveTobdo"


def test_a_list_level_that_word_does_not_have_costs_no_document() -> None:
    change = '<w:lvlOverride w:ilvl="12"><w:startOverride w:val="3"/></w:lvlOverride>'
    numbering = f'<w:abstractNum w:abstractNumId="0"/><w:num w:numId="1"><w:abstractNumId w:val="0"/>{change}</w:num>'
    body = paragraph("kept", '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr>')
    assert "kept" in text_of("a.docx", word_file(body, numbering=numbering))


def test_a_notebook_with_empty_fields_is_read_and_shows_its_errors() -> None:
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'tea'"}
    cells = [None, {"cell_type": "code", "source": None, "outputs": None}]
    cells.append({"cell_type": "code", "source": "d['tea']", "outputs": [error]})
    assert "KeyError: 'tea'" in text_of("a.ipynb", json.dumps({"cells": cells, "metadata": None}))


TABLE = "<style>td { color: red }</style><table><tr><th>sail</th></tr><tr><td>jib</td></tr></table>"


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        ({"text/plain": "  sail\n0 jib", "text/html": [TABLE]}, "| sail |\n| --- |\n| jib |"),
        ({"text/plain": "<IPython.core.display.Markdown object>", "text/markdown": "Two **sails**"}, "Two sails"),
        ({"text/plain": "Figure(4)", "text/html": "<div></div><script>draw(1)</script>"}, "```\nFigure(4)\n```"),
        ({"text/plain": ["<Axes: >"], "image/png": "aGk="}, ""),
    ],
)
def test_an_output_of_a_notebook_is_read_once_in_its_richest_form(forms: dict[str, object], expected: str) -> None:
    cell = {"cell_type": "code", "source": "show()", "outputs": [{"output_type": "display_data", "data": forms}]}
    raw = json.dumps({"cells": [cell]}).encode()
    reading = read_bytes("a.ipynb", raw)
    assert reading.text == f"```python\nshow()\n```\n\n{expected}".rstrip()
    assert audit("a.ipynb", raw, reading)[1] == ()


def test_the_account_of_a_notebook_with_numbered_cells_is_made() -> None:
    raw = json.dumps({"cells": [{"cell_type": "code", "execution_count": 3, "source": ["x = 1"]}]}).encode()
    assert audit("a.ipynb", raw, read_bytes("a.ipynb", raw)) == (2, ())


def test_substitutions_that_grow_without_end_are_stopped() -> None:
    names = "abcdefghi"
    grown = "".join(f".. |{b}| replace:: {f' |{a}|' * 10}\n" for a, b in itertools.pairwise(names))
    start = time.process_time()
    assert "Text" in text_of("a.rst", f"Text |i|\n\n.. |a| replace:: x\n{grown}\nMore Text\n")
    assert time.process_time() - start < _MOST_SECONDS


def test_a_json_line_whose_text_is_no_string_is_refused_and_the_next_one_read() -> None:
    lines = ['{"text": ["x"]}', '{"text": ' + "9" * 5000 + "}", '{"a": ' + "[" * 100_000, '{"text": "kept"}']
    *broken, kept = read_json_lines("\n".join(lines).encode())
    assert len(broken) == 3
    assert kept.text == "kept"


def test_a_file_whose_reader_fails_is_quarantined_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "deep.rst").write_text("".join(f"{'  ' * level}- l{level}\n\n" for level in range(200)))
    (tmp_path / "good.md").write_text("Fine words.")
    corpus = read_sources([f"folder:{tmp_path}"])
    assert [document.path for document in corpus.documents] == ["good.md"]
    assert "its reader failed: RecursionError" in corpus.quarantine[0].reason
