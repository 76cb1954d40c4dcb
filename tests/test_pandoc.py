"""Formats that pandoc reads: with a fake pandoc the limits and messages, with a real one (if installed) the formats."""

import shutil
import stat
from pathlib import Path

import pytest

from ragtune.knowledge.audit import audit
from ragtune.knowledge.readers import pandoc
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.readers.reading import UnreadableError
from ragtune.knowledge.sources import read_source

needs_pandoc = pytest.mark.skipif(shutil.which("pandoc") is None, reason="pandoc is not installed")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file to write a shell script into, which then is the only `pandoc` on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pandoc").touch(mode=stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "pandoc"


def test_without_pandoc_a_file_is_quarantined_and_the_reason_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "rules.org").write_text("* Gates\n")
    (docs / "rules.md").write_text("# Gates\n")
    corpus = read_source(f"folder:{docs}")
    assert [document.path for document in corpus.documents] == ["rules.md"]
    (left_out,) = corpus.quarantine
    assert left_out.path == "rules.org"
    assert "install pandoc 2.15 or later" in left_out.reason


def test_pandoc_is_told_the_format_and_kept_from_other_files(fake: Path) -> None:
    fake.write_text('#!/bin/sh\necho "<html><head><title>-</title></head><body><h1>Gates</h1><p>$*</p>"\ncat\n')
    reading = read_bytes("a.tex", b"<p>the input</p>")
    assert (reading.title, reading.blocks[-1].text) == ("Gates", "the input")
    assert "--from=latex" in reading.text
    assert "--sandbox" in reading.text
    assert f"-M{pandoc.MOST_MEGABYTES}m" in reading.text


def test_a_file_that_takes_pandoc_too_long_is_unreadable(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(pandoc, "LONGEST_SECONDS", 0.2)
    with pytest.raises(UnreadableError, match=r"more than the 0\.2 seconds"):
        read_bytes("a.epub", b"x")


@pytest.mark.parametrize(
    ("words", "reason"),
    [("couldn't unpack it", "couldn't unpack it"), ("Heap exhausted;", r"it may use 1024 MiB"), ("", "code 63")],
)
def test_what_pandoc_says_of_a_file_that_it_cannot_read_is_the_reason(fake: Path, words: str, reason: str) -> None:
    fake.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 63\n')
    with pytest.raises(UnreadableError, match=reason):
        read_bytes("a.odt", b"x")


LATEX = r"""\documentclass{article}
\title{Rules of the lock}
\begin{document}
\maketitle
\section{Gates}
The \emph{north} gate opens at 06:15; see \href{https://x.example/plan}{plan}. % ask Ruth
Never \texttt{--force} it.\footnote{Not after nine.} $E=mc^2$
\begin{itemize}\item one \item two\end{itemize}
\end{document}
"""
ORG = "#+TITLE: Rules\n* Gates\nNever --force the *north* gate.[fn:1]\n- one\n- two\n\n[fn:1] Not after nine.\n"
TEXTILE = "h1. Gates\n\nNever --force the *north* gate[1].\n\n* one\n* two\n\nfn1. Not after nine.\n"
WIKI = "== Gates ==\nNever --force the ''north'' gate.<ref>Not after nine.</ref>\n\n* one\n* two\n<references />\n"
DOCBOOK = """<?xml version="1.0"?>
<article xmlns="http://docbook.org/ns/docbook" version="5.0"><info><title>Rules</title></info>
<section><title>Gates</title><para>Never --force the <emphasis>north</emphasis>
gate.<footnote><para>Not after nine.</para></footnote></para>
<itemizedlist><listitem><para>one</para></listitem><listitem><para>two</para></listitem></itemizedlist></section></article>
"""


@needs_pandoc
@pytest.mark.parametrize(
    ("name", "text"),
    [("a.tex", LATEX), ("a.org", ORG), ("a.textile", TEXTILE), ("a.wiki", WIKI), ("a.dbk", DOCBOOK)],
)
def test_a_format_of_pandoc_keeps_its_words_notes_and_options(name: str, text: str) -> None:
    reading = read_bytes(name, text.encode())
    assert "Gates" in [block.text for block in reading.blocks if block.kind == "heading"]
    for words in ("north", "--force", "[^1]", "[^1]: Not after nine.", "- one\n- two"):
        assert words in reading.text
    assert audit(name, text.encode(), reading)[1] == ()


@needs_pandoc
def test_a_file_that_asks_pandoc_for_another_file_does_not_get_it(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("The secret word is mooring.")
    text = rf"Before. \input{{{tmp_path}/secret}} After."
    reading = read_bytes("a.tex", text.encode())
    assert "After." in reading.text
    assert "mooring" not in reading.text
