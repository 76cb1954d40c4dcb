"""A page without a key rates one answer with the token that came with it, and nothing else."""

import json
import stat

import pytest

from ragtune_serving import feedback_tokens
from ragtune_serving.feedback_tokens import HEADER
from tests.support.served_gateway import QUESTION, ServedGateway, scripted_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    origins = {"cors_origins": ["https://shop.example"]}
    with scripted_gateway(tmp_path_factory.mktemp("home"), gateway=origins) as served:
        yield served


def rate(gateway: ServedGateway, token: str, response_id: str, path: str = "/v1/feedback"):
    headers = {"Authorization": f"Bearer {token}"}
    return gateway.request("POST", path, headers=headers, json={"response_id": response_id, "rating": "up"})


def test_the_token_of_an_answer_rates_it_in_the_name_of_the_key_that_asked(gateway):
    answer = gateway.ask_with(gateway.keys.create("shop"), QUESTION)
    stored = rate(gateway, answer.headers[HEADER], answer.json()["id"])
    assert stored.status_code == 200, stored.text
    [event] = [event for event in gateway.services.log.events() if event.id == stored.json()["id"]]
    assert event.user == "shop"


def test_a_stream_has_a_token_in_its_headers_too(gateway):
    answer = gateway.ask(stream=True)
    first = json.loads(answer.text.partition("\n")[0].removeprefix("data: "))
    assert rate(gateway, answer.headers[HEADER], first["id"]).status_code == 200


def test_a_token_rates_no_other_answer_and_opens_no_other_route(gateway):
    first, second = gateway.ask(), gateway.ask()
    refused = rate(gateway, first.headers[HEADER], second.json()["id"])
    assert refused.status_code == 403
    assert first.json()["id"] in refused.json()["error"]["message"]
    assert rate(gateway, first.headers[HEADER], first.json()["id"], "/v1/embeddings").status_code == 401
    assert gateway.ask_with(first.headers[HEADER], QUESTION).status_code == 401


def test_a_forged_token_is_refused(gateway):
    answer = gateway.ask()
    token, response_id = answer.headers[HEADER], answer.json()["id"]
    for forged in (token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), token.rpartition(".")[0], "x.y.z"):
        assert rate(gateway, forged, response_id).status_code == 401


def test_a_token_ends_with_its_key_and_after_a_week(gateway, monkeypatch):
    answer = gateway.ask_with(gateway.keys.create("page"), QUESTION)
    token, response_id = answer.headers[HEADER], answer.json()["id"]
    monkeypatch.setattr(feedback_tokens, "SECONDS", -1)
    assert rate(gateway, token, response_id).status_code == 401
    monkeypatch.undo()
    assert rate(gateway, token, response_id).status_code == 200
    gateway.keys.create("page")
    assert rate(gateway, token, response_id).status_code == 401, "the name has another key now"


def test_a_page_of_an_allowed_origin_can_read_the_token(gateway):
    headers = {"Origin": "https://shop.example", **gateway.headers}
    answer = gateway.request("GET", "/v1/models", headers=headers)
    assert HEADER.lower() in answer.headers["access-control-expose-headers"].lower()


def test_the_secret_is_readable_by_its_owner_only(gateway):
    secret = gateway.settings.home / "keys" / "feedback.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
