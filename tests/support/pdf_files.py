"""Small PDF files, made in memory."""

from collections.abc import Sequence

PdfText = tuple[float, float, float, str]
"""Left edge, height above the bottom and size of the type, in points, and the words."""


def pdf_file(pages: Sequence[Sequence[PdfText]], title: str = "", author: str = "") -> bytes:
    """Return a PDF of these pages, each a list of texts at their places, in Helvetica."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, texts in enumerate(pages):
        stream = "\n".join(f"BT /F1 {size} Tf {x} {y} Td ({_escaped(words)}) Tj ET" for x, y, size, words in texts)
        raw = stream.encode("cp1252")
        bodies.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >>"
            b" /Contents %d 0 R >>" % (5 + 2 * number)
        )
        bodies.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(raw), raw))
    bodies.append(f"<< /Title ({_escaped(title)}) /Author ({_escaped(author)}) >>".encode("cp1252"))
    return _file(bodies, f"/Info {len(bodies)} 0 R")


def drawn_pdf(stream: str, page: str = "", catalog: str = "", objects: Sequence[str] = ()) -> bytes:
    """Return a PDF of one page with these drawing commands; the font is `/F1`, and `objects` are numbered from 6.

    `page` and `catalog` are further entries of the page's and the file's dictionary.
    """
    raw = stream.encode("cp1252")
    bodies = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >>"
        b" /Contents 5 0 R %s >>" % page.encode(),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(raw), raw),
        *(one.encode() for one in objects),
    ]
    return _file(bodies)


def _file(bodies: Sequence[bytes], trailer_entry: str = "") -> bytes:
    """Return a PDF of numbered objects, of which the first is the catalogue."""
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (len(bodies) + 1, trailer_entry.encode())
    return (
        out
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(bodies) + 1, table)
        + trailer
        + b"startxref\n%d\n%%%%EOF" % len(out)
    )


def unicode_pdf(texts: Sequence[PdfText]) -> bytes:
    """Return a PDF of these texts in any script; a text below the foot of a page stands on the next one.

    The font has no glyphs: each letter is its own number, and a table says which character it is.
    """
    pages: list[list[PdfText]] = [[]]
    for left, height, size, words in texts:
        page = int((760 - height) // 700)
        pages += [[] for _ in range(page + 1 - len(pages))]
        pages[page].append((left, height + 700 * page, size, words))
    letters = sorted({letter for _, _, _, words in texts for letter in words})
    rows = "\n".join(f"<{ord(letter):04X}> <{ord(letter):04X}>" for letter in letters)
    table = "/CIDInit /ProcSet findresource begin 1 begincodespacerange <0000> <FFFF> endcodespacerange "
    table += f"{len(letters)} beginbfchar\n{rows}\nendbfchar endcmap"
    kids = " ".join(f"{7 + 2 * number} 0 R" for number in range(len(pages)))
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Any /Encoding /Identity-H /DescendantFonts [4 0 R]"
        b" /ToUnicode 6 0 R >>",
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Any /DW 550 /FontDescriptor 5 0 R"
        b" /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        b"<< /Type /FontDescriptor /FontName /Any /Flags 4 /Ascent 800 /Descent -200 >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(table), table.encode()),
    ]
    for number, page_texts in enumerate(pages):
        stream = "\n".join(
            f"BT /F1 {size} Tf {left} {height} Td <{words.encode('utf-16-be').hex()}> Tj ET"
            for left, height, size, words in page_texts
        ).encode()
        bodies.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 1800 792] /Resources << /Font << /F1 3 0 R >> >>"
            b" /Contents %d 0 R >>" % (8 + 2 * number)
        )
        bodies.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    return _file(bodies)


def lines(
    texts: Sequence[str], left: float = 72, top: float = 700, size: float = 11, step: float = 14
) -> list[PdfText]:
    """Return lines below each other."""
    return [(left, top - step * number, size, words) for number, words in enumerate(texts)]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
