"""Tests of the rule that a signature proves nothing unless somebody asks for it."""

import pytest

from ragtune.answer.evidence import rank_evidence
from ragtune.answer.language_packs import ENGLISH, LanguagePack, packs
from ragtune.answer.signatures import repeats_signature
from ragtune.answer.units import Unit
from tests.support.answering_fakes import WordEvidence, chunk, hits

TITLE = "shop.Cart.close"
SIGNATURE = "`shop.Cart.close(force=False, retry=(1, 2))` (method)"


def _repeats(
    text: str, question: str = "what does shop.Cart.close do", title: str = TITLE, pack: LanguagePack = ENGLISH
) -> bool:
    return repeats_signature(Unit(text, title), title, question, pack)


@pytest.mark.parametrize(
    "text",
    [
        SIGNATURE,
        "`shop.Cart.close` (property)",
        "`close(force=False)`",
        "### Cart.close(force: bool = False, *, timeout: float | None = None)",
        "def close(self, force=False) -> None:",
        "shop.Cart.close(force[, retry])[source]¶",
        "async method `shop.Cart.close(*args, **kwargs)`",
        "class method shop.Cart.close(/)",
        "`shop.Cart.close(force=False) → dict[str, list[int]] | None`",
    ],
)
def test_a_line_with_nothing_but_the_named_object_repeats_the_question(text):
    assert _repeats(text)


@pytest.mark.parametrize(
    "text",
    [
        "Close the cart.",
        "`shop.Cart.close(force=False)` empties the cart.",
        "`shop.Cart.close() -> bool` empties the cart.",
        "`shop.Cart.close` (method): empties the cart.",
        "`shop.Cart.close` (deprecated)",
        "`force` (bool, default False)",
        "Cart.close(True)",
        'cart.close("tonight")',
        "cart.close(force)",
        "close",
        "Cart.close(force=False",
    ],
)
def test_a_line_that_says_more_than_the_name_is_evidence(text):
    assert not _repeats(text)


@pytest.mark.parametrize(
    "question",
    [
        "what parameters does shop.Cart.close take",
        "what is the default of force in Cart.close",
        "how do I call shop.Cart.close",
        "which arguments can I pass to Cart.close?",
        "signature of Cart.close",
        "is Cart.close a method or a function",
    ],
)
def test_a_question_for_the_signature_is_answered_by_it(question):
    assert not _repeats(SIGNATURE, question)


@pytest.mark.parametrize(
    ("language", "question"),
    [
        ("de", "Welchen Vorgabe-Wert hat Cart.close?"),
        ("de", "Ist Cart.close eine Methode?"),
        ("fr", "Quels paramètres a Cart.close ?"),
        ("fr", "Cart.close est une méthode ?"),
    ],
)
def test_a_pack_tells_which_questions_of_its_language_ask_for_a_signature(language, question):
    assert not _repeats(SIGNATURE, question, pack=packs()[language])
    assert _repeats(SIGNATURE, question, pack=ENGLISH)


@pytest.mark.parametrize("question", ["what closes a cart", "is there something to close it", "Cart.open"])
def test_the_signature_of_an_object_that_the_question_does_not_name_may_be_the_answer(question):
    assert not _repeats(SIGNATURE, question)


@pytest.mark.parametrize("question", ["Cart.close", "why would I use `close`?", "when is shop.Cart.close run"])
def test_an_object_may_be_named_by_the_end_of_its_name(question):
    assert _repeats(SIGNATURE, question)


def test_what_a_function_returns_is_in_a_signature_with_a_result_alone():
    question = "what does shop.Cart.total return"
    assert not _repeats("`shop.Cart.total(rate) -> Money`", question, "shop.Cart.total")
    assert _repeats("`shop.Cart.total(rate)`", question, "shop.Cart.total")
    assert _repeats("`shop.Cart.total(rate) -> Money`", "when is shop.Cart.total wrong", "shop.Cart.total")


def test_the_page_of_another_object_may_hold_the_signature():
    assert _repeats("`Cart.close(force=False)`", title="shop")
    assert not _repeats("`Till.close(force=False)`", title="shop")


def test_words_of_plain_prose_are_no_signature():
    assert not _repeats("Kiln (closed)", "kiln", "Kiln")
    assert not _repeats("Kiln", "kiln", "Kiln")


def test_the_sentence_below_a_signature_is_ranked_and_the_signature_is_not():
    passages = hits(chunk("a", f"{SIGNATURE}\n\nEmpties it and tells the warehouse.", title=TITLE))
    ranked = rank_evidence(WordEvidence(), "what does shop.Cart.close do", passages)
    assert [item.unit.text for item in ranked] == ["Empties it and tells the warehouse."]
    ranked = rank_evidence(WordEvidence(), "parameters of shop.Cart.close", passages)
    assert SIGNATURE in [item.unit.text for item in ranked]


def test_passages_of_nothing_but_the_named_signature_hold_no_evidence():
    assert rank_evidence(WordEvidence(), "what does shop.Cart.close do", hits(chunk("a", SIGNATURE, title=TITLE))) == ()
