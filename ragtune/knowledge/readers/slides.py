"""PowerPoint files (.pptx): a slide is a page; its shapes, charts and diagrams are read from top to bottom."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from lxml import etree

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.archives import open_archive
from ragtune.knowledge.readers.charts import chart_tables, chart_title, diagram_items
from ragtune.knowledge.readers.dom import table_text
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.knowledge.readers.word_math import formula_text
from ragtune.records import LeftOut

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_FORMULA = "{http://schemas.openxmlformats.org/officeDocument/2006/math}oMath"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_DATA = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}dm"


def read_slides(raw: bytes) -> Reading:
    """Return a presentation with its speaker notes; raise UnreadableError if it is damaged."""
    from pptx import Presentation

    open_archive(raw, "PPTX").close()
    try:
        show = Presentation(io.BytesIO(raw))
    except (KeyError, ValueError, OSError, AttributeError) as error:
        raise UnreadableError(f"the PPTX is damaged: {error}") from error
    blocks: list[Block] = []
    left_out: list[LeftOut] = []
    for page, slide in enumerate(show.slides, start=1):
        title = slide.shapes.title
        if title is not None and title.has_text_frame and title.text_frame.text.strip():
            blocks.append(Block("heading", " ".join(title.text_frame.text.split()), 2, page))
        for shape in _in_order(slide.shapes):
            if title is not None and shape.shape_id == title.shape_id:
                continue
            blocks += _blocks(shape, slide.part, page)
            if shape.shape_type is not None and shape.name and "PICTURE" in str(shape.shape_type):
                left_out.append(LeftOut(reason="image", text=shape.name))
        for choice in _choices(slide.shapes.element):
            blocks += _text_block(choice.iter(f"{_A}p"), page)
        left_out += _comments_and_links(slide.part)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = slide.notes_slide.notes_text_frame.text.strip()
            if notes:
                blocks.append(Block("paragraph", f"Notes: {notes}", page=page))
    return Reading(blocks=tuple(blocks), title=str(show.core_properties.title or "").strip(), left_out=tuple(left_out))


def _in_order(shapes: Any) -> Iterator[Any]:
    """Yield the shapes by their place, groups opened; a shape without a place of its own keeps its turn."""
    for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
        if hasattr(shape, "shapes"):
            yield from _in_order(shape.shapes)
        else:
            yield shape


def _blocks(shape: Any, slide: Any, page: int) -> list[Block]:
    if getattr(shape, "has_table", False):
        rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in shape.table.rows]
        return [Block("table", table_text(rows), page=page)]
    if getattr(shape, "has_chart", False):
        tables = [Block("table", table, page=page) for table in chart_tables(shape.chart_part.blob)]
        return (
            [Block("paragraph", title, page=page), *tables] if (title := chart_title(shape.chart_part.blob)) else tables
        )
    diagram = next(shape.element.iter(_DIAGRAM), None)
    if diagram is not None:
        items = diagram_items(slide.related_part(diagram.get(_DATA)).blob)
        return [Block("list", "\n".join(f"- {item}" for item in items), page=page)] if items else []
    if not shape.has_text_frame:
        return []
    return _text_block((paragraph._p for paragraph in shape.text_frame.paragraphs), page)


def _text_block(paragraphs: Iterable[Any], page: int) -> list[Block]:
    """Return the paragraphs of a shape as a list, or as a paragraph if there is one."""
    lines = [(_level(paragraph), text) for paragraph in paragraphs if (text := _paragraph_text(paragraph))]
    if len(lines) == 1:
        return [Block("paragraph", lines[0][1], page=page)]
    return [Block("list", "\n".join(f"{'  ' * level}- {text}" for level, text in lines), page=page)] if lines else []


def _paragraph_text(paragraph: Any) -> str:
    """Return the words of a paragraph; formulas as text on one line."""
    text = ""
    for node in paragraph.iter(f"{_A}t", f"{_A}br", f"{_A}tab", _FORMULA):
        text += formula_text(node) if node.tag == _FORMULA else node.text or "" if node.tag == f"{_A}t" else " "
    return " ".join(text.split())


def _level(paragraph: Any) -> int:
    properties = paragraph.find(f"{_A}pPr")
    return 0 if properties is None else int(properties.get("lvl") or 0)


def _choices(shapes: Any) -> Iterator[Any]:
    """Yield the shapes that stand in the file in two forms, which python-pptx does not see: those with formulas."""
    for alternatives in shapes.iter(f"{_COMPATIBILITY}AlternateContent"):
        if alternatives.getparent().tag.endswith(("}spTree", "}grpSp")):
            forms = [*alternatives.iter(f"{_COMPATIBILITY}Choice", f"{_COMPATIBILITY}Fallback")]
            yield from [form for form in forms if any(map(_paragraph_text, form.iter(f"{_A}p")))][:1]


def _comments_and_links(slide: Any) -> Iterator[LeftOut]:
    for link in slide.rels.values():
        if link.is_external:
            yield LeftOut(reason="link target", text=link.target_ref)
        elif link.reltype.endswith("/comments"):
            root = etree.fromstring(link.target_part.blob, etree.XMLParser(resolve_entities=False))
            words = " ".join("".join(root.itertext(f"{_P}text", f"{_A}t")).split())
            if words:
                yield LeftOut(reason="comment", text=words)
