"""Word files (.docx): automatic numbers and formulas are written out, then mammoth turns the file into HTML."""

import posixpath
import re
import zipfile

from lxml import etree

from ragtune.knowledge.readers.archives import open_archive, read_part, with_parts
from ragtune.knowledge.readers.dom import DomReader, parse_fragment
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.knowledge.readers.word_headings import WordHeadings
from ragtune.knowledge.readers.word_markup import Related, W, parse_part, rewrite
from ragtune.knowledge.readers.word_math import write_formulas
from ragtune.knowledge.readers.word_numbers import WordNumbers
from ragtune.records import LeftOut

_DOCUMENT = "word/document.xml"
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_RELATION = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"


def read_word(raw: bytes) -> Reading:
    """Return a Word file with tracked changes accepted; raise UnreadableError if it is damaged."""
    import mammoth

    archive = open_archive(raw, "DOCX")
    if read_part(archive, _DOCUMENT, "DOCX") is None:
        raise UnreadableError(f"the DOCX is damaged: it holds no {_DOCUMENT}")
    reader = DomReader()
    try:
        styles = read_part(archive, "word/styles.xml", "DOCX")
        numbers, headings = WordNumbers(read_part(archive, "word/numbering.xml", "DOCX"), styles), WordHeadings(styles)
        parts = {}
        for name in (_DOCUMENT, *_NOTES):
            if (part := read_part(archive, name, "DOCX")) is None:
                continue
            root = parse_part(part)
            reader.left_out += rewrite(root, _related(archive, name))
            if name == _DOCUMENT:
                numbers.write_into(root)
                headings.mark_in(root)  # after the numbers, which may depend on the style
            write_formulas(root)
            parts[name] = bytes(etree.tostring(root))
        page = mammoth.convert_to_html(with_parts(archive, parts, "DOCX")).value
    except (etree.XMLSyntaxError, KeyError, ValueError, OSError) as error:
        raise UnreadableError(f"the DOCX is damaged: {error}") from error
    blocks = reader.read(parse_fragment(page)) if page.strip() else []
    for name in archive.namelist():
        match = re.fullmatch(r"word/(header|footer|comments)\d*\.xml", name)
        if match is None:
            continue
        parser = etree.XMLParser(recover=True, resolve_entities=False)
        edge = etree.fromstring(read_part(archive, name, "DOCX") or b"<a/>", parser)
        # Neither the head of a page nor a comment is text of the document: damage in it costs only the report of it.
        words = " ".join(edge.itertext(f"{W}t")).split() if edge is not None else []
        if words:
            reason = "comment" if match[1] == "comments" else "page header or footer"
            reader.left_out.append(LeftOut(reason=reason, text=" ".join(words)))
    return Reading(blocks=tuple(blocks), left_out=tuple(reader.left_out))


def _related(archive: zipfile.ZipFile, name: str) -> Related:
    """Return a function that finds the parts to which a part of the file refers."""
    folder, _, file = name.rpartition("/")
    relations = read_part(archive, f"{folder}/_rels/{file}.rels", "DOCX")
    links = parse_part(relations).iter(_RELATION) if relations else ()
    targets = {link.get("Id"): link.get("Target") or "" for link in links}

    def related(identifier: str) -> bytes | None:
        target = targets.get(identifier, "")
        path = target.removeprefix("/") if target.startswith("/") else posixpath.normpath(f"{folder}/{target}")
        return read_part(archive, path, "DOCX") if target else None

    return related
