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

_SCRIPTS = ("word{}", "größe{}", "слово{}", "字{}", "{}.5", "CVE-2026-{}", "max_size_{}", "C{}#", "--flag-{}")


@dataclass(frozen=True)
class Part:
    """A part of a document: `rows` holds list items with their depth, cells, lines or notes."""

    kind: str
    words: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


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
        if kind in ("heading", "paragraph"):
            parts.append(Part(kind, words()))
            continue
        size = draw(st.integers(2, 4))
        width = draw(st.integers(2, 3)) if kind == "table" else 1
        parts.append(Part(kind, rows=tuple(tuple(words(1, 3) for _ in range(width)) for _ in range(size))))
    return parts


def as_markdown(parts: list[Part]) -> bytes:
    blocks = []
    for part in parts:
        if part.kind == "heading":
            blocks.append(f"# {_escaped(part.words)}")
        elif part.kind == "paragraph":
            blocks.append(_escaped(part.words))
        elif part.kind == "list":
            blocks.append("\n".join(f"{'  ' * (n % 2)}- {_escaped(row[0])}" for n, row in enumerate(part.rows)))
        elif part.kind == "table":
            lines = [f"| {' | '.join(map(_escaped, row))} |" for row in part.rows]
            blocks.append("\n".join([lines[0], "|---" * len(part.rows[0]) + "|", *lines[1:]]))
        else:
            blocks.append("\n".join(["```", *(row[0] for row in part.rows), "```"]))
    # Two lists in a row would be one.
    return "\n\n<!-- -->\n\n".join(blocks).encode()


def _escaped(text: str) -> str:
    return re.sub(r"([_#*])", r"\\\1", text)


def as_html(parts: list[Part]) -> bytes:
    tags = {"heading": "h1", "paragraph": "p"}
    blocks = []
    for part in parts:
        rows = [[html.escape(cell) for cell in row] for row in part.rows]
        if part.kind in tags:
            blocks.append(f"<{tags[part.kind]}>{html.escape(part.words)}</{tags[part.kind]}>")
        elif part.kind == "list":
            blocks.append("<ul>" + "".join(f"<li>{row[0]}</li>" for row in rows) + "</ul>")
        elif part.kind == "table":
            cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
            blocks.append(f"<table>{cells}</table>")
        else:
            blocks.append("<pre>" + "\n".join(row[0] for row in rows) + "</pre>")
    return f"<!DOCTYPE html><html><body>{''.join(blocks)}</body></html>".encode()


def as_restructured_text(parts: list[Part]) -> bytes:
    blocks = []
    for part in parts:
        rows = [[_literal(cell) for cell in row] for row in part.rows]
        if part.kind == "heading":
            blocks.append(f"{_literal(part.words)}\n{'=' * 80}")
        elif part.kind == "paragraph":
            blocks.append(_literal(part.words))
        elif part.kind == "list":
            blocks.append("\n".join(f"* {row[0]}" for row in rows))
        elif part.kind == "table":
            cells = "\n".join(
                f"   {'*' if place == 0 else ' '} - {cell}" for row in rows for place, cell in enumerate(row)
            )
            blocks.append(f".. list-table::\n\n{cells}")
        else:
            blocks.append("::\n\n" + "\n".join(f"    {row[0]}" for row in part.rows))
    return "\n\n..\n\n".join(blocks).encode()


def _literal(text: str) -> str:
    return re.sub(r"([_*-])", r"\\\1", text)


def as_plain_text(parts: list[Part]) -> bytes:
    return "\n\n".join(part.words or "\n".join("   ".join(row) for row in part.rows) for part in parts).encode()


def as_word(parts: list[Part]) -> bytes:
    blocks = []
    for part in parts:
        if part.kind == "table":
            rows = (("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row)) for row in part.rows)
            blocks.append("<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>")
        else:
            blocks += [paragraph(part.words)] if part.words else [paragraph(row[0]) for row in part.rows]
    return word_file("".join(blocks))


def as_csv(parts: list[Part]) -> bytes:
    rows = [row for part in parts for row in (part.rows or ((part.words,),))]
    return "".join(";".join([*row, *[""] * (3 - len(row))]) + "\n" for row in rows).encode()


def as_notebook(parts: list[Part]) -> bytes:
    cells = [{"cell_type": "markdown", "source": as_markdown([part]).decode()} for part in parts]
    return json.dumps({"cells": cells, "metadata": {}}).encode()


def as_workbook(parts: list[Part]) -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "s"
    for part in parts:
        for row in part.rows or ((part.words,),):
            book.active.append([f"'{cell}" if cell[0] in "-=" else cell for cell in row])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def words_of(parts: list[Part]) -> list[str]:
    return [word for part in parts for text in (part.words, *(cell for row in part.rows for cell in row))
            for word in text.split()]  # fmt: skip


FORMATS: dict[str, Callable[[list[Part]], bytes]] = {
    "a.md": as_markdown,
    "a.html": as_html,
    "a.rst": as_restructured_text,
    "a.txt": as_plain_text,
    "a.docx": as_word,
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
