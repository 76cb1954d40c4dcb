import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest

from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.llm.judge import LLMJudge
from ragtune.dataset.llm.writer import Kind, LLMWriter, find_quote
from ragtune.errors import DatasetError
from ragtune.settings import DatasetSettings, JudgeSettings, WriterSettings
from tests.support.api_pages import articles, chunk, shop
from tests.support.model_server import ModelServer, quoting

CHUNKS = [chunk(page) for page in [*shop(), *articles(8)]]


@pytest.fixture
def server():
    running = ModelServer(quoting)
    yield running
    running.close()


def writer(server, tmp_path, **values):
    return LLMWriter(server.settings(**values), tmp_path / "cache", seed=3, unanswerable_share=0.2)


def test_the_model_writes_pairs_that_pass_the_checks(server, tmp_path):
    llm = writer(server, tmp_path)
    pairs = llm.write(CHUNKS)
    kinds = Counter(pair.kind for pair in pairs)
    assert kinds["llm.fact"] >= 2 * len(CHUNKS) - 2
    assert kinds["llm.unanswerable"] > 0
    assert len(check_pairs(pairs, CHUNKS, DatasetSettings(min_pairs=1)).pairs) == len(pairs)
    assert llm.usage.requests == len(CHUNKS)
    assert (llm.usage.prompt_tokens, llm.usage.completion_tokens) == (100 * len(CHUNKS), 50 * len(CHUNKS))
    schema = server.requests[0]["response_format"]
    assert schema["type"] == "json_schema"


def test_a_second_run_sends_no_request(server, tmp_path):
    first = writer(server, tmp_path).write(CHUNKS)
    requests = len(server.requests)
    again = writer(server, tmp_path)
    assert again.write(CHUNKS) == first
    assert len(server.requests) == requests
    assert again.usage.cached == len(CHUNKS)
    assert again.usage.requests == 0


def test_a_budget_stops_the_run_and_a_larger_one_resumes_it(server, tmp_path):
    small = writer(server, tmp_path, budget_tokens=750, concurrency=1)
    part = small.write(CHUNKS)
    assert small.usage.stopped == "budget_tokens = 750"
    assert small.usage.requests == 5
    rest = writer(server, tmp_path)
    whole = rest.write(CHUNKS)
    assert rest.usage.cached == 5
    assert rest.usage.requests == len(CHUNKS) - 5
    assert {pair.id for pair in part} < {pair.id for pair in whole}


def test_a_money_budget_counts_the_given_prices(server, tmp_path):
    llm = writer(server, tmp_path, price_in=1000, price_out=2000, budget_usd=0.65, concurrency=1)
    llm.write(CHUNKS)
    assert llm.usage.stopped == "budget_usd = 0.65"
    assert llm.usage.cost_usd == pytest.approx(0.6)


def test_refused_requests_and_broken_replies_are_retried(server, tmp_path):
    server.faults = [(429, "slow down"), (500, "oops"), (200, "I would rather talk."), (200, '{"items": []}')]
    llm = writer(server, tmp_path, concurrency=1, attempts=5)
    llm.write(CHUNKS[:2])
    assert llm.usage.retries == 4
    assert llm.usage.failed == 0
    assert "refused" in server.requests[4]["messages"][-1]["content"]


def test_a_failed_request_loses_only_its_own_pairs(server, tmp_path):
    server.faults = [(200, "no json")] * 3
    llm = writer(server, tmp_path, concurrency=1, attempts=3)
    pairs = llm.write(CHUNKS)
    assert llm.usage.failed == 1
    assert len({pair.chunk_id for pair in pairs}) == len(CHUNKS) - 1


def test_a_model_that_refuses_every_request_is_an_error(server, tmp_path):
    server.faults = [(401, "bad key")] * 99
    with pytest.raises(DatasetError, match="AuthenticationError"):
        writer(server, tmp_path).write(CHUNKS[:3])
    assert len(server.requests) == 3


def test_a_pair_whose_quote_is_in_no_passage_is_dropped(tmp_path):
    invented = {
        "question": "What is the colour of shop.Cart?",
        "answer": "blue",
        "quotes": ["It is blue"],
        "kind": "fact",
    }
    running = ModelServer(lambda body: json.dumps({"items": [invented]}))
    try:
        llm = writer(running, tmp_path)
        assert llm.write(CHUNKS[:2]) == []
        assert [reason for _, reason in llm.dropped] == ["its quote does not stand in the passages"] * 2
    finally:
        running.close()


def test_a_question_over_two_passages_names_both(tmp_path):
    def multi(body):
        first, second = body["messages"][1]["content"].split("\n\nPassage 2:\n")
        quotes = [part.strip().split("\n")[-1] for part in (first, second)]
        item = {"question": "What do both parts of the page say?", "answer": " ".join(quotes), "quotes": quotes}
        return json.dumps({"items": [{**item, "kind": "multi"}]})

    one, two = CHUNKS[0], replace(CHUNKS[1], document_id=CHUNKS[0].document_id, position=1)
    running = ModelServer(multi)
    try:
        for seed in range(20):
            llm = LLMWriter(running.settings(), tmp_path / str(seed), seed)
            if len(llm._groups([one, two])[0]) == 2 or len(llm._groups([one, two])[1]) == 2:
                break
        running.reply = lambda body: multi(body) if "Passage 2" in body["messages"][1]["content"] else quoting(body)
        pairs = [pair for pair in llm.write([one, two]) if pair.kind == "llm.multi"]
    finally:
        running.close()
    assert [(pair.chunk_id, pair.evidence_ids) for pair in pairs] == [(one.id, (two.id,))]


def test_a_judge_adds_its_scores(tmp_path):
    running = ModelServer(lambda body: json.dumps({"grounded": 1, "clear": 0.5, "relevant": 0.25, "reason": "ok"}))
    try:
        pairs = LLMJudge(running.settings(JudgeSettings), tmp_path, 1).judge(first_pairs(), CHUNKS)
    finally:
        running.close()
    assert all(pair.scores["judge_clear"] == 0.5 and pair.scores["judge_relevant"] == 0.25 for pair in pairs)


def test_the_request_names_every_kind_and_difficulty_and_the_pairs_keep_them(tmp_path):
    kinds, levels = [kind for kind in get_args(Kind) if kind != "unanswerable"], ["easy", "medium", "hard"]

    def reply(body):
        quote = [line for line in body["messages"][1]["content"].split("\n") if len(line.split()) > 4][-1]
        items = [
            {
                "question": f"What has the {kind} number {place} of the page to do with it?",
                "answer": quote,
                "quotes": [quote],
                "kind": kind,
                "difficulty": levels[place % 3],
            }
            for place, kind in enumerate(kinds)
        ]
        return json.dumps({"items": items})

    running = ModelServer(reply)
    try:
        pairs = writer(running, tmp_path).write(CHUNKS[:1])
    finally:
        running.close()
    assert [pair.kind for pair in pairs] == [f"llm.{kind}" for kind in kinds]
    assert [pair.scores["difficulty"] for pair in pairs[:3]] == [0.0, 0.5, 1.0]
    rules, schema = running.requests[0]["messages"][0]["content"], running.requests[0]["response_format"]
    assert all(kind in rules for kind in kinds if kind != "multi")
    assert all(f'"{name}"' in json.dumps(schema) for name in (*get_args(Kind), *levels))
    assert {"question", "answer", "kind"} <= set(schema["json_schema"]["schema"]["$defs"]["WrittenItem"]["required"])


def test_a_paraphrase_is_a_second_pair_with_the_same_quote(server, tmp_path):
    pairs = [pair for pair in writer(server, tmp_path).write(CHUNKS[:3]) if pair.answerable]
    originals = [pair for pair in pairs if not pair.question.startswith("Which last remark")]
    paraphrases = [pair for pair in pairs if pair.question.startswith("Which last remark")]
    assert len(originals) == len(paraphrases) == 3
    assert [(pair.chunk_id, pair.span, pair.answer) for pair in originals] == [
        (pair.chunk_id, pair.span, pair.answer) for pair in paraphrases
    ]


def test_an_unanswerable_question_with_an_answer_is_dropped(tmp_path):
    item = {"question": "Who paid for the shop at first?", "answer": "Nobody", "quotes": [], "kind": "unanswerable"}
    running = ModelServer(lambda body: json.dumps({"items": [item]}))
    try:
        llm = writer(running, tmp_path)
        assert llm.write(CHUNKS[:1]) == []
    finally:
        running.close()
    assert llm.dropped == [(item["question"], "unanswerable, but with an answer")]


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_run_at_once_than_the_settings_allow(tmp_path, limit):
    lock, running_now, seen = threading.Lock(), [0], []

    def slowly(body):
        with lock:
            running_now[0] += 1
            seen.append(running_now[0])
        time.sleep(0.05)
        with lock:
            running_now[0] -= 1
        return quoting(body)

    running = ModelServer(slowly)
    try:
        writer(running, tmp_path, concurrency=limit).write(CHUNKS)
    finally:
        running.close()
    assert max(seen) == limit


def test_the_number_of_requests_is_limited_even_if_several_run_at_once(server, tmp_path):
    llm = writer(server, tmp_path, max_calls=5, concurrency=4)
    llm.write(CHUNKS)
    assert len(server.requests) == llm.usage.requests == 5
    assert llm.usage.stopped == "max_calls = 5"


def test_a_model_of_the_price_list_costs_what_the_list_says(server, tmp_path):
    import litellm

    llm = writer(server, tmp_path, model="openai/gpt-4o-mini")
    llm.write(CHUNKS[:2])
    price = litellm.model_cost["gpt-4o-mini"]
    cost = 100 * price["input_cost_per_token"] + 50 * price["output_cost_per_token"]
    assert llm.usage.cost_usd == pytest.approx(2 * cost)
    assert cost > 0


SCRIPT = """
import sys
from pathlib import Path
from ragtune.dataset.llm.writer import LLMWriter
from ragtune.settings import WriterSettings
from tests.test_generation import CHUNKS
settings = WriterSettings(model="openai/writer", url=sys.argv[1], api_key="k", concurrency=1, attempts=3, timeout=20)
LLMWriter(settings, Path(sys.argv[2]), seed=3, unanswerable_share=0.2).write(CHUNKS)
"""


def test_a_run_after_a_killed_one_repeats_no_finished_request(server, tmp_path):
    def stalled(body):
        if len(server.requests) > 4:
            time.sleep(60)
        return quoting(body)

    server.reply = stalled
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, server.url, str(tmp_path / "cache")])
    deadline = time.monotonic() + 60
    while len(server.requests) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    server.reply = quoting
    llm = writer(server, tmp_path)
    pairs = llm.write(CHUNKS)
    assert (llm.usage.cached, llm.usage.requests) == (4, len(CHUNKS) - 4)
    assert pairs == writer(server, tmp_path / "fresh").write(CHUNKS)


def test_a_second_run_of_the_judge_sends_no_request(tmp_path):
    running = ModelServer(lambda body: json.dumps({"grounded": 1, "clear": 1, "relevant": 0.5}))
    try:
        settings = running.settings(JudgeSettings)
        first = LLMJudge(settings, tmp_path, 1).judge(first_pairs(), CHUNKS)
        requests, again = len(running.requests), LLMJudge(settings, tmp_path, 1)
        assert again.judge(first_pairs(), CHUNKS) == first
    finally:
        running.close()
    assert requests == again.model.usage.cached == len(running.requests) == 4


def test_a_judge_that_reaches_its_budget_leaves_the_other_pairs_as_they_are(tmp_path):
    running = ModelServer(lambda body: json.dumps({"grounded": 1, "clear": 1, "relevant": 1}))
    try:
        judge = LLMJudge(running.settings(JudgeSettings, max_calls=2, concurrency=1), tmp_path, 1)
        judged = judge.judge(first_pairs(), CHUNKS)
    finally:
        running.close()
    assert [pair.id for pair in judged] == [pair.id for pair in first_pairs()]
    assert sum("judge_clear" in pair.scores for pair in judged) == 2
    assert judge.model.usage.stopped == "max_calls = 2"


def test_no_model_is_an_error_that_names_the_setting(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset\.writer\.model"):
        LLMWriter(WriterSettings(), tmp_path, 1)


def test_white_space_and_case_of_a_quote_may_differ():
    assert find_quote("two  words.", "Here are\nTwo\nwords indeed") == (9, 18)
    assert find_quote("three words", "two words") is None


def first_pairs():
    from ragtune.dataset.extractive.writer import ExtractiveWriter

    return ExtractiveWriter(1).write(CHUNKS)[:4]
