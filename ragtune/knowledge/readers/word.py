"""Word files (.docx): automatic numbers and formulas are written out, then mammoth turns the file into HTML."""

import re

from lxml import etree

from ragtune.knowledge.readers.archives import open_archive, read_part, with_parts
from ragtune.knowledge.readers.dom import DomReader, parse_fragment
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.knowledge.readers.word_math import write_formulas
from ragtune.knowledge.readers.word_numbers import WordNumbers
from ragtune.records import LeftOut

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DOCUMENT = "word/document.xml"
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")


def read_word(raw: bytes) -> Reading:
    """Return a Word file with tracked changes accepted; raise UnreadableError if it is damaged."""
    import mammoth

    archive = open_archive(raw, "DOCX")
    document = read_part(archive, _DOCUMENT, "DOCX")
    if document is None:
        raise UnreadableError(f"the DOCX is damaged: it holds no {_DOCUMENT}")
    try:
        numbers = WordNumbers(
            read_part(archive, "word/numbering.xml", "DOCX"), read_part(archive, "word/styles.xml", "DOCX")
        )
        parts = {_DOCUMENT: write_formulas(numbers.write_into(document))}
        for name in _NOTES:
            if notes := read_part(archive, name, "DOCX"):
                parts[name] = write_formulas(notes)
        numbered = with_parts(archive, parts, "DOCX")
        page = mammoth.convert_to_html(numbered).value
    except (etree.XMLSyntaxError, KeyError, ValueError, OSError) as error:
        raise UnreadableError(f"the DOCX is damaged: {error}") from error
    reader = DomReader()
    blocks = reader.read(parse_fragment(page)) if page.strip() else []
    for name in archive.namelist():
        match = re.fullmatch(r"word/(header|footer|comments)\d*\.xml", name)
        if match is None:
            continue
        parser = etree.XMLParser(recover=True, resolve_entities=False)
        edge = etree.fromstring(read_part(archive, name, "DOCX") or b"<a/>", parser)
        # Neither the head of a page nor a comment is text of the document: damage in it costs only the report of it.
        words = " ".join(edge.itertext(f"{_W}t")).split() if edge is not None else []
        if words:
            reason = "comment" if match[1] == "comments" else "page header or footer"
            reader.left_out.append(LeftOut(reason=reason, text=" ".join(words)))
    return Reading(blocks=tuple(blocks), left_out=tuple(reader.left_out))
