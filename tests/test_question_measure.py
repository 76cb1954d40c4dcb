"""Tests of benchmarks/questions/measure.py: how answers to people's questions are scored."""

from typing import Any

import pytest

from benchmarks.questions.measure import cites_source, own_words, scores

QUESTION: dict[str, Any] = {"id": "q1", "answers": ["13 mk"], "sources": ["fees.md#glaze-fees"], "answerable": True}
UNANSWERABLE: dict[str, Any] = {"id": "q2", "answers": [], "sources": [], "answerable": False}
CITED = {"source": "fees.md", "headings": ["Glaze fees"], "text": "A shelf costs 13 mk."}


def row(**changes: Any) -> dict[str, Any]:
    facts = {
        "model_text": "",
        "answer": "",
        "own_words": "",
        "refused": False,
        "quoted": False,
        "cited": [],
        "best": "",
    }
    return {**facts, "model_version": "m", **changes}


def test_a_quotation_counts_as_right_but_not_as_the_models_own_words() -> None:
    answers = {"q1": row(answer='From the documents: "A shelf costs 13 mk." [1]', quoted=True, cited=[CITED])}
    result = scores([QUESTION], answers)
    assert (result["right"][0], result["right in own words"][0], result["quoted"][0]) == (1.0, 0.0, 1.0)
    assert result["right passage cited"][0] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        'It is cheap. [1] From the documents: "A shelf costs 13 mk." [1]',
        'It is cheap. [1] From the documents, Fees > Shelves: "A shelf costs 13 mk." [1]',
        "It is cheap. [1] Aus den Dokumenten, Fees: „A shelf costs 13 mk.“ [1]",
    ],
)
def test_neither_a_quotation_nor_the_name_of_its_place_are_words_of_the_model(text: str) -> None:
    assert own_words(text, "A shelf costs 13 mk.").strip() == "It is cheap. [1]"
    assert own_words("It is cheap. [1]", "") == "It is cheap. [1]"


def test_the_models_text_is_scored_apart_from_what_was_delivered() -> None:
    answers = {"q1": row(model_text="I could not find this in the documents.", best="It is 13 mk.", refused=True)}
    result = scores([QUESTION], answers)
    assert result["model right"][0] == 0.0
    assert result["best sentence right"][0] == 1.0
    assert result["answerable refused"][0] == 1.0
    assert "right passage cited" not in result


def test_an_unanswerable_question_is_right_only_if_it_is_refused() -> None:
    assert scores([UNANSWERABLE], {"q2": row(answer="13 mk")})["unanswerable refused"][0] == 0.0


def test_a_citation_counts_if_its_passage_is_part_of_a_source_section() -> None:
    assert cites_source([CITED], ["fees.md#glaze-fees"])
    assert not cites_source([CITED], ["fees.md#other-fees"])
    assert not cites_source([{**CITED, "source": "kilns.md"}], ["fees.md#glaze-fees"])


def test_a_passage_of_several_sections_is_part_of_each_of_them() -> None:
    joined = {**CITED, "headings": [], "text": "## Glaze fees\n\n13 mk\n\n## Other fees\n\n2 mk"}
    assert cites_source([joined], ["fees.md#other-fees"])
