"""PowerPoint files (.pptx): a slide is a page; its shapes, charts and diagrams are read from top to bottom."""

import io
from collections.abc import Iterator
from typing import Any

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.archives import open_archive
from ragtune.knowledge.readers.charts import chart_tables, chart_title, diagram_items
from ragtune.knowledge.readers.dom import table_text
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.records import LeftOut

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
    lines = [(paragraph.level, " ".join(paragraph.text.split())) for paragraph in shape.text_frame.paragraphs]
    lines = [(level, text) for level, text in lines if text]
    if len(lines) == 1:
        return [Block("paragraph", lines[0][1], page=page)]
    return [Block("list", "\n".join(f"{'  ' * level}- {text}" for level, text in lines), page=page)] if lines else []
