"""Tests of the question sets in benchmarks/questions: format, sources, answers, and no question twice."""

import functools
import gzip
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
QUESTIONS = ROOT / "benchmarks" / "questions"
FILES = sorted(QUESTIONS.glob("*.jsonl"))
DOCUMENTS = {
    "manual": ROOT / "examples" / "manual",
    "german": ROOT / "examples" / "manual-de",
    "french": ROOT / "examples" / "manual-fr",
    "faq": ROOT / "examples" / "faq",
    "releases": ROOT / "examples" / "releases",
}
"""Sets whose documents are part of this project."""

PACKAGES = {"httpx": ("httpx", "0.28.1"), "networkx": ("networkx", "3.6.1")}
"""Package and version of the sets over the API documentation of a Python package."""

FAQ_PDF = Path("/usr/share/doc/debian/FAQ/debian-faq.en.pdf.gz")
MANUAL_HTML = Path("/usr/share/freedombox/manual/en")
DEBIAN_PACKAGES = {"pdf": ("debian-faq", "11.1"), "html": ("freedombox-doc-en", "23.6.2+deb12u2")}
"""Name and version of the Debian package that ships the documents of a set."""

FIELDS = {"id", "question", "type", "answers", "rubric", "sources", "answerable", "history"}
TYPES = {
    *("fact", "number", "name", "yes_no", "how_to", "why", "comparison", "list"),
    *("several_sentences", "follow_up", "vague", "misspelt", "keyword"),
}
LITERAL_TYPES = {"fact", "number", "name"}
"""Types whose first accepted answer stands in the source section, unless a rubric explains it."""

Question = dict[str, Any]


def read_questions(file: Path) -> list[Question]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def set_name(file: Path) -> str:
    return file.name.split(".")[0]


def normalised(text: str) -> str:
    """Return the text in lower case with single spaces and without Markdown emphasis."""
    return " ".join(re.sub(r"[*`]", "", text).lower().split())


def question_key(question: Question) -> str:
    turns = [turn["content"] for turn in question["history"]]
    return " | ".join(" ".join(re.findall(r"\w+", turn.lower())) for turn in [*turns, question["question"]])


def heading_anchor(heading: str) -> str:
    """Return the link target of a heading: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def sections(text: str) -> dict[str, str]:
    """Return the text of each section with its heading, up to the next heading, by the heading's anchor."""
    parts = re.split(r"^(?=#{1,6} )", text, flags=re.MULTILINE)[1:]
    return {heading_anchor(part.splitlines()[0].lstrip("#").strip()): part for part in parts}


def test_anchors_drop_punctuation_and_keep_letters_with_accents() -> None:
    text = "# Öffnung & Zeiten\n\ntext\n\n## 4.2 (May)\n\nmore\n"
    assert sections(text) == {"öffnung--zeiten": "# Öffnung & Zeiten\n\ntext\n\n", "42-may": "## 4.2 (May)\n\nmore\n"}


def test_there_are_question_sets() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_question_has_the_fields_of_the_format(file: Path) -> None:
    for question in read_questions(file):
        assert set(question) == FIELDS, question
        assert question["type"] in TYPES, question
        assert question["question"].strip(), question
        assert bool(question["history"]) == (question["type"] == "follow_up"), question
        assert all(set(turn) == {"role", "content"} for turn in question["history"]), question
        if question["answerable"]:
            assert question["sources"], question
            assert question["answers"] or question["rubric"], question
        else:
            assert not question["answers"], question


def test_ids_are_unique() -> None:
    ids = [question["id"] for file in FILES for question in read_questions(file)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_fifth_of_the_questions_is_unanswerable(file: Path) -> None:
    """The bounds leave room for sets of 40, where a fifth is eight questions and two more or less are 5%."""
    questions = read_questions(file)
    share = sum(not question["answerable"] for question in questions) / len(questions)
    assert 0.15 <= share <= 0.25


@pytest.mark.parametrize("name", sorted({set_name(file) for file in FILES}))
def test_no_question_occurs_twice_in_a_set(name: str) -> None:
    keys = [question_key(question) for part in FILES if set_name(part) == name for question in read_questions(part)]
    assert sorted(keys) == sorted(set(keys))


@pytest.mark.parametrize("file", [file for file in FILES if set_name(file) in DOCUMENTS], ids=lambda file: file.name)
def test_sources_are_sections_that_hold_the_literal_answers(file: Path) -> None:
    for question in read_questions(file):
        passages = ""
        for source in question["sources"]:
            page, anchor = source.split("#")
            page_sections = sections((DOCUMENTS[set_name(file)] / page).read_text(encoding="utf-8"))
            assert anchor in page_sections, question
            passages += normalised(page_sections[anchor]) + "\n"
        if question["answerable"] and question["type"] in LITERAL_TYPES and not question["rubric"]:
            assert normalised(question["answers"][0]) in passages, question


@functools.cache
def package_pages(package: str, version: str) -> dict[str, str]:
    """Return the pages of a package's API documentation by their title; skip the test without that version."""
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    if installed != version:
        pytest.skip(f"the questions are about {package} {version}, and {installed} is installed")
    # In a process of its own: CPython 3.11 fails with "AST constructor recursion depth mismatch" if another thread of
    # this one, such as one that an earlier test left, parses at the same time.
    code = (
        "import json, sys; from ragtune.knowledge.sources import read_source; "
        "json.dump({document.title: document.text for document in read_source(sys.argv[1]).documents}, sys.stdout)"
    )
    run = subprocess.run([sys.executable, "-c", code, f"package:{package}"], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("file", [file for file in FILES if set_name(file) in PACKAGES], ids=lambda file: file.name)
def test_sources_are_pages_of_the_package_that_hold_the_literal_answers(file: Path) -> None:
    pages = package_pages(*PACKAGES[set_name(file)])
    for question in read_questions(file):
        unknown = [source for source in question["sources"] if source not in pages]
        assert not unknown, question
        passages = "\n".join(normalised(pages[source]) for source in question["sources"])
        if question["answerable"] and question["type"] in LITERAL_TYPES and not question["rubric"]:
            assert normalised(question["answers"][0]) in passages, question


def installed_version(package: str) -> str:
    """Return the version of an installed Debian package, or "" if it is not installed or this is no Debian."""
    if shutil.which("dpkg-query") is None:
        return ""
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", package]
    status, _, version = subprocess.run(command, capture_output=True, text=True).stdout.partition(" ")
    return version if status == "installed" else ""


def pdf_page(source: str) -> str:
    """Return the text of a page of the FAQ. A source is "p12", the 12th page of the file."""
    import pypdfium2

    document = pypdfium2.PdfDocument(gzip.decompress(FAQ_PDF.read_bytes()))
    return str(document[int(source.removeprefix("p")) - 1].get_textpage().get_text_range())


def html_section(source: str) -> str:
    """Return the text of a section of the HTML manual. A source is the file and the id of the section."""
    import lxml.html

    page, _, anchor = source.partition("#")
    elements = lxml.html.parse(MANUAL_HTML / page).getroot().xpath("//*[@id=$anchor]", anchor=anchor)
    assert elements, f"{page} has no section with the id {anchor}"
    return " ".join(element.text_content() for element in elements)


@pytest.mark.parametrize(("name", "form"), [("pdf", r"p[1-9]\d*"), ("html", r"[\w+-]+\.part\.html#id\d+")])
def test_sources_in_debian_documents_are_pages_or_sections(name: str, form: str) -> None:
    for part in ("dev", "locked"):
        for question in read_questions(QUESTIONS / f"{name}.{part}.jsonl"):
            assert all(re.fullmatch(form, source) for source in question["sources"]), question


@pytest.mark.parametrize(("name", "passage"), [("pdf", pdf_page), ("html", html_section)], ids=["pdf", "html"])
@pytest.mark.parametrize("part", ["dev", "locked"])
def test_debian_documents_hold_the_literal_answers(name: str, passage: Callable[[str], str], part: str) -> None:
    package, version = DEBIAN_PACKAGES[name]
    installed = installed_version(package)
    if installed != version:
        pytest.skip(f"needs the Debian package {package} {version}, found {installed or 'none'}")
    for question in read_questions(QUESTIONS / f"{name}.{part}.jsonl"):
        passages = [normalised(passage(source)) for source in question["sources"]]
        if question["answerable"] and question["type"] in LITERAL_TYPES and not question["rubric"]:
            assert any(normalised(question["answers"][0]) in text for text in passages), question
