"""Rewrites a part of a Word file so that mammoth reads what a reader of the page sees.

mammoth knows no shapes with text, no charts and no readings of Chinese characters, and it shows hidden text and cells
whose deletion was tracked. The elements are those of ECMA-376 Part 1, section 17 (WordprocessingML).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lxml import etree

from ragtune.knowledge.readers.charts import chart_rows, chart_title, diagram_items
from ragtune.knowledge.readers.elements import whole_number
from ragtune.records import LeftOut
from ragtune.text.whitespace import collapse_whitespace

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}chart"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_DESCRIPTION = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}docPr"
_SPACE = "{http://www.w3.org/XML/1998/namespace}space"
_STRICT = b"http://purl.oclc.org/ooxml/wordprocessingml/main"
# mammoth drops what stands in these, and a reader of the page sees it.
_FRAMES = tuple(f"{W}{name}" for name in ("fldSimple", "customXml", "moveTo", "dir", "bdo"))
_OFF = frozenset({"0", "false", "off"})
_MOST_COLUMNS = 63  # of a table; Word allows no more
_FIRST_ROW = 0x20  # the bit of `w:tblLook` for a first row that names the columns

Related = Callable[[str], bytes | None]
"""Returns a part of the file by the id of the relationship that leads to it, or None if there is none."""


def parse_part(xml: bytes) -> Any:
    """Return the root of a part; one in the strict namespace, which Word can write, gets the usual one."""
    return etree.fromstring(xml.replace(_STRICT, W.strip("{}").encode()), etree.XMLParser(resolve_entities=False))


def rewrite(root: Any, related: Related) -> list[LeftOut]:
    """Rewrite the part below `root` for mammoth, and return what a reader of the page does not see."""
    left_out = [*_without_deleted(root), *_without_hidden(root)]
    for frame in [*root.iter(*_FRAMES)]:
        place = frame.getparent().index(frame)
        frame.getparent()[place : place + 1] = [child for child in frame if not child.tag.endswith("Pr")]
    for mark in root.iter(f"{W}cr"):
        mark.tag = f"{W}br"
    for mark in root.iter(f"{W}br"):
        mark.attrib.pop(f"{W}type", None)  # mammoth drops the break of a page or column, and glues the words around it
    for mark in root.iter(f"{W}ptab"):
        mark.tag = f"{W}tab"
    for reading in [*root.iter(f"{W}ruby")]:
        base, above = (_words(reading.find(f"{W}{name}")) for name in ("rubyBase", "rt"))
        reading.getparent().replace(reading, text_element(f"{base}({above})" if above else base))
    for drawing in [*root.iter(f"{_MC}AlternateContent", f"{W}drawing")]:
        left_out += _write_shapes(drawing, related)
    for row in root.iter(f"{W}tr"):
        _fill_skipped_columns(row)
    for table in root.iter(f"{W}tbl"):
        _mark_head(table)
    return left_out


def text_element(text: str) -> Any:
    """Return a `w:t` with this text."""
    element = etree.Element(f"{W}t")
    element.text = text
    element.set(_SPACE, "preserve")
    return element


def _without_deleted(root: Any) -> Iterator[LeftOut]:
    """Remove what tracked changes delete, and yield it; what they move stays in its new place."""
    for moved in [*root.iter(f"{W}moveFrom")]:
        moved.getparent().remove(moved)
    rows = [row for row in root.iter(f"{W}tr") if row.find(f"{W}trPr/{W}del") is not None]
    cells = [cell for cell in root.iter(f"{W}tc") if cell.find(f"{W}tcPr/{W}cellDel") is not None]
    cells = [cell for cell in cells if cell.getparent() not in rows]
    for deleted in [*rows, *cells]:
        yield from _removed(deleted, "deleted")
    for deleted in [*root.iter(f"{W}del")]:
        if len(deleted):  # an empty one says that its paragraph is deleted, which joins it to the next
            yield from _removed(deleted, "deleted")


def _without_hidden(root: Any) -> Iterator[LeftOut]:
    for run in [*root.iter(f"{W}r")]:
        hidden = run.find(f"{W}rPr/{W}vanish")
        is_text = run.find(f"{W}t") is not None and run.find(f"{W}fldChar") is None
        if is_text and hidden is not None and hidden.get(f"{W}val") not in _OFF:
            yield from _removed(run, "hidden")


def _removed(element: Any, reason: str) -> Iterator[LeftOut]:
    if text := _words(element):
        yield LeftOut(reason=reason, text=text)
    element.getparent().remove(element)


def _words(element: Any) -> str:
    """Return the words of an element, those that are deleted included; paragraphs stand apart."""
    if element is None:
        return ""
    paragraphs = [*element.iter(f"{W}p")] or [element]
    return collapse_whitespace(" ".join("".join(one.itertext(f"{W}t", f"{W}delText")) for one in paragraphs))


def _write_shapes(drawing: Any, related: Related) -> Iterator[LeftOut]:
    """Put the text of a drawing's shapes, charts and diagrams into its place, and yield its description.

    A drawing may stand in the file in two forms, of which the second is for older programs.
    """
    forms = [*drawing.iterchildren(f"{_MC}Choice")] or [drawing]
    contents = next((found for form in forms if (found := _contents(form, related))), [])
    if not contents:
        return
    for description in forms[0].iter(_DESCRIPTION):
        if text := collapse_whitespace(description.get("descr") or ""):
            yield LeftOut(reason="image", text=text)
    picture = etree.Element(f"{W}pict")
    for content in contents:
        box = content if content.tag == f"{W}txbxContent" else etree.Element(f"{W}txbxContent")
        if box is not content:
            box.append(content)
        picture.append(box)
    drawing.getparent().replace(drawing, picture)


def _contents(form: Any, related: Related) -> list[Any]:
    """Return what a drawing says: the contents of its text boxes, and paragraphs and tables of what it draws."""
    contents: list[Any] = []
    for node in form.iter(f"{W}txbxContent", _CHART, _DIAGRAM):
        if node.tag == _CHART and (chart := related(node.get(f"{_R}id") or "")):
            contents += [_paragraph(chart_title(chart)), *(_table(rows) for rows, _ in chart_rows(chart))]
        elif node.tag == _DIAGRAM and (diagram := related(node.get(f"{_R}dm") or "")):
            contents += map(_paragraph, diagram_items(diagram))
        elif node.tag == f"{W}txbxContent":
            contents.append(node)
    return contents


def _paragraph(text: str) -> Any:
    paragraph = etree.Element(f"{W}p")
    etree.SubElement(paragraph, f"{W}r").append(text_element(text))
    return paragraph


def _table(rows: Iterable[Iterable[str]]) -> Any:
    table = etree.Element(f"{W}tbl")
    for row in rows:
        line = etree.SubElement(table, f"{W}tr")
        for cell in row:
            etree.SubElement(line, f"{W}tc").append(_paragraph(cell))
    return table


def _fill_skipped_columns(row: Any) -> None:
    """Add an empty cell for each column that the row skips at its left, which mammoth does not know."""
    skipped = row.find(f"{W}trPr/{W}gridBefore")
    number = whole_number(None if skipped is None else skipped.get(f"{W}val"), 0)
    for _ in range(min(number, _MOST_COLUMNS)):
        row.find(f"{W}trPr").addnext(etree.Element(f"{W}tc"))


def _mark_head(table: Any) -> None:
    """Mark the first row as one that names the columns, if the table is set as having one.

    Only a marked row is repeated on every page, and few people mark it; every table that Word makes has the setting.
    """
    rows = [*table.iterchildren(f"{W}tr")]
    look = table.find(f"{W}tblPr/{W}tblLook")
    if look is None or len(rows) < 2 or any(row.find(f"{W}trPr/{W}tblHeader") is not None for row in rows):
        return
    named = look.get(f"{W}firstRow")
    if named in ("1", "true", "on") if named else int(look.get(f"{W}val") or "0", 16) & _FIRST_ROW:
        properties = rows[0].find(f"{W}trPr")
        if properties is None:
            properties = etree.Element(f"{W}trPr")
            rows[0].insert(0, properties)
        etree.SubElement(properties, f"{W}tblHeader")
