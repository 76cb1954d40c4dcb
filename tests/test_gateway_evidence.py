"""What people get from the gateway: an answer, a quotation or a refusal, whole and as a stream."""

import json

import pytest

from ragtune.answer.prompt import REFUSAL
from tests.support.served_gateway import DOCUMENTS, QUESTION, ServedGateway, scripted_gateway
from tests.test_recorder import until

QUOTATION = f'From the documents: "{DOCUMENTS["total"]}" [1]'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with scripted_gateway(tmp_path_factory.mktemp("home"), answer={"refused_share": 0.0}) as served:
        yield served


def texts(gateway, **fields) -> tuple[str, str, dict]:
    """Return the text of a plain request, that of a stream, and the field `ragtune` of the stream."""
    plain = gateway.ask(**fields).json()
    events = gateway.events(**fields)
    streamed = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    return plain["choices"][0]["message"]["content"], streamed, events[-1]["ragtune"]


@pytest.mark.parametrize(
    ("words", "text", "own"),
    [
        (REFUSAL.split(), QUOTATION, False),
        (["Penguins", "govern", "the", "parliament.", "[1]"], QUOTATION, False),
        (["The", "price", "of", "everything.", "[1]"], f"The price of everything. [1] {QUOTATION}", True),
    ],
)
def test_a_refusal_or_an_invention_becomes_a_quotation_and_an_answer_is_followed_by_one(gateway, words, text, own):
    gateway.upstream.words = words
    plain, streamed, field = texts(gateway)
    assert plain == streamed == text
    assert (field["quoted"], field["quotation"], field["refused"]) == (True, DOCUMENTS["total"], False)
    assert [citation["number"] for citation in field["citations"]] == [1]
    assert field["closest"] == []
    assert field["language"] == "en"


SCHEMA = {"type": "object", "properties": {"euros": {"type": "number"}, "why": {"type": "string"}}}
AS_JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "price", "schema": SCHEMA}}}
JSON_WORDS = ['{"euros":', "3,", '"why":', '"The price of everything.', 'Taxes included.",', '"lines":', "[2]}"]


@pytest.mark.parametrize("fields", [{"response_format": {"type": "json_object"}}, AS_JSON])
def test_json_is_delivered_as_the_model_wrote_it_and_cites_what_holds_its_texts(gateway, fields):
    gateway.upstream.words = JSON_WORDS
    plain, streamed, field = texts(gateway, **fields)
    assert plain == streamed == " ".join(JSON_WORDS)
    assert json.loads(streamed)["lines"] == [2]
    assert (field["quoted"], field["warnings"], field["failures"]) == (False, [], [])
    assert [citation["title"] for citation in field["citations"]] == ["shop.total"]
    assert gateway.upstream.requests[-1]["response_format"] == fields["response_format"]


def test_json_is_streamed_as_it_is_written(gateway):
    gateway.upstream.words = JSON_WORDS
    pieces = [event["choices"][0]["delta"].get("content") for event in gateway.events(**AS_JSON)]
    assert len([piece for piece in pieces if piece]) >= len(JSON_WORDS) - 1, "no piece waits for the end of a sentence"


def test_json_that_does_not_fit_the_schema_is_written_again_and_a_stream_only_names_it(gateway):
    wrong, right = ['{"euros":', '"three"}'], ['{"euros":', "3}"]
    gateway.upstream.next_words = [wrong, right]
    reply = gateway.ask(**AS_JSON).json()
    assert reply["choices"][0]["message"]["content"] == '{"euros": 3}'
    assert (reply["ragtune"]["replaced"], reply["ragtune"]["failures"]) == (["format"], [])
    gateway.upstream.next_words = [wrong]
    (failure,) = gateway.events(**AS_JSON)[-1]["ragtune"]["failures"]
    assert failure == {
        "reason": "format",
        "detail": "It does not fit the schema at $.euros: 'three' is not of type 'number'",
    }


def test_a_question_without_evidence_is_refused_without_asking_the_engine(gateway):
    home, upstream = gateway.settings.home, gateway.upstream
    strict = ServedGateway(home, upstream, answer={"refused_share": 1.0})
    try:
        asked = len(upstream.requests)
        plain, streamed, field = texts(strict, content="Which colour had the captain's parrot in the last film?")
        assert plain == streamed == REFUSAL
        assert field["refused"]
        assert len(upstream.requests) == asked
        assert field["closest"][0]["sentence"] in DOCUMENTS.values()
        assert field["closest"][0]["score"] < 0.5
    finally:
        strict.close()


def test_the_text_stays_as_it_is_without_strict_grounding(gateway):
    gateway.upstream.words = ["Penguins", "govern.", "[1]"]
    answer = gateway.ask(ragtune={"switches": {"strict_grounding": False}}).json()
    assert answer["choices"][0]["message"]["content"].strip() == "Penguins govern. [1]"
    assert QUESTION in gateway.upstream.requests[-1]["messages"][-1]["content"]


def test_a_german_question_is_quoted_in_german_and_small_talk_needs_no_engine(gateway):
    gateway.upstream.words = REFUSAL.split()
    plain, streamed, field = texts(gateway, content="Was ist der Preis von `shop.cart.total` und wie ist er?")
    assert plain == streamed == f"Aus den Dokumenten: „{DOCUMENTS['total']}“ [1]"
    assert (field["language"], field["warnings"]) == ("de", [])
    asked = len(gateway.upstream.requests)
    plain, streamed, field = texts(gateway, content="Vielen Dank!")
    assert plain == streamed == "Gern geschehen."
    assert (field["language"], field["refused"], field["warnings"]) == ("de", False, [])
    assert len(gateway.upstream.requests) == asked


def test_a_wrong_number_is_written_again_and_then_quoted_also_in_a_stream(gateway):
    log = gateway.services.log
    question = "What does `shop.users.login` open, and for how long?"
    gateway.upstream.words = ["It", "opens", "a", "session", "for", "95", "minutes.", "[1]"]
    asked = len(gateway.upstream.requests)
    failed = gateway.metric('ragtune_failed_checks_total{reason="numbers"}')
    reply = gateway.ask(question).json()
    first, second = gateway.upstream.requests[asked:]
    assert second["temperature"] > first["temperature"] == 0
    assert second["seed"] == first["seed"] + 1
    assert reply["choices"][0]["message"]["content"].startswith('From the documents: "shop.users.login checks')
    assert (reply["ragtune"]["replaced"], reply["ragtune"]["failures"]) == (["numbers"], [])
    assert reply["usage"]["completion_tokens"] == 16, "of both texts"
    assert gateway.metric('ragtune_failed_checks_total{reason="numbers"}') == failed + 2
    assert gateway.metric('ragtune_replaced_answers_total{by="quotation"}') >= 1
    until(lambda: log.response(reply["id"]) is not None)
    assert log.response(reply["id"]).checks["replaced"] == ["numbers"]
    asked = len(gateway.upstream.requests)
    events = gateway.events(question)
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == reply["choices"][0]["message"]["content"]
    assert events[-1]["ragtune"]["replaced"] == ["numbers"]
    assert [request["temperature"] > 0 for request in gateway.upstream.requests[asked:]] == [False, True]


def test_what_was_streamed_already_is_not_taken_back_but_named(gateway):
    log = gateway.services.log
    opens = ["It", "opens", "a", "session", "for"]
    gateway.upstream.words = [*opens, "thirty", "minutes.", "[1]", *opens, "95", "minutes.", "[1]"]
    events = gateway.events("What does `shop.users.login` open, and for how long?")
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert "thirty minutes. [1] It opens a session for 95 minutes." in text
    field = events[-1]["ragtune"]
    assert [failure["reason"] for failure in field["failures"]] == ["numbers"]
    until(lambda: log.response(field["response_id"]) is not None)
    checks = log.response(field["response_id"]).checks
    assert "95" in checks["failures"]["numbers"]
    assert 0.6 <= checks["support"] < 1


def test_a_second_text_that_passes_is_delivered(gateway):
    wrong = ["It", "opens", "a", "session", "for", "95", "minutes.", "[1]"]
    gateway.upstream.next_words = [wrong, [*wrong[:5], "thirty", *wrong[6:]]]
    before = gateway.metric('ragtune_replaced_answers_total{by="second try"}')
    reply = gateway.ask("What does `shop.users.login` open, and for how long?").json()
    assert reply["choices"][0]["message"]["content"].startswith("It opens a session for thirty minutes. [1]")
    assert reply["ragtune"]["replaced"] == ["numbers"]
    assert gateway.metric('ragtune_replaced_answers_total{by="second try"}') == before + 1
