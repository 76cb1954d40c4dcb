"""The gateway as a real process in front of a real OpenAI-compatible server, asked by the openai client."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from ragtune.settings import load_settings
from ragtune.store.feedback import FeedbackLog
from tests.support import fake_engine
from tests.support.fake_engine import RunningFake
from tests.support.gateway_process import Gateway

QUESTION = "What does `shop.cart.total` return?"
DOCUMENTS = {
    "total": "shop.cart.total returns the price of everything in the cart, taxes included.",
    "empty": "shop.cart.empty removes every item from the cart and frees the stock.",
    "login": "shop.users.login checks the password and opens a session for thirty minutes.",
}


# The engine of these tests counts words as tokens.
ANSWER_TOKENS = len(f"shop.total says: {DOCUMENTS['total']} [1]".split())
REFUSAL_TOKENS = 8


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    lines = [json.dumps({"id": k, "title": f"shop.{k}", "text": v}) for k, v in DOCUMENTS.items()]
    (home / "docs.jsonl").write_text("\n".join(lines))
    engine = RunningFake("fake", home / "engine.log")
    gateway = Gateway(
        home,
        background=True,
        RAGTUNE_ENGINE__BACKEND="openai",
        RAGTUNE_ENGINE__URL=f"{engine.url}/v1",
        RAGTUNE_ENGINE__API_KEY=engine.api_key,
        RAGTUNE_ENGINE__MODEL="fake",
        RAGTUNE_GATEWAY__POLL_SECONDS="0.2",
        # These tests are about the way of the engine's text; tests/test_gateway_evidence.py is about the decision.
        RAGTUNE_ANSWER__QUOTATIONS="false",
        RAGTUNE_ANSWER__REFUSED_SHARE="0",
    )
    gateway.engine = engine
    try:
        indexed = gateway.cli("index", "--source", f"jsonl:{home / 'docs.jsonl'}", "--json")
        assert json.loads(indexed.stdout)["documents"] == len(DOCUMENTS), indexed.stderr
        yield gateway.wait()
        gateway.client.close()
        assert gateway.stop() == 0, gateway.log.read_text()
    finally:
        gateway.kill()
        engine.stop()


def metrics(gateway) -> Counter[str]:
    """Return {name with labels: value} of /metrics; a series that does not exist yet is 0."""
    lines = gateway.request("GET", "/metrics").text.splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return Counter({name: float(value) for name, value in samples})


def test_the_openai_client_gets_a_grounded_answer_with_citations(gateway):
    reply = gateway.client.chat.completions.create(model="ragtune", messages=[{"role": "user", "content": QUESTION}])
    assert "price of everything" in reply.choices[0].message.content
    assert reply.model == "ragtune"
    extra = reply.ragtune
    assert extra["response_id"] == reply.id
    assert extra["model_version"] == "provider"
    assert [c["number"] for c in extra["citations"]] == [1]
    assert extra["citations"][0]["text"] in DOCUMENTS["total"]
    place = [extra["citations"][0][name] for name in ("source", "headings", "page", "start")]
    assert place == ["total", [], 0, 0], "the source is the id of the line"
    assert extra["refused"] is False
    assert extra["retrieval_ms"] > 0


def test_the_raw_model_answers_without_retrieval(gateway):
    reply = gateway.client.chat.completions.create(
        model="ragtune-raw", messages=[{"role": "user", "content": QUESTION}]
    )
    assert reply.choices[0].message.content == "fake answers from memory."
    assert reply.ragtune["citations"] == []


def test_a_stream_ends_with_the_citations(gateway):
    stream = gateway.client.chat.completions.create(
        model="ragtune", messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "price of everything" in text
    assert len(chunks) >= 3  # the role, the first sentence as soon as it is complete, and the end
    assert not hasattr(chunks[0], "ragtune")
    last = chunks[-1]
    assert last.ragtune["citations"][0]["number"] == 1
    assert {c.id for c in chunks} == {last.ragtune["response_id"]}
    assert {c.model for c in chunks} == {"ragtune"}
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_citation_of_the_wrong_passage_is_corrected_in_the_text_that_is_sent(gateway, stream):
    messages = [{"role": "user", "content": f"{QUESTION} MISCOUNT"}]
    reply = gateway.client.chat.completions.create(model="ragtune", messages=messages, stream=stream)
    if stream:
        chunks = list(reply)
        text, extra = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks[-1].ragtune
    else:
        text, extra = reply.choices[0].message.content, reply.ragtune
    assert text.strip() == f"{DOCUMENTS['total']} [1]"
    assert [(c["number"], c["text"]) for c in extra["citations"]] == [(1, DOCUMENTS["total"])]
    assert "It cited passage 2, but the words are in passage 1." in extra["warnings"]


def test_a_stream_counts_the_tokens_of_the_engine_and_sends_no_usage_unless_asked(gateway):
    before = metrics(gateway)
    messages = [{"role": "user", "content": QUESTION}]
    chunks = list(gateway.client.chat.completions.create(model="ragtune", messages=messages, stream=True))
    assert not any(chunk.usage for chunk in chunks)
    tokens = 'ragtune_tokens_total{kind="prompt"}'
    assert metrics(gateway)[tokens] - before[tokens] == 7, "the engine of these tests says 7 for every prompt"


def test_a_stream_with_usage_ends_with_usage_and_citations(gateway):
    stream = gateway.client.chat.completions.create(
        model="ragtune",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    last = list(stream)[-1]
    assert last.usage.prompt_tokens == 7
    assert last.ragtune["citations"]


def test_an_answer_is_recorded_and_takes_feedback(gateway):
    reply = gateway.client.chat.completions.create(
        model="ragtune", messages=[{"role": "user", "content": QUESTION}], user="ann"
    )
    log = FeedbackLog(load_settings({"home": gateway.home}).feedback_url)
    end = time.monotonic() + 20
    while (record := log.response(reply.id)) is None:  # it is written behind the answer
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (record.question, record.user, record.model) == (QUESTION, "ann", "ragtune")
    assert record.cited_chunk_ids == (reply.ragtune["citations"][0]["chunk"],)
    stored = gateway.request(
        "POST",
        "/v1/feedback",
        json={"response_id": reply.id, "rating": "down", "correction": "It returns the total.", "comment": "short"},
    )
    assert stored.status_code == 200, stored.text
    event = log.events(stored.json()["sequence"] - 1)[0]
    assert (event.correction, event.question, event.user) == ("It returns the total.", QUESTION, "client")
    log.close()


def test_feedback_on_an_unknown_response_is_a_404(gateway):
    answer = gateway.request("POST", "/v1/feedback", json={"response_id": "nowhere", "rating": "up"})
    assert answer.status_code == 404
    assert "nowhere" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "valid"),
    [
        ("/v1/feedback", {"response_id": "a", "rating": "meh"}, ["up", "down"]),
        ("/v1/feedback", {"response_id": "a", "rating": "up", "stars": 5}, ["correction", "comment"]),
        ("/v1/chat/completions", {"model": "gpt-4", "messages": []}, ["ragtune", "ragtune-base", "ragtune-raw"]),
        ("/v1/chat/completions", {"model": "ragtune", "messages": [], "api_base": "x"}, ["messages", "temperature"]),
        (
            "/v1/chat/completions",
            {"model": "ragtune", "messages": [{"role": "user", "content": "a"}], "ragtune": {"dails": {}}},
            ["dials", "switches"],
        ),
        (
            "/v1/chat/completions",
            {"model": "ragtune", "messages": [{"role": "user", "content": "a"}], "ragtune": {"dials": {"deep": 1}}},
            ["creativity", "depth", "technical_level"],
        ),
        ("/v1/chat/completions", {"model": "ragtune", "messages": [{"role": "assistant", "content": "a"}]}, ["user"]),
        ("/v1/chat/completions", {"model": "ragtune", "messages": [{"role": "user", "content": " "}]}, ["question"]),
    ],
)
def test_a_wrong_field_is_a_400_that_lists_the_valid_ones(gateway, path, body, valid):
    answer = gateway.request("POST", path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert all(word in error["message"] for word in valid), error
    assert error["code"] == "400"


def test_a_body_that_is_not_json_is_a_400(gateway):
    answer = gateway.request("POST", "/v1/chat/completions", content=b"{nope")
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/status", "/model/info", "/nothing"])
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer rt-wrong"}, {"Authorization": "Basic eDp5"}])
def test_without_an_accepted_key_every_route_answers_401(gateway, path, header):
    answer = httpx.get(gateway.url + path, headers=header)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/model/new"),
        ("GET", "/model/info"),
        ("POST", "/key/generate"),
        ("GET", "/config/yaml"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/moderations"),
        ("POST", "/v1/chat/completions/../../model/new"),
        ("POST", "/chat/completions"),
        ("GET", "/ui"),
    ],
)
def test_a_user_cannot_reach_undocumented_routes_of_the_proxy(gateway, method, path):
    answer = gateway.request(method, path, **({"json": {}} if method == "POST" else {}))
    assert answer.status_code == 404
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


def test_headers_do_not_reveal_the_engine_or_the_proxy(gateway):
    answer = gateway.request(
        "POST", "/v1/chat/completions", json={"model": "ragtune", "messages": [{"role": "user", "content": QUESTION}]}
    )
    assert answer.status_code == 200
    assert gateway.engine.url not in str(answer.headers) + answer.text
    assert not [name for name in answer.headers if name.startswith("x-litellm")]


def test_models_health_and_status_describe_what_is_live(gateway):
    assert [model.id for model in gateway.client.models.list()] == ["ragtune", "ragtune-base", "ragtune-raw"]
    assert httpx.get(gateway.url + "/health/liveliness").json() == {"status": "alive"}
    assert httpx.get(gateway.url + "/health/readiness").json()["model_version"] == "provider"
    status = gateway.request("GET", "/status").json()
    assert status["live"]["state"] == "ready"
    assert status["retrieval"] is True


def test_the_running_gateway_describes_exactly_its_documented_routes(gateway):
    paths = httpx.get(gateway.url + "/openapi.json").json()["paths"]
    documented = set(re.findall(r"`(?:GET|POST) (/[^`]*)`", Path("docs/api.md").read_text()))
    assert set(paths) == documented
    assert httpx.get(gateway.url + "/docs").status_code == 200
    assert len(httpx.get(gateway.url + "/docs/swagger-ui-bundle.js").text) > 100_000
    assert httpx.get(gateway.url + "/docs/..%2fconfig.py").status_code == 404


def test_metrics_count_requests_refusals_and_times(gateway):
    def ask(question: str, **options) -> None:
        messages = [{"role": "user", "content": question}]
        reply = gateway.client.chat.completions.create(model="ragtune", messages=messages, **options)
        if options.get("stream"):
            list(reply)

    before = metrics(gateway)
    ask(QUESTION)
    ask(QUESTION, stream=True)
    ask(f"{QUESTION} UNKNOWN")
    answer = gateway.request(
        "POST", "/v1/chat/completions", json={"model": "ragtune", "messages": [{"role": "user", "content": " "}]}
    )
    assert answer.status_code == 400
    after = metrics(gateway)
    after.subtract(before)
    label = 'model="ragtune"'
    counts = {
        f'ragtune_requests_total{{{label},outcome="answered"}}': 3,
        f'ragtune_requests_total{{{label},outcome="refused"}}': 1,
        f"ragtune_request_seconds_count{{{label}}}": 3,
        f"ragtune_first_token_seconds_count{{{label}}}": 1,
        f"ragtune_refusals_total{{{label}}}": 1,
        "ragtune_retrieval_milliseconds_count": 3,
        'ragtune_tokens_total{kind="prompt"}': 21,
        'ragtune_tokens_total{kind="completion"}': 2 * ANSWER_TOKENS + REFUSAL_TOKENS,
    }
    assert {name: after[name] for name in counts} == counts
    assert 0 < after[f"ragtune_request_seconds_sum{{{label}}}"] < 30
    assert 0 < after[f"ragtune_first_token_seconds_sum{{{label}}}"] < 30
    assert 0 < after["ragtune_retrieval_milliseconds_sum"] < 30_000
    assert metrics(gateway)['ragtune_model_info{precision="",version="provider"}'] == 1
    assert metrics(gateway)["ragtune_ready"] == 1


def test_control_c_does_not_stop_a_gateway_that_a_shell_started_in_the_background(gateway):
    gateway.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert gateway.request("GET", "/status").json()["live"]["state"] == "ready"
    assert f"To stop the gateway: kill {gateway.process.pid}" in gateway.log.read_text()


def test_the_key_is_in_no_log(gateway):
    logs = [gateway.log, *(gateway.home / "logs").glob("*.log")]
    assert len(logs) >= 2
    assert all(gateway.key not in log.read_text() for log in logs)


def test_the_command_line_asks_one_question_and_a_batch(gateway, tmp_path):
    one = gateway.cli("ask", QUESTION, "--json", "--dial", "depth=0.9")
    assert one.returncode == 0, one.stderr
    assert json.loads(one.stdout)["citations"][0]["number"] == 1
    questions, answers = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    questions.write_text("".join(json.dumps({"id": f"q{i}", "text": f"{QUESTION} {i}"}) + "\n" for i in range(12)))
    batch = gateway.cli("ask", "--questions", str(questions), "--answers", str(answers), "--concurrency", "4")
    assert batch.returncode == 0, batch.stderr
    first_run = answers.read_text()
    rows = [json.loads(line) for line in first_run.splitlines()]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(12)]
    assert set(rows[0]) == {"id", "answer", "refused", "quoted", "citations", "model_version", "latency_ms"}
    first_five = "".join(line + "\n" for line in first_run.splitlines()[:5])
    answers.write_text(first_five + '{"id": "q5", "answ')
    again = gateway.cli("ask", "--questions", str(questions), "--answers", str(answers))
    assert again.returncode == 0, again.stderr
    assert answers.read_text().startswith(first_five)
    assert [json.loads(line)["id"] for line in answers.read_text().splitlines()] == [f"q{i}" for i in range(12)]


def test_a_busy_port_and_a_home_in_use_are_named(gateway, tmp_path):
    second = gateway.cli("serve")
    assert second.returncode == 1
    assert "Another gateway already serves" in second.stderr
    other = subprocess.run(
        [sys.executable, "-m", "ragtune_serving.cli", "serve"],
        env={**gateway.environment, "RAGTUNE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert other.returncode == 1
    assert "gateway.port" in other.stderr
    assert "RAGTUNE_GATEWAY__PORT" in other.stderr
    assert "Traceback" not in other.stderr


def test_an_engine_that_dies_is_a_clear_503_and_then_comes_back(gateway):
    body = {"model": "ragtune", "messages": [{"role": "user", "content": QUESTION}]}
    gateway.engine.process.kill()
    gateway.engine.process.wait()
    answer = gateway.request("POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "5"
    assert "engine" in answer.json()["error"]["message"]
    port = int(gateway.engine.url.rsplit(":", 1)[1])
    command = [sys.executable, fake_engine.__file__, str(port), "fake"]
    gateway.engine.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while (answer := gateway.request("POST", "/v1/chat/completions", json=body)).status_code != 200:
        assert answer.status_code == 503, answer.text
        assert time.monotonic() < end, answer.text
        time.sleep(0.2)
