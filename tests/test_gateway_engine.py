"""The whole serving wing with the real engine and the real base model."""

import json
import time

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateway_process import Gateway
from tests.support.promql import Scrape
from tests.test_monitoring import EXPRESSIONS

pytestmark = pytest.mark.engine
FACTS = {
    "cart": "shop.cart.total returns the price of everything in the cart in euros, taxes included.",
    "login": "shop.users.login opens a session for thirty minutes.",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    lines = [json.dumps({"id": name, "title": f"shop.{name}", "text": text}) for name, text in FACTS.items()]
    (home / "docs.jsonl").write_text("\n".join(lines))
    gateway = Gateway(home)
    try:
        assert gateway.cli("index", "--source", f"jsonl:{home / 'docs.jsonl'}").returncode == 0
        yield gateway.wait(900)
        gateway.client.close()
    finally:
        gateway.kill()


def engine_processes(gateway: Gateway) -> list[psutil.Process]:
    children = psutil.Process(gateway.process.pid).children(recursive=True)
    return [child for child in children if "vllm.entrypoints.openai.api_server" in child.cmdline()]


def test_the_base_model_answers_and_cites_over_http_before_anything_was_trained(gateway):
    question = [{"role": "user", "content": "what is the price of everything in the cart"}]
    reply = gateway.client.chat.completions.create(model="ragtune", messages=question)
    assert reply.ragtune["model_version"] == "base"
    assert "price of everything" in reply.choices[0].message.content
    assert [citation["title"] for citation in reply.ragtune["citations"]] == ["shop.cart"]
    assert reply.usage.prompt_tokens > 60, "the passages must be in the prompt"
    assert reply.ragtune["retrieval_ms"] > 0
    again = gateway.client.chat.completions.create(model="ragtune", messages=question)
    assert again.choices[0].message.content == reply.choices[0].message.content
    raw = gateway.client.chat.completions.create(model="ragtune-raw", messages=question)
    assert raw.usage.prompt_tokens < reply.usage.prompt_tokens - 30


def test_a_stream_arrives_in_pieces_and_ends_with_the_result_of_the_checks(gateway):
    question = [{"role": "user", "content": "How long does a session last?"}]
    whole = gateway.client.chat.completions.create(model="ragtune", messages=question)
    chunks = list(gateway.client.chat.completions.create(model="ragtune", messages=question, stream=True))
    # A quotation is one piece. What the model writes without passages comes as it is written.
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].ragtune["response_id"] == chunks[0].id
    raw = list(gateway.client.chat.completions.create(model="ragtune-raw", messages=question, stream=True))
    assert len(raw) > 5


def test_the_engines_own_metrics_come_in_the_same_scrape(gateway):
    text = gateway.request("GET", "/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (generated, *_) = families["vllm:generation_tokens"].samples
    assert generated.value > 0
    assert (generated.labels["role"], generated.labels["model_version"]) == ("live", "base")
    assert {sample.value for sample in families["ragtune_engine_scraped"].samples} == {1.0}
    memory = {sample.labels["process"]: sample.value for sample in families["ragtune_memory_bytes"].samples}
    assert memory["engines"] > 200 << 20, "the weights alone have 269 MB"
    assert not [name for name in families if name.startswith(("python_", "http_"))]
    scrape = Scrape(text)
    for expression in (one for one in EXPRESSIONS if "vllm:" in one):
        assert scrape.problems(expression) == []


def test_a_limit_beyond_the_model_is_a_400_with_the_message_of_the_engine(gateway):
    body = {"model": "ragtune", "max_tokens": 10**6, "messages": [{"role": "user", "content": "Why?"}]}
    answer = gateway.request("POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("max_tokens=1000000")


def test_the_engine_requires_its_key_which_is_on_no_command_line(gateway):
    (server,) = [process for process in engine_processes(gateway) if "ragtune.backends.guard" not in process.cmdline()]
    assert not [part for part in server.cmdline() if part.startswith("--api-key")]
    port = server.cmdline()[server.cmdline().index("--port") + 1]
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401


def test_a_killed_engine_is_a_clear_503_and_the_next_one_dies_with_a_killed_gateway(gateway):
    parent = psutil.Process(gateway.process.pid)
    first = set(parent.children(recursive=True))
    for process in engine_processes(gateway):
        if "ragtune.backends.guard" not in process.cmdline():
            process.kill()
    body = {"model": "ragtune", "messages": [{"role": "user", "content": "What does shop.cart.total return?"}]}
    answer = gateway.request("POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 503
    assert "engine" in answer.json()["error"]["message"]
    end = time.monotonic() + 60
    while len(following := set(parent.children(recursive=True)) - first) < 2:
        assert time.monotonic() < end, gateway.log.read_text()
        time.sleep(0.1)
    gateway.kill()
    processes = [*first, *following]
    psutil.wait_procs(processes, timeout=30)
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
