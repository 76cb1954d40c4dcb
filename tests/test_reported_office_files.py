"""Word, PowerPoint and Excel files after public reports about comparable tools, with inputs of our own.

docs/measured/reported-documents.md names the reports.
"""

import datetime as dt
from typing import Any

import openpyxl
import pytest
from openpyxl.cell.rich_text import CellRichText, TextBlock
from openpyxl.cell.text import InlineFont
from openpyxl.chart import BarChart, Reference
from pptx import Presentation
from pptx.util import Inches

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.files import read_bytes
from tests.support.office_files import changed, listed, paragraph, saved, word_file

RUN = "<w:r><w:rPr>{1}</w:rPr><w:t xml:space='preserve'>{0}</w:t></w:r>"
BOX = (
    "<w:drawing><wps:txbx xmlns:wps='http://schemas.microsoft.com/office/word/2010/wordprocessingShape'>"
    "<w:txbxContent>{}</w:txbxContent></wps:txbx></w:drawing>"
)
TWO_FORMS = (
    "<w:p><w:r><mc:AlternateContent xmlns:mc='http://schemas.openxmlformats.org/markup-compatibility/2006'>"
    "<mc:Choice Requires='wps'>{}</mc:Choice><mc:Fallback><w:pict><v:textbox xmlns:v='urn:schemas-microsoft-com:vml'>"
    "<w:txbxContent>{}</w:txbxContent></v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>"
)
DELETED = '<w:del w:id="1" w:author="a"/>'


def run(text: str, properties: str = "") -> str:
    return RUN.format(text, properties)


def table(*rows: str, properties: str = "") -> str:
    return f"<w:tbl>{properties}{''.join(rows)}</w:tbl>"


def row(*cells: str, properties: str = "") -> str:
    return f"<w:tr>{properties}{''.join(f'<w:tc>{cell}</w:tc>' for cell in cells)}</w:tr>"


def assert_read(name: str, raw: bytes, text: str, *left_out: tuple[str, str]) -> None:
    """The file says this, leaves this out, and no word of it is lost."""
    reading = read_bytes(name, raw)
    assert reading.text == text
    assert listed(reading) == [*left_out]
    assert audit(name, raw, reading)[1] == ()


@pytest.mark.parametrize(
    ("what", "body", "text"),
    [
        ("a text box in two forms is read once", TWO_FORMS.format(BOX.format(paragraph("Stop")), paragraph("Stop")),
         "Stop"),
        ("a text box in the new form alone is read", f"<w:p>{run('Fig. 1.')}<w:r>{BOX.format(paragraph('40 bar'))}"
         f"{BOX.format(paragraph('55 bar'))}</w:r></w:p>", "Fig. 1.\n\n40 bar\n\n55 bar"),
        ("a content control keeps its words", f"<w:p>{run('Rent ')}<w:sdt><w:sdtContent>{run('640')}</w:sdtContent>"
         "</w:sdt></w:p>", "Rent 640"),
        ("a carriage return is a line break", "<w:p><w:r><w:t>Quay 3</w:t><w:cr/><w:t>Riga</w:t></w:r></w:p>",
         "Quay 3\nRiga"),
        ("a reading stands behind its characters", f"<w:p><w:r><w:ruby><w:rt>{run('とうきょう')}</w:rt>"
         f"<w:rubyBase>{run('東京')}</w:rubyBase></w:ruby></w:r></w:p>", "東京(とうきょう)"),
        ("a hyphen that keeps words together is a hyphen",
         "<w:p><w:r><w:t>KX</w:t><w:noBreakHyphen/><w:t>44</w:t></w:r></w:p>", "KX‑44"),
        ("words that were moved stand in their new place", f"<w:p><w:moveFrom w:id='1'>{run('Late. ')}</w:moveFrom>"
         f"{run('Early. ')}<w:moveTo w:id='1'>{run('Late.')}</w:moveTo></w:p>", "Early. Late."),
    ],
)  # fmt: skip
def test_in_a_word_file(what: str, body: str, text: str) -> None:
    assert_read("a.docx", word_file(body), text)


def test_what_tracked_changes_delete_from_a_word_file_is_left_out_and_listed() -> None:
    old_row = row(paragraph("Old"), paragraph("99"), properties=f"<w:trPr>{DELETED}</w:trPr>")
    cell = f"<w:tcPr><w:cellDel w:id='2'/></w:tcPr>{paragraph('gone')}"
    words = "<w:p><w:r><w:t>5</w:t></w:r><w:del w:id='3'><w:r><w:delText>0</w:delText></w:r></w:del>"
    body = table(row(paragraph("Fee"), paragraph("45")), old_row, row(paragraph("Kept"), cell))
    text = "|  |  |\n| --- | --- |\n| Fee | 45 |\n| Kept |  |\n\n5 euros"
    deleted = [("deleted", "Old 99"), ("deleted", "gone"), ("deleted", "0")]
    assert_read("a.docx", word_file(f"{body}{words}{run(' euros')}</w:p>"), text, *deleted)


def test_hidden_words_of_a_word_file_are_left_out_and_listed() -> None:
    runs = run("Seen. ") + run("Ask Kim.", "<w:vanish/>") + run("Seen too.", '<w:vanish w:val="0"/>')
    assert_read("a.docx", word_file(f"<w:p>{runs}</w:p>"), "Seen. Seen too.", ("hidden", "Ask Kim."))


def test_the_first_row_of_a_word_table_names_the_columns_if_the_table_says_so() -> None:
    rows = [row(paragraph("Item"), paragraph("Price")), row(paragraph("Rope"), paragraph("12"))]
    for look in ('w:firstRow="1"', 'w:val="04A0"'):
        named = table(*rows, properties=f"<w:tblPr><w:tblLook {look}/></w:tblPr>")
        assert_read("a.docx", word_file(named), "| Item | Price |\n| --- | --- |\n| Rope | 12 |")
    plain = table(*rows, properties='<w:tblPr><w:tblLook w:val="0480"/></w:tblPr>')
    assert read_bytes("a.docx", word_file(plain)).text.startswith("|  |  |\n| --- | --- |\n| Item | Price |")


def test_a_word_file_in_the_strict_namespace_keeps_its_numbers() -> None:
    numbering = '<w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:lvlText w:val="%1."/></w:lvl></w:abstractNum>'
    numbering += '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
    body = paragraph("Duties", '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr>')
    usual = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    strict = "http://purl.oclc.org/ooxml/wordprocessingml/main"
    names = ("word/document.xml", "word/numbering.xml")
    raw = changed(word_file(body, numbering=numbering), dict.fromkeys(names, (usual, strict)))
    assert read_bytes("a.docx", raw).text == "1. Duties"


def test_a_chart_in_a_word_file_is_read_as_a_table_at_its_place() -> None:
    drawing = "http://schemas.openxmlformats.org/drawingml/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    chart = f"<w:drawing><c:chart xmlns:c='{drawing}/chart' xmlns:r='{office}' r:id='rId9'/></w:drawing>"
    body = f"{paragraph('Before.')}<w:p><w:r>{chart}</w:r></w:p>{paragraph('After.')}"
    points = "<c:{0}Cache><c:pt idx='0'><c:v>{1}</c:v></c:pt></c:{0}Cache>"
    series = f"<c:tx>{points.format('str', 'Ships')}</c:tx><c:cat>{points.format('str', 'Riga')}</c:cat>"
    series += f"<c:val>{points.format('num', '17')}</c:val>"
    title = "<c:title><a:p><a:r><a:t>Ships of the port</a:t></a:r></a:p></c:title>"
    page = f"<c:chartSpace xmlns:c='{drawing}/chart' xmlns:a='{drawing}/main'><c:chart>{title}<c:ser>{series}</c:ser>"
    link = f'<Relationship Id="rId9" Type="{office}/chart" Target="charts/chart1.xml"/></Relationships>'
    parts = {"word/charts/chart1.xml": f"{page}</c:chart></c:chartSpace>"}
    # Without other relations the element has no content.
    raw = changed(
        word_file(body, styles="<w:style w:type='paragraph' w:styleId='a'/>"),
        {"word/_rels/document.xml.rels": ("</Relationships>", link)},
        parts,
    )
    grid = "|  |  |\n| --- | --- |\n|  | Ships |\n| Riga | 17 |"
    assert_read("a.docx", raw, f"Before.\n\nShips of the port\n\n{grid}\n\nAfter.")


def slide(show: Any, *texts: str) -> Any:
    page = show.slides.add_slide(show.slide_layouts[6])
    for place, text in enumerate(texts):
        page.shapes.add_textbox(Inches(1), Inches(1 + place), Inches(3), Inches(1)).text_frame.text = text
    return page


def test_hidden_slides_and_shapes_and_footers_are_left_out_and_listed() -> None:
    show = Presentation()
    page = slide(show, "Open from nine.", "Draft", "Harbour office")
    page.shapes[1]._element.nvSpPr.cNvPr.set("hidden", "1")
    footer = page.shapes[2]._element.nvSpPr.nvPr.get_or_add_ph()
    footer.set("type", "ftr")
    footer.set("idx", "11")
    slide(show, "Prices of 2019.")._element.set("show", "0")
    left_out = [("hidden", "Draft"), ("slide footer", "Harbour office"), ("hidden slide", "Prices of 2019.")]
    assert_read("a.pptx", saved(show), "Open from nine.", *left_out)


def test_merged_cells_of_a_slide_are_filled_in() -> None:
    show = Presentation()
    place = (Inches(1), Inches(1), Inches(5), Inches(2))
    grid = slide(show).shapes.add_table(3, 3, *place).table
    for line, texts in enumerate([("Hall", "Price", ""), ("Large", "80", "week"), ("", "90", "weekend")]):
        for column, text in enumerate(texts):
            grid.cell(line, column).text = text
    grid.cell(0, 1).merge(grid.cell(0, 2))
    grid.cell(1, 0).merge(grid.cell(2, 0))
    rows = "| Hall | Price | Price |\n| --- | --- | --- |\n| Large | 80 | week |\n| Large | 90 | weekend |"
    assert_read("a.pptx", saved(show), rows)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("arabicPeriod", "1. Open\n2. Close"),
        ("alphaLcParenR", "a) Open\nb) Close"),
        ("romanUcParenBoth", "(I) Open\n(II) Close"),
    ],
)
def test_the_numbers_that_a_slide_shows_are_read(kind: str, text: str) -> None:
    show = Presentation()
    frame = slide(show, "Open\nClose").shapes[0].text_frame
    for one in frame.paragraphs:
        properties = one._p.get_or_add_pPr()
        properties.append(properties.makeelement(properties.tag.replace("pPr", "buAutoNum"), {"type": kind}))
    assert_read("a.pptx", saved(show), text)


def test_a_power_on_a_slide_has_its_sign_and_an_index_does_not() -> None:
    show = Presentation()
    line = slide(show, "10").shapes[0].text_frame.paragraphs[0]
    for text, baseline in (("6", "30000"), (" litres of H", ""), ("2", "-25000"), ("O on the 1", ""), ("st", "30000")):
        part = line.add_run()
        part.text = text
        if baseline:
            part.font._element.set("baseline", baseline)
    assert_read("a.pptx", saved(show), "10^6 litres of H2O on the 1st")


def test_shapes_that_stand_side_by_side_are_read_from_left_to_right() -> None:
    show = Presentation()
    shapes = slide(show).shapes
    for left, top, text in ((5, 1, "right"), (1, 1.05, "left"), (1, 3, "below")):
        shapes.add_textbox(Inches(left), Inches(top), Inches(3), Inches(1)).text_frame.text = text
    assert_read("a.pptx", saved(show), "left\n\nright\n\nbelow")


def sheet(*rows: tuple[object, ...]) -> Any:
    book = openpyxl.Workbook()
    book.active.title = "S"
    for cells in rows:
        book.active.append(cells)
    return book


def test_a_duration_over_a_day_and_seconds_are_read_as_they_are() -> None:
    book = sheet(("watch", dt.timedelta(hours=30, minutes=15)), ("start", dt.datetime(2026, 5, 4, 12, 30, 45)))
    book.active.append(("bell", dt.time(5, 40)))
    rows = "| watch | 30:15:00 |\n| --- | --- |\n| start | 2026-05-04 12:30:45 |\n| bell | 05:40 |"
    assert read_bytes("a.xlsx", saved(book)).text == f"## S\n\n{rows}"


def test_a_power_in_a_cell_has_its_sign() -> None:
    small = TextBlock(InlineFont(vertAlign="superscript"), "6")
    assert_read(
        "a.xlsx", saved(sheet(("load", CellRichText("10", small, " N")))), "## S\n\n| load | 10^6 N |\n| --- | --- |"
    )


def test_the_reading_of_a_japanese_cell_is_no_part_of_it() -> None:
    reading = "<t>東京</t><rPh sb='0' eb='2'><t>とうきょう</t></rPh>"
    raw = changed(saved(sheet(("Name", "Ort"), ("x", "y"))), {"xl/worksheets/sheet1.xml": ("<t>Ort</t>", reading)})
    assert_read("a.xlsx", raw, "## S\n\n| Name | 東京 |\n| --- | --- |\n| x | y |")


def test_a_formula_without_a_value_is_listed() -> None:
    book = sheet(("a", "b"), (1, "=A2+1"))
    assert_read(
        "a.xlsx", saved(book), "## S\n\n| a | b |\n| --- | --- |\n| 1 |  |", ("formula without a value", "B2: =A2+1")
    )


def test_signs_that_a_workbook_writes_as_numbers_are_signs() -> None:
    assert_read("a.xlsx", saved(sheet(("one_x000D_\ntwo", "_x0041_"))), "## S\n\n| one two | A |\n| --- | --- |")


def test_titles_of_charts_are_read_and_edges_of_printed_pages_listed() -> None:
    book = sheet(("Year", "Ships"), (2025, 17))
    chart = BarChart()
    chart.title = "Ships of the port"
    chart.add_data(Reference(book.active, min_col=2, min_row=1, max_row=2), titles_from_data=True)
    book.active.add_chart(chart, "E2")
    book.active.oddHeader.center.text = "Confidential"
    rows = "| Year | Ships |\n| --- | --- |\n| 2025 | 17 |"
    assert_read(
        "a.xlsx", saved(book), f"Ships of the port\n\n## S\n\n{rows}", ("page header or footer", "Confidential")
    )


def test_the_account_of_a_workbook_counts_every_cell_and_its_numbers() -> None:
    raw = saved(sheet(("rope", 12), ("rope", 1.5)))
    reading = read_bytes("a.xlsx", raw)
    less = read_bytes("a.xlsx", saved(sheet(("rope", 12))))
    assert audit("a.xlsx", raw, reading)[1] == ()
    assert audit("a.xlsx", raw, less)[1] == ("1", "5", "rope")
