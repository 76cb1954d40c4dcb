"""What dials and switches add to an answer: sentences of the passages, chosen by what they ask for."""

import pytest

from ragtune.answer.additions import choose_additions
from ragtune.answer.answering import Answerer
from ragtune.answer.controls import Controls
from ragtune.answer.evidence import rank_evidence
from ragtune.answer.language_packs import ENGLISH
from ragtune.answer.prompt import REFUSAL
from ragtune.answer.styles import has_example, has_steps, term_share
from ragtune.settings import AnswerSettings
from tests.support.answering_fakes import ListRetriever, ScriptedChat, WordEvidence, chunk, hits

NOTE = chunk(
    "note",
    "A hot work note is valid for four hours. A fire watch stands by while the work lasts. "
    "The authorisation in `ignition_log` requires a countersignature at 18:30. Ask at the gate for one. "
    "For example, the note of a morning ends at noon.",
)
KILN = chunk("kiln", "The kiln may not be opened while it glows. Sign the kiln book.")
PASSAGES = hits(NOTE, KILN)
QUESTION = "how long is a hot work note valid"
BEST = "A hot work note is valid for four hours."
ANSWER = f"{BEST} [1]"


def added(controls: Controls, said: str = BEST, variant: str = "") -> list[str]:
    evidence = rank_evidence(WordEvidence(), QUESTION, PASSAGES)
    found = choose_additions(evidence, PASSAGES, controls, said, ENGLISH, variant)
    example = [found.example] if found.example else []
    return [item.unit.text for item in (*found.steps, *found.further, *example)]


def test_the_neutral_style_adds_nothing():
    assert added(Controls()) == []
    assert added(Controls(depth=0.0)) == []


def test_the_deeper_the_more_sentences_and_none_that_is_said_already():
    shallow, deep = added(Controls(depth=0.75)), added(Controls(depth=1.0))
    assert (len(shallow), len(deep)) == (2, 3)
    assert deep[:2] == shallow
    assert BEST not in deep
    assert len(set(deep)) == 3


def test_the_technical_level_chooses_the_most_or_the_least_technical_sentence():
    (plain,), (technical,) = added(Controls(technical_level=0.0)), added(Controls(technical_level=1.0))
    assert "ignition_log" in technical
    assert term_share(plain) < term_share(technical)
    assert added(Controls(technical_level=0.4)) == []


def test_what_the_documents_call_an_example_comes_first_and_then_a_sentence_with_a_number():
    assert added(Controls(examples=True)) == ["For example, the note of a morning ends at noon."]
    assert "18:30" in added(Controls(examples=True), said=f"{BEST} The note of a morning ends at noon.")[0]
    assert added(Controls(examples=True), said="For example, four hours.") == []


def test_the_steps_are_the_sentences_that_stand_behind_the_best_one():
    assert added(Controls(step_by_step=True))[0] == "A fire watch stands by while the work lasts."
    assert len(added(Controls(step_by_step=True))) == 3


def test_creativity_draws_other_sentences_for_another_text_of_the_model_and_the_same_for_the_same():
    drawn = {tuple(added(Controls(creativity=1.0), variant=str(number))) for number in range(8)}
    assert len(drawn) > 2
    assert added(Controls(creativity=1.0), variant="a") == added(Controls(creativity=1.0), variant="a")


def test_a_sentence_of_another_passage_is_added_only_if_it_is_likely_enough():
    texts = added(Controls(depth=1.0), said=f"{BEST} {NOTE.text}")
    assert texts == [], "the kiln is not what was asked about"


def answer(text: str, **controls: object):
    path = Answerer(ListRetriever([NOTE, KILN]), AnswerSettings(refused_share=0.0), None, WordEvidence(0.0))
    return path.answer(QUESTION, ScriptedChat(lambda _: text), controls=Controls(**controls))


def test_a_deep_answer_quotes_more_with_the_citation_of_each_and_the_answer_stays_first():
    found = answer(ANSWER, depth=1.0)
    assert found.text.startswith(f'{ANSWER} Also: "')
    assert found.text.count("Also: ") == 3
    assert found.own_words == ANSWER
    assert found.quotation == found.text.split('"')[1]
    assert not [warning for warning in found.warnings if "dial" in warning]


@pytest.mark.parametrize("text", [ANSWER, REFUSAL])
def test_steps_are_numbered_lines_of_the_answer_and_of_what_is_quoted(text: str):
    found = answer(text, step_by_step=True)
    assert has_steps(found.text)
    lines = found.text.splitlines()
    assert "four hours" in lines[0]
    assert all("[1]" in line for line in lines)
    assert not [warning for warning in found.warnings if "switch" in warning]


def test_an_example_is_introduced_as_one():
    found = answer("It is valid for four hours. [1]", examples=True)
    assert has_example(found.text)
    assert found.text.endswith('For example: "For example, the note of a morning ends at noon." [1]')


def test_what_the_passages_do_not_have_is_a_warning():
    path = Answerer(ListRetriever([KILN]), AnswerSettings(refused_share=0.0), None, WordEvidence(0.0))
    said = "The kiln may not be opened while it glows. [1] Sign the kiln book. [1]"
    found = path.answer(
        "may the kiln be opened", ScriptedChat(lambda _: said), controls=Controls(depth=1.0, examples=True)
    )
    assert found.text == said
    assert found.warnings == (
        "The switch examples is on, but the answer gives no example.",
        "The dial depth changes nothing here: the passages say nothing else about the question.",
    )


def test_a_refusal_and_a_text_without_quotations_get_nothing_added():
    path = Answerer(ListRetriever([NOTE]), AnswerSettings(refused_share=0.0, quotations=False), None, WordEvidence(0.0))
    chat = ScriptedChat(lambda _: ANSWER)
    assert path.answer(QUESTION, chat, controls=Controls(depth=1.0, examples=True)).text == ANSWER
    refusing = Answerer(ListRetriever([NOTE]), AnswerSettings(), None, WordEvidence(1.1))
    assert refusing.answer(QUESTION, chat, controls=Controls(depth=1.0, step_by_step=True)).text == REFUSAL
