"""The response cache: bounds and times of both kinds, and what it does behind the gateway."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.gateway_settings import CacheSettings
from ragtune.settings import load_settings
from ragtune_serving.engine import ServedModel
from ragtune_serving.response_cache import AnswerKeys, MemoryCache, RedisCache, StoredAnswer, cache_from
from ragtune_serving.schema import RagTuneField, Usage
from tests.support.redis_server import redis_server
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.served_gateway import DOCUMENTS, QUESTION, ServedGateway, index_documents
from tests.test_recorder import until

FIELD = RagTuneField(
    response_id="r1",
    model_version="3",
    citations=[],
    language="en",
    delivered="answer",
    refused=False,
    quoted=False,
    quotation="",
    closest=[],
    warnings=[],
    retrieval_ms=1.0,
)
USAGE = Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10)


def answer(text: str = "The  answer\nis 4. [1]") -> StoredAnswer:
    return StoredAnswer(text=text, finish_reason="stop", usage=USAGE, ragtune=FIELD, chunk_ids=("a",))


@pytest.fixture(params=["memory", "redis"])
def open_cache(request):
    """Return what opens a cache of this kind with these settings."""
    if request.param == "memory":
        yield MemoryCache
        return
    with redis_server() as url:
        yield lambda settings: RedisCache(url, settings)


def test_an_answer_comes_back_as_it_was_until_its_time_is_over(open_cache):
    async def steps() -> None:
        cache = open_cache(CacheSettings(seconds=0.3))
        assert await cache.get("k") is None
        await cache.put("k", answer())
        assert await cache.get("k") == answer()
        assert await cache.get("other") is None
        await cache.put("k", answer("Another."))
        assert (await cache.get("k")).text == "Another."
        await asyncio.sleep(0.4)
        assert await cache.get("k") is None
        await cache.close()

    asyncio.run(steps())


def test_an_answer_that_is_larger_than_the_bound_is_not_kept(open_cache):
    async def steps() -> None:
        cache = open_cache(CacheSettings(megabytes=1))
        await cache.put("k", answer("x" * (1 << 20)))
        assert await cache.get("k") is None
        await cache.close()

    asyncio.run(steps())


def test_memory_stays_below_both_bounds_and_keeps_what_was_used_last():
    async def steps() -> None:
        few = MemoryCache(CacheSettings(entries=3))
        for key in "abc":
            await few.put(key, answer(key))
        await few.get("a")
        await few.put("d", answer("d"))
        assert [key for key in "abcd" if await few.get(key)] == ["a", "c", "d"]
        small = MemoryCache(CacheSettings(entries=1000, megabytes=1))
        for number in range(30):
            await small.put(str(number), answer("x" * 100_000))
        assert 5 <= len(small) <= 10
        assert small.bytes_used <= 1 << 20

    asyncio.run(steps())


def test_a_redis_that_is_away_is_a_miss_and_named_once(caplog):
    async def steps() -> None:
        with redis_server() as url:
            cache = RedisCache(url, CacheSettings())
            await cache.put("k", answer())
        await cache.close()
        for _ in range(3):
            assert await cache.get("k") is None
            await cache.put("k", answer())
        assert "cannot be" in cache.error
        await cache.close()

    asyncio.run(steps())
    assert len([record for record in caplog.records if "response cache" in record.message]) == 1


def test_the_pieces_of_a_stored_answer_are_its_words_and_together_its_text():
    assert answer().pieces() == ["The", " ", " answer\nis", " 4.", " [1]"]
    assert "".join(answer().pieces()) == answer().text


def test_a_key_follows_the_model_its_files_the_index_the_settings_and_the_request(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    settings = load_settings({"home": tmp_path})
    model = ServedModel("ragtune-v1-bf16", "1", first, "bf16")
    keys = AnswerKeys(settings)
    key = keys.key(model, "state", {"a": 1})
    assert key == AnswerKeys(settings).key(model, "state", {"a": 1})
    others = {
        keys.key(replace(model, name="ragtune-v1-w8a8"), "state", {"a": 1}),
        keys.key(replace(model, version="2"), "state", {"a": 1}),
        keys.key(replace(model, folder=second), "state", {"a": 1}),
        keys.key(model, "another state", {"a": 1}),
        keys.key(model, "state", {"a": 2}),
        AnswerKeys(load_settings({"home": tmp_path, "seed": 18})).key(model, "state", {"a": 1}),
        AnswerKeys(load_settings({"home": tmp_path, "answer": {"passages": 2}})).key(model, "state", {"a": 1}),
        AnswerKeys(load_settings({"home": tmp_path, "gateway": {"system_messages": True}})).key(
            model, "state", {"a": 1}
        ),
    }
    assert len(others) == 8
    assert key not in others
    Path(first / "model.safetensors").touch()
    assert keys.key(model, "state", {"a": 1}) != key, "the version was made again in the same place"


def test_the_settings_choose_the_cache(tmp_path):
    assert isinstance(cache_from(load_settings({"home": tmp_path})), MemoryCache)
    assert cache_from(load_settings({"home": tmp_path, "gateway": {"cache": {"entries": 0}}})) is None
    url = "redis://127.0.0.1:1/0"
    assert isinstance(cache_from(load_settings({"home": tmp_path, "gateway": {"redis_url": url}})), RedisCache)


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
def gateway(home, upstream):
    served = ServedGateway(home, upstream, gateway={"cache": {"entries": 100}})
    yield served
    served.close()


def cache_metric(gateway, result: str) -> float:
    return gateway.metric(f'ragtune_cache_requests_total{{result="{result}"}}')


def test_the_same_question_is_answered_from_the_cache_and_a_stream_streams(gateway, upstream):
    question = f"{QUESTION} Please."
    hits, misses = cache_metric(gateway, "hit"), cache_metric(gateway, "miss")
    first = gateway.ask(question).json()
    asked = len(upstream.requests)
    second = gateway.ask(question, user="ann").json()
    events = gateway.events(question)
    assert len(upstream.requests) == asked
    assert (first["ragtune"]["cached"], second["ragtune"]["cached"]) == (False, True)
    same = ("choices", "usage")
    assert [first[name] for name in same] == [second[name] for name in same]
    assert first["id"] != second["id"] == second["ragtune"]["response_id"]
    texts = [event["choices"][0]["delta"]["content"] for event in events if event["choices"][0]["delta"]]
    assert "".join(texts) == first["choices"][0]["message"]["content"]
    assert len(texts) > 3
    assert events[-1]["ragtune"]["cached"]
    assert events[-1]["ragtune"]["citations"] == first["ragtune"]["citations"]
    assert cache_metric(gateway, "hit") == hits + 2
    assert cache_metric(gateway, "miss") == misses + 1
    log = gateway.services.log
    until(lambda: log.response(second["id"]) is not None)
    record, original = log.response(second["id"]), log.response(first["id"])
    assert (record.answer, record.chunk_ids, record.cited_chunk_ids, record.question) == (
        original.answer, original.chunk_ids, original.cited_chunk_ids, original.question,
    )  # fmt: skip
    assert record.user == "ann"
    verdict = {"response_id": second["id"], "rating": "up"}
    assert gateway.request("POST", "/v1/feedback", json=verdict).json()["response_id"] == second["id"]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ("a dial", {"ragtune": {"dials": {"depth": 0.9}}}),
        ("a switch", {"ragtune": {"switches": {"citations": False}}}),
        ("a filter", {"ragtune": {"filter": {"title": "shop.total"}}}),
        ("the length", {"max_tokens": 77}),
        ("what the engine gets", {"top_p": 0.5}),
        ("a field that changes nothing, which a warning names", {"store": True}),
        ("the format", {"response_format": {"type": "json_object"}}),
        ("the history", {"content": [{"role": "user", "content": "Hello there, shop"},
                                     {"role": "assistant", "content": "Hello."},
                                     {"role": "user", "content": f"{QUESTION} Thanks."}]}),
        ("the instructions", {"content": [{"role": "system", "content": "Be brief."},
                                          {"role": "user", "content": f"{QUESTION} Thanks."}]}),
        ("the model", {"model": "ragtune-raw"}),
    ],
)  # fmt: skip
def test_a_request_that_differs_is_no_hit(gateway, change, fields):
    question = f"{QUESTION} Thanks."
    gateway.ask(question)
    assert gateway.ask(question).json()["ragtune"]["cached"]
    fields = dict(fields)
    changed = gateway.ask(fields.pop("content", question), **fields)
    assert changed.status_code == 200, changed.text
    assert not changed.json()["ragtune"]["cached"], change


def test_variety_and_no_store_bypass_the_cache_and_a_seed_makes_variety_repeatable(gateway, upstream):
    question = f"{QUESTION} Again."
    bypassed = cache_metric(gateway, "bypassed")
    for fields in (
        {"temperature": 0.7},
        {"ragtune": {"dials": {"creativity": 0.5}}},
        {"ragtune": {"cache": "no-store"}},
    ):
        asked = len(upstream.requests)
        assert [gateway.ask(question, **fields).json()["ragtune"]["cached"] for _ in range(2)] == [False, False]
        assert len(upstream.requests) == asked + 2
    assert cache_metric(gateway, "bypassed") == bypassed + 6
    seeded = [gateway.ask(question, temperature=0.7, seed=5).json()["ragtune"]["cached"] for _ in range(2)]
    assert seeded == [False, True]
    assert gateway.ask(question, ragtune={"cache": "always"}).status_code == 400


def test_keys_that_see_other_passages_share_no_answer(gateway):
    question = f"{QUESTION} For me."

    def cached(**fields) -> bool:
        key = gateway.keys.create("some key", **fields)
        answer = gateway.ask_with(key, question)
        assert answer.status_code == 200, answer.text
        return answer.json()["ragtune"]["cached"]

    assert not cached()
    assert cached()
    assert not cached(filter_={"title": "shop.empty"})
    assert cached(filter_={"title": "shop.empty"})


def test_a_hit_costs_a_request_of_the_limit_and_no_tokens(gateway):
    from ragtune_serving.limits import Limits

    question = f"{QUESTION} Limited."
    gateway.ask(question)
    key = gateway.keys.create("small", limits=Limits(requests_per_minute=3, tokens_per_minute=1000))
    answers = [gateway.ask_with(key, question) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[2].headers["x-ratelimit-remaining-tokens"] == "1000"


def test_an_update_of_the_index_never_serves_an_old_answer(tmp_path):
    from typer.testing import CliRunner

    from ragtune_serving.cli import app

    index_documents(tmp_path)
    upstream = ScriptedUpstream()
    served = ServedGateway(tmp_path, upstream, gateway={"cache": {"entries": 100}})
    try:
        assert not served.ask().json()["ragtune"]["cached"]
        assert served.ask().json()["ragtune"]["cached"]
        text = DOCUMENTS["total"].replace("taxes included", "taxes left out")
        line = {"id": "total", "title": "shop.total", "text": text}
        (tmp_path / "docs.jsonl").write_text(json.dumps(line))
        source = f"jsonl:{tmp_path / 'docs.jsonl'}"
        indexed = CliRunner().invoke(app, ["index", "--source", source], env={"RAGTUNE_HOME": str(tmp_path)})
        assert indexed.exit_code == 0, indexed.output
        reply = served.ask().json()
        assert not reply["ragtune"]["cached"]
        assert reply["ragtune"]["citations"][0]["text"] == text
    finally:
        served.close()
        upstream.close()


def test_an_answer_of_a_fallback_is_not_kept(home):
    engine = ScriptedUpstream()
    second = ScriptedUpstream("second", words=["The", "second", "server."])
    fallback = {"model": "openai/second", "url": second.url, "api_key": "x"}
    settings = {"cache": {"entries": 100}, "fallbacks": [fallback], "retries": 0, "cooldown_seconds": 0}
    served = ServedGateway(home, engine, gateway=settings)
    try:
        engine.behaviours = ["broken"]
        assert served.ask().json()["ragtune"]["model_version"] == "fallback:openai/second"
        reply = served.ask().json()["ragtune"]
        assert (reply["model_version"], reply["cached"]) == ("provider", False)
    finally:
        served.close()
        engine.close()
        second.close()


def test_two_gateways_share_their_answers_in_redis(home, upstream):
    with redis_server() as url:
        gateways = [
            ServedGateway(home, upstream, gateway={"cache": {"entries": 9}, "redis_url": url}) for _ in range(2)
        ]
        try:
            assert not gateways[0].ask().json()["ragtune"]["cached"]
            assert gateways[1].ask().json()["ragtune"]["cached"]
        finally:
            for served in gateways:
                served.close()
