"""Jupyter notebooks: Markdown cells as text, code cells and what they printed as code."""

import json
from typing import Any

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.dom import code_block
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.markdown import markdown_blocks
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.records import LeftOut


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
            printed = [code_block(_printed(output)) for output in cell.get("outputs") or ()]
            blocks += [Block("code", text) for text in (code_block(source, language), *printed) if text]
        elif source.strip():
            blocks.append(Block("paragraph", source.strip()))
    return Reading(blocks=tuple(blocks), left_out=tuple(left_out))


def _printed(output: Any) -> str:
    """Return what an output shows as text, the name and reason of an error included."""
    if not isinstance(output, dict):
        return ""
    if output.get("ename"):
        return f"{output['ename']}: {output.get('evalue') or ''}"
    return _text(output.get("text") or (output.get("data") or {}).get("text/plain") or "")


def _text(source: Any) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source or "")
