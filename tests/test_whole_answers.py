"""Answers of the extractive rules are the whole sentence or the cell of the right column."""

import pytest

from ragtune.dataset.extractive.list_facts import row_keys
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.records import QAPair
from tests.support.api_pages import chunk, document


def pairs_of(text: str, kind: str, title: str = "Millrace lock") -> list[QAPair]:
    """Return the pairs of this kind that 40 seeds write about a page, because one seed asks few questions."""
    page = chunk(document(title, text, "prose"))
    pairs = [pair for seed in range(40) for pair in ExtractiveWriter(seed, limit_per_chunk=50).write([page])]
    return [pair for pair in pairs if pair.kind == kind and pair.answerable]


def cells(text: str) -> set[tuple[str, str]]:
    """Return (row and column that the question names, answer) of the pairs from the tables of a page."""
    named = [
        (row, column, pair.answer)
        for pair in pairs_of(text, "table")
        for row in ("sluice", "in|out", "winch", "siren")
        for column in ("default", "meaning")
        if row in pair.question and column in pair.question
    ]
    return {(f"{row} {column}", answer) for row, column, answer in named}


TABLE = """# Levers of the Millrace lock

| Lever | Default | Meaning |
| --- | --- | --- |
{}
| winch | 12 turns | How far the chain is drawn before the bell rings |
"""
WINCH = {("winch default", "12 turns"), ("winch meaning", "How far the chain is drawn before the bell rings")}


def test_an_escaped_bar_shifts_no_column() -> None:
    text = TABLE.format(r"| sluice | up\|down | Which way the boards move when the lever is pulled |")
    assert cells(text) == WINCH | {("sluice meaning", "Which way the boards move when the lever is pulled")}


def test_a_row_is_named_as_a_reader_sees_it() -> None:
    text = TABLE.format(r"| in\|out | left hand | Which of the two pairs of gates is opened |")
    assert ("in|out meaning", "Which of the two pairs of gates is opened") in cells(text)
    assert row_keys(r"| in\|out | left hand |") == ["in|out"]


def test_an_empty_cell_shifts_no_column() -> None:
    text = TABLE.format("| siren || How loudly the siren sounds at night over the pond |")
    assert cells(text) == WINCH | {("siren meaning", "How loudly the siren sounds at night over the pond")}


@pytest.mark.parametrize(
    "row", ["| sluice | up | down | Which way the boards move at noon |", "| sluice | Which way the boards move |"]
)
def test_a_row_with_more_or_fewer_cells_than_the_head_is_not_asked_about(row: str) -> None:
    assert cells(TABLE.format(row)) == WINCH


@pytest.mark.parametrize(
    "sentence",
    [
        "The upper gate is a door of the firm Hallam Inc. Leeds that holds back the mill pond.",
        "The tide bell is a gift of Prof. Okafor that rings twice before the water turns.",
        "The towpath is a right of way under Art. IX of the harbour act that no owner may close.",
        "The spill weir is a wall of max. 90 centimetres that lets the flood into the meadow.",
        "The lock house is a hut of the U.S. Coast Survey that the keeper lets to guests in summer.",
        "The winding gear is a set of wheels by J. Thorne that two people turn by hand.",
        "The side pond is a basin of approx. Forty paces that saves half of the water.",
    ],
)
def test_an_abbreviation_does_not_cut_an_answer(sentence: str) -> None:
    text = f"{sentence} It was built long ago."
    answers = {pair.answer for pair in pairs_of(text, "definition")}
    assert answers == {sentence}


def test_the_description_of_a_list_item_is_not_cut_at_an_abbreviation() -> None:
    item = "a bar of oak from Bros. Hartley Mills that lifts the paddle."
    text = f"# Millrace lock\n\n- **Paddle rod**: {item} New in May.\n"
    assert {pair.answer for pair in pairs_of(text, "list_item")} == {item}
