"""Tests of what the rules ask about headings, and of questions about running text without an answer."""

import re

import pytest

from ragtune.dataset.extractive.prose_facts import heading_facts
from ragtune.dataset.extractive.unanswerable import Passages, unanswerable_prose_facts
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.records import Chunk

PLACE = " in Harbour rules"


def passage(text: str, number: int = 1, heading: str = "") -> Chunk:
    return Chunk(
        id=f"c{number}",
        document_id=f"d{number}",
        source="folder:harbour",
        title="Harbour rules",
        heading_path=(heading,) if heading else (),
        text=text,
        position=0,
    )


def asked(terms: list[str], subjects: list[str], *texts: str, seed: int = 1) -> list[tuple[str, str]]:
    chunks = [passage(text, number) for number, text in enumerate(texts)]
    facts = unanswerable_prose_facts(
        chunks[0], terms, subjects, PLACE, Passages([chunk.text for chunk in chunks]), seed
    )
    return [(fact.slots["term"], fact.template_group) for fact in facts]


def groups(terms: list[str], subjects: list[str], *texts: str) -> set[str]:
    """Return the groups that any of some seeds chooses."""
    return {group for seed in range(40) for _, group in asked(terms, subjects, *texts, seed=seed)}


@pytest.mark.parametrize("heading", ["Hours by area", "Cargo bikes", "Who may stop you"])
def test_a_heading_that_names_no_action_gives_no_question(heading):
    text = f"## {heading}\n\nThe hours by area for cargo bikes depend on who may stop you."
    assert not list(heading_facts(passage(text, heading=heading), PLACE))


def test_a_heading_that_names_an_action_asks_how_to_do_it():
    text = "## Opening a branch\n\nSend the keeper a note before you open a branch in the harbour."
    [fact] = heading_facts(passage(text, heading="Opening a branch"), PLACE)
    assert fact.slots["action"] == "open a branch"


def test_a_common_thing_is_asked_for_who_looks_after_it_and_not_for_its_company():
    assert groups([], ["the crane"], "The crane lifts five tonnes.") == {
        "absent.subject.care",
        "absent.subject.users",
        "absent.subject.change",
    }


def test_a_proper_name_has_a_company_and_a_setting_has_a_version():
    assert "absent.prose.3" in groups(["Capstan"], [], "Capstan books boats.")
    assert groups(["`crane.limit`"], [], "`crane.limit` bounds the load.") == {
        "absent.code.version",
        "absent.subject.change",
    }


def test_a_question_is_not_put_if_a_passage_of_another_document_answers_it():
    alone, other = "The crane lifts five tonnes.", "A warden is responsible for the crane."
    assert "absent.subject.care" in groups([], ["the crane"], alone)
    assert "absent.subject.care" not in groups([], ["the crane"], alone, other)
    assert "absent.subject.care" in groups([], ["the crane"], alone, "A warden is responsible for the gate.")


@pytest.mark.parametrize("subject", ["the smallest amount", "elements for the kilns", "a refusal", "everyone"])
def test_what_means_something_inside_its_sentence_only_is_not_asked_about(subject):
    assert not asked([], [subject], f"It says that {subject} stays.")


def test_the_written_questions_name_no_heading_in_quotes_and_no_term_of_another_document():
    harbour = "## Opening hours\n\nThe opening hours depend on the season, and the crane is stored in the north hall."
    boats = "**Little Owl** is a boat for four people.\n\n- **Little Owl**: a boat with two masts and one engine"
    pairs = ExtractiveWriter(1, unanswerable_share=0.5).write([passage(harbour, 1, "Opening hours"), passage(boats, 2)])
    assert pairs
    assert {"heading", "unanswerable.term"}.isdisjoint(pair.kind for pair in pairs)
    assert not [pair for pair in pairs if pair.document_id == "d1" and re.search("“|Little Owl", pair.question)]
