"""Small Word, Excel and PowerPoint files, made in memory."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

from ragtune.knowledge.readers.reading import Reading

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_M = "http://schemas.openxmlformats.org/officeDocument/2006/math"
_KIND = "application/vnd.openxmlformats-officedocument.wordprocessingml.{}+xml"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_DEFAULT = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
_CONTENT = {"document": "document.main"}
_ROOTS = {"header": "hdr"}
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def word_file(body: str, numbering: str = "", styles: str = "", footnotes: str = "", header: str = "") -> bytes:
    """Return a .docx whose parts hold this XML; the prefixes `w:` and `m:` are declared."""
    parts = {"document": f"<w:body>{body}</w:body>", "numbering": numbering, "styles": styles}
    parts |= {"footnotes": footnotes, "header": header}
    parts = {name: xml for name, xml in parts.items() if xml}
    kinds = "".join(
        f'<Override PartName="/word/{name}.xml" ContentType="{_KIND.format(_CONTENT.get(name, name))}"/>'
        for name in parts
    )
    links = "".join(_link(f"p{n}", name, f"{name}.xml") for n, name in enumerate(parts) if name != "document")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{_PACKAGE}/content-types">{_DEFAULT}{kinds}</Types>')
        archive.writestr("_rels/.rels", _links(_link("r1", "officeDocument", "word/document.xml")))
        archive.writestr("word/_rels/document.xml.rels", _links(links))
        for name, xml in parts.items():
            root = _ROOTS.get(name, name)
            archive.writestr(f"word/{name}.xml", f'<w:{root} xmlns:w="{_W}" xmlns:m="{_M}">{xml}</w:{root}>')
    return buffer.getvalue()


def _link(name: str, kind: str, target: str) -> str:
    return f'<Relationship Id="{name}" Type="{_OFFICE}/{kind}" Target="{target}"/>'


def _links(links: str) -> str:
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>'


def paragraph(text: str, properties: str = "") -> str:
    """Return a Word paragraph; `properties` is the inside of its `w:pPr`."""
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t xml:space='preserve'>{text}</w:t></w:r></w:p>"


def listed(reading: Reading) -> list[tuple[str, str]]:
    """Return (reason, text) of what a reading leaves out."""
    return [(part.reason, part.text) for part in reading.left_out]


def changed(raw: bytes, replaced: Mapping[str, tuple[str, str]] = {}, added: Mapping[str, str] = {}) -> bytes:
    """Return the archive with one string replaced in some parts, and with more parts."""
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            page = source.read(name)
            if name in replaced:
                before, after = replaced[name]
                assert before in page.decode()
                page = page.decode().replace(before, after).encode()
            target.writestr(name, page)
        for name, text in added.items():
            target.writestr(name, text)
    return copy.getvalue()


def saved(document: Any) -> bytes:
    """Return the file of a presentation or workbook."""
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()
