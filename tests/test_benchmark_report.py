"""What a benchmark says: percentiles, where the time goes, how far from the limit, and what to change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.evaluation.report.pages import as_html, as_markdown
from ragtune.evaluation.speed import PRESENT, VLLM_DEFAULTS
from ragtune.settings import load_settings
from ragtune.store.speed_rows import SpeedRow
from ragtune_serving.benchmarking.advice import applied, hints, recommendations, worth_trying
from ragtune_serving.benchmarking.breakdown import Breakdown, EngineWork, breakdown
from ragtune_serving.benchmarking.figures import Memory, MemoryWatch, Run, memory_of, summarise
from ragtune_serving.benchmarking.gateways import Gateway, value_of
from ragtune_serving.benchmarking.generator import Sample, Target
from ragtune_serving.benchmarking.report import build, saturations
from ragtune_serving.benchmarking.roofline import Machine, Roofline, measured_machine, roofline
from ragtune_serving.benchmarking.scenarios import Claim, Curve, Scenario
from ragtune_serving.benchmarking.suite import Results
from tests.support.tiny_llama import make_tiny_llama

METRICS = (Path(__file__).parent / "support" / "vllm_metrics.txt").read_text()


def sample(due: float, total: float, first: float = 0.0, status: int = 200, retry_after: bool = False) -> Sample:
    return Sample(
        due=due, sent=due + 0.01, first=first or total, total=total, status=status, retry_after=retry_after,
        completion_tokens=10 if status == 200 else 0,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    level = {"first_token_ms": 500, "answer_ms": 1000, "price_per_hour": 7.2}
    settings = load_settings({"home": tmp_path, "load": level, "engine": {"eager": True}})
    return Run(id="20261201-000000", gateway=Gateway(Target("", ""), settings), version="base", precision="bf16")


def difference(setting: str, value: str, former: str, verdict: str, change: float = 0.2, **changes) -> SpeedRow:
    row = SpeedRow(
        run_id="20261201-000000",
        measured_at="2026-12-01T00:00:00+00:00",
        before="present settings",
        after=f"{setting}={value}",
        workload="stream",
        metric="answers per second in a burst",
        unit="/s",
        before_value=5.0,
        after_value=5.0 * (1 + change),
        change=change,
        low=change - 0.05,
        high=change + 0.05,
        floor=0.02,
        rounds=5,
        verdict=verdict,
        settings=json.dumps({setting: value}),
        former=json.dumps({setting: former}),
        predicted="",
        model_version="base",
        hardware="a machine",
    )
    return replace(row, **changes)


def test_a_row_counts_answers_limits_failures_and_what_is_within_the_service_level(run):
    samples = [
        sample(0.0, 0.4, 0.2),
        sample(0.5, 0.9, 0.4),
        sample(1.0, 0.9, 0.8),  # the first text is late
        sample(1.5, 1.5, 0.4),  # the whole answer is late
        sample(1.6, 0.0, status=429, retry_after=True),
        sample(1.7, 0.0, status=429),
        sample(1.8, 0.1, status=0),
    ]
    row = summarise(run, samples, "stream", "curve", "2/s", seconds=2.0, usual=0.4)
    assert (row.requests, row.limited, row.unhelpful, row.failed) == (7, 2, 1, 1)
    assert row.good == pytest.approx(2 / 2.0)
    # The last answer ended at 3.0 s, of which a single user would wait 0.4 s too.
    assert row.answered == pytest.approx(4 / 2.6)
    assert row.total_p50_ms == pytest.approx(900)
    assert row.first_p50_ms == pytest.approx(400)
    assert row.tokens_per_second == pytest.approx(40 / 3.0)
    assert row.generator_ms == pytest.approx(10)
    assert row.cost == pytest.approx(7.2 / 3600 * 1000)


def test_memory_is_that_of_the_gateway_and_its_engines_and_its_growth_is_a_line():
    text = (
        "# TYPE ragtune_memory_bytes gauge\n"
        'ragtune_memory_bytes{process="gateway"} 1e+09\nragtune_memory_bytes{process="engines"} 2e+09\n'
        "# TYPE ragtune_gpu_memory_used_bytes gauge\n"
        'ragtune_gpu_memory_used_bytes{gpu="0"} 5e+09\n'
    )
    look = memory_of(text)
    assert (look.resident, look.gpu) == (3_000_000_000, 5_000_000_000)
    watch = MemoryWatch([Memory(float(second), 1000 + second, 0) for second in (0, 30, 60, 90)])
    assert watch.growth == (pytest.approx(60), pytest.approx(0, abs=1e-6))
    assert watch.peak == 1090


def gateway_metrics(answers: int) -> str:
    """Return the gateway's own metrics after some answers, of 400 ms each: 30 search, 20 own code, 350 the engine."""
    label = '{model="ragtune"}'
    return (
        "# TYPE ragtune_request_seconds histogram\n"
        f"ragtune_request_seconds_sum{label} {answers * 0.4}\nragtune_request_seconds_count{label} {answers}\n"
        "# TYPE ragtune_overhead_seconds histogram\n"
        f"ragtune_overhead_seconds_sum{label} {answers * 0.05}\nragtune_overhead_seconds_count{label} {answers}\n"
        "# TYPE ragtune_retrieval_milliseconds histogram\n"
        f"ragtune_retrieval_milliseconds_sum {answers * 30.0}\nragtune_retrieval_milliseconds_count {answers}\n"
    )


def test_the_time_of_an_answer_is_split_by_the_growth_of_the_metrics():
    found = breakdown(gateway_metrics(10), gateway_metrics(30))
    assert found.answers == 20
    assert found.stages == pytest.approx({"retrieval": 30, "own code": 20, "engine": 350})
    assert found.engine is None
    assert found.share("engine") == pytest.approx(350 / 400)
    assert breakdown(gateway_metrics(3), gateway_metrics(3)).answers == 0


def test_with_the_metrics_of_vllm_the_engine_is_split_into_queue_prompt_and_tokens():
    found = breakdown(gateway_metrics(0), gateway_metrics(1000) + METRICS)
    assert found.stages["engine queue"] == pytest.approx(5.514, abs=0.001)
    assert found.stages["prompt"] == pytest.approx(287.437, abs=0.001)
    assert found.engine is not None
    assert found.engine.steps == 118
    assert found.engine.cached == pytest.approx(3616 / 37907)
    assert found.engine.accepted > 0
    lines = [
        line.replace("{", '{role="comparison",', 1) if line[:5] == "vllm:" else line for line in METRICS.split("\n")
    ]
    of_another_engine = breakdown(gateway_metrics(0), gateway_metrics(1) + "\n".join(lines))
    assert set(of_another_engine.stages) == {"retrieval", "own code", "engine"}


def test_the_roofline_says_what_holds_the_engine_back(tmp_path):
    folder = make_tiny_llama(tmp_path)
    work = EngineWork(steps=1000, computed_tokens=1000, written_tokens=1000, cached=0.0, accepted=0.0)
    slow_memory = roofline(work, 10.0, folder, "cpu", Machine(1e6, 1e15, "float32"))
    assert slow_memory.memory_seconds > slow_memory.compute_seconds
    bound = replace(slow_memory, memory_seconds=8.0)
    assert (bound.bound, bound.share) == ("memory", 0.8)
    assert "memory bound" in bound.sentence()
    assert "80% of the limit" in bound.sentence()
    assert replace(bound, compute_seconds=9.0).bound == "compute"
    assert replace(bound, memory_seconds=1.0).bound == "overhead"


def test_the_machine_is_measured():
    for precision in ("bf16", "w8a8"):
        machine = measured_machine("cpu", precision)
        assert machine.bytes_per_second > 1e8
        assert machine.operations > 1e8


MACHINE = Machine(1e10, 1e12, "float32")
FULL = Breakdown(
    32,
    {"retrieval": 10.0, "own code": 10.0, "engine queue": 0.0, "prompt": 100.0, "tokens": 300.0, "between": 5.0},
    None,
)


def test_changes_are_tried_that_the_breakdown_gives_a_reason_for(run):
    tried = worth_trying(run.settings, {"stream, 32 at once": FULL}, "cpu")
    assert tried == [{"engine.eager": "false"}, {"engine.speculative_tokens": "0"}]
    busy = replace(FULL, stages={**FULL.stages, "own code": 300.0})
    assert {"gateway.workers": "2"} in worth_trying(run.settings, {"stream, 32 at once": busy}, "cpu")
    assert worth_trying(run.settings, {}, "cpu") == []


def test_a_better_change_is_recommended_with_its_interval_and_a_worse_one_is_not(run):
    rows = [
        difference("engine.eager", "false", "true", "better"),
        difference("engine.speculative_tokens", "0", "null", "worse", -0.3),
        difference("engine.speculative_tokens", "0", "null", "better", -0.2, metric="first token p50", unit="ms"),
        difference("gateway.workers", "2", "1", "no difference", 0.01),
    ]
    first, second, third = recommendations(rows, run.settings)
    assert first.startswith("Set `engine.eager=false`: answers per second in a burst: +20.0% [+15.0%, +25.0%]")
    assert "noise floor 2.0%" in first
    assert second.startswith("Do not set `engine.speculative_tokens=0`")
    assert "better elsewhere" in second
    assert "no difference beyond the noise" in third


def test_a_recommendation_that_was_applied_is_measured_again_once_with_what_was_expected(run):
    history = [difference("engine.eager", "true", "false", "better")]
    assert value_of(run.settings, "engine.eager") == "true"
    [(former, pair)] = applied(history, run.settings)
    assert former == {"engine.eager": "false"}
    assert pair.predicted == history[0]
    confirmation = replace(
        history[0], run_id="20261202-000000", predicted="[0.2, 0.15, 0.25]", change=0.18, low=0.1, high=0.26
    )
    [sentence] = recommendations([confirmation], run.settings)
    assert "was applied. Expected +20.0% [+15.0%, +25.0%], measured" in sentence
    assert "as expected" in sentence
    assert applied([*history, confirmation], run.settings) == []
    off = replace(confirmation, change=-0.1, low=-0.2, high=-0.05)
    assert "not what was expected" in next(recommendations([off], run.settings))
    assert applied([difference("engine.eager", "false", "true", "better")], run.settings) == []


def results(run) -> Results:
    rows = []
    for rate, total in ((1.0, 0.3), (2.0, 0.4), (4.0, 3.0)):
        samples = [sample(number / rate, total, total / 2) for number in range(8)]
        rows.append(summarise(run, samples, "stream", "curve", f"{rate:.3g}/s", 8 / rate, usual=0.3))
    during = replace(rows[-1], scenario="stress", part="during", limited=3, total_p95_ms=25_000.0, answered=3.0)
    claims = (Claim("no collapse", True, "fine"), Claim("answers come back", False, "not within 120 s"))
    return Results(
        run=run,
        curves=[Curve("stream", tuple(rows), 2.0, 2.2)],
        scenarios=[
            Scenario("alone", (replace(rows[0], scenario="alone", part=""),)),
            Scenario("stress", (during,), claims),
        ],
        breakdowns={"stream, one user": FULL, "stream, 32 at once": FULL},
        roofline=Roofline(memory_seconds=8.0, compute_seconds=1.0, seconds=10.0, machine=MACHINE),
        noise=[difference("x", "1", "1", "no difference", 0.01, settings="{}")],
        differences=[difference("engine.eager", "false", "true", "better")],
        questions=5,
        left_out=["Chaos: no engine."],
    )  # fmt: skip


def test_the_report_says_first_what_to_change_and_in_the_end_what_limits_it(run):
    found = results(run)
    earlier = replace(found.rows()[-1], run_id="20261101-000000", scenario="saturation", offered=1.0)
    report = build(found, [earlier, *found.rows()])
    assert (report.badge, report.good) == ("1 of 2 claims not met", False)
    assert "keeps up with 2 requests per second" in report.summary
    cards = {card.label: card.value for card in report.cards}
    assert cards["in the service level up to"] == "2/s"
    assert cards["1,000 answers"] == "1"
    titles = [section.title for section in report.sections]
    assert titles == [
        "What to do next",
        "Where the time goes",
        "Load curves",
        "Comparisons",
        "Under stress",
        "Over versions",
        "Where this comes from",
    ]
    items = report.sections[0].items
    assert items[0] == "Not met under stress: answers come back; not within 120 s."
    assert items[1].startswith("Set `engine.eager=false`")
    assert any("`gateway.max_requests=3`" in item and "Little's law" in item for item in items)
    assert "Chaos: no engine." in report.sections[-1].text
    assert "5 different questions" in report.sections[-1].text
    text = as_markdown(report)
    assert "memory bound" in text
    assert "+20.0%" in text
    page = as_html(report)
    assert "<script" not in page
    assert "1 of 2 claims not met" in page


def test_a_report_without_anything_to_compare_leaves_that_out(run):
    found = results(run)
    found.differences, found.noise, found.breakdowns, found.roofline = [], [], {}, None
    titles = [section.title for section in build(found, found.rows()).sections]
    assert "Comparisons" not in titles
    assert "Where the time goes" not in titles
    assert "Over versions" not in titles


def test_each_saturation_is_a_row_of_its_own(run):
    kept = saturations(results(run).rows())
    assert [row.offered for row in kept] == [2.0]
    assert saturations(results(run).rows(), "chat") == []


def test_a_queue_beyond_the_service_level_is_a_hint_with_the_number_of_requests_to_let_in(run):
    during = results(run).scenarios[1].rows[0]
    [*_, hint] = hints({"stream, 32 at once": FULL}, [during], run.settings, run.precision)
    assert hint.setting == "gateway.max_requests=3"


def test_a_comparison_with_vllms_defaults_says_how_many_answers_a_second_more(run):
    found = results(run)
    found.differences = [difference("x", "1", "0", "better", 0.4, settings="{}", before=VLLM_DEFAULTS, after=PRESENT)]
    items = build(found, []).sections[0].items
    assert any(item.startswith("present settings against vLLM's defaults, `stream`: answers") for item in items)
