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
        language = str(book.get("metadata", {}).get("language_info", {}).get("name", "python"))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(f"it is no Jupyter notebook of format 4: {error}") from error
    blocks: list[Block] = []
    left_out: list[LeftOut] = []
    for cell in cells:
        source = _text(cell.get("source", ""))
        if cell.get("cell_type") == "markdown":
            cell_blocks, dropped = markdown_blocks(source)
            blocks += cell_blocks
            left_out += dropped
        elif cell.get("cell_type") == "code":
            printed = [code_block(_output_text(output)) for output in cell.get("outputs", ())]
            blocks += [Block("code", text) for text in (code_block(source, language), *printed) if text]
        elif source.strip():
            blocks.append(Block("paragraph", source.strip()))
    return Reading(blocks=tuple(blocks), left_out=tuple(left_out))


def _output_text(output: dict[str, Any]) -> str:
    return _text(output.get("text") or output.get("data", {}).get("text/plain") or "")


def _text(source: Any) -> str:
    return "".join(source) if isinstance(source, list) else str(source)
