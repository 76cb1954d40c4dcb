"""Documents drawn at random and written in every format come back with every word, in order, none twice."""

import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.json_lines import read_json_lines
from ragtune.knowledge.readers.reading import Reading
from tests.support.office_files import paragraph, word_file
from tests.support.pdf_files import PdfText, unicode_pdf

_SCRIPTS = (
    *("word{}", "größe{}", "слово{}", "字{}", "{}.5", "1,{}00", "CVE-2026-{}", "max_size_{}", "C{}#", "--flag-{}"),
    *("O'Brien{}", "Müller-Lüdenscheidt{}"),
)
_DEEPEST_ITEM = 2


@dataclass(frozen=True)
class Part:
    """A part of a document: `rows` holds the items of a list, the cells of a table or the lines of code.

    `depths` says how deep each item of a list is nested. `note` is the text of a footnote to a paragraph.
    """

    kind: str
    words: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    depths: tuple[int, ...] = ()
    note: str = ""


@st.composite
def documents(draw: st.DrawFn) -> list[Part]:
    """Draw a document; every word in it is another one, so that order and repetition can be told."""
    number = 0

    def words(least: int = 1, most: int = 6) -> str:
        nonlocal number
        drawn = draw(st.lists(st.sampled_from(_SCRIPTS), min_size=least, max_size=most))
        number += len(drawn)
        return " ".join(script.format(number - place) for place, script in enumerate(drawn))

    parts = [Part("heading", words())]
    for kind in draw(st.lists(st.sampled_from(["heading", "paragraph", "list", "table", "code"]), max_size=6)):
        if kind == "heading":
            parts.append(Part(kind, words()))
        elif kind == "paragraph":
            parts.append(Part(kind, words(), note=words() if draw(st.booleans()) else ""))
        else:
            size = draw(st.integers(2, 4))
            width = draw(st.integers(2, 3)) if kind == "table" else 1
            rows = tuple(tuple(words(1, 3) for _ in range(width)) for _ in range(size))
            depths = [0]
            while kind == "list" and len(depths) < size:
                depths.append(draw(st.integers(0, min(depths[-1] + 1, _DEEPEST_ITEM))))
            parts.append(Part(kind, rows=rows, depths=tuple(depths)))
    return parts


def notes_of(parts: list[Part]) -> list[str]:
    return [part.note for part in parts if part.note]


def as_markdown(parts: list[Part]) -> bytes:
    blocks, notes = [], 0
    for part in parts:
        if part.kind == "heading":
            blocks.append(f"# {_escaped(part.words)}")
        elif part.kind == "paragraph":
            notes += bool(part.note)
            blocks.append(_escaped(part.words) + (f" [^{notes}]" if part.note else ""))
        elif part.kind == "list":
            items = zip(part.rows, part.depths, strict=True)
            blocks.append("\n".join(f"{'  ' * depth}- {_escaped(row[0])}" for row, depth in items))
        elif part.kind == "table":
            lines = [f"| {' | '.join(map(_escaped, row))} |" for row in part.rows]
            blocks.append("\n".join([lines[0], "|---" * len(part.rows[0]) + "|", *lines[1:]]))
        else:
            blocks.append("\n".join(["```", *(row[0] for row in part.rows), "```"]))
    blocks += [f"[^{number}]: {_escaped(note)}" for number, note in enumerate(notes_of(parts), 1)]
    # Two lists in a row would be one.
    return "\n\n<!-- -->\n\n".join(blocks).encode()


def _escaped(text: str) -> str:
    return re.sub(r"([_#*])", r"\\\1", text)


def as_html(parts: list[Part]) -> bytes:
    blocks, notes = [], 0
    for part in parts:
        rows = [[html.escape(cell) for cell in row] for row in part.rows]
        if part.kind == "heading":
            blocks.append(f"<h1>{html.escape(part.words)}</h1>")
        elif part.kind == "paragraph":
            notes += bool(part.note)
            mark = f'<a href="#n{notes}" role="doc-noteref">{notes}</a>' if part.note else ""
            blocks.append(f"<p>{html.escape(part.words)} {mark}</p>")
        elif part.kind == "list":
            blocks.append(_nested([row[0] for row in rows], part.depths))
        elif part.kind == "table":
            cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
            blocks.append(f"<table>{cells}</table>")
        else:
            blocks.append("<pre>" + "\n".join(row[0] for row in rows) + "</pre>")
    blocks += [f'<aside role="doc-footnote"><p>{html.escape(note)}</p></aside>' for note in notes_of(parts)]
    return f"<!DOCTYPE html><html><body><main>{''.join(blocks)}</main></body></html>".encode()


def _nested(items: list[str], depths: tuple[int, ...]) -> str:
    """Return the items as lists in each other."""
    page, open_lists = "", 0
    for item, depth in zip(items, depths, strict=True):
        while open_lists <= depth:
            page, open_lists = page + "<ul>", open_lists + 1
        while open_lists > depth + 1:
            page, open_lists = page + "</li></ul>", open_lists - 1
        page += f"<li>{item}"
    return page + "</li></ul>" * open_lists


def as_restructured_text(parts: list[Part]) -> bytes:
    blocks = []
    for part in parts:
        rows = [[_literal(cell) for cell in row] for row in part.rows]
        if part.kind == "heading":
            blocks.append(f"{_literal(part.words)}\n{'=' * 80}")
        elif part.kind == "paragraph":
            blocks.append(_literal(part.words) + (" [#]_" if part.note else ""))
        elif part.kind == "list":
            items = zip(rows, part.depths, strict=True)
            blocks.append("\n\n".join(f"{'  ' * depth}* {row[0]}" for row, depth in items))
        elif part.kind == "table":
            cells = "\n".join(
                f"   {'*' if place == 0 else ' '} - {cell}" for row in rows for place, cell in enumerate(row)
            )
            blocks.append(f".. list-table::\n\n{cells}")
        else:
            blocks.append("::\n\n" + "\n".join(f"    {row[0]}" for row in part.rows))
    blocks += [f".. [#] {_literal(note)}" for note in notes_of(parts)]
    return "\n\n..\n\n".join(blocks).encode()


def _literal(text: str) -> str:
    return re.sub(r"([_*-])", r"\\\1", text)


def as_plain_text(parts: list[Part]) -> bytes:
    blocks = []
    for part in parts:
        if part.kind == "list":
            items = zip(part.rows, part.depths, strict=True)
            blocks.append("\n".join(f"{'  ' * depth}- {row[0]}" for row, depth in items))
        else:
            blocks.append(part.words or "\n".join("   ".join(row) for row in part.rows))
    return "\n\n".join([*blocks, *notes_of(parts)]).encode()


def as_word(parts: list[Part]) -> bytes:
    levels = "".join(f'<w:lvl w:ilvl="{level}"><w:numFmt w:val="bullet"/></w:lvl>' for level in range(3))
    numbering = f'<w:abstractNum w:abstractNumId="0">{levels}</w:abstractNum>'
    numbering += '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
    blocks, notes = [], 0
    for part in parts:
        if part.kind == "table":
            rows = (("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row)) for row in part.rows)
            blocks.append("<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>")
        elif part.kind == "list":
            for (item,), depth in zip(part.rows, part.depths, strict=True):
                place = f'<w:numPr><w:ilvl w:val="{depth}"/><w:numId w:val="1"/></w:numPr>'
                blocks.append(paragraph(item, place))
        elif part.words:
            notes += bool(part.note)
            mark = f'<w:r><w:footnoteReference w:id="{notes}"/></w:r></w:p>' if part.note else "</w:p>"
            blocks.append(paragraph(f"{part.words} ").removesuffix("</w:p>") + mark)
        else:
            blocks += [paragraph(row[0]) for row in part.rows]
    footnotes = "".join(
        f'<w:footnote w:id="{number}">{paragraph(note)}</w:footnote>' for number, note in enumerate(notes_of(parts), 1)
    )
    return word_file("".join(blocks), numbering=numbering, footnotes=footnotes)


def as_slides(parts: list[Part]) -> bytes:
    from pptx import Presentation
    from pptx.util import Inches

    show = Presentation()
    shapes = show.slides.add_slide(show.slide_layouts[6]).shapes
    for place, part in enumerate([*parts, *(Part("paragraph", note) for note in notes_of(parts))]):
        box = (Inches(1), Inches(place), Inches(6), Inches(1))
        if part.kind == "table":
            table = shapes.add_table(len(part.rows), len(part.rows[0]), *box).table
            for row, cells in enumerate(part.rows):
                for column, cell in enumerate(cells):
                    table.cell(row, column).text = cell
            continue
        frame = shapes.add_textbox(*box).text_frame
        lines = [part.words] if part.words else [row[0] for row in part.rows]
        for number, line in enumerate(lines):
            text = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
            text.text, text.level = line, part.depths[number] if part.kind == "list" else 0
    file = io.BytesIO()
    show.save(file)
    return file.getvalue()


def as_pdf(parts: list[Part]) -> bytes:
    texts: list[PdfText] = []
    height = 760.0
    for part in [*parts, *(Part("paragraph", note) for note in notes_of(parts))]:
        size = 18.0 if part.kind == "heading" else 10.0
        height -= 3 * size
        # No cell reaches into the next: a letter is 0.55 of the size wide.
        width = 30 + 0.55 * size * max((len(cell) for row in part.rows for cell in row), default=0)
        for number, row in enumerate(part.rows or ((part.words,),)):
            indent = 12 * part.depths[number] if part.kind == "list" else 0
            mark = "• " if part.kind == "list" else ""
            texts += [(60 + indent + width * column, height, size, mark + cell) for column, cell in enumerate(row)]
            height -= 14
    return unicode_pdf(texts)


def as_csv(parts: list[Part]) -> bytes:
    rows = [row for part in parts for row in (part.rows or ((part.words,),))] + [(note,) for note in notes_of(parts)]
    return "".join(";".join([*row, *[""] * (3 - len(row))]) + "\n" for row in rows).encode()


def as_notebook(parts: list[Part]) -> bytes:
    # Notes stand at the end of their cell, so that a document with notes is one cell.
    cells = [as_markdown([part]) for part in parts] if not notes_of(parts) else [as_markdown(parts)]
    return json.dumps(
        {"cells": [{"cell_type": "markdown", "source": cell.decode()} for cell in cells], "metadata": {}}
    ).encode()


def as_workbook(parts: list[Part]) -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "s"
    rows = [row for part in parts for row in (part.rows or ((part.words,),))] + [(note,) for note in notes_of(parts)]
    for row in rows:
        book.active.append([f"'{cell}" if cell[0] in "-=" else cell for cell in row])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def words_of(parts: list[Part]) -> list[str]:
    texts = [text for part in parts for text in (part.words, *(cell for row in part.rows for cell in row))]
    return [word for text in [*texts, *notes_of(parts)] for word in text.split()]


FORMATS: dict[str, Callable[[list[Part]], bytes]] = {
    "a.md": as_markdown,
    "a.html": as_html,
    "a.rst": as_restructured_text,
    "a.txt": as_plain_text,
    "a.docx": as_word,
    "a.pptx": as_slides,
    "a.pdf": as_pdf,
    "a.csv": as_csv,
    "a.ipynb": as_notebook,
    "a.xlsx": as_workbook,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_word_comes_back_in_order_and_none_twice(name: str) -> None:
    @given(documents())
    def check(parts: list[Part]) -> None:
        raw = FORMATS[name](parts)
        reading = read_bytes(name, raw)
        words = words_of(parts)
        found = re.findall("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)), reading.text)
        assert found == words
        assert audit(name, raw, reading)[1] == ()

    check()


def test_every_word_of_json_lines_comes_back_in_order_and_none_twice() -> None:
    @given(st.lists(documents(), min_size=1, max_size=3))
    def check(records: list[list[Part]]) -> None:
        lines = [json.dumps({"text": as_markdown(parts).decode()}, ensure_ascii=False) for parts in records]
        readings = list(read_json_lines("\n".join(lines).encode()))
        for parts, reading in zip(records, readings, strict=True):
            assert isinstance(reading, Reading)
            words = words_of(parts)
            pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
            assert re.findall(pattern, reading.text) == words

    check()
