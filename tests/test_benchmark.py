import time
from pathlib import Path

import pytest

from ragtune.errors import DatasetError, EngineError
from ragtune.evaluation.benchmark import (
    Load,
    MeasuredModel,
    distinct_prompts,
    folder_bytes,
    hardware,
    run_load,
    run_loads,
)
from ragtune.ports import ChatModel, RunningEngine
from ragtune.records import Message
from tests.support.answering_fakes import ScriptedChat

PROMPTS = [(Message("system", "s"), Message("user", f"question {i}")) for i in range(6)]
MODEL = MeasuredModel("m", "w8a8", 10)


def load(concurrency: int, requests: int) -> Load:
    return Load(concurrency, requests, max_tokens=20, seed=1)


class ScriptedEngine(RunningEngine):
    def __init__(self, chat: ScriptedChat) -> None:
        self._chat = chat
        self.url, self.api_key, self.model_name, self.log_path = "", "", "m", Path("log")

    def chat(self) -> ChatModel:
        return self._chat

    def alive(self) -> bool:
        return True

    def memory_bytes(self) -> int:
        return 123

    def stop(self) -> None:
        return None


def test_a_row_holds_the_measurements_of_its_requests():
    chat = ScriptedChat(lambda messages: time.sleep(0.01) or "four words are here")
    row = run_load(ScriptedEngine(chat), PROMPTS, load(2, 6), MODEL)
    assert (row.requests, row.errors, row.concurrency, row.peak_memory_bytes, row.model_bytes) == (6, 0, 2, 123, 10)
    assert (row.p50_ms, row.p95_ms, row.ttft_p50_ms, row.ttft_p95_ms) == pytest.approx((50, 50, 10, 10))
    assert 0 < row.tokens_per_second <= 24 / 0.03
    assert chat.most_at_once == 2
    assert row.run_id
    assert row.measured_at
    assert row.hardware == hardware()


def test_failed_requests_are_counted_and_do_not_end_the_load():
    def fails(messages):
        if messages[1].content.endswith(("1", "4")):
            raise EngineError("no")
        return "x"

    row = run_load(ScriptedEngine(ScriptedChat(fails)), PROMPTS, load(3, 6), MODEL)
    assert (row.requests, row.errors) == (6, 2)


def test_a_load_of_which_every_request_fails_is_an_error():
    def fails(messages):
        raise EngineError("gone away")

    with pytest.raises(EngineError, match=r"All 6 requests[\s\S]*gone away"):
        run_load(ScriptedEngine(ScriptedChat(fails)), PROMPTS, load(3, 6), MODEL)


def test_no_load_repeats_a_prompt_of_another_so_that_no_cached_prefix_helps():
    chat = ScriptedChat(lambda messages: "x")
    rows = run_loads(ScriptedEngine(chat), PROMPTS, [load(1, 4), load(2, 4), load(4, 4)], MODEL)
    assert [row.concurrency for row in rows] == [1, 2, 4]
    assert len({row.run_id for row in rows}) == 1
    assert len({call["messages"] for call in chat.calls}) == len(chat.calls) == 1 + 12  # one to warm up


def test_a_repeated_prompt_differs_from_its_first_token_on():
    first, repeated = distinct_prompts(PROMPTS[:1], 2)
    assert repeated[0].content == "(2) s"
    assert first[0].content == "s"
    assert repeated[1] == first[1]


def test_a_measurement_without_prompts_is_refused():
    with pytest.raises(DatasetError, match="no prompt"):
        distinct_prompts([], 3)


def test_the_size_of_a_folder_counts_all_its_files(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"12")
    assert folder_bytes(tmp_path) == 7
