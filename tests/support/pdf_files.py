"""Small PDF files, made in memory."""

from collections.abc import Sequence

Text = tuple[float, float, float, str]
"""Left edge, height above the bottom and size of the type, in points, and the words."""


def pdf_file(pages: Sequence[Sequence[Text]], title: str = "") -> bytes:
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
    bodies.append(f"<< /Title ({_escaped(title)}) >>".encode("cp1252"))
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\n" % (len(bodies) + 1, len(bodies))
    return (
        out
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(bodies) + 1, table)
        + trailer
        + b"startxref\n%d\n%%%%EOF" % len(out)
    )


def lines(texts: Sequence[str], left: float = 72, top: float = 700, size: float = 11, step: float = 14) -> list[Text]:
    """Return lines below each other."""
    return [(left, top - step * number, size, words) for number, words in enumerate(texts)]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
