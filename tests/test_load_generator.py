"""The load generator: when requests are sent, what their times count from, and what counts as an answer."""

import asyncio
import json
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from ragtune_serving.benchmarking.generator import Request, Target, arrivals, run_load, run_one_by_one
from tests.support.scripted_upstream import ServedApp

USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}


@pytest.fixture(scope="module")
def server():
    """A server that does what the question says; `slow` has one place and takes 0.2 s."""
    place: list[asyncio.Semaphore] = []

    async def chat(request):
        body = await request.json()
        question = body["messages"][-1]["content"]
        if question == "too many":
            return JSONResponse({}, 429, {"Retry-After": "1"})
        if question == "too many, unhelpfully":
            return JSONResponse({}, 429)
        if question == "broken":
            return JSONResponse({}, 503)
        if question == "slow":
            if not place:
                place.append(asyncio.Semaphore(1))
            async with place[0]:
                await asyncio.sleep(0.2)
        if question == "endless":
            await asyncio.sleep(30)
        if body.get("stream"):
            return StreamingResponse(frames(question), media_type="text/event-stream")
        return JSONResponse({"choices": [], "usage": USAGE})

    async def frames(question):
        for number in range(3):
            await asyncio.sleep(0.1 if number else 0.05)
            yield f"data: {json.dumps({'choices': [{'delta': {'content': 'word '}}]})}\n\n"
        if question == "breaks off":
            yield f"data: {json.dumps({'error': {'message': 'the engine died'}})}\n\n"
            return
        yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n"
        if question != "ends early":
            yield "data: [DONE]\n\n"

    served = ServedApp(Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])]))
    yield Target(served.url, "key")
    served.close()


def asking(question: str, stream: bool = False, due: float = 0.0) -> Request:
    return Request(due, {"messages": [{"role": "user", "content": question}], "stream": stream})


def test_a_rate_has_its_number_of_arrivals_whatever_the_seed():
    for seed in range(5):
        times = arrivals(4.0, 10.0, seed)
        assert len(times) == 40
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] <= 10
    assert arrivals(4.0, 10.0, 1) == arrivals(4.0, 10.0, 1) != arrivals(4.0, 10.0, 2)


def test_requests_are_sent_when_due_although_earlier_ones_are_not_answered_and_waiting_counts(server):
    samples = run_load(server, [asking("slow", due=0.05 * number) for number in range(5)])
    assert [sample.due for sample in samples] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert all(sample.sent - sample.due < 0.15 for sample in samples), "a closed loop would send the last at 0.8 s"
    # One place of 0.2 s: the fifth is answered after 1.0 s, and was due at 0.2 s.
    assert max(sample.total for sample in samples) > 0.75


def test_a_single_user_asks_after_the_answer(server):
    samples = run_one_by_one(server, [asking("slow").body] * 3)
    assert all(0.19 < sample.total < 0.6 for sample in samples)


def test_the_first_text_and_the_time_per_token_of_a_stream_are_measured(server):
    [sample] = run_load(server, [asking("hello", stream=True)])
    assert sample.answered
    assert 0.04 < sample.first < 0.2 < sample.total
    assert sample.between == pytest.approx((sample.texts[-1] - sample.texts[0]) / 4)
    assert (sample.prompt_tokens, sample.completion_tokens) == (9, 5)


def test_an_answer_in_one_piece_has_its_first_text_at_its_end(server):
    [sample] = run_load(server, [asking("hello")])
    assert sample.first == sample.total
    assert sample.between == 0.0


@pytest.mark.parametrize("question", ["breaks off", "ends early"])
def test_a_stream_without_its_end_is_no_answer(server, question):
    [sample] = run_load(server, [asking(question, stream=True)])
    assert sample.status == 0
    assert not sample.answered


def test_a_429_is_told_from_a_failure_and_whether_it_says_when_to_ask_again(server):
    samples = run_load(server, [asking(text) for text in ("too many", "too many, unhelpfully", "broken")])
    assert [(sample.limited, sample.answered, sample.retry_after) for sample in samples] == [
        (True, False, True),
        (True, False, False),
        (False, False, False),
    ]


def test_a_request_that_nobody_answers_fails_after_the_patience(server):
    began = time.monotonic()
    [sample] = run_load(server, [asking("endless")], patience=0.5)
    assert time.monotonic() - began < 30, "the server's answer was waited for"
    assert (sample.status, sample.total) == (0, 0.5)


def test_a_server_that_is_away_fails_every_request():
    samples = run_load(Target("http://127.0.0.1:9", "key"), [asking("hello"), asking("hello")])
    assert [sample.status for sample in samples] == [0, 0]
