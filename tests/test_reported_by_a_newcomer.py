"""Files of somebody who read his own documents in for the first time, with inputs of our own."""

import pytest

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.reading import Reading
from tests.support.office_files import paragraph, word_file
from tests.support.pdf_files import pdf_file, unicode_pdf

OPENING = "The harbour office writes the rules down for everybody who uses the quay and asks"


def read(name: str, content: str | bytes) -> Reading:
    """Return the reading of a file of which no word is lost."""
    raw = content.encode() if isinstance(content, str) else content
    reading = read_bytes(name, raw)
    assert audit(name, raw, reading)[1] == ()
    return reading


def headings(reading: Reading) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in reading.blocks if block.kind == "heading"]


def written(*lines: str) -> str:
    return read("a.pdf", unicode_pdf([(72, 740 - 14 * n, 11, line) for n, line in enumerate(lines)])).text


def test_bullets_of_the_fonts_symbol_and_wingdings_begin_list_items() -> None:
    items = ("Mooring lines are doubled in a gale.", "Fenders hang on both sides.", "Lamps are lit at dusk.")
    text = written(*(f"{sign} {item}" for sign, item in zip("\uf0b7\uf0b7\uf0a7", items, strict=True)))
    assert text.split("\n\n") == [f"- {item}" for item in items]


@pytest.mark.parametrize(
    ("first", "second", "address"),
    [
        ("https://example.org/harbour/", "rules/quay.html", "https://example.org/harbour/rules/quay.html"),
        ("https://example.org/harbour-", "rules/quay.html", "https://example.org/harbour-rules/quay.html"),
        ("www.example.org/a_path?page=", "7&view=all", "www.example.org/a_path?page=7&view=all"),
        ("https://example.org/v1-", "beta", "https://example.org/v1-beta"),
    ],
)
def test_an_address_that_is_broken_at_a_line_end_is_one_word(first: str, second: str, address: str) -> None:
    text = written(OPENING, f"all visitors to read them at {first}", f"{second} before they come to the quay by boat.")
    assert f"at {address} before they come" in text


def test_an_address_that_ends_with_a_slash_stays_apart_from_the_sentence_behind_it() -> None:
    address = "https://example.org/harbour/"
    text = written(OPENING, f"all visitors to read them at {address}", "before they come to the quay by boat.")
    assert "https://example.org/harbour/ before they come" in text


@pytest.mark.parametrize(("line", "author"), [("Ada Lovelace", "Ada Lovelace"), ("by Grace Hopper and Ada King", "")])
def test_the_author_of_a_pdf_is_no_heading(line: str, author: str) -> None:
    body = [(72, 600 - 14 * n, 11, OPENING) for n in range(12)]
    page = [(72, 740, 24, "The Harbour Report"), (72, 700, 14, line), (72, 640, 16, "Introduction"), *body]
    reading = read("a.pdf", pdf_file([page], author=author))
    assert [text for _, text in headings(reading)] == ["The Harbour Report", "Introduction"]
    assert f"\n\n{line}\n\n" in reading.text


def test_the_terms_of_a_definition_list_are_no_headings() -> None:
    for name, source in (
        ("a.html", "<h1>Words</h1><dl><dt>Bollard</dt><dd>A post.</dd><dt><b>Quay</b></dt><dd>A wall.</dd></dl>"),
        ("a.md", "# Words\n\nBollard\n: A post.\n\nQuay\n: A wall.\n"),
        ("a.rst", "Words\n=====\n\nBollard\n   A post.\n\nQuay\n   A wall.\n"),
    ):
        assert headings(read(name, source)) == [(1, "Words")]


STYLES = (
    "<w:style w:type='paragraph' w:styleId='Kop1'><w:name w:val='heading 1'/></w:style>"
    "<w:style w:type='paragraph' w:styleId='Yard'><w:name w:val='Yard heading'/><w:basedOn w:val='Kop1'/></w:style>"
    "<w:style w:type='paragraph' w:styleId='Deep'><w:name w:val='Deep'/>"
    "<w:pPr><w:outlineLvl w:val='2'/></w:pPr></w:style>"
    "<w:style w:type='paragraph' w:styleId='Titel'><w:name w:val='Title'/></w:style>"
    "<w:style w:type='paragraph' w:styleId='Toc'><w:name w:val='TOC Heading'/><w:basedOn w:val='Kop1'/>"
    "<w:pPr><w:outlineLvl w:val='9'/></w:pPr></w:style>"
    "<w:style w:type='paragraph' w:styleId='A'><w:name w:val='A'/><w:basedOn w:val='B'/></w:style>"
    "<w:style w:type='paragraph' w:styleId='B'><w:name w:val='B'/><w:basedOn w:val='A'/></w:style>"
)


@pytest.mark.parametrize(
    ("properties", "level"),
    [
        ("<w:pStyle w:val='Kop1'/>", 1),
        ("<w:pStyle w:val='Yard'/>", 1),
        ("<w:pStyle w:val='Deep'/>", 3),
        ("<w:pStyle w:val='Titel'/>", 1),
        ("<w:outlineLvl w:val='1'/>", 2),
        ("<w:outlineLvl w:val='8'/>", 6),
        ("<w:pStyle w:val='Deep'/><w:outlineLvl w:val='9'/>", 0),
        ("<w:pStyle w:val='Toc'/>", 0),
        ("<w:pStyle w:val='A'/>", 0),
        ("<w:pStyle w:val='Missing'/>", 0),
        ("", 0),
    ],
)
def test_a_heading_of_word_is_known_by_its_outline_level_and_by_what_its_style_is_based_on(
    properties: str, level: int
) -> None:
    body = paragraph("Rules of the quay", properties) + paragraph("Lines are doubled in a gale.")
    reading = read("a.docx", word_file(body, styles=STYLES))
    assert headings(reading) == ([(level, "Rules of the quay")] if level else [])
    assert "Lines are doubled in a gale." in reading.text


def test_the_colours_of_a_terminal_are_no_text() -> None:
    source = "\x1b[1;31mERROR\x1b[0m the pump \x1b[38;5;208mstopped\x1b[K\x1b(B at noon.\n"
    assert read("a.txt", source).text == "ERROR the pump stopped at noon."


def test_a_hidden_main_part_is_not_the_page() -> None:
    other = "Words of another view that nobody sees, " * 5
    page = f"<body><main hidden><p>{other}</p></main><main><p>The gate opens at nine.</p></main></body>"
    assert read("a.html", page).text == "The gate opens at nine."
    alone = f"<body><main hidden><p>{other}</p></main><div><p>The gate opens at nine.</p></div></body>"
    assert read("a.html", alone).text == "The gate opens at nine."
