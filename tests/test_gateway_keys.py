"""Roles, limits and filters of keys over HTTP, and embeddings."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from ragtune_serving.limits import Limits
from tests.support.served_gateway import QUESTION, scripted_gateway
from tests.test_recorder import until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    limits = {"requests_per_minute": 10_000}
    settings = {"limits": limits, "price": {"prompt": 2.0, "completion": 10.0}}
    with scripted_gateway(tmp_path_factory.mktemp("home"), gateway=settings) as served:
        yield served


def client(gateway, name: str, **fields) -> openai.OpenAI:
    key = gateway.keys.create(name, **fields)
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


def ask(client: openai.OpenAI, **fields):
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model="ragtune", messages=messages, **fields)


def test_a_role_opens_its_routes_and_the_error_names_the_roles_that_open_others(gateway):
    application = client(gateway, "shop")
    assert ask(application).choices[0].message.content
    with pytest.raises(openai.PermissionDeniedError, match="Roles that may: operator, admin"):
        application.get("http://x/status".replace("http://x", gateway.url), cast_to=object)
    with pytest.raises(openai.PermissionDeniedError, match="reviewer"):
        ask(client(gateway, "ann", role="reviewer"))


def test_a_revoked_key_is_refused_at_once(gateway):
    soon_gone = client(gateway, "soon gone")
    assert ask(soon_gone)
    gateway.keys.revoke("soon gone")
    with pytest.raises(openai.AuthenticationError):
        ask(soon_gone)


def test_a_key_with_a_filter_sees_only_its_passages_and_cannot_widen_it(gateway):
    restricted = client(gateway, "restricted", filter_={"title": "shop.empty"})
    reply = ask(restricted)
    assert [citation["title"] for citation in reply.ragtune["citations"]] == ["shop.empty"]
    ask(restricted, extra_body={"ragtune": {"filter": {"title": "shop.empty"}}})
    with pytest.raises(openai.BadRequestError, match=r"sees only title=shop\.empty"):
        ask(restricted, extra_body={"ragtune": {"filter": {"title": "shop.total"}}})


def test_a_reviewer_with_a_filter_is_told_why_the_queue_of_all_documents_is_closed(gateway):
    restricted = client(gateway, "reviewer of empty", role="reviewer", filter_={"title": "shop.empty"})
    with pytest.raises(openai.PermissionDeniedError, match="the filter of this key allows only some"):
        restricted.get("/review/pairs", cast_to=object)


def test_sixty_four_clients_at_once_never_pass_the_limit_and_learn_when_to_come_back(gateway):
    limited = client(gateway, "limited", limits=Limits(requests_per_minute=10))

    def status(_: int) -> tuple[int, dict]:
        try:
            answer = limited.chat.completions.with_raw_response.create(
                model="ragtune", messages=[{"role": "user", "content": QUESTION}]
            )
        except openai.RateLimitError as error:
            return error.status_code, dict(error.response.headers)
        return answer.status_code, dict(answer.headers)

    before = len(gateway.upstream.requests)
    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(status, range(64)))
    assert [code for code, _ in results].count(200) == 10
    assert len(gateway.upstream.requests) == before + 10
    assert all(1 <= int(headers["retry-after"]) <= 60 for code, headers in results if code == 429)
    remaining = sorted(int(headers["x-ratelimit-remaining-requests"]) for code, headers in results if code == 200)
    assert remaining == list(range(10))
    assert gateway.metric('ragtune_requests_total{model="ragtune",outcome="limited"}') == 54


def test_requests_at_once_are_limited_and_a_client_that_goes_away_makes_room(gateway):
    key = gateway.keys.create("single", limits=Limits(concurrency=1))
    gateway.upstream.behaviours = ["endless"]
    impatient = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)

    def refused() -> bool:
        if gateway.upstream.running == 0:
            return False
        with pytest.raises(openai.RateLimitError, match="1 requests under way"):
            ask(impatient)
        return True

    gateway.leave_after(refused, key)
    until(lambda: gateway.services.deployment.live.in_flight == 0)
    patient = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=3)
    for _ in range(3):
        assert list(ask(patient, stream=True))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_has_used_what_was_reserved(gateway, stream):
    limits = Limits(requests_per_minute=5, tokens_per_minute=2000)
    key = gateway.keys.create(f"leaves {stream}", limits=limits)
    gateway.upstream.behaviours = ["endless"]
    gateway.leave_after(lambda: gateway.upstream.running == 1, key, stream=stream, max_tokens=700)
    until(lambda: gateway.services.deployment.live.in_flight == 0)

    def left() -> dict[str, str]:
        return dict(gateway.ask_with(key, QUESTION).headers)

    until(lambda: int(left()["x-ratelimit-remaining-tokens"]) < 1300)
    assert int(left()["x-ratelimit-remaining-requests"]) < 4


def test_an_answer_that_the_engine_does_not_give_costs_nothing(gateway):
    key = gateway.keys.create("unlucky", limits=Limits(requests_per_minute=2))
    gateway.upstream.behaviour = "broken"
    try:
        assert [gateway.ask_with(key, QUESTION).status_code for _ in range(4)] == [503] * 4
    finally:
        gateway.upstream.behaviour = "answer"
    assert gateway.ask_with(key, QUESTION).headers["x-ratelimit-remaining-requests"] == "1"


def test_tokens_are_limited_by_what_an_answer_may_become(gateway):
    small = client(gateway, "small", limits=Limits(tokens_per_minute=800))
    with pytest.raises(openai.BadRequestError, match="this key may use 800 a minute"):
        ask(small, max_tokens=900)
    reply = small.chat.completions.with_raw_response.create(
        model="ragtune", messages=[{"role": "user", "content": QUESTION}], max_tokens=300
    )
    assert reply.headers["x-ratelimit-limit-tokens"] == "800"
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 500


def test_a_budget_is_reserved_by_the_longest_answer_and_settled_by_the_real_one(gateway):
    key = gateway.keys.create("thrifty", limits=Limits(budget_per_day=0.02))
    reply = gateway.ask_with(key, QUESTION)
    assert reply.headers["x-ratelimit-limit-cost-day"] == "0.02"
    assert float(reply.headers["x-ratelimit-remaining-cost-day"]) < 0.0195, "of the longest answer"
    again = gateway.ask_with(key, QUESTION)
    spent = 2e-6 * 7 + 10e-6 * 8  # what the engine says of the first answer
    reserved = 0.02 - float(reply.headers["x-ratelimit-remaining-cost-day"])
    assert float(again.headers["x-ratelimit-remaining-cost-day"]) == pytest.approx(0.02 - spent - reserved, abs=1e-6)
    dear = client(gateway, "dear", limits=Limits(budget_per_day=0.005))
    with pytest.raises(openai.BadRequestError, match=r"this key may spend 0\.005 a day"):
        ask(dear, max_tokens=900)


def test_embeddings_are_those_of_the_index_in_both_formats(gateway):
    texts = ["the price of the cart", "a session of thirty minutes"]
    as_client = gateway.client().embeddings.create(model="ragtune-embedder", input=texts)  # base64 by default
    vectors = np.array([item.embedding for item in as_client.data])
    assert vectors.shape == (2, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-3)
    ours = gateway.services.grounding.embedder().embed(texts)
    assert vectors == pytest.approx(ours, abs=1e-3)
    as_floats = gateway.client().embeddings.create(model="ragtune-embedder", input=texts[0], encoding_format="float")
    assert as_floats.data[0].embedding == pytest.approx(list(ours[0]), abs=1e-3)
    assert as_floats.usage.prompt_tokens == 7


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"model": "ada"}, "ragtune-embedder"),
        ({"dimensions": 5}, "384"),
        ({"input": []}, "input"),
        ({"input": [[1, 2]]}, "input"),
    ],
)
def test_a_wrong_request_for_embeddings_is_a_400(gateway, fields, word):
    body = {"model": "ragtune-embedder", "input": "x", **fields}
    answer = gateway.request("POST", "/v1/embeddings", json=body)
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]
