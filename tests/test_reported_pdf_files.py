"""PDF files after public reports about comparable tools, with inputs of our own.

docs/measured/reported-documents.md names the reports.
"""

import pytest

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.reading import Reading
from tests.support.office_files import listed
from tests.support.pdf_files import PdfText, drawn_pdf, lines, pdf_file

PROSE = (
    "The gate on the left bank is opened by hand when the river",
    "stands below two metres. The keeper writes the hour into the",
    "book and signs it with his name.",
)
SENTENCES = " ".join(PROSE)


def read(raw: bytes) -> Reading:
    """Return the reading of a file of which no word is lost."""
    reading = read_bytes("a.pdf", raw)
    assert audit("a.pdf", raw, reading)[1] == ()
    return reading


@pytest.mark.parametrize(("turn", "step"), [("0 1 -1 0", (14, 0)), ("0 -1 1 0", (-14, 0)), ("-1 0 0 -1", (0, 14))])
def test_a_page_that_is_drawn_sideways_keeps_its_lines(turn: str, step: tuple[int, int]) -> None:
    stream = "".join(
        f"BT /F1 11 Tf {turn} {300 + step[0] * n} {400 + step[1] * n} Tm ({line}) Tj ET\n"
        for n, line in enumerate(["Rules of the gate", *PROSE])
    )
    assert read(drawn_pdf(stream)).text == f"Rules of the gate\n\n{SENTENCES}"


def test_the_values_of_a_form_stand_behind_their_labels() -> None:
    labels = "".join(
        f"BT /F1 11 Tf 72 {700 - 20 * n} Td ({label}) Tj ET\n" for n, label in enumerate(("Boat:", "Paid:"))
    )
    widget = "<< /Type /Annot /Subtype /Widget /P 4 0 R /Rect [200 {} 400 {}] {} >>"
    ticked = "/FT /Btn /T (paid) /V /Yes /AS /Yes /AP << /N << /Yes 8 0 R /Off 8 0 R >> >>"
    empty = "<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Length 0 >>\nstream\n\nendstream"
    raw = drawn_pdf(
        labels,
        page="/Annots [6 0 R 7 0 R]",
        catalog="/AcroForm << /Fields [6 0 R 7 0 R] /DR << /Font << /Helv 3 0 R >> >> /DA (/Helv 0 Tf 0 g) >>",
        objects=[
            widget.format(696, 713, "/FT /Tx /T (boat) /V (Sea Robin) /DA (/Helv 11 Tf 0 g)"),
            widget.format(676, 693, ticked),
            empty,
        ],
    )
    assert read(raw).text == "Boat: Sea Robin\nPaid: [x]"


def test_words_over_a_page_are_read_and_comments_and_addresses_are_listed() -> None:
    annotation = "<< /Type /Annot /Subtype /{} /Rect [72 500 300 520] {} >>"
    objects = [
        annotation.format("FreeText", "/Contents (Closed in winter) /DA (/F1 11 Tf)"),
        annotation.format("Text", "/Contents (Ask Kim)"),
        annotation.format("Link", "/A << /S /URI /URI (https://gate.example.org) >>"),
        annotation.format("Text", "/Contents (unseen) /F 2"),
    ]
    stream = "BT /F1 11 Tf 72 700 Td (The gate.) Tj ET"
    reading = read(drawn_pdf(stream, page="/Annots [6 0 R 7 0 R 8 0 R 9 0 R]", objects=objects))
    assert reading.text == "The gate.\n\nClosed in winter"
    assert listed(reading) == [("comment", "Ask Kim"), ("link target", "https://gate.example.org")]


def test_three_columns_drawn_row_by_row_are_read_one_after_the_other() -> None:
    columns = [[f"{name} column has words in", "it that go down to the", "end of it, and no more."] for name in "ABC"]
    texts: list[PdfText] = []
    for row in range(3):
        for place, column in enumerate(columns):
            texts += [(50 + 180 * place, 700 - 14 * row, 11, column[row])]
    assert " ".join(read(pdf_file([texts])).text.split()) == " ".join(line for column in columns for line in column)


def test_a_power_has_its_sign_and_an_index_does_not() -> None:
    texts: list[PdfText] = [
        (72, 700, 11, "It moves 10"),
        (129.3, 704, 7, "6"),
        (138, 700, 11, "litres of H"),
        (184.6, 697, 7, "2"),
    ]
    texts += [(188.7, 700, 11, "O."), *lines(PROSE, top=660)]
    assert read(pdf_file([texts])).text == f"It moves 10^6 litres of H2O.\n\n{SENTENCES}"


def test_two_rows_of_cells_stay_two_rows() -> None:
    texts = [
        (72, 700, 11, "Deposit"),
        (400, 700, 11, "300 euros"),
        (72, 686, 11, "Yearly rent"),
        (400, 686, 11, "745 euros"),
    ]
    text = read(pdf_file([texts])).text
    assert [line for line in text.split("\n") if line] == ["Deposit 300 euros", "Yearly rent 745 euros"]


def test_a_head_far_above_a_list_is_no_row_of_a_table() -> None:
    head = [(72, 760, 10, "Rules of the gate"), (500, 760, 10, "3 / 9")]
    reading = read(pdf_file([[*head, *lines(["Open it by hand.", "Write the hour.", "Sign the book."])]]))
    assert "|" not in reading.text
    assert "Open it by hand." in reading.text


def test_pages_that_count_themselves_and_all_are_told_by_their_sequence() -> None:
    pages = [
        [*lines([f"Gate {page} has {page * 7} bolts.", *PROSE]), (280, 40, 9, f"Page {page} of 4")]
        for page in range(1, 5)
    ]
    reading = read(pdf_file(pages))
    assert listed(reading) == [("page number", f"Page {page} of 4") for page in range(1, 5)]
    assert reading.text.count(SENTENCES) == 4, "a line that repeats within the text stays, though it is the last"


def test_a_price_list_with_dots_is_no_table_of_contents() -> None:
    prices = [f"{name} ........ {price}" for name, price in (("Rope", 12), ("Anchor", 90), ("Lamp", 8), ("Chain", 40))]
    reading = read(pdf_file([lines([*PROSE, *prices]), lines(PROSE), lines(PROSE)]))
    for line in ("Rope ... 12", "Anchor ... 90", "Lamp ... 8", "Chain ... 40"):
        assert line in reading.text.split("\n")
    contents = [f"{name} ........ {page}" for name, page in (("Ropes", 2), ("Anchors", 2), ("Lamps", 3))]
    reading = read(pdf_file([lines(contents), lines(PROSE), lines(PROSE)]))
    assert [reason for reason, _ in listed(reading)] == ["table of contents"] * 3
