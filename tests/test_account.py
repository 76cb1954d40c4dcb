"""The account of a document's words: shown in a passage, left out for a reason, or lost."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ragtune.knowledge.audit import account, account_all, audit
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.readers.files import read_bytes
from ragtune.knowledge.sources import MOST_LOST_NAMED, read_source
from ragtune.records import Chunk, Document, LeftOut, content_id
from ragtune.settings import ChunkingSettings
from ragtune_assets.knowledge import account_check
from tests.support.office_files import paragraph, word_file

NIGHT = " ".join(
    f"At {hour} the watch walks round pier {hour + 20} and writes the hour into book {hour}." for hour in range(9)
)
DAY = NIGHT.replace("watch", "keeper").replace("At", "By")
MARKDOWN = f"""---
title: Harbour rules
---
# Harbour rules

{NIGHT}

## Gates

| gate | opens | note |
| --- | --- | --- |
| north | 06:15 | iron\\|oak, see [plan](https://example.org/plan "the plan") |
| south | 10<sup>3</sup> steps on | `a | b` |
| west | see [the rules][rules] or [north](#gates "up there") | \\- |

1. Lift the bar.
   - It weighs 12.5 kg.
   - Two people lift it.
1. Walk through.[^1]
1. See [README.md](README.md) and [rules].

[rules]: https://example.org/rules "All rules"
[gone]: https://example.org/gone

[^1]: Not after nine.

<!-- ask the caretaker -->

### Day

{DAY}

```sh quiet
open --gate north  # quietly
```

### Empty

## Gates

![the north gate](gate.png) <https://example.org/a?b=1&region=x>
"""
RST = f"""=============
Harbour rules
=============

.. comment: ask the caretaker

{NIGHT}

Gates
=====

.. note:: Closed on *Sundays*.

.. figure:: gate.png

   The north gate.

+-------+-------+
| gate  | opens |
+=======+=======+
| north | 06:15 |
+-------+-------+

====== ===== ======
        low   high
====== ===== ======
tide     06     18
====== ===== ======

.. _plan:

.. only:: html and draft

   The plan hangs by the door.

north
  Iron, see `the plan <https://example.org/plan>`_ and :ref:`the tides <plan>` or :class:`~harbour.Gate`. [#f]_

.. code-block:: sh

   open --gate north

.. [#f] Not after nine.
"""
TEXT = f"""HARBOUR RULES

{NIGHT}

[09:40]: gate north opened
gate      opens   price
north     06:15   1,200
south     07:45     XL

{DAY}
Größe 10 µm -- naïve café; 港の門は六時に開く。
"""


def count_tokens(texts: Sequence[str]) -> list[int]:
    return [2 + sum(1 + len(word) // 6 for word in text.split()) for text in texts]


def read(folder: Path, **files: str) -> tuple[list[Document], list[Chunk]]:
    """Write the files (`a_md` becomes `a.md`), and return their documents and passages of at most 96 tokens."""
    for name, text in files.items():
        folder.joinpath(name.replace("_", ".")).write_text(text)
    documents = read_source(f"folder:{folder}").documents
    return documents, chunk_documents(documents, ChunkingSettings(max_tokens=96, overlap_tokens=0), count_tokens)


def document(text: str, left_out: tuple[LeftOut, ...] = (), **fields: object) -> Document:
    return Document(
        id="d", source="folder:x", path="a.md", title="Gate", text=text, sha256="", left_out=left_out, **fields
    )


def passage(text: str, *headings: str) -> Chunk:
    return Chunk(
        id=content_id(*headings, text),
        document_id="d",
        source="folder:x",
        title="Gate",
        heading_path=headings,
        text=text,
        position=0,
    )


@pytest.mark.parametrize(("name", "text"), [("a_md", MARKDOWN), ("a_rst", RST), ("a_txt", TEXT)])
def test_every_visible_word_of_a_text_file_is_in_a_passage(tmp_path: Path, name: str, text: str) -> None:
    (one,), passages = read(tmp_path, **{name: text})
    assert len(passages) > 2, "the file is long enough to be cut"
    result = account(one, passages)
    assert (result.lost, result.share_accounted_for) == ((), 1.0)
    assert result.in_passages >= result.words - sum(result.left_out.values())
    if name == "a_txt":
        assert result.share_in_passages == 1.0


def test_a_power_in_a_word_file_is_no_lost_number() -> None:
    raised = '</w:t></w:r><w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:t>5</w:t></w:r><w:r><w:t>'
    raw = word_file(paragraph(f"The pond holds 10{raised} litres."))
    assert audit("a.docx", raw, read_bytes("a.docx", raw)) == (6, ())


def test_a_word_that_is_in_no_passage_is_lost() -> None:
    result = account(document("The gate opens at eight.\n\nNever on Sundays."), [passage("The gate opens at eight.")])
    assert result.lost == ("never", "on", "sundays")
    assert (result.words, result.in_passages, result.lost_words) == (8, 5, 3)
    assert result.share_accounted_for == pytest.approx(5 / 8)


def test_words_left_out_for_a_reason_are_accounted_for_but_not_shown() -> None:
    left_out = (LeftOut(reason="comment", text="ask Ruth"), LeftOut(reason="comment", text="or Tom"))
    result = account(document("It opens.", left_out, words=6), [passage("It opens.")])
    assert (result.left_out, result.share_accounted_for) == ({"comment": 4}, 1.0)
    assert result.share_in_passages == pytest.approx(2 / 6)


def test_a_heading_above_several_passages_hides_no_word_that_is_lost() -> None:
    text = "## Tide\n\nHigh.\n\nLow.\n\nThe tide turns."
    result = account(document(text), [passage("High.", "Tide"), passage("Low.", "Tide")])
    assert result.lost == ("the", "tide", "turns")


def test_of_two_equal_paragraphs_one_may_be_left_out_and_is_counted() -> None:
    result = account(document("Mind the step.\n\nOpen.\n\nMind the step."), [passage("Mind the step.\n\nOpen.")])
    assert (result.left_out, result.lost_words) == ({"repeated in the document": 3}, 0)


def test_pieces_of_a_long_line_that_are_equal_are_no_lost_words(tmp_path: Path) -> None:
    (one,), passages = read(tmp_path, a_txt="tide " * 2000)
    assert len(passages) > 2
    assert account(one, passages).share_in_passages == 1.0


def test_the_number_of_lost_words_is_exact_even_if_few_are_named() -> None:
    one = document("It opens.", words=10_000, lost=("x",) * MOST_LOST_NAMED, lost_words=5_000)
    assert account(one, [passage("It opens.")]).share_accounted_for == pytest.approx(0.5)


def test_a_document_without_words_is_complete() -> None:
    assert account(document(""), []).share_accounted_for == 1.0


def test_the_check_warns_and_names_the_worst_documents_first(tmp_path: Path) -> None:
    documents, passages = read(tmp_path, a_md=MARKDOWN, b_md="# B\n\nOne two.", c_md="# C\n\nOne two three four.")
    whole = account_check(documents, account_all(documents, passages))
    assert (whole.passed, whole.severity.value) == (True, "WARN")
    kept = [one for one in passages if "One two." not in one.text]
    short = [one for one in kept if "three" not in one.text]
    result = account_check(documents, account_all(documents, short))
    assert not result.passed
    assert result.metadata["documents below the limit"].value == 2
    rows = result.metadata["worst"].md_str.splitlines()[2:]
    assert rows == ["| b.md | 0.000 | b one two |", "| c.md | 0.000 | c four one three two |"]
