"""Formulas of Word files, and charts and diagrams of PowerPoint files, are part of the text."""

import io
import zipfile
from typing import Any

import pytest
from pptx import Presentation
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.charts import diagram_items
from ragtune.knowledge.readers.files import read_bytes
from tests.support.office_files import paragraph, word_file


def run(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


def element(name: str, properties: str = "", **parts: str) -> str:
    inner = "".join(f"<m:{part}>{xml}</m:{part}>" for part, xml in parts.items())
    return f"<m:{name}><m:{name}Pr>{properties}</m:{name}Pr>{inner}</m:{name}>"


FORMULAS = [
    (run("E=m") + element("sSup", e=run("c"), sup=run("2")), "E=mc^2"),
    (element("f", num=run("a+b"), den=run("2")), "(a+b)/2"),
    (run("3") + element("f", num=run("1"), den=run("2")) + run("y"), "3 1/2 y"),
    (element("rad", deg="", e=run("x+1")), "√(x+1)"),
    (element("rad", deg=run("3"), e=run("x")), "^3√x"),
    (element("sSubSup", e=run("x"), sub=run("i"), sup=run("n-1")), "x_i^(n-1)"),
    (element("nary", '<m:chr m:val="∑"/>', sub=run("i=1"), sup=run("n"), e=run("i")), "∑_(i=1)^n i"),
    (element("nary", sub=run("0"), sup=run("1"), e=run("x dx")), "∫_0^1 x dx"),
    (element("d", '<m:begChr m:val="["/><m:endChr m:val="]"/>', e=run("a,b")), "[a,b]"),
    (element("func", fName=run("sin"), e=run("x")), "sin x"),
    (element("func", fName=element("limLow", e=run("lim"), lim=run("n→∞")), e=run("n")), "lim_(n→∞) n"),
    ("<m:m><m:mr><m:e>" + run("1") + "</m:e><m:e>" + run("0") + "</m:e></m:mr></m:m>", "[1, 0]"),
]


@pytest.mark.parametrize(("formula", "text"), FORMULAS)
def test_a_formula_of_a_word_file_is_text_on_one_line(formula: str, text: str) -> None:
    words = "<w:r><w:t xml:space='preserve'>{}</w:t></w:r>"
    raw = word_file(f"<w:p>{words.format('We have ')}<m:oMath>{formula}</m:oMath>{words.format(' here.')}</w:p>")
    reading = read_bytes("a.docx", raw)
    assert reading.text == f"We have {text} here."
    assert audit("a.docx", raw, reading)[1] == ()


def test_formulas_on_lines_of_their_own_stay_on_lines_of_their_own() -> None:
    block = f"<w:p><m:oMathPara><m:oMath>{run('a=b')}</m:oMath><m:oMath>{run('c=d')}</m:oMath></m:oMathPara></w:p>"
    assert read_bytes("a.docx", word_file(paragraph("So:") + block)).text == "So:\n\na=b\nc=d"


def slides_with(*charts: tuple[XL_CHART_TYPE, Any], title: str = "") -> bytes:
    show, file = Presentation(), io.BytesIO()
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text = "Fuel"
    for place, (kind, data) in enumerate(charts):
        frame = slide.shapes.add_chart(kind, 0, Inches(1 + 2 * place), Inches(4), Inches(2), data)
        if title:
            frame.chart.has_title = True
            frame.chart.chart_title.text_frame.text = title
    show.save(file)
    return file.getvalue()


def test_the_title_the_series_and_the_values_of_a_chart_are_a_table() -> None:
    data = CategoryChartData(number_format="0%")
    data.categories = ["North quay", "South quay"]
    data.add_series("Diesel", (0.25, 0.5))
    data.add_series("Petrol", (0.75, None))
    raw = slides_with((XL_CHART_TYPE.COLUMN_CLUSTERED, data), title="Share of fuel")
    reading = read_bytes("a.pptx", raw)
    table = "|  | Diesel | Petrol |\n| --- | --- | --- |\n| North quay | 25% | 75% |\n| South quay | 50% |  |"
    assert f"Share of fuel\n\n{table}" in reading.text
    assert {block.page for block in reading.blocks} == {1}
    assert audit("a.pptx", raw, reading)[1] == ()


def test_series_with_places_of_their_own_are_tables_of_their_own() -> None:
    data = XyChartData()
    for name, points in (("Ebb", [(1, 2.5)]), ("Flood", [(3, 7)])):
        series = data.add_series(name)
        for x, y in points:
            series.add_data_point(x, y)
    text = read_bytes("a.pptx", slides_with((XL_CHART_TYPE.XY_SCATTER, data))).text
    assert "|  | Ebb |\n| --- | --- |\n| 1 | 2.5 |\n\n|  | Flood |\n| --- | --- |\n| 3 | 7 |" in text


def test_the_texts_of_a_diagram_are_read_in_their_order() -> None:
    names = 'xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
    names += 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
    point = "<dgm:pt><dgm:t><a:p><a:r><a:t>{}</a:t></a:r></a:p></dgm:t></dgm:pt>"
    data = (
        f"<dgm:dataModel {names}><dgm:ptLst>{point.format('Moor')}{point.format('Unload')}</dgm:ptLst></dgm:dataModel>"
    )
    assert diagram_items(data.encode()) == ["Moor", "Unload"]
    assert "Moor" in read_bytes("a.pptx", with_diagram(slides_with(), data)).text


def with_diagram(raw: bytes, data: str) -> bytes:
    """Return the presentation with a diagram on its first slide."""
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    drawing = "http://schemas.openxmlformats.org/drawingml/2006"
    frame = (
        '<p:graphicFrame><p:nvGraphicFramePr><p:cNvPr id="9" name="D"/><p:cNvGraphicFramePr/><p:nvPr/>'
        '</p:nvGraphicFramePr><p:xfrm><a:off x="0" y="9"/><a:ext cx="9" cy="9"/></p:xfrm><a:graphic>'
        f'<a:graphicData uri="{drawing}/diagram"><dgm:relIds xmlns:dgm="{drawing}/diagram" r:dm="rId99"/>'
        "</a:graphicData></a:graphic></p:graphicFrame></p:spTree>"
    )
    link = f'<Relationship Id="rId99" Type="{office}/diagramData" Target="../diagrams/data1.xml"/></Relationships>'
    kind = "application/vnd.openxmlformats-officedocument.drawingml.diagramData+xml"
    override = f'<Override PartName="/ppt/diagrams/data1.xml" ContentType="{kind}"/></Types>'
    changes = {
        "ppt/slides/slide1.xml": ("</p:spTree>", frame),
        "ppt/slides/_rels/slide1.xml.rels": ("</Relationships>", link),
        "[Content_Types].xml": ("</Types>", override),
    }
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            page = source.read(name)
            if name in changes:
                before, after = changes[name]
                page = page.decode().replace(before, after).encode()
            target.writestr(name, page)
        target.writestr("ppt/diagrams/data1.xml", data)
    return copy.getvalue()
