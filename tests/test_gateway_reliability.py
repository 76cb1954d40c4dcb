"""What a client sees when the engine misbehaves, the client goes away or the disk is full.

The table in docs/howto/reliability.md has a row for each case.
"""

import threading
import time

import httpx
import pytest

from tests.support.scripted_upstream import ENGINE_400, ScriptedUpstream
from tests.support.served_gateway import QUESTION, ServedGateway, index_documents
from tests.test_recorder import fill_disk, until

REQUESTS = 'ragtune_requests_total{{model="ragtune",outcome="{}"}}'


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    index_documents(home)
    return home


@pytest.fixture(scope="module")
def upstream():
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def second():
    """A second server, with another answer: the fallback."""
    upstream = ScriptedUpstream("second", words=["The", "second", "server", "says", "so.", "[1]"])
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def alone(home, upstream):
    """A gateway with an engine, one retry and no fallback."""
    served = ServedGateway(home, upstream, gateway={"retries": 1, "timeout_seconds": 3, "stream_timeout_seconds": 1.0})
    yield served
    served.close()


@pytest.fixture(scope="module")
def backed(home, upstream, second):
    """A gateway with an engine, no retry and a fallback."""
    fallback = {"model": "openai/second", "url": second.url, "api_key": "x"}
    served = ServedGateway(
        home,
        upstream,
        gateway={
            "retries": 0,
            "timeout_seconds": 3,
            "stream_timeout_seconds": 1.0,
            "cooldown_seconds": 0,
            "fallbacks": [fallback],
        },
    )
    yield served
    served.close()


@pytest.fixture(autouse=True)
def calm(upstream):
    yield
    upstream.behaviour, upstream.behaviours = "answer", []


GONE_SECONDS = 20.0
"""It takes some milliseconds; a busy machine may need longer."""
FAILURES = ("too_many", "broken", "garbage", "no_choices", "hangs_up_first", "endless")
"""Behaviours of an engine that gives no answer."""


@pytest.mark.parametrize("behaviour", FAILURES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_before_the_first_token_is_a_503_in_the_documented_shape(
    alone, upstream, behaviour, stream
):
    upstream.behaviour = behaviour
    failed = alone.metric(REQUESTS.format("failed"))
    answer = alone.ask(stream=stream)
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["retry-after"] == "5"
    for internal in ("10.0.0.1", upstream.url, "litellm", "Model Group", "#1"):
        assert internal.lower() not in answer.text.lower()
    assert alone.metric(REQUESTS.format("failed")) == failed + 1
    assert alone.services.deployment.live.in_flight == 0


@pytest.mark.parametrize("behaviour", ["too_many", "broken"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_that_passes_is_retried_unseen(alone, upstream, behaviour, stream):
    upstream.behaviours = [behaviour]
    before = len(upstream.requests)
    answer = alone.ask(stream=stream)
    assert answer.status_code == 200, answer.text
    assert "price of everything" in answer.text or stream
    assert len(upstream.requests) == before + 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_every_server_refuses_is_a_400_in_their_words(backed, upstream, second, stream):
    upstream.behaviour = "refusing"
    assert backed.ask(stream=stream).status_code == 200, "the fallback may read longer prompts"
    second.behaviour = "refusing"
    try:
        answer = backed.ask(stream=stream)
    finally:
        second.behaviour = "answer"
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"The engine refused the request: {ENGINE_400}"


@pytest.mark.parametrize("behaviour", FAILURES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_answers_if_the_engine_fails_before_the_first_token(backed, upstream, behaviour, stream):
    upstream.behaviour = behaviour
    if stream:
        events = backed.events()
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        extra = events[-1]["ragtune"]
    else:
        reply = backed.ask().json()
        text, extra = reply["choices"][0]["message"]["content"], reply["ragtune"]
    assert text.strip() == "The second server says so. [1]"
    assert extra["model_version"] == "fallback:openai/second"


@pytest.mark.parametrize("behaviour", ["hangs_up_in_the_middle", "error_in_the_middle"])
@pytest.mark.parametrize("name", ["alone", "backed"])
def test_a_stream_that_breaks_in_the_middle_ends_with_an_error_and_never_with_another_answer(
    request, upstream, name, behaviour
):
    gateway = request.getfixturevalue(name)
    upstream.behaviour = behaviour
    failed = gateway.metric(REQUESTS.format("failed"))
    events = gateway.events()
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert text.startswith("The price of")
    assert set(events[-1]) == {"error"}
    assert events[-1]["error"]["code"] == "503"
    assert gateway.metric(REQUESTS.format("failed")) == failed + 1
    with pytest.raises(Exception, match="did not answer completely"):
        list(gateway.client().chat.completions.create(
            model="ragtune", messages=[{"role": "user", "content": QUESTION}], stream=True
        ))  # fmt: skip


def test_a_fallback_answers_while_the_engine_is_away(home, second):
    engine = ScriptedUpstream()
    fallback = {"model": "openai/second", "url": second.url, "api_key": "x"}
    gateway = ServedGateway(home, engine, gateway={"fallbacks": [fallback], "retries": 0})
    try:
        assert gateway.ask().json()["ragtune"]["model_version"] == "provider"
        engine.close()
        until(lambda: not gateway.services.deployment.live.ready)
        reply = gateway.ask().json()
        assert reply["ragtune"]["model_version"] == "fallback:openai/second"
    finally:
        gateway.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_waits_for_an_engine_that_starts_in_place_of_another_one(alone, stream):
    live = alone.services.deployment.live
    live.state, live.awaited = "starting", True
    began = time.monotonic()
    threading.Timer(1.0, lambda: setattr(live, "state", "ready")).start()
    try:
        assert alone.ask(stream=stream).status_code == 200
    finally:
        live.state, live.awaited = "ready", False
    assert time.monotonic() - began >= 1.0


def test_a_request_that_waited_long_enough_for_an_engine_gets_the_reason(home, upstream):
    gateway = ServedGateway(home, upstream, gateway={"swap_wait_seconds": 0.3})
    live = gateway.services.deployment.live
    live.state, live.awaited = "starting", True
    try:
        answer = gateway.ask()
    finally:
        live.state, live.awaited = "ready", False
        gateway.close()
    assert answer.status_code == 503
    assert "memory holds only one" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("stream", [False, True])
def test_the_generation_ends_when_the_client_goes_away(home, stream):
    engine = ScriptedUpstream()
    gateway = ServedGateway(home, engine)
    try:
        engine.behaviour = "endless"
        broken, answered = (gateway.metric(REQUESTS.format(outcome)) for outcome in ("broken", "answered"))
        gateway.leave_after(lambda: engine.running == 1, stream=stream)
        until(lambda: engine.abandoned == 1, GONE_SECONDS)
        until(lambda: gateway.metric(REQUESTS.format("broken")) == broken + 1)
        assert gateway.metric(REQUESTS.format("answered")) == answered
        assert gateway.services.deployment.live.in_flight == 0
    finally:
        gateway.close()
        engine.close()


def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_generation(alone, upstream):
    upstream.behaviour = "slow"
    abandoned = upstream.abandoned
    broken = alone.metric(REQUESTS.format("broken"))
    body = {"model": "ragtune", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    with httpx.stream("POST", f"{alone.url}/v1/chat/completions", json=body, headers=alone.headers) as answer:
        lines = answer.iter_lines()
        while "price" not in next(lines):
            pass
    until(lambda: upstream.abandoned == abandoned + 1, GONE_SECONDS)
    until(lambda: alone.metric(REQUESTS.format("broken")) == broken + 1)


def test_answers_go_on_while_the_disk_is_full_and_status_and_metrics_say_so(home, upstream):
    gateway = ServedGateway(home, upstream)
    try:
        fill_disk(gateway.services.log, full=True)
        replies = [gateway.ask(f"{QUESTION} {'why ' * 800}") for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200] * 3
        until(lambda: "full" in gateway.request("GET", "/status").json()["error"])
        ready = gateway.request("GET", "/health/readiness")
        assert ready.status_code == 200
        assert ready.json()["log"] == "waiting"
        # The pages of the log that exist already may still take one of them.
        until(lambda: gateway.metric("ragtune_log_pending") >= 2)
        feedback = {"response_id": replies[2].json()["id"], "rating": "up"}
        refused = gateway.request("POST", "/v1/feedback", json=feedback)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        fill_disk(gateway.services.log, full=False)
        until(lambda: gateway.metric("ragtune_log_pending") == 0)
        assert gateway.request("POST", "/v1/feedback", json=feedback).status_code == 200
        assert gateway.request("GET", "/health/readiness").json()["log"] == "written"
    finally:
        gateway.close()


def test_many_questions_at_once_are_all_answered_and_recorded(alone):
    before = alone.services.log.count_responses()
    statuses = []

    def ask() -> None:
        statuses.extend(alone.ask().status_code for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 80
    until(lambda: alone.services.log.count_responses() == before + 80)


@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_address_is_listened_on_and_its_urls_have_brackets(host):
    from ragtune_serving.address import check_port, http_url, listen
    from tests.support.fake_engine import free_port

    port = free_port()
    check_port(host, port, "gateway.port")
    with listen(host, port) as listener:
        assert listener.getsockname()[1] == port
        assert http_url(host, port) == f"http://[::1]:{port}"
        import socket

        socket.create_connection(("::1", port), timeout=5).close()
        if host == "::":
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
