"""Ids, log lines and traces of requests; none of them has a question, an answer or a key unless switched on."""

import json
import logging
import time

import httpx
import pytest

from ragtune_serving.logs import JsonFormatter
from tests.support.gateway_process import Gateway
from tests.support.scripted_upstream import WORDS, ScriptedUpstream
from tests.support.served_gateway import QUESTION, ServedGateway, index_documents
from tests.support.span_collector import SpanCollector, attributes

MARK = "zyzzyva"
"""A word that is nowhere but in the questions of these tests."""


@pytest.fixture(scope="module")
def upstream():
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def collector():
    collector = SpanCollector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, upstream):
    """A gateway that may write content into log and traces."""
    home = tmp_path_factory.mktemp("home")
    index_documents(home)
    served = ServedGateway(home, upstream, gateway={"log_content": True})
    yield served
    served.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory, upstream, collector):
    """A gateway as people run it, after requests of every kind; it has ended, so that everything is written."""
    home = tmp_path_factory.mktemp("home")
    index_documents(home)
    running = Gateway(
        home,
        RAGTUNE_ENGINE__BACKEND="openai",
        RAGTUNE_ENGINE__URL=upstream.url,
        RAGTUNE_ENGINE__MODEL=upstream.name,
        RAGTUNE_GATEWAY__LOG_FORMAT="json",
        RAGTUNE_GATEWAY__TRACES_URL=collector.url,
        RAGTUNE_GATEWAY__RETRIES="0",
        RAGTUNE_ANSWER__QUOTATIONS="false",
        RAGTUNE_ANSWER__REFUSED_SHARE="0",
    )
    try:
        running.wait()
        question = f"{QUESTION} {MARK}"
        for behaviour in ("answer", "broken", "garbage", "no_choices", "refusing", "hangs_up_in_the_middle"):
            for stream in (False, True):
                upstream.behaviours = [behaviour] if stream or "hangs_up" not in behaviour else ["answer"]
                messages = [{"role": "system", "content": MARK}, {"role": "user", "content": question}]
                body = {"model": "ragtune", "messages": messages, "stream": stream}
                running.request("POST", "/v1/chat/completions", json=body, headers={"x-request-id": f"my-{behaviour}"})
        running.request("POST", "/v1/chat/completions", json={"model": "ragtune", "messages": question})
        running.request("POST", "/v1/chat/completions", json={"model": "ragtune", "messages": [], MARK: 1})
        running.request("POST", "/v1/embeddings", json={"model": "ragtune-embedder", "input": question})
        httpx.get(f"{running.url}/v1/models", headers={"Authorization": f"Bearer rt-{MARK}"})
        running.key_text = running.key
        assert running.stop() == 0, running.log.read_text()
        yield running
    finally:
        running.kill()


def lines(running) -> list[dict]:
    text = (running.home / "logs" / "gateway.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_response_has_an_id_and_that_of_the_client_is_taken_over(gateway):
    assert gateway.ask().headers["x-request-id"].startswith("req-")
    for method, path in (("GET", "/v1/models"), ("GET", "/nothing"), ("POST", "/v1/chat/completions")):
        answer = gateway.request(method, path, headers={"x-request-id": "abc-1.2:3"})
        assert answer.headers["x-request-id"] == "abc-1.2:3", path
    unauthorised = httpx.get(f"{gateway.url}/v1/models", headers={"x-request-id": "abc"})
    assert (unauthorised.status_code, unauthorised.headers["x-request-id"]) == (401, "abc")
    with gateway.client() as client:
        assert client.models.list()._request_id.startswith("req-"), "the official client shows it"


@pytest.mark.parametrize("forged", ["a b", "x" * 129, "[31m", ""])
def test_an_id_that_could_forge_a_line_of_a_log_is_replaced(gateway, forged):
    answer = gateway.request("GET", "/v1/models", headers={"x-request-id": forged})
    assert answer.headers["x-request-id"].startswith("req-")


def test_no_question_answer_or_key_is_in_a_log_or_a_span(process, collector):
    logs = [process.log, *(process.home / "logs").glob("*.log")]
    assert len(logs) >= 2
    answer = " ".join(WORDS[:-1])
    for text in [*(log.read_text() for log in logs), collector.bodies.decode("latin-1")]:
        for content in (MARK, QUESTION, answer, process.key_text):
            assert content not in text


def test_the_log_is_json_with_a_line_for_every_request(process):
    found = lines(process)
    requests = [line for line in found if line["logger"] == "ragtune_serving.requests"]
    chats = [line for line in requests if line["path"] == "/v1/chat/completions"]
    assert len(chats) == 14
    whole = chats[0]
    assert (whole["request_id"], whole["status"], whole["key"]) == ("my-answer", 200, "client")
    assert (whole["model"], whole["model_version"], whole["outcome"]) == ("ragtune", "provider", "answered")
    assert (whole["delivered"], whole["completion_tokens"]) == ("answer", len(WORDS))
    assert whole["milliseconds"] > 0
    assert not {"question", "answer"} & set(whole)
    assert not [line for line in requests if line["path"].startswith("/health")]


def test_a_warning_has_the_id_of_its_request(process):
    warnings = [line for line in lines(process) if line["level"] == "WARNING" and "request_id" in line]
    assert "my-broken" in {line["request_id"] for line in warnings}


def test_a_trace_has_the_stages_of_an_answer(process, collector):
    first = next(trace for trace in collector.traces() if attributes(trace[0])["ragtune.request_id"] == "my-answer")
    root, *stages = first
    assert [stage.name for stage in sorted(stages, key=lambda span: span.start_time_unix_nano)] == [
        "retrieval",
        "prompt",
        "upstream",
        "checks",
    ]
    assert {stage.parent_span_id for stage in stages} == {root.span_id}
    for stage in stages:
        assert root.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano <= root.end_time_unix_nano
    values = attributes(root)
    assert (values["gen_ai.operation.name"], values["gen_ai.response.model"]) == ("chat", "provider")
    assert values["gen_ai.usage.output_tokens"] == len(WORDS)
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 3600, "a time of day"


def test_a_trace_of_a_failure_is_an_error(process, collector):
    failed = [trace[0] for trace in collector.traces() if trace[0].status.code == 2]
    assert "my-broken" in {attributes(span)["ragtune.request_id"] for span in failed}


def test_questions_and_answers_are_logged_if_that_is_switched_on(gateway):
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("ragtune_serving.requests")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        gateway.ask()
        end = time.monotonic() + 20
        while not records:  # the line is written behind the answer
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    line = json.loads(JsonFormatter().format(records[-1]))
    assert (line["question"], line["answer"]) == (QUESTION, " ".join(WORDS))


def test_spans_join_the_trace_of_the_client(tmp_path, upstream, collector):
    index_documents(tmp_path)
    served = ServedGateway(tmp_path, upstream, gateway={"traces_url": collector.url})
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    try:
        served.request(
            "POST",
            "/v1/chat/completions",
            headers={"traceparent": f"00-{trace}-{parent}-01"},
            json={"model": "ragtune", "messages": [{"role": "user", "content": QUESTION}], "stream": True},
        )
    finally:
        served.close()
    root = next(spans[0] for spans in collector.traces() if spans[0].trace_id.hex() == trace)
    assert root.parent_span_id.hex() == parent


def test_a_collector_that_is_away_costs_no_answer(tmp_path, upstream):
    index_documents(tmp_path)
    served = ServedGateway(tmp_path, upstream, gateway={"traces_url": "http://127.0.0.1:9"})
    try:
        assert served.ask().status_code == 200
    finally:
        served.close()
