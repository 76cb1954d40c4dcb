"""Clients that send scores as to Langfuse rate our responses, over HTTP requests as their packages send them."""

from base64 import b64encode

import pytest

from ragtune.errors import SettingsError
from ragtune.settings import load_settings
from ragtune_serving.feedback_tokens import HEADER
from ragtune_serving.score_routes import verdict_of
from ragtune_serving.score_schema import Score
from tests.support.served_gateway import ServedGateway, scripted_gateway

SCALES = load_settings({}).feedback.scores


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with scripted_gateway(tmp_path_factory.mktemp("home")) as served:
        yield served


def basic(secret: str) -> dict[str, str]:
    """Return the header of Langfuse's clients: Basic authentication with a public and a secret key."""
    return {"Authorization": "Basic " + b64encode(f"pk-anything:{secret}".encode()).decode()}


def send(gateway: ServedGateway, body, path: str = "/api/public/scores", key: str = ""):
    return gateway.request("POST", path, json=body, headers=basic(key or gateway.key))


def score(gateway: ServedGateway, **fields) -> dict:
    return {"traceId": gateway.ask().json()["id"], "name": "user-feedback", "value": 1, **fields}


def verdicts(gateway: ServedGateway, response_id: str) -> list[tuple]:
    events = gateway.services.log.events()
    return [(e.rating, e.stars, e.correction, e.comment, e.tags) for e in events if e.response_id == response_id]


def test_a_score_becomes_a_verdict_in_the_name_of_the_key_that_is_the_secret(gateway):
    key = gateway.keys.create("shop")
    mine = gateway.ask_with(key, "What does the total include?").json()["id"]
    body = {
        "id": "score-1",
        "traceId": mine,
        "name": "user-feedback",
        "value": 0,
        "dataType": "BOOLEAN",
        "comment": "without taxes",
        "environment": "production",
        "metadata": {"page": "cart"},
    }
    assert send(gateway, body, key=key).json() == {"id": "score-1"}
    assert verdicts(gateway, mine) == [("down", 0, "", "without taxes", ("user-feedback",))]
    [event] = [event for event in gateway.services.log.events() if event.response_id == mine]
    assert event.user == "shop"


def test_a_score_that_is_sent_again_is_stored_once_and_a_change_of_mind_is_stored(gateway):
    first = score(gateway, id="mine")
    later = {**first, "value": 0}
    for body in (first, first, later, first, later):
        assert send(gateway, body).status_code == 200
    assert [rating for rating, *_ in verdicts(gateway, first["traceId"])] == ["up", "down"], "the newest one counts"


def test_a_list_is_accepted_and_what_is_wrong_in_it_is_named_one_by_one(gateway):
    good, bad = score(gateway), score(gateway, name="toxicity", value=0.01)
    accepted = send(gateway, [good])
    assert (accepted.status_code, accepted.json()) == (202, {"message": "Accepted"})
    mixed = send(gateway, [good, bad, {"traceId": "nowhere", "name": "stars", "value": 4}, {"name": "stars"}])
    assert mixed.status_code == 207
    assert (mixed.json()["accepted"], mixed.json()["rejected"]) == (1, 3)
    unknown, nowhere, incomplete = (error["message"] for error in mixed.json()["errors"])
    assert "'toxicity'" in unknown
    assert "feedback.scores" in unknown
    assert "This key got no response 'nowhere'" in nowhere
    assert "traceId" in incomplete
    assert verdicts(gateway, bad["traceId"]) == []


def test_events_of_older_clients_and_the_address_of_a_litellm_proxy_work_too(gateway):
    body = score(gateway, name="rating", value=2.0, dataType="NUMERIC")
    event = {"id": "e1", "type": "score-create", "timestamp": "2026-12-01T10:00:00Z", "body": body}
    trace = {"id": "e2", "type": "trace-create", "timestamp": "2026-12-01T10:00:00Z", "body": {"id": "t"}}
    batch = {"batch": [event, trace], "metadata": {"sdk_name": "python"}}
    answer = send(gateway, batch, "/langfuse/api/public/ingestion")
    assert answer.status_code == 207, answer.text
    assert answer.json()["successes"] == [{"id": "e1", "status": 201}]
    assert [(error["id"], error["status"]) for error in answer.json()["errors"]] == [("e2", 400)]
    assert verdicts(gateway, body["traceId"]) == [("down", 2, "", "", ("rating",))]
    other = score(gateway, value="thumbs_up", dataType="CATEGORICAL")
    assert send(gateway, other, "/langfuse/api/public/scores").status_code == 200
    assert verdicts(gateway, other["traceId"])[0][0] == "up"


def test_a_correction_waits_for_review_as_any_other(gateway):
    body = score(gateway, name="output", value="It includes taxes.", dataType="CORRECTION")
    assert send(gateway, body).status_code == 200
    assert verdicts(gateway, body["traceId"]) == [("down", 0, "It includes taxes.", "", ("output",))]


def test_a_wrong_key_is_refused_and_the_password_opens_no_other_route(gateway):
    body = score(gateway)
    assert send(gateway, body, key="rt-wrong").status_code == 401
    assert (
        gateway.request("POST", "/api/public/scores", json=body, headers={"Authorization": "Basic %%"}).status_code
        == 401
    )
    assert gateway.request("GET", "/status", headers=basic(gateway.key)).status_code == 401
    assert gateway.request("POST", "/langfuse/v1/feedback", json={}).status_code == 404
    assert verdicts(gateway, body["traceId"]) == []


def test_a_page_sends_the_token_of_the_answer_as_the_public_key(gateway):
    """Langfuse's client for browsers sends its public key as a bearer."""
    answer = gateway.ask()
    headers = {"Authorization": f"Bearer {answer.headers[HEADER]}"}
    event = {"id": "e1", "type": "score-create", "body": {"traceId": answer.json()["id"], "name": "thumbs", "value": 1}}
    stored = gateway.request("POST", "/api/public/ingestion", json={"batch": [event]}, headers=headers)
    assert stored.json()["successes"] == [{"id": "e1", "status": 201}]
    event["body"]["traceId"] = gateway.ask().json()["id"]
    other = gateway.request("POST", "/api/public/ingestion", json={"batch": [event]}, headers=headers)
    assert [error["status"] for error in other.json()["errors"]] == [403]


@pytest.mark.parametrize(
    ("name", "value", "rating", "stars"),
    [
        ("user-feedback", 1, "up", 0),
        ("User_Feedback", True, "up", 0),
        ("user feedback", -1, "down", 0),
        ("helpful", 0.5, "neutral", 0),
        ("helpful", "Not helpful", "down", 0),
        ("stars", 1, "down", 1),
        ("rating", 5.0, "up", 5),
        ("rating", True, "up", 0),
    ],
)
def test_values_are_read_by_the_scale_of_the_name(name, value, rating, stars):
    verdict = verdict_of(Score(traceId="r", name=name, value=value), SCALES)
    assert (verdict.rating, verdict.stars) == (rating, stars)


@pytest.mark.parametrize(
    ("name", "value", "data_type", "words"),
    [
        ("user-feedback", 7, "NUMERIC", "The value of the score is 7"),
        ("stars", 2.5, "NUMERIC", "1 to 5 stars"),
        ("stars", float("inf"), "NUMERIC", "1 to 5 stars"),
        ("stars", float("nan"), "NUMERIC", "1 to 5 stars"),
        ("stars", 10**400, "NUMERIC", "1 to 5 stars"),
        ("user-feedback", 10**400, "NUMERIC", "0 or -1 for down"),
        ("user-feedback", "meh", "CATEGORICAL", "thumbs up"),
        ("user-feedback", "see above", "TEXT", "as its `comment`"),
        ("output", 1, "CORRECTION", "the text of the right answer"),
        ("latency", 0.3, None, "one of feedback, helpful"),
    ],
)
def test_a_value_that_is_no_verdict_is_refused_in_words(name, value, data_type, words):
    with pytest.raises(SettingsError, match=words):
        verdict_of(Score(traceId="r", name=name, value=value, dataType=data_type), SCALES)
