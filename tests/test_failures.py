"""What the checks find wrong with an answer, and what is delivered instead."""

import pytest

from ragtune.answer.answering import Answerer, acceptable, as_json, generate
from ragtune.answer.evidence import rank_evidence
from ragtune.answer.failures import Claim, claims_of, find_failures, format_failures
from ragtune.answer.language_packs import packs
from ragtune.answer.prompt import REFUSAL
from ragtune.settings import AnswerSettings
from tests.support.answering_fakes import ListRetriever, ScriptedChat, WordEvidence, chunk, hits

PASSAGES = hits(
    chunk("a", "A hot work note is valid for four hours. Samir Polk signs it. It costs 1,200 marks."),
    chunk("b", "The kiln may not be opened while it is hot. Ines Corvane looks after the kiln."),
    chunk("c", "Boats are hired at the jetty, and every boat needs a ticket."),
)
QUESTION = "how long is a hot work note good for"


def reasons(text: str, question: str = QUESTION) -> list[str]:
    evidence = rank_evidence(WordEvidence(), question, PASSAGES)
    return [failure.reason for failure in find_failures(text, question, PASSAGES, evidence)[1]]


@pytest.mark.parametrize(
    "text",
    [
        "It is valid for four hours. [1]",
        "A hot work note is valid for 4 hours. [1]",
        "It is valid for four hours. [1] Samir Polk signs it. [1] It costs 1200 marks. [1]",
    ],
)
def test_what_the_passages_say_passes(text):
    assert reasons(text) == []


def test_a_bare_yes_passes_if_the_question_asks_for_one():
    assert reasons("Yes.", "is a hot work note valid for four hours") == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It is valid for six hours. [1]", "numbers"),
        ("A hot work note costs 1,300 marks. [1]", "numbers"),
        ("A hot work note: Samir Corvane signs it. [1]", "names"),
        ("A hot work note is not valid for four hours. [1]", "negation"),
        ("It is valid for four hours. [2]", "citation"),
        ("It is valid for four hours. [7]", "citation"),
        ("Penguins govern the parliament of that country. [1]", "support"),
        ("It is valid for four hours. [1] Penguins govern the parliament. [1]", "support"),
        ("Boats are hired at the jetty. [3]", "relevance"),
        ("It is valid for four hours. [1] It is valid for four hours. [1]", "repetition"),
        ("Die Erlaubnis ist für vier Stunden gültig und wird von der Leitung nicht verlängert. [1]", "language"),
    ],
)
def test_an_error_is_found_and_named(text, reason):
    assert reason in reasons(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The kiln may be opened while it is hot. [2]", ["negation"]),
        ("The kiln may not be opened while it is hot. [2]", []),
        ("No, the kiln may not be opened while hot. [2]", []),
        ("The kiln can't be opened while it is hot. [2]", []),
    ],
)
def test_a_negation_that_is_left_out_is_found_and_another_form_of_it_is_not(text, found):
    assert reasons(text, "may I open the kiln while it is hot") == found


@pytest.mark.parametrize(
    ("question", "text", "found"),
    [
        (QUESTION, "Samir Polk. [1]", True),
        (QUESTION, "Samir Polk signs it. [1] It is valid for four hours. [1]", False),
        ("until when is a hot work note good", "By Samir Polk. [1]", True),
        ("who signs a hot work note", "Samir Polk. [1]", False),
        ("how old is Ines Corvane", "The kiln. [2]", False),  # no passage says it either
    ],
)
def test_an_answer_that_names_no_amount_though_the_question_asks_for_one_is_found(question, text, found):
    assert ("amount" in reasons(text, question)) == found


def test_amounts_are_asked_for_and_named_in_each_language():
    known = packs()
    assert known["de"].lacks_amount("wie lange gilt der Schein", "Samir Polk.")
    assert not known["de"].lacks_amount("wie lange gilt der Schein", "Bis Freitag.")
    assert known["fr"].lacks_amount("combien coûte la clé", "Samir Polk.")
    assert not known["fr"].lacks_amount("combien coûte la clé", "Dix francs.")
    assert not known["en"].lacks_amount("how far is it", "12 km [1]")
    assert known["en"].lacks_amount("how far is it", "To the pier. [1]")


def test_a_loop_inside_one_sentence_is_a_repetition():
    loop = "the note is valid for " * 4
    assert "repetition" in reasons(f"It is so that {loop}four hours. [1]")


def test_the_support_is_that_of_the_weakest_sentence():
    evidence = rank_evidence(WordEvidence(), QUESTION, PASSAGES)
    support, _ = find_failures("It is valid for four hours. [1] Penguins govern. [1]", QUESTION, PASSAGES, evidence)
    assert support == 0.0
    assert find_failures("It is valid for four hours. [1]", QUESTION, PASSAGES, evidence)[0] == 1.0


def test_marks_behind_a_full_stop_belong_to_the_sentence_before():
    assert claims_of("It is 5. [1] Or 6 [2], says Dr. Polk. [1, 3]") == [
        Claim("It is 5.", (1,)),
        Claim("Or 6, says Dr. Polk.", (2, 1, 3)),
    ]


def test_the_form_is_checked_as_the_request_asks():
    assert format_failures("{", "stop", None) == ()
    assert [failure.reason for failure in format_failures('{"a": ', "length", {})] == ["length", "format"]
    assert format_failures('{"a": 1}', "stop", {"type": "object"}) == ()


RIGHT, WRONG = "It is valid for four hours. [1]", "It is valid for six hours. [1]"


def answerer(**settings) -> Answerer:
    passages = [hit.chunk for hit in PASSAGES]
    return Answerer(ListRetriever(passages), AnswerSettings(refused_share=0.0, **settings), None, WordEvidence(0.0))


def test_an_answer_that_fails_its_checks_is_written_again_with_other_settings():
    texts = iter([WRONG, RIGHT])
    chat = ScriptedChat(lambda _: next(texts))
    answer = answerer().answer(QUESTION, chat)
    assert answer.own_words == RIGHT
    assert [[failure.reason for failure in failures] for failures in answer.tries] == [["numbers"]]
    assert answer.failures == ()
    first, second = chat.calls
    assert second["temperature"] > first["temperature"]
    assert second["seed"] != first["seed"]
    assert answer.completion.prompt_tokens == 200, "both texts cost tokens"


def test_after_a_second_failure_the_best_sentence_is_quoted():
    answer = answerer().answer(QUESTION, ScriptedChat(lambda _: WRONG))
    assert answer.own_words == ""
    assert answer.text == 'From the documents: "A hot work note is valid for four hours." [1]'
    assert answer.quoted
    assert len(answer.tries) == 2
    assert not answer.warnings


class Doubtful(WordEvidence):
    """Every question that the model refuses is doubtful."""

    def threshold(self, refused_share: float) -> float:
        return refused_share


def test_a_failed_answer_is_quoted_even_where_a_refusal_of_the_model_stands():
    passages = [hit.chunk for hit in PASSAGES]
    settings = AnswerSettings(refused_share=0.05, model_refuses=0.01)
    doubting = Answerer(ListRetriever(passages), settings, None, Doubtful())
    assert doubting.answer(QUESTION, ScriptedChat(lambda _: REFUSAL)).refused
    assert doubting.answer(QUESTION, ScriptedChat(lambda _: WRONG)).quoted


def test_without_quotations_or_strict_grounding_the_text_is_delivered_and_its_failures_are_named():
    relaxed = answerer(quotations=False)
    prepared = relaxed.prepare(QUESTION)
    answer = relaxed.answer(QUESTION, ScriptedChat(lambda _: WRONG))
    assert answer.text == WRONG
    assert [failure.reason for failure in answer.failures] == ["numbers"]
    assert acceptable(prepared, answer)
    free = answerer(switches={"strict_grounding": False}).answer(QUESTION, ScriptedChat(lambda _: WRONG))
    assert (free.text, free.tries) == (WRONG, ())


def test_a_refusal_and_a_quotation_have_nothing_to_check():
    answer = answerer().answer(QUESTION, ScriptedChat(lambda _: REFUSAL))
    assert (answer.failures, answer.tries, answer.support) == ((), (), 1.0)


def json_answer(*texts: str, finish_reason: str = "stop"):
    """Return what becomes of these texts, one a try, if JSON is asked for, and how often the model was asked."""
    path, left = answerer(), iter(texts)
    chat = ScriptedChat(lambda _: next(left), finish_reason)
    prepared = as_json(path.prepare(QUESTION), {"type": "object"})
    answer = path.conclude(prepared, generate(chat, prepared), lambda again: generate(chat, again))
    return answer, len(chat.calls)


def test_broken_json_is_written_once_more_and_otherwise_delivered_with_its_failure():
    answer, asked = json_answer("{broken", '{"hours": [4]}')
    assert (answer.text, answer.failures, asked) == ('{"hours": [4]}', (), 2)
    assert [[failure.reason for failure in failures] for failures in answer.tries] == [["format"]]
    answer, asked = json_answer("{broken", "[4]")
    assert (answer.text, asked) == ("[4]", 2)
    assert [failure.reason for failure in answer.failures] == ["format"]
    assert json_answer('{"cut": ', finish_reason="length")[1] == 1, "it would be cut off again"
