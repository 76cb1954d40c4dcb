"""Jupyter notebooks: Markdown cells as text, code cells as code, their output in the form that a notebook shows."""

import json
import re
from typing import Any

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.dom import DomReader, code_block, parse_fragment
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.markdown import markdown_blocks
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.records import LeftOut

# Commands of a terminal: colours, moves of the cursor, titles of windows. A notebook shows the colours, not the codes.
_COLOURS = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


def read_notebook(raw: bytes) -> Reading:
    """Return a notebook of format 4; raise UnreadableError if it is none."""
    try:
        book = json.loads(decode(raw))
        cells = book["cells"]
        language = str(((book.get("metadata") or {}).get("language_info") or {}).get("name", "python"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"it is no Jupyter notebook of format 4: {error}") from error
    blocks: list[Block] = []
    left_out: list[LeftOut] = []
    for cell in cells:
        if not isinstance(cell, dict):
            continue
        source = _text(cell.get("source", ""))
        if cell.get("cell_type") == "markdown":
            cell_blocks, dropped = markdown_blocks(source)
            blocks += cell_blocks
            left_out += dropped
        elif cell.get("cell_type") == "code":
            blocks += _code(source, language)
            for output in cell.get("outputs") or ():
                printed, dropped = _printed(output)
                blocks += printed
                left_out += dropped
        elif source.strip():
            blocks.append(Block("paragraph", source.strip()))
    return Reading(blocks=tuple(blocks), left_out=tuple(left_out))


def _printed(output: Any) -> tuple[list[Block], list[LeftOut]]:
    """Return what an output shows: the richest of its forms that has words, or the name and reason of an error."""
    if not isinstance(output, dict):
        return [], []
    if output.get("ename"):
        return _code(f"{output['ename']}: {output.get('evalue') or ''}"), []
    forms = output.get("data")
    forms = forms if isinstance(forms, dict) else {}
    markdown, page = _text(forms.get("text/markdown")), _text(forms.get("text/html"))
    if markdown.strip():
        return markdown_blocks(markdown)
    if page.strip():
        reader = DomReader()
        if blocks := reader.read(parse_fragment(page)):
            return blocks, reader.left_out
    return _code(_COLOURS.sub("", _text(output.get("text") or forms.get("text/plain")))), []


def _code(text: str, language: str = "") -> list[Block]:
    fenced = code_block(text, language)
    return [Block("code", fenced)] if fenced else []


def _text(source: Any) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source or "")
