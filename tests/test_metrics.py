from dataclasses import replace

import pytest

from ragtune.answer.checking import check_answer
from ragtune.answer.citations import answer_tokens
from ragtune.answer.prompt import REFUSAL
from ragtune.evaluation.metrics import SIGNATURES, exact_match, measure, token_f1
from ragtune.records import Completion, QAPair
from tests.support.answering_fakes import chunk, hits

PAIR = QAPair(
    id="p", question="What is the limit?", answer="5 calls", kind="default", document_id="doc-right", chunk_id="right"
)
UNANSWERABLE = QAPair(
    id="u",
    question="Who sang?",
    answer="",
    kind="unanswerable",
    document_id="doc-right",
    chunk_id="right",
    answerable=False,
)
PASSAGES = hits(chunk("other", "Nothing."), chunk("right", "The limit is 5 calls."))


def metrics_of(text: str, passages=PASSAGES, pair: QAPair = PAIR) -> dict[str, float]:
    answer = check_answer(
        pair.question,
        passages,
        Completion(text=text, prompt_tokens=1, completion_tokens=1, first_token_seconds=0.1, total_seconds=0.1),
    )
    return measure(pair, answer, with_retrieval=passages is not None)


@pytest.mark.parametrize(
    ("expected", "answer", "f1"),
    [
        ("5 calls", "The 5 calls. [1]", 1.0),
        ("5 calls", "It is 5 calls", 2 * (2 / 4) * 1 / (2 / 4 + 1)),  # by hand: precision 2/4, recall 2/2
        ("a b b", "b b b", 0.8),  # "a" is an article: precision 2/3, recall 2/2
        ("5", "6", 0.0),
        ("", "", 1.0),
        ("5", "", 0.0),
        ("-1", "1", 0.0),
        ("torch.nn.Linear", "torch nn Linear", 0.0),
    ],
)
def test_token_f1_agrees_with_numbers_worked_out_by_hand(expected: str, answer: str, f1: float):
    assert token_f1(expected, answer) == pytest.approx(f1)


def test_identifiers_and_signed_numbers_are_one_word_each():
    assert answer_tokens("The `max_retries` of torch.nn.Linear is -1, or 1e-3. [2]") == [
        "max_retries", "of", "torch.nn.linear", "is", "-1", "or", "1e-3",
    ]  # fmt: skip


def test_exact_match_needs_the_same_words_in_the_same_order():
    assert exact_match("5 calls", "5 calls. [3]") == 1.0
    assert exact_match("5 calls", "calls 5") == 0.0


def test_a_right_citation_counts_and_many_citations_at_once_count_less():
    assert metrics_of("5 calls [2]")["citation"] == 1.0
    assert metrics_of("Maybe 5 calls [1]")["citation"] == 0.0
    assert metrics_of("Maybe 5 calls [1][2]")["citation"] == 0.5
    assert metrics_of("5 calls")["citation"] == 0.0


def test_another_passage_of_the_same_document_with_the_answer_is_right_too():
    twin = hits(chunk("twin", "So the limit is 5 calls here.", document="doc-right"))
    stranger = hits(chunk("stranger", "So the limit is 5 calls here.", document="doc-else"))
    assert metrics_of("5 calls [1]", twin)["citation"] == 1.0
    assert metrics_of("5 calls [1]", stranger)["citation"] == 0.0


def test_a_sentence_is_supported_by_any_document_that_contains_it():
    sentence = "A ledger is a book of all that was sold."
    pair = replace(PAIR, answer=sentence)
    stranger = hits(chunk("stranger", f"See also: {sentence}", document="doc-else"))
    assert metrics_of(f"{sentence} [1]", stranger, pair)["citation"] == 1.0


def test_a_refusal_of_an_answerable_question_scores_nothing():
    metrics = metrics_of(REFUSAL)
    assert (metrics["token_f1"], metrics["false_refusal"], metrics["retrieval_hit"]) == (0.0, 1.0, 1.0)
    assert metrics["refusal_accuracy"] == 0.0
    assert metrics_of("5 calls [2]")["refusal_accuracy"] == 1.0


def test_an_unanswerable_question_is_right_only_if_refused():
    assert metrics_of(REFUSAL, pair=UNANSWERABLE) == dict.fromkeys(
        ("token_f1", "exact_match", "refusal_recall", "refusal_accuracy"), 1.0
    )
    assert metrics_of("Elvis. [1]", pair=UNANSWERABLE)["token_f1"] == 0.0


def test_a_missing_passage_counts_as_a_miss_but_not_without_retrieval():
    assert metrics_of("5 calls", hits(chunk("other", "Nothing.")))["retrieval_hit"] == 0.0
    assert metrics_of("5 calls", [])["retrieval_hit"] == 0.0
    assert not {"retrieval_hit", "citation"} & metrics_of("5 calls", None).keys()


def test_every_metric_has_a_signature_that_starts_with_its_name():
    assert all(signature.startswith(f"{name}|v") for name, signature in SIGNATURES.items())
    assert {*metrics_of("x"), *metrics_of("x", pair=UNANSWERABLE)} == set(SIGNATURES)
