"""Cases after public reports about comparable tools (docs/measured/reported-documents.md), with inputs of our own."""

import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any

import openpyxl
import pytest
from openpyxl.comments import Comment
from pptx import Presentation
from pptx.util import Inches

from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.number_formats import shown_number
from tests.support.office_files import changed, listed, saved, word_file

needs_pandoc = pytest.mark.skipif(shutil.which("pandoc") is None, reason="pandoc is not installed")


def slides() -> Any:
    show = Presentation()
    show.slides.add_slide(show.slide_layouts[5]).shapes.title.text = "Quay"
    return show


def box(shapes: Any, text: str, top: float) -> None:
    shapes.add_textbox(0, Inches(top), Inches(3), Inches(1)).text_frame.text = text


def test_text_in_groups_within_groups_of_a_slide_is_read_and_shapes_stay_apart() -> None:
    show = slides()
    shapes = show.slides[0].shapes
    outer = shapes.add_group_shape()
    box(outer.shapes, "Outer box", 1)
    box(outer.shapes.add_group_shape().shapes, "Inner box", 2)
    box(shapes, "Loose box", 5)
    table = shapes.add_table(1, 2, 0, Inches(6), Inches(3), Inches(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Left cell", "Right cell"
    text = read_bytes("a.pptx", saved(show)).text
    for words in ("Outer box\n", "Inner box\n", "Loose box\n", "| Left cell | Right cell |"):
        assert words in text


def test_a_shape_of_a_slide_with_a_formula_is_read_although_the_file_holds_it_twice() -> None:
    names = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    names += 'xmlns:a14="http://schemas.microsoft.com/office/drawing/2010/main" '
    names += 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    shape = '<p:sp><p:nvSpPr><p:cNvPr id="7" name="F"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/>'
    shape += "<p:txBody><a:bodyPr/><a:p><a:r><a:t>Area is </a:t></a:r>{}</a:p></p:txBody></p:sp>"
    square = "<m:sSup><m:e><m:r><m:t>r</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>"
    choice = shape.format(f"<a14:m><m:oMath>{square}</m:oMath></a14:m>")
    fallback = shape.format("<a:r><a:t>a picture</a:t></a:r>")
    both = f'<mc:AlternateContent {names}><mc:Choice Requires="a14">{choice}</mc:Choice>'
    both += f"<mc:Fallback>{fallback}</mc:Fallback></mc:AlternateContent></p:spTree>"
    raw = changed(saved(slides()), {"ppt/slides/slide1.xml": ("</p:spTree>", both)})
    text = read_bytes("a.pptx", raw).text
    assert "Area is r^2" in text
    assert "a picture" not in text


def test_links_and_comments_of_slides_are_listed() -> None:
    show = slides()
    frame = show.slides[0].shapes.add_textbox(0, Inches(2), Inches(3), Inches(1)).text_frame
    run = frame.paragraphs[0].add_run()
    run.text, run.hyperlink.address = "the plan", "https://example.org/plan"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    link = f'<Relationship Id="rId98" Type="{office}/comments" Target="../comments/comment1.xml"/></Relationships>'
    kind = "application/vnd.openxmlformats-officedocument.presentationml.comments+xml"
    override = f'<Override PartName="/ppt/comments/comment1.xml" ContentType="{kind}"/></Types>'
    comment = '<p:cmLst xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main">'
    comment += "<p:cm><p:text>Ask Ruth first</p:text></p:cm></p:cmLst>"
    places = {
        "ppt/slides/_rels/slide1.xml.rels": ("</Relationships>", link),
        "[Content_Types].xml": ("</Types>", override),
    }
    reading = read_bytes("a.pptx", changed(saved(show), places, {"ppt/comments/comment1.xml": comment}))
    assert listed(reading) == [("link target", "https://example.org/plan"), ("comment", "Ask Ruth first")]
    assert "the plan" in reading.text


def test_comments_links_and_hidden_sheets_of_a_workbook_are_listed() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet["A1"], sheet["B1"] = "Pier", "Plan"
    sheet["A1"].comment = Comment("wrong since May", "Ruth")
    sheet["B1"].hyperlink = "https://example.org/plan"
    sheet["B1"].value = "Plan"
    hidden = book.create_sheet("Lists")
    hidden["A1"], hidden.sheet_state = "internal", "hidden"
    reading = read_bytes("a.xlsx", saved(book))
    assert listed(reading) == [
        ("comment", "A1: wrong since May"),
        ("link target", "https://example.org/plan"),
        ("hidden sheet", "Lists | internal | | --- |"),
    ]
    assert "internal" not in reading.text


def test_a_text_box_over_a_sheet_is_read() -> None:
    book = openpyxl.Workbook()
    book.active["A1"] = "Pier"
    drawing = (
        '<xdr:wsDr xmlns:xdr="http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing" '
        'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><xdr:sp><xdr:txBody>'
        "<a:p><a:r><a:t>Prices from</a:t></a:r><a:r><a:t> May</a:t></a:r></a:p></xdr:txBody></xdr:sp></xdr:wsDr>"
    )
    raw = changed(saved(book), added={"xl/drawings/drawing1.xml": drawing})
    assert read_bytes("a.xlsx", raw).text.startswith("Prices from May\n")


def test_a_blank_cell_changes_no_other_cell_and_blank_rows_and_columns_leave() -> None:
    book = openpyxl.Workbook()
    for row in (
        ["PROGRESS"],
        [],
        ["Ship", None, "Units", "Done"],
        ["Elsa", None, 12, True],
        ["Ida", None, None, False],
    ):
        book.active.append(row)
    text = read_bytes("a.xlsx", saved(book)).text
    assert text.endswith(
        "PROGRESS\n\n| Ship | Units | Done |\n| --- | --- | --- |\n| Elsa | 12 | TRUE |\n| Ida |  | FALSE |"
    )
    assert "NaN" not in text


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (6791, "00000", "06791"),
        (42, "0000000000", "0000000042"),
        (2253565.25, r"\£#,##0.00", "£2,253,565.25"),
        (-3.5, '#,##0.00 [$€-407];[Red]"minus "#,##0.00 [$€-407]', "minus 3.50 €"),
        (-7, "#,##0", "-7"),
        (0, '0.0;-0.0;"none"', None),
        (1.2, "000.0", "001.2"),
        (0.125, "0.00", "0.13"),
        (7, '0" knots"', "7 knots"),
        (123456789, "000-00-0000", "123-45-6789"),
        (5551234, "[<=9999999]000-0000;(000) 000-0000", None),
        (1234567, '#,##0,"k"', None),
        (1.5, "# ?/?", None),
        (3.25, "General", None),
    ],
)
def test_a_number_is_shown_as_its_format_shows_it(value: float, code: str, shown: str | None) -> None:
    assert shown_number(value, code) == shown


def test_a_post_code_and_a_price_of_a_workbook_are_read_as_they_are_shown() -> None:
    book = openpyxl.Workbook()
    for place, (value, code) in enumerate([(6791, "00000"), (2624936.66, '"£"#,##0.00'), (0.125, "0.0%")], start=1):
        cell = book.active.cell(1, place, value)
        cell.number_format = code
    assert "| 06791 | £2,624,936.66 | 12.5% |" in read_bytes("a.xlsx", saved(book)).text


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('id;note\n1;"one, two\nthree, four\nfive"\n2;"x, y\nz"\n', "| 1 | one, two three, four five |"),
        ('\ufeff"a,b",c\n1,2\n', "| a,b | c |"),
        ('\ufeff"a\nb",c\n1,2\n', "| a b | c |"),
        ("name;price\nrope, hemp;1,20\nrope, steel;3,50\n", "| rope, hemp | 1,20 |"),
        ('id\tnote\n1\t"has ""quotes"" inside"\n', '| 1 | has "quotes" inside |'),
    ],
)
def test_the_separator_of_a_table_is_not_looked_for_in_quotes(text: str, row: str) -> None:
    assert row in read_bytes("a.csv", text.encode()).text


def test_the_colours_of_a_terminal_in_a_notebook_are_no_text_and_tags_in_it_are() -> None:
    output = {"output_type": "stream", "text": ["| \x1b[31m <b>ebb</b> \x1b[0m |\n"]}
    raw = json.dumps({"cells": [{"cell_type": "code", "source": "1", "outputs": [output]}]}).encode()
    text = read_bytes("a.ipynb", raw).text
    assert "|  <b>ebb</b>  |" in text
    assert "\x1b" not in text


RUN = "<m:r><m:t>{}</m:t></m:r>"


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (f"<m:r><m:rPr/></m:r>{RUN.format('x')}", "x"),
        (f"<m:f><m:num>{RUN.format('a')}</m:num><m:den>{RUN.format('b')}</m:den></m:f>", "a/b"),
        (f"<m:d><m:e>{RUN.format('a')}</m:e></m:d>", "(a)"),
        (
            '<m:nary><m:naryPr><m:chr m:val="∏"/></m:naryPr><m:sub/><m:sup/></m:nary>' + RUN.format("x"),
            "∏ x",
        ),
    ],
)
def test_a_formula_without_optional_parts_is_read(formula: str, text: str) -> None:
    assert read_bytes("a.docx", word_file(f"<w:p><m:oMath>{formula}</m:oMath></w:p>")).text == text


def test_a_box_that_is_ticked_in_a_word_file_is_seen() -> None:
    name = 'xmlns:w14="http://schemas.microsoft.com/office/word/2010/wordml"'
    ticked = f'<w:sdt><w:sdtPr><w14:checkbox {name}><w14:checked w14:val="{{}}"/></w14:checkbox></w:sdtPr>'
    ticked += "<w:sdtContent><w:r><w:t>☒</w:t></w:r></w:sdtContent></w:sdt><w:r><w:t>{}</w:t></w:r>"
    body = "".join(f"<w:p>{ticked.format(state, words)}</w:p>" for state, words in ((1, "moored"), (0, "paid")))
    assert read_bytes("a.docx", word_file(body)).text == "[x] moored\n\n[ ] paid"


def test_a_comment_of_a_word_file_is_listed() -> None:
    raw = word_file("<w:p><w:r><w:t>The gate opens.</w:t></w:r></w:p>")
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    comment = (
        f"<w:comments {names}><w:comment w:id='1'><w:p><w:r><w:t>Since May?</w:t></w:r></w:p></w:comment></w:comments>"
    )
    reading = read_bytes("a.docx", changed(raw, added={"word/comments.xml": comment}))
    assert listed(reading) == [("comment", "Since May?")]


def book_of(chapters: Mapping[str, str], spine: list[str]) -> bytes:
    """Return an EPUB whose archive holds the chapters in this order, to be read in the order of the spine."""
    navigation = {"nav": ' properties="nav"'}
    items = "".join(
        f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"' + navigation.get(name, "") + "/>"
        for name in chapters
    )
    order = "".join(f'<itemref idref="{name}"/>' for name in spine)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">b</dc:identifier><dc:title>Tides</dc:title>'
        f"<dc:language>en</dc:language></metadata><manifest>{items}</manifest><spine>{order}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles><rootfile '
        'full-path="b.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>t</title></head><body>{}</body></html>'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("b.opf", package)
        for name, body in chapters.items():
            archive.writestr(f"{name}.xhtml", page.format(body))
    return file.getvalue()


@needs_pandoc
def test_a_book_is_read_in_the_order_of_its_spine_and_a_chapter_of_links_stays() -> None:
    links = (
        '<h1>Further reading</h1><ul><li><a href="one.xhtml">Ebb</a></li><li><a href="two.xhtml">Flood</a></li></ul>'
    )
    chapters = {
        "nav": '<nav><ol><li><a href="one.xhtml">CONTENTS</a></li></ol></nav>',
        "two": "<h1>Two</h1><p>Flood comes second.</p>",
        "more": links,
        "one": "<h1>One</h1><p>Ebb comes first.</p>",
    }
    text = read_bytes("a.epub", book_of(chapters, ["one", "two", "more"])).text
    places = [text.index(words) for words in ("Ebb comes first.", "Flood comes second.", "Further reading", "- Flood")]
    assert places == sorted(places)
    assert "CONTENTS" not in text
