"""HTML pages: everything visible, except for known furniture."""

import re
from typing import Any

from lxml import etree

from ragtune.knowledge.readers.dom import DomReader, is_hidden, parse_page
from ragtune.knowledge.readers.elements import text_of
from ragtune.knowledge.readers.encoding import decode, decode_as_declared
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.records import LeftOut

_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w-]+)|<\?xml[^>]+encoding\s*=\s*["']([\w-]+)""", re.I)
_HEAD_BYTES = 4096  # browsers look for the declaration in the first 1,024; generators put comments before it
_MAIN_SHARE = 0.5
"""If `<main>` holds at least this share of the page's words, the rest is taken for furniture. Chosen by hand."""


def read_web_page(raw: bytes) -> Reading:
    """Return an HTML or XHTML page; raise UnreadableError if it holds no element."""
    try:
        root = parse_page(decode_page(raw))
    except etree.ParserError as error:
        raise UnreadableError(f"the page is empty: {error}") from error
    title = next((" ".join(text_of(node).split()) for node in root.iter("title")), "")
    body = root.find("body")
    part = _main_part(body if body is not None else root)
    reader = DomReader()
    blocks = reader.read(part)
    if part is not body and body is not None:
        outside = DomReader()
        part.getparent().remove(part)
        outside.read(body)
        reader.left_out += [LeftOut(reason="outside the main part", text=block.text) for block in outside.blocks]
        reader.left_out += outside.left_out
    headings = [block.text for block in blocks if block.kind == "heading" and block.level == 1]
    if len(headings) == 1 and title.startswith(headings[0]):
        title = headings[0]  # without the name of the site behind it
    return Reading(blocks=tuple(blocks), title=title, language=root.get("lang") or "", left_out=tuple(reader.left_out))


def decode_page(raw: bytes) -> str:
    """Return the page as text, decoded by byte order mark, as UTF-8, as it declares, or as seems likeliest."""
    declared = _CHARSET.search(raw[:_HEAD_BYTES])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    if declared and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return decode_as_declared(raw, (declared[1] or declared[2]).decode("ascii"))
        except (LookupError, UnicodeError):
            pass  # an encoding that nobody knows, or a codec that is none for pages, such as `idna`
    return decode(raw)


def _main_part(body: Any) -> Any:
    """Return the element that holds the page's own text: `<main>` if it holds most of the words, else the body.

    A page of several views has a `<main>` for each, of which the others are hidden.
    """
    mains = [*body.iter("main")] or [node for node in body.iter() if node.get("role") == "main"]
    mains = [node for node in mains if not any(map(is_hidden, (node, *node.iterancestors())))]
    if len(mains) != 1:
        return body
    words = len(text_of(mains[0]).split())
    return mains[0] if words >= _MAIN_SHARE * _words_beside_furniture(body) else body


def _words_beside_furniture(body: Any) -> int:
    reader = DomReader()
    return sum(len(block.text.split()) for block in reader.read(body))
