import io
import re
import zipfile

import pytest

from ragtune.dataset.extractive.prose_facts import prose_facts
from ragtune.knowledge.blocks import join
from ragtune.knowledge.readers import pdf
from ragtune.knowledge.readers.files import can_read, read_bytes
from ragtune.knowledge.readers.pdf_page import Line
from ragtune.knowledge.readers.reading import UnreadableError
from ragtune.knowledge.restructured import resolve_roles, to_markdown
from ragtune.records import Chunk
from ragtune.text.language import guess_language


def rebuild(pages: list[list[Line]]) -> str:
    return join(pdf.rebuild(pages)[0])[0]


def make_pdf(lines: list[str], title: str = "") -> bytes:
    show = " ".join(f"({line}) Tj T*" for line in lines)
    stream = f"BT /F1 12 Tf 14 TL 72 720 Td {show} ET".encode()
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) >>".encode(),
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(bodies) + 1, table)
    return out + b"trailer\n<< /Size %d /Root 1 0 R /Info 6 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(bodies) + 1, start)


def make_docx(body: str) -> bytes:
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r1" Type="{office}" Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml",
            '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
            f"<w:body>{body}</w:body></w:document>",
        )
    return buffer.getvalue()


def paragraph(text: str, style: str = "") -> str:
    mark = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{mark}<w:r><w:t>{text}</w:t></w:r></w:p>"


def test_markdown_keeps_structure_and_loses_decoration() -> None:
    raw = b"""---
title: The gate
tags: [access, doors]
lang: en-GB
---
# Heading

[![badge](b.svg)](https://ci) The **gate** opens
at [eight](https://x.y/z).<br>

<!-- hidden -->

| a | b |
|---|---|
| 1 | 2 |

```html
<div>[kept](as it is)</div>
```
"""
    reading = read_bytes("docs/gate.md", raw)
    assert (reading.title, reading.topic, reading.language) == ("The gate", "access", "en")
    assert "The gate opens at eight." in reading.text
    assert "| 1 | 2 |" in reading.text
    assert "<div>[kept](as it is)</div>" in reading.text
    assert not any(junk in reading.text for junk in ("badge", "hidden", "<br>", "https://x.y"))


def test_front_matter_with_a_day_that_no_month_has_is_left_out_like_any_other() -> None:
    reading = read_bytes("a.md", b"---\ndate: 2024-13-45\n---\n# Title\n\nText.\n")
    assert reading.text == "# Title\n\nText."
    assert [(one.reason, one.text) for one in reading.left_out] == [("front matter", "date: 2024-13-45")]


def test_angle_brackets_that_are_no_html_stay() -> None:
    assert "run `x` with <version> or <path>" in read_bytes("a.md", b"run `x` with <version> or <path>").text


def test_restructured_text_becomes_the_same_structure() -> None:
    raw = b"""
=====
Doors
=====

See :py:class:`~pkg.mod.Gate` and ``code`` and `the site <https://x>`_.

Opening
-------

.. note:: Mind the step.

.. code-block:: python
   :linenos:

   gate.open()

Example::

    gate.close()

.. image:: x.png

==== =====
name state
==== =====
gate open
==== =====
"""
    reading = read_bytes("doors.rst", raw)
    assert reading.title == "Doors"
    lines = reading.text.splitlines()
    assert "# Doors" in lines
    assert "## Opening" in lines
    assert "See `Gate` and `code` and the site." in lines
    assert "Note: Mind the step." in lines
    assert "```python\ngate.open()\n```" in reading.text
    assert "```\n    gate.close()" not in reading.text
    assert "gate.close()" in reading.text
    assert "| gate | open |" in lines
    assert "image" not in reading.text
    assert ":linenos:" not in reading.text


def test_a_literal_block_ends_where_its_indent_ends() -> None:
    assert to_markdown("Run::\n\n    a = 1\n\n    b = 2\n\nAfter.") == "Run:\n\n```\na = 1\n\nb = 2\n```\n\n\nAfter.\n"


def test_html_gives_the_main_text_without_the_furniture() -> None:
    raw = b"""<html lang="de"><head><title>Das Tor</title><style>p{}</style></head><body>
    <nav>Start | Hilfe</nav><main><h1>Das Tor</h1><p>Es &ouml;ffnet um <b>acht</b>.</p>
    <table><tr><th>Tag</th><th>Zeit</th></tr><tr><td>Mo</td><td>8</td></tr></table>
    <script>track()</script></main><footer>Impressum</footer></body></html>"""
    reading = read_bytes("tor.html", raw)
    assert (reading.title, reading.language) == ("Das Tor", "de")
    assert "Es öffnet um acht." in reading.text
    assert "| Mo | 8 |" in reading.text
    assert not any(junk in reading.text for junk in ("Hilfe", "Impressum", "track"))


def test_a_role_names_its_target_also_over_a_line_end_and_inside_backticks() -> None:
    text = "Call :py:func:`shop.\n    open_door` with a `:py:class:~shop.Key`."
    assert resolve_roles(text) == "Call `shop.open_door` with a `Key`."


def test_a_pdf_gives_its_title_and_text() -> None:
    reading = read_bytes(
        "gate.pdf", make_pdf(["The gate opens at eight in the morn-", "ing on weekdays."], "Gate rules")
    )
    assert reading.title == "Gate rules"
    assert "opens at eight in the morning on weekdays." in reading.text


def test_a_pdf_without_text_is_unreadable() -> None:
    with pytest.raises(UnreadableError, match="no text was found"):
        read_bytes("scan.pdf", make_pdf([]))


def test_page_furniture_of_a_pdf_is_left_out_and_headings_are_found() -> None:
    body = ["Gates stand at every entrance of the town and they are", "opened by the guard."]
    names = ["Gates", "Walls", "Towers", "Wells"]
    pages = [["Rules of the town", f"1.{n} {name}", *body, "", str(n)] for n, name in enumerate(names, start=1)]
    text = rebuild([[Line(line) for line in page] for page in pages])
    assert "Rules of the town" not in text
    assert "### 1.1 Gates" in text
    assert "entrance of the town and they are opened by the guard." in text
    assert not re.search(r"^\d$", text, re.MULTILINE)


def set_in_type(*rows: tuple[str, float, bool, float]) -> list[Line]:
    return [Line(text, size, bold, drop) for text, size, bold, drop in rows]


def test_a_heading_of_a_pdf_ends_before_the_sentence_below_it() -> None:
    page = set_in_type(
        ("Handbook of the yard", 18.0, True, 0.0),
        ("Pallets", 10.0, True, 30.0),
        ("Pallets are stacked three high in the yard and are moved by", 10.0, False, 14.0),
        ("the crane only.", 10.0, False, 12.0),
        ("Loading goods that are fragile and", 14.0, True, 26.0),
        ("heavy", 14.0, True, 17.0),
        ("Sometimes goods arrive broken; the guard then calls the", 10.0, False, 16.0),
        ("office, which writes them off. **Bold** words inside stay where", 10.0, False, 12.0),
        ("they are.", 10.0, False, 12.0),
        ("A second paragraph stands apart from the first by more room", 10.0, False, 18.0),
        ("than lines have.", 10.0, False, 12.0),
    )
    assert rebuild([page]).split("\n\n") == [
        "# Handbook of the yard",
        "### Pallets",
        "Pallets are stacked three high in the yard and are moved by the crane only.",
        "## Loading goods that are fragile and heavy",
        "Sometimes goods arrive broken; the guard then calls the office, which writes them off. "
        "**Bold** words inside stay where they are.",
        "A second paragraph stands apart from the first by more room than lines have.",
    ]


def test_a_title_in_the_type_of_the_body_does_not_run_into_the_text_below_it() -> None:
    lines = [
        "Pallets",
        "Pallets are stacked three high in the yard and are moved by",
        "the crane only, never by hand.",
    ]
    assert rebuild([[Line(line) for line in lines]]).split("\n\n") == [lines[0], f"{lines[1]} {lines[2]}"]


def test_a_paragraph_goes_on_over_a_page_whose_head_counts_pages() -> None:
    words = ["The gate of the", "yard opens at", "eight and closes at", "nine in the evening."]
    pages = [
        set_in_type((f"Part {n % 3}: rules {n + 5}", 9.0, False, 0.0), (text, 10.0, False, 40.0))
        for n, text in enumerate(words)
    ]
    assert rebuild(pages) == " ".join(words)


def test_no_question_takes_the_heading_of_a_pdf_for_a_part_of_its_sentence() -> None:
    page = set_in_type(
        ("Crane rules", 14.0, True, 0.0),
        ("The crane", 10.0, True, 20.0),
        ("The crane supports four pallets at a time, each of two", 10.0, False, 14.0),
        ("hundred kilograms.", 10.0, False, 12.0),
    )
    chunk = Chunk(
        id="c",
        document_id="d",
        source="folder:x",
        title="Crane rules",
        heading_path=("Crane rules", "The crane"),
        text=rebuild([page]),
        position=0,
    )
    answers = [
        chunk.text[fact.start : fact.end] for fact in prose_facts(chunk, [(0, len(chunk.text))], " in Crane rules")
    ]
    assert answers
    assert not any("The crane The crane" in answer or "#" in answer for answer in answers)


def test_the_type_of_a_pdf_is_read_from_its_fonts() -> None:
    text = read_bytes(
        "gate.pdf",
        make_pdf(["The gate", "The gate opens at eight in the morning on all weekdays.", "It is shut at noon."]),
    ).text
    assert "The gate\n\nThe gate opens at eight" in text


def test_a_docx_gives_headings_and_paragraphs() -> None:
    raw = make_docx(paragraph("Gate rules", "Heading1") + paragraph("The gate opens at eight."))
    reading = read_bytes("rules.docx", raw)
    assert reading.title == "Gate rules"
    assert "# Gate rules" in reading.text
    assert "The gate opens at eight." in reading.text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("\ufeffTor öffnet".encode(), "Tor öffnet"),
        ("Tor öffnet".encode("utf-16"), "Tor öffnet"),
        ("Das Tor öffnet früh am Morgen, größtenteils für Fußgänger.".encode("latin-1"), "größtenteils für Fußgänger"),
        (b"one\r\ntwo", "one\ntwo"),
    ],
)
def test_text_is_decoded_whatever_wrote_it(raw: bytes, expected: str) -> None:
    assert expected in read_bytes("a.txt", raw).text


def test_wrapped_paragraphs_of_plain_text_are_joined_and_nothing_else() -> None:
    kept = """\
Running the shop
================

Roses are red,
violets are blue.

2024-01-02 10:00:01 INFO the gate on the north side was opened by the keeper
2024-01-02 10:00:02 INFO closed

    total = sum(price for price in prices if price is not None and price > 0)
    print(total)

max_keepers = 100  # the default is fifty keepers for every one of the branches
keepers = 30

INSTALLING THE SHOP ON A NEW MACHINE OF THE BRANCH THAT OPENS NEXT
run it twice.

For every parcel that is on its way to the harbour at the end of the day:
  count it.

North gate          deep green          open from eight in the morning on
South gate          pale red            open from nine in the morning on
"""
    wrapped = """\
A branch is a shop that keeps its own stock and opens on its own days. To open
a branch early, send the keeper a signed note.

- The stock book is a bound list of every article that a branch owns at the
  end of the day.
- The cash book is kept by the keeper.
"""
    as_read = kept.replace("Running the shop\n================", "# Running the shop").strip("\n")
    assert read_bytes("a.txt", kept.encode()).text == as_read
    assert read_bytes("a.txt", wrapped.encode()).text.split("\n") == [
        "A branch is a shop that keeps its own stock and opens on its own days. To open a branch early, send the "
        "keeper a signed note.",
        "",
        "- The stock book is a bound list of every article that a branch owns at the end of the day.",
        "- The cash book is kept by the keeper.",
    ]


def test_a_long_run_of_letters_is_read_at_once() -> None:
    assert len(read_bytes("a.txt", b"Aa1" * 20_000).text) == 60_000


def test_a_file_without_a_heading_is_called_by_its_name() -> None:
    assert read_bytes("opening_hours-2024.txt", b"Eight to five.").title == "opening hours 2024"


def test_only_known_kinds_are_read() -> None:
    assert can_read("a/README")
    assert can_read("a/b.MD")
    assert not can_read("a/b.png")
    assert not can_read("Makefile")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The door is open and the guard is at the gate with you.", "en"),
        ("La porte est ouverte et le garde est dans la cour avec les clés.", "fr"),
        ("Die Tür ist offen und der Wächter ist nicht auf dem Hof.", "de"),
        ("La puerta está abierta y el guardia no está en el patio con las llaves.", "es"),
        ("Дверь открыта, и стража стоит у ворот.", "ru"),
        ("門は八時に開きます。", "ja"),
        ("大门八点开放", "zh"),
        ("Wann kann ich das Tor öffnen?", "de"),
        ("Which type do I get when I read AutomationCondition.check_passed in dagster?", "en"),
        ("type of path in UPathIOManager.unlink in dagster", "en"),
        ("x = 1", "en"),
    ],
)
def test_the_language_is_told_from_common_words_and_script(text: str, language: str) -> None:
    assert guess_language(text) == language


def test_the_lines_of_a_html_page_mean_nothing_outside_its_code():
    page = b"""<body><main><p>The valve
    opens slowly.</p><ul><li>one
    two</li><li>three</li></ul><pre>a = 1\nb = 2</pre></main></body>"""
    text = read_bytes("valves.html", page).text
    assert "The valve opens slowly." in text
    assert "- one two\n- three" in text
    assert "a = 1\nb = 2" in text


def test_the_signatures_of_a_html_page_are_headings_and_their_bodies_are_no_code():
    page = b"""<html><head><title>valves - Pumps 3.11.2 documentation</title></head><body><main><h1>valves</h1>
    <dl><dt class="sig sig-object">open_valve(pressure)</dt><dd><p>Opens the valve.</p>
    <dl><dt>pressure</dt><dd><p>The pressure in bar.</p></dd></dl></dd></dl></main></body></html>"""
    reading = read_bytes("valves.html", page)
    assert reading.title == "valves"
    lines = [line for line in reading.text.splitlines() if line]
    assert lines == ["# valves", "###### open_valve(pressure)", "Opens the valve.", "pressure", "The pressure in bar."]
