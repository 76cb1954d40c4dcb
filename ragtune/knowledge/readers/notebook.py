"""Jupyter notebooks: Markdown cells as text, code cells as code, their output in the form that a notebook shows."""

import json
import re
from typing import Any

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.dom import DomReader, parse_fragment
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.markdown import markdown_blocks
from ragtune.knowledge.readers.marks import code_block
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.records import LeftOut
from ragtune.text.whitespace import collapse_whitespace

# Commands of a terminal: colours, moves of the cursor, titles of windows. A notebook shows the colours, not the codes.
_COLOURS = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


def read_notebook(raw: bytes) -> Reading:
    """Return a notebook of format 4; raise UnreadableError if it is none."""
    try:
        book = json.loads(decode(raw))
        cells = book["cells"]
        language = str(((book.get("metadata") or {}).get("language_info") or {}).get("name", "python"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if b'"worksheets"' in raw:
            reason = "it is a Jupyter notebook of format 3; open it in Jupyter and save it in format 4"
            raise UnreadableError(reason) from error
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
        trace = collapse_whitespace(_COLOURS.sub("", _text(output.get("traceback"))))
        dropped = [LeftOut(reason="traceback", text=trace)] if trace else []
        return _code(f"{output['ename']}: {output.get('evalue') or ''}"), dropped
    forms = output.get("data")
    forms = forms if isinstance(forms, dict) else {}
    markdown, page, formula = (_text(forms.get(f"text/{name}")) for name in ("markdown", "html", "latex"))
    if markdown.strip():
        return markdown_blocks(markdown)
    if page.strip():
        reader = DomReader()
        if blocks := reader.read(parse_fragment(page)):
            return blocks, reader.left_out
    if formula.strip():
        return [Block("paragraph", formula.strip())], []
    shown, overwritten = _as_on_a_terminal(_text(output.get("text") or forms.get("text/plain")))
    if any(name.startswith("image/") for name in forms):
        return [], [LeftOut(reason="image", text=shown.strip())] if shown.strip() else []
    return _code(shown), [LeftOut(reason="overwritten output", text=overwritten)] if overwritten else []


def _as_on_a_terminal(text: str) -> tuple[str, str]:
    r"""Return what a terminal shows of a text, without colours, and what it overwrites: all before a `\r` of a line."""
    lines = [[part for part in line.split("\r") if part] for line in _COLOURS.sub("", text).split("\n")]
    overwritten = (part for parts in lines for part in parts[:-1])
    return "\n".join(parts[-1] if parts else "" for parts in lines), collapse_whitespace(" ".join(overwritten))


def _code(text: str, language: str = "") -> list[Block]:
    fenced = code_block(text, language)
    return [Block("code", fenced)] if fenced else []


def _text(source: Any) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source or "")
