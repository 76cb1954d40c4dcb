"""Differences of speed: intervals, the noise floor, and the comparison of a candidate with the live model."""

import math
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragtune.evaluation.benchmark import Load, MeasuredModel
from ragtune.evaluation.speed import (
    SIZE_FLOOR,
    EngineArm,
    InTurn,
    Metric,
    compare_engines,
    difference,
    exact_difference,
    regressions,
)
from ragtune.ports import Engine
from ragtune.records import Message
from tests.support.answering_fakes import ScriptedChat
from tests.test_benchmark import ScriptedEngine

FASTER, SMALLER = Metric("answers", "/s", True), Metric("memory", "bytes", False)
PROMPTS = [(Message("system", "s"), Message("user", f"question {i}")) for i in range(8)]


def test_a_difference_is_relative_and_has_the_interval_of_the_paired_t_test():
    # Logarithms of the ratios 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3), t(0.975, 2) = 4.303.
    found = difference([10, 10, 10], [10 * math.exp(0.1), 10 * math.exp(0.2), 10 * math.exp(0.3)])
    assert found.before == 10
    assert found.change == pytest.approx(math.exp(0.2) - 1)
    assert found.high == pytest.approx(math.exp(0.2 + 4.303 * 0.1 / math.sqrt(3)) - 1, abs=1e-3)


def test_a_round_without_any_good_answer_counts_as_zero():
    # Differences 0, -2, -1 relative to a mean of 2: mean -0.5, standard error 0.5 / sqrt(3).
    found = difference([2, 2, 2], [2, 0, 1])
    assert found.change == pytest.approx(-0.5)
    assert found.low == pytest.approx(-0.5 - 4.303 * 0.5 / math.sqrt(3), abs=1e-3)


def test_what_slows_the_machine_in_one_round_falls_on_both():
    found = difference([10, 5, 20], [11, 5.5, 22])
    assert found.low > 0


def test_one_round_shows_nothing():
    assert difference([10], [20]).verdict(FASTER, 0.0) == "no difference"


def test_a_series_of_zeros_has_no_relative_difference():
    assert difference([0, 0], [0, 0]).verdict(FASTER, 0.0) == "no difference"
    assert difference([0, 0], [1, 0]).verdict(FASTER, 0.0) == "no difference"
    assert difference([0, 0], [1, 1]).verdict(FASTER, 0.5) == "better", "something in every round instead of nothing"


@pytest.mark.parametrize(
    ("metric", "floor", "verdict"),
    [(FASTER, 0.0, "better"), (SMALLER, 0.0, "worse"), (FASTER, 0.25, "no difference")],
)
def test_more_is_better_or_worse_by_the_metric_and_nothing_below_the_noise_floor_counts(metric, floor, verdict):
    assert difference([10, 10, 10], [12, 12, 12.1]).verdict(metric, floor) == verdict


class PacedEngine(Engine):
    """Engines whose answers take as long as the name of their folder says, in milliseconds."""

    def __init__(self):
        self.started: list[str] = []
        self.running_now, self.most = 0, 0
        self.chats: dict[str, ScriptedChat] = {}

    def launch(self, model, name, at_once=1):
        raise NotImplementedError

    @contextmanager
    def running(self, model, name, at_once=1):
        self.started.append(model.name)
        self.running_now += 1
        self.most = max(self.most, self.running_now)
        self.chats[name] = ScriptedChat(lambda messages: time.sleep(int(model.name) / 1000) or "four words are here")
        try:
            yield ScriptedEngine(self.chats[name])
        finally:
            self.running_now -= 1


def arm(name: str, milliseconds: int, size: int) -> EngineArm:
    return EngineArm(MeasuredModel(name, "w8a8", size), Path(str(milliseconds)))


def compared(engine: Engine, milliseconds: int, size: int, together: bool = True):
    load = Load(concurrency=1, requests=2, max_tokens=20, seed=1)
    live, candidate = arm("version 1", 10, 1000), arm("f00d", milliseconds, size)
    turns = InTurn(prompts=PROMPTS, load=load, rounds=3, together=together, run_id="run")
    return {row.metric: row for row in compare_engines(engine, live, candidate, turns)}


def test_a_candidate_that_is_slower_and_larger_than_the_live_model_is_named_with_both():
    engine = PacedEngine()
    rows = compared(engine, 100, 1500)
    assert engine.started == ["10", "100"]
    assert engine.most == 2
    assert rows["size of the weights"].change == pytest.approx(0.5)
    assert {name for name, row in rows.items() if row.verdict == "worse"} >= {
        "size of the weights",
        "tokens per second",
    }
    sentences = regressions(list(rows.values()))
    assert any(sentence.startswith("f00d w8a8 against version 1 w8a8, tokens per second: -") for sentence in sentences)
    assert rows["tokens per second"].rounds == 3


def test_a_candidate_like_the_live_model_is_no_regression():
    rows = compared(PacedEngine(), 10, 1000)
    assert rows["size of the weights"].verdict == "no difference"
    assert rows["peak memory"].verdict == "no difference"
    assert rows["answer p50"].verdict == "no difference"  # the scripted chat says that each took 50 ms


def test_no_prompt_is_sent_twice_to_an_engine():
    engine = PacedEngine()
    compared(engine, 10, 1000)
    for chat in engine.chats.values():
        sent = [call["messages"] for call in chat.calls]
        assert len(sent) == len(set(sent))


def test_on_a_gpu_one_engine_runs_at_a_time_and_the_live_model_runs_again_at_the_end():
    engine = PacedEngine()
    rows = compared(engine, 10, 1000, together=False)
    assert engine.started == ["10", "10", "10"]
    assert engine.most == 1
    assert rows["tokens per second"].rounds == 3


def test_some_bytes_of_a_header_make_no_model_larger():
    size = Metric("size of the weights", "bytes", more_is_better=False)
    assert exact_difference(269_000_000, 269_000_400, rounds=2).verdict(size, SIZE_FLOOR) == "no difference"
    assert exact_difference(269_000_000, 270_000_000, rounds=2).verdict(size, SIZE_FLOOR) == "worse"
