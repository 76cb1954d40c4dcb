"""Web pages, reStructuredText, tables, notebooks and encodings after public reports, with inputs of our own.

docs/measured/reported-documents.md names the reports.
"""

import json

import pytest

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.files import read_bytes
from tests.support.office_files import listed


def assert_read(name: str, source: str | bytes, text: str, *left_out: tuple[str, str]) -> None:
    """The file says this, leaves this out, and no word of it is lost."""
    raw = source if isinstance(source, bytes) else source.encode()
    reading = read_bytes(name, raw)
    assert reading.text == text
    assert listed(reading) == [*left_out]
    assert audit(name, raw, reading)[1] == ()


PYGMENTS = (
    '<table class="highlighttable"><tr><td class="linenos"><pre>1\n2</pre></td><td class="code"><pre>def f():\n'
    "    return 1</pre></td></tr></table>"
)
HIGHLIGHT_JS = (
    '<table><tr><td class="hljs-ln-numbers">1</td><td>if x:</td></tr><tr><td class="hljs-ln-numbers">2</td>'
    "<td>    y()</td></tr></table>"
)
MATH = "<msup><mi>c</mi><mn>2</mn></msup>"


@pytest.mark.parametrize(
    ("what", "page", "text", "left_out"),
    [
        ("a reading stands behind its characters", "<p><ruby>東京<rp>(</rp><rt>とうきょう</rt><rp>)</rp></ruby>へ</p>",
         "東京(とうきょう)へ", []),
        ("a listing keeps its lines and loses their numbers", PYGMENTS, "```\ndef f():\n    return 1\n```",
         [("line numbers", "1 2")]),
        ("a listing with a row for each line is a listing", HIGHLIGHT_JS, "```\nif x:\n    y()\n```",
         [("line numbers", "1 2")]),
        ("numbers within a listing leave it", '<pre><span class="linenos">1</span>import os</pre>',
         "```\nimport os\n```", [("line numbers", "1")]),
        ("a listing in two languages is two, and its button is none of it",
         "<pre><code>import a</code><code>require(a)</code><button>Copy</button></pre>",
         "```\nimport a\nrequire(a)\n```", [("button", "Copy")]),
        ("a formula in TeX stays in its sentence", '<p>It is <script type="math/tex">\\pi r^2</script> wide.</p>',
         r"It is \(\pi r^2\) wide.", []),
        ("a formula in MathML has its exponents", f"<p><math><mi>E</mi><mo>=</mo><mi>m</mi>{MATH}</math></p>",
         "E=mc^2", []),
        ("a fraction follows its factor apart", "<p><math><mn>3</mn><mfrac><mn>1</mn><mn>2</mn></mfrac></math></p>",
         "3 1/2", []),
        ("an exponent of several signs has brackets", "<p>x<sup>n+1</sup></p>", "x^(n+1)", []),
        ("letters that count items stay", '<ol type="a"><li>Pay</li><li>Sail</li></ol>', "a. Pay\nb. Sail", []),
        ("a list that counts down counts down", "<ol reversed><li>x</li><li>y</li></ol>", "2. x\n1. y", []),
        ("a list right in a list stays", "<ul><li>a</li><ul><li>b</li></ul></ul>", "- a\n  - b", []),
        ("words between items stay", "<ul>General:<li>a</li></ul>", "General:\n- a", []),
        ("the foot of an article stays", "<article><p>Fee 9.</p><footer>Without tax.</footer></article>",
         "Fee 9.\n\nWithout tax.", []),
        ("the author of a quotation stays", "<blockquote><p>Wise.</p><footer>Ann</footer></blockquote>",
         "> Wise.\n>\n> Ann", []),
        ("a panel behind a tab stays", '<div role="tabpanel" hidden>make install</div>', "make install", []),
        ("words that a search of the browser finds stay", '<p hidden="until-found">Pay first.</p>', "Pay first.", []),
        ("the words of a drawing stay", "<svg><title>Pump</title><text>Valve A</text></svg><p>x</p>",
         "Valve A\n\nx", [("image", "Pump")]),
        ("what scripts replace is listed", "<p>x</p><noscript><p>No scripts.</p></noscript>", "x",
         [("shown without scripts only", "No scripts.")]),
        ("what stands in place of a film is listed", "<p>x</p><video>Old browser.</video>", "x",
         [("shown in place of media", "Old browser.")]),
        ("options of a field stay apart", "<p>x</p><select><option>Row</option><option>Sail</option></select>", "x",
         [("form field", "Row Sail")]),
        ("a mark within a link is a footnote", '<p>Paid<a href="#fn1"><sup>1</sup></a></p>', "Paid[^1]",
         [("link target", "#fn1")]),
        ("letters behind code are a word of their own", "<p>Two <code>SELECT</code>s</p>", "Two `SELECT`s", []),
    ],
)  # fmt: skip
def test_on_a_web_page(what: str, page: str, text: str, left_out: list[tuple[str, str]]) -> None:
    assert_read("a.html", f"<!DOCTYPE html><html><body>{page}</body></html>", text, *left_out)


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [
        ("Shift_JIS", "cp932", "①髙﨑の庭園"),
        ("ISO-8859-1", "cp1252", "The “gate” costs 5 €"),
        ("gb2312", "gb18030", "朱镕基喆"),
        ("euc-kr", "cp949", "똠방각하"),
    ],
)
def test_a_page_names_its_encoding_as_browsers_understand_it(name: str, codec: str, words: str) -> None:
    page = f"<html><head><meta charset='{name}'></head><body><p>{words}</p></body></html>"
    assert_read("a.html", page.encode(codec), words)


@pytest.mark.parametrize(
    ("what", "source", "text", "left_out"),
    [
        ("letters and Roman numerals of lists stay", "a. Pay\nb. Sail\n\n   i. out\n   ii. home\n",
         "a. Pay\nb. Sail\n   i. out\n   ii. home", []),
        ("brackets around numbers stay", "(A) Pay\n(B) Sail\n\n3) Land\n", "(A) Pay\n(B) Sail\n\n3) Land", []),
        ("a classifier stands apart from its term", "pump : machine\n    Moves water.\n",
         "pump : machine\n\nMoves water.", []),
        ("lines of a verse stay lines", "| one\n|   two\n| three\n", "one\ntwo\nthree", []),
        ("a formula with a label is a formula", ".. math:: a^2\n   :label: square\n", "```\na^2\n```",
         [("option", "label: square")]),
        ("the caption of code stays", ".. code-block:: sh\n   :caption: run.sh\n\n   ls\n", "run.sh\n\n```sh\nls\n```",
         []),
        ("roles in an argument are read", ".. seealso:: :ref:`the list <x>`\n", "the list", [("link target", "x")]),
        ("text for another format is listed", "Words.\n\n.. raw:: latex\n\n   page break\n", "Words.",
         [("raw latex", "page break"), ("option", "latex")]),
        ("a substitution that nothing uses is listed", "Words.\n\n.. |x| replace:: unused\n", "Words.",
         [("substitution", "|x| replace:: unused")]),
        ("a role with an underscore is read", "See :prop_tgt:`LINKED`.\n", "See `LINKED`.", []),
    ],
)  # fmt: skip
def test_in_restructured_text(what: str, source: str, text: str, left_out: list[tuple[str, str]]) -> None:
    assert_read("a.rst", source, text, *left_out)


def test_brackets_behind_the_numbers_of_a_markdown_list_stay() -> None:
    assert_read("a.md", "3) Pay\n4) Sail\n", "3) Pay\n4) Sail")


def test_the_second_definition_of_a_label_is_listed() -> None:
    source = "[a]\n\n[a]: https://one.example.org\n[a]: https://two.example.org\n"
    targets = [("link target", "https://one.example.org"), ("link target", "https://two.example.org")]
    assert_read("a.md", source, "a", *targets)


@pytest.mark.parametrize(
    ("what", "source", "text"),
    [
        ("lines above a table are no rows of it", "Report of the port\nMade in May\n\nship;length\nAnn;12,5\n",
         "Report of the port\n\nMade in May\n\n| ship | length |\n| --- | --- |\n| Ann | 12,5 |"),
        ("a title filled up with empty cells is no row", "Fees,,\na,b,c\n1,2,3\n",
         "Fees\n\n| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |"),
        ("commas of sentences in one column are no separators", "Comment\nopen at nine, closed at five\n",
         "| Comment |\n| --- |\n| open at nine, closed at five |"),
        ("a quote behind a backslash is a quote", 'name,says\nAnn,"She said \\"hi\\", then left"\n',
         '| name | says |\n| --- | --- |\n| Ann | She said "hi", then left |'),
        ("a backslash at the end of a cell is one", 'path,x\n"C:\\dir\\",1\n',
         "| path | x |\n| --- | --- |\n| C:\\dir\\ | 1 |"),
    ],
)  # fmt: skip
def test_in_a_table_of_separated_values(what: str, source: str, text: str) -> None:
    assert_read("a.csv", source, text)


def test_a_line_that_names_the_separator_may_stand_in_quotes() -> None:
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert_read("a.csv", '"sep=;"\na;b\n1;2\n', table, ("separator line", '"sep=;"'))


def notebook(*outputs: dict[str, object]) -> bytes:
    return json.dumps({"cells": [{"cell_type": "code", "source": "run()", "outputs": outputs}]}).encode()


RUN = "```python\nrun()\n```"


@pytest.mark.parametrize(
    ("what", "output", "text", "left_out"),
    [
        ("a line that was overwritten is listed", {"output_type": "stream", "text": "10%\r90%\rdone\n"},
         f"{RUN}\n\n```\ndone\n```", [("overwritten output", "10% 90%")]),
        ("a formula is read", {"data": {"text/latex": "$\\alpha$ wide", "text/plain": "<Latex object>"}},
         f"{RUN}\n\n$\\alpha$ wide", []),
        ("the name of a picture's object is listed", {"data": {"image/png": "aGk=", "text/plain": "<Figure 1>"}}, RUN,
         [("image", "<Figure 1>")]),
        ("the way to an error is listed", {"ename": "KeyError", "evalue": "'x'", "traceback": ["\x1b[31mline 7"]},
         f"{RUN}\n\n```\nKeyError: 'x'\n```", [("traceback", "line 7")]),
    ],
)  # fmt: skip
def test_in_a_notebook(what: str, output: dict[str, object], text: str, left_out: list[tuple[str, str]]) -> None:
    assert_read("a.ipynb", notebook(output), text, *left_out)


SENTENCES = {
    "pl": "Zażółć gęślą jaźń; źródło wody jest w łodzi.",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy; už je čas.",
    "hu": "Árvíztűrő tükörfúrógép; őszi időben a hűtő működik.",
    "lt": "Biblioteka atidaroma devintą valandą; terminą galima pratęsti.",
    "fr": "L’été dernier, le garçon a mangé du pâté ; ça coûtait 5 € à Noël.",
    "de": "Die Größe der Tür beträgt fünf Meter; Übung macht den Meister.",
    "tr": "Kütüphane sabah dokuzda açılır; süresi iki haftadır, şartları değişir.",
}


@pytest.mark.parametrize(
    ("language", "codec"),
    [
        *(("pl", codec) for codec in ("cp1250", "iso8859_2", "cp852")),
        *(("cs", codec) for codec in ("cp1250", "iso8859_2", "cp852")),
        *(("hu", codec) for codec in ("cp1250", "iso8859_2", "cp852")),
        ("lt", "cp1257"),
        *(("fr", codec) for codec in ("cp1252", "iso8859_15", "mac_roman")),
        *(("de", codec) for codec in ("cp1252", "cp850", "mac_roman")),
        ("tr", "cp1254"),
    ],
)
def test_the_letters_of_one_language_tell_the_encoding(language: str, codec: str) -> None:
    text = SENTENCES[language]
    if codec == "iso8859_15":
        text = text.replace("’", "'")
    assert decode(text.encode(codec)) == text


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_read(codec: str) -> None:
    assert decode("Größe: 5 €\n第二行\n".encode(codec)) == "Größe: 5 €\n第二行\n"


def test_one_zero_byte_costs_one_character() -> None:
    assert decode(b"The gate opens at nine, and closes at five in the evening. Ask K\0m.") == (
        "The gate opens at nine, and closes at five in the evening. Ask K\ufffdm."
    )


def test_japanese_in_the_encoding_of_mails_is_read() -> None:
    assert decode("図書館は九時に開きます。".encode("iso2022_jp")) == "図書館は九時に開きます。"
