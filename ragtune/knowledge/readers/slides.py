"""PowerPoint files (.pptx): a slide is a page; its shapes, charts and diagrams are read from top to bottom.

Hidden slides and shapes, and the footers of slides, are left out.
"""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from lxml import etree

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.archives import open_archive
from ragtune.knowledge.readers.charts import chart_tables, chart_title, diagram_items
from ragtune.knowledge.readers.marks import superscript, table_text, written_number
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.knowledge.readers.word_math import formula_text
from ragtune.records import LeftOut
from ragtune.text.whitespace import collapse_whitespace

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_FORMULA = "{http://schemas.openxmlformats.org/officeDocument/2006/math}oMath"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_FOOTERS = frozenset({"dt", "ftr", "hdr", "sldNum"})
# The kinds of automatic numbers: ECMA-376 Part 1, section 20.1.10.61.
_NUMBER_FORMS = {"alphaLc": "lowerLetter", "alphaUc": "upperLetter", "romanLc": "lowerRoman", "romanUc": "upperRoman"}
_NUMBER_MARKS = {"ParenBoth": "({})", "ParenR": "{})", "Plain": "{}"}
_SAME_ROW = 0.25  # shapes whose tops differ by less than this share of the lower one stand side by side; by hand
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
        slide_blocks, dropped = _read_slide(slide, page)
        left_out += dropped
        if slide.element.get("show") in ("0", "false"):
            words = collapse_whitespace(" ".join(block.text for block in slide_blocks))
            left_out += [LeftOut(reason="hidden slide", text=words)] if words else []
        else:
            blocks += slide_blocks
    return Reading(blocks=tuple(blocks), title=str(show.core_properties.title or "").strip(), left_out=tuple(left_out))


def _read_slide(slide: Any, page: int) -> tuple[list[Block], list[LeftOut]]:
    """Return the blocks of a slide with its notes, and what is in it and not in them."""
    blocks: list[Block] = []
    left_out: list[LeftOut] = []
    title = slide.shapes.title
    if title is not None and title.has_text_frame and (heading := _frame_text(title.text_frame, " ")):
        blocks.append(Block("heading", heading, 2, page))
    for shape in _in_order(slide.shapes):
        properties = next(shape.element.iter(f"{_P}cNvPr"))
        is_picture = shape.shape_type is not None and "PICTURE" in str(shape.shape_type)
        if description := properties.get("descr") or (shape.name if is_picture else ""):
            left_out.append(LeftOut(reason="image", text=collapse_whitespace(description)))
        if title is not None and shape.shape_id == title.shape_id:
            continue
        shape_blocks = _blocks(shape, slide.part, page)
        if reason := _reason_to_leave_out(shape, properties):
            left_out += [LeftOut(reason=reason, text=collapse_whitespace(block.text)) for block in shape_blocks]
        else:
            blocks += shape_blocks
    for choice in _choices(slide.shapes.element):
        blocks += _text_block(choice.iter(f"{_A}p"), page)
    left_out += _comments_and_links(slide.part)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = _frame_text(slide.notes_slide.notes_text_frame, "\n")
        blocks += [Block("paragraph", f"Notes: {notes}", page=page)] if notes else []
    return blocks, left_out


def _reason_to_leave_out(shape: Any, properties: Any) -> str:
    if properties.get("hidden") in ("1", "true"):
        return "hidden"
    place = next(shape.element.iter(f"{_P}ph"), None)
    return "slide footer" if place is not None and place.get("type") in _FOOTERS else ""


def _in_order(shapes: Any) -> Iterator[Any]:
    """Yield the shapes row by row, groups opened; a shape without a place of its own keeps its turn."""
    rows: list[list[Any]] = []
    for shape in sorted(shapes, key=lambda shape: shape.top or 0):
        first = rows[-1][0] if rows else None
        if first is None or (shape.top or 0) - (first.top or 0) > _SAME_ROW * min(shape.height or 0, first.height or 0):
            rows.append([])
        rows[-1].append(shape)
    for shape in (shape for row in rows for shape in sorted(row, key=lambda shape: shape.left or 0)):
        if hasattr(shape, "shapes"):
            yield from _in_order(shape.shapes)
        else:
            yield shape


def _blocks(shape: Any, slide: Any, page: int) -> list[Block]:
    if getattr(shape, "has_table", False):
        return [Block("table", table_text(_cells(shape.table)), page=page)]
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


def _cells(table: Any) -> list[list[str]]:
    """Return the texts of a table's cells, merged ones filled in."""
    grid = [[_frame_text(cell.text_frame, " ") for cell in row.cells] for row in table.rows]
    for row, cells in enumerate(table.rows):
        for column, cell in enumerate(cells.cells):
            if cell.is_merge_origin:
                for line in grid[row : row + cell.span_height]:
                    line[column : column + cell.span_width] = [grid[row][column]] * cell.span_width
    return grid


def _frame_text(frame: Any, joint: str) -> str:
    return joint.join(text for paragraph in frame.paragraphs if (text := _paragraph_text(paragraph._p)))


def _text_block(paragraphs: Iterable[Any], page: int) -> list[Block]:
    """Return the paragraphs of a shape as a list, or as a paragraph if there is one."""
    counters: dict[int, int] = {}
    lines = []
    for paragraph in paragraphs:
        if text := _paragraph_text(paragraph):
            level = _level(paragraph)
            lines.append((level, _number(paragraph, level, counters), text))
    if len(lines) == 1:
        return [Block("paragraph", f"{lines[0][1]} {lines[0][2]}".strip(), page=page)]
    items = (f"{'  ' * level}{number or '-'} {text}" for level, number, text in lines)
    return [Block("list", "\n".join(items), page=page)] if lines else []


def _number(paragraph: Any, level: int, counters: dict[int, int]) -> str:
    """Return the number that PowerPoint shows in front of a paragraph, "" for none; count on in `counters`."""
    style = paragraph.find(f"{_A}pPr/{_A}buAutoNum")
    for deeper in [other for other in counters if other > level or (other == level and style is None)]:
        del counters[deeper]
    if style is None:
        return ""
    counters[level] = counters.get(level, int(style.get("startAt") or 1) - 1) + 1
    kind = style.get("type") or ""
    form = next((form for prefix, form in _NUMBER_FORMS.items() if kind.startswith(prefix)), "decimal")
    mark = next((mark for ending, mark in _NUMBER_MARKS.items() if kind.endswith(ending)), "{}.")
    return mark.format(written_number(counters[level], form))


def _paragraph_text(paragraph: Any) -> str:
    """Return the words of a paragraph; formulas as text on one line, exponents with their sign."""
    text = ""
    for node in paragraph.iter(f"{_A}t", f"{_A}br", f"{_A}tab", _FORMULA):
        if node.tag == _FORMULA:
            text += formula_text(node)
        elif node.tag == f"{_A}t":
            properties = node.getparent().find(f"{_A}rPr")
            shift = "0" if properties is None else properties.get("baseline") or "0"
            text += node.text or "" if shift.startswith(("-", "0")) else superscript(node.text or "")
        else:
            text += " "
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
