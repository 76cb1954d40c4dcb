"""What the benchmarks of swaps, kills and memory conclude from known requests, and a client over a real stream."""

import json
from contextlib import closing
from dataclasses import asdict

import httpx
import pytest

from benchmarks.serving import kills, soak, swaps
from benchmarks.serving.clients import Clients, Request, ask, outcomes, times, wrong
from tests.support.scripted_upstream import ScriptedUpstream
from tests.test_recorder import until

EXPECTED = {("q", False): "It is four. [1]", ("q", True): "It is four. [1]"}


def request(text="It is four. [1]", outcome="answered", **changes) -> Request:
    fields = {"question": "q", "streamed": True, "began": 0.0, "seconds": 1.0, "status": 200, "version": "1"}
    return Request(text=text, outcome=outcome, **{**fields, **changes})


def test_an_answer_has_to_be_the_calm_one_and_a_part_of_it_its_beginning():
    right = [request(), request("It is", "broken off"), request("", "told to wait"), request("", "broken off")]
    assert wrong(right, EXPECTED) == []
    bad = [request("It is five. [1]"), request("It is"), request("It was", "broken off")]
    assert wrong([*right, *bad], EXPECTED) == bad
    assert outcomes([*right, *bad]) == {"answered": 3, "broken off": 3, "told to wait": 1}


def test_times_are_those_of_answers():
    rows = [request(seconds=0.1 * n) for n in range(1, 11)] + [request(outcome="failed", seconds=99.0)]
    assert times(rows) == {"n": 10, "p50_ms": 500.0, "p99_ms": 1000.0}
    assert times([]) == {"n": 0}


def test_requests_during_a_swap_are_those_that_overlap_one_of_their_own_run():
    swap = {"kind": "swap", "began": 10.0, "served": 14.0, "ended": 15.0}
    began = {"long before": 1.0, "into it": 9.5, "within": 12.0, "out of it": 14.9, "after": 15.1}
    rows = [{**asdict(request(began=moment)), "kind": "request"} for moment in began.values()]
    ours = [{"engine": "vllm", "run": 1, **row} for row in [swap, *rows]]
    others = [{"engine": "vllm", "run": 2, **row} for row in rows]
    failed = {"engine": "stand-in", "run": 3, "kind": "request", **asdict(request(outcome="failed", error="gone"))}
    found = swaps.scores([*ours, *others, failed])
    assert (found["requests"], found["not answered"]) == (11, 1)
    vllm = found["engines"]["vllm"]
    assert (vllm["during a swap"]["n"], vllm["between swaps"]["n"]) == (3, 7)
    assert vllm["seconds until the new version answers"] == [4.0]
    assert found["engines"]["stand-in"]["errors"] == ["gone"]


def test_an_error_500_needs_an_exception_with_its_id_in_the_log(tmp_path):
    log = tmp_path / "gateway.log"
    lines = [
        {"request_id": "a", "exception": "Traceback"},
        {"request_id": "a", "status": 500},
        {"request_id": "b", "status": 500},
        {"request_id": "c", "status": 503},
    ]
    log.write_text("\n".join(map(json.dumps, lines)))
    assert kills.silent_errors(log) == {"errors 500": 2, "errors 500 without a cause": 1}


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ({"wrong answers": 1}, "answers were wrong"),
        ({"lost feedback": 1}, "acknowledged feedback was lost"),
        ({"answers not in the log": 1}, "answers are not in the log"),
        ({"errors 500 without a cause": 1}, "an error 500 has no cause in the log"),
        ({"engines after": [1, 2]}, "not one engine per gateway"),
    ],
)
def test_a_part_complains_about_what_must_not_happen(part, complaint):
    calm = {"wrong answers": 0, "lost feedback": 0, "answers not in the log": 0, "errors 500 without a cause": 0}
    assert kills._complaints(calm, [request()], killed=False) == []
    assert kills._complaints({**calm, **part}, [request()], killed=False) == [complaint]


def test_the_slope_of_memory_ignores_the_warm_up():
    grows = [[minute / 10, 100.0 * min(minute, 10) + minute / 10] for minute in range(100)]
    found = soak.slope(grows)
    assert found["MB a minute"][0] == pytest.approx(1.0)
    assert found["MB at first, after the warm-up, and at last"][0] == 0.0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_says_what_became_of_its_request(streamed):
    with closing(ScriptedUpstream()) as upstream, httpx.Client(timeout=20) as session:
        url = upstream.url.removesuffix("/v1")
        upstream.behaviour = "broken"
        assert ask(session, url, "q", streamed).outcome == "failed"
        if streamed:
            upstream.behaviour = "hangs_up_in_the_middle"
            cut = ask(session, url, "q", streamed)
            assert (cut.outcome, cut.text) == ("broken off", "The price of everything in the cart. [1] And more ")
    assert ask(httpx.Client(), url, "q", streamed).outcome == "no connection"


def test_clients_ask_until_they_are_told_to_end():
    with closing(ScriptedUpstream()) as upstream:
        upstream.behaviour = "broken"
        with Clients(upstream.url.removesuffix("/v1"), "key", ["q"], count=2) as clients:
            clients.wait_for(2, seconds=20)
            assert len(clients.requests) >= 2
            # On a busy machine one client asks several times before the other one starts.
            until(lambda: {one.streamed for one in clients.requests} == {False, True})
    assert {one.outcome for one in clients.requests} == {"failed"}
