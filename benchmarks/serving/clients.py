"""Clients that ask a gateway without a pause, each in a thread, and what became of every request.

Odd clients read a stream, even ones wait for the whole answer. With `rates` each answer gets feedback at once, and the
ids of the feedback that the gateway acknowledged are kept.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.serving.overhead import percentile

_SECONDS = 120.0
"""How long a client waits for one answer: longer than a restart of an engine, so that nothing hangs unseen."""
_RETRY_SECONDS = 0.5
"""Pause of a client after a request that got no answer. Chosen by hand: shorter than `Retry-After`, so more load."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request and what became of it.

    `outcome` is `answered`, `told to wait` (429 or 503 with Retry-After), `broken off` (a part of an answer, then an
    error or the end of the connection), `no connection`, or `failed`: everything else. `began` is a time of
    `monotonic`.
    """

    question: str
    streamed: bool
    began: float
    seconds: float
    outcome: str
    status: int = 0
    text: str = ""
    version: str = ""
    response_id: str = ""
    error: str = ""


@dataclass
class Clients:
    """`count` clients of the gateway at `url`, which ask these questions in turn; use it in a `with` block."""

    url: str
    key: str
    questions: Sequence[str]
    count: int = 8
    rates: bool = False
    pause: float = 0.0
    requests: list[Request] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    feedback: Counter[int] = field(default_factory=Counter)

    def __enter__(self) -> "Clients":
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until this many more requests have ended, at most `seconds`."""
        end, wanted = time.monotonic() + seconds, len(self.requests) + count
        while len(self.requests) < wanted and time.monotonic() < end:
            time.sleep(0.02)

    def _work(self, number: int) -> None:
        turn = number
        with httpx.Client(headers={"Authorization": f"Bearer {self.key}"}, timeout=_SECONDS) as session:
            while not self._ending.is_set():
                request = ask(session, self.url, self.questions[turn % len(self.questions)], streamed=bool(number % 2))
                self.requests.append(request)
                if request.outcome != "answered":
                    self._ending.wait(_RETRY_SECONDS)
                elif self.rates:
                    self._rate(session, request)
                turn += self.count
                self._ending.wait(self.pause)

    def _rate(self, session: httpx.Client, request: Request) -> None:
        body = {"response_id": request.response_id, "rating": "up"}
        try:
            reply = session.post(f"{self.url}/v1/feedback", json=body)
        except httpx.TransportError:
            self.feedback[0] += 1
            return
        self.feedback[reply.status_code] += 1
        if reply.is_success:
            self.acknowledged.append(reply.json()["id"])


def ask(session: httpx.Client, url: str, question: str, streamed: bool) -> Request:
    """Ask one question and return what became of it."""
    body = {"model": "ragtune", "messages": [{"role": "user", "content": question}], "stream": streamed}
    began = time.monotonic()
    parts: list[str] = []
    fields: dict[str, Any] = {}
    try:
        with session.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            fields["status"] = reply.status_code
            if reply.status_code != httpx.codes.OK:
                waits = reply.status_code in (429, 503) and "retry-after" in reply.headers
                fields["outcome"] = "told to wait" if waits else "failed"
                fields["error"] = reply.read().decode()[:300]
            elif streamed:
                fields |= _read_events(reply.iter_lines(), parts)
            else:
                fields |= _read_whole(json.loads(reply.read()), parts)
    except httpx.TransportError as error:
        fields["outcome"] = "broken off" if fields.get("status") else "no connection"
        fields["error"] = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    return Request(question, streamed, began, round(seconds, 4), text="".join(parts), **fields)


def _read_whole(answer: Mapping[str, Any], parts: list[str]) -> dict[str, Any]:
    parts.append(answer["choices"][0]["message"]["content"])
    return {
        "outcome": "answered",
        "version": answer["ragtune"]["model_version"],
        "response_id": answer["ragtune"]["response_id"],
    }


def _read_events(lines: Iterable[str], parts: list[str]) -> dict[str, Any]:
    """Return the fields of a streamed answer; its text goes to `parts`, so that a part of it is known, too."""
    fields: dict[str, Any] = {"outcome": "broken off", "error": "the stream ended early"}
    for line in lines:
        content = line.removeprefix("data: ")
        if content == "[DONE]":
            return {**fields, "outcome": "answered", "error": ""}
        if not content:
            continue
        event = json.loads(content)
        if "error" in event:
            return {**fields, "error": json.dumps(event["error"])[:300]}
        parts.append(event["choices"][0]["delta"].get("content", "") if event["choices"] else "")
        if "ragtune" in event:
            fields["version"] = event["ragtune"]["model_version"]
            fields["response_id"] = event["ragtune"]["response_id"]
    return fields


def outcomes(requests: Iterable[Request]) -> dict[str, int]:
    """Return how many requests ended in each way."""
    return dict(Counter(request.outcome for request in requests).most_common())


def times(requests: Iterable[Request]) -> dict[str, float]:
    """Return the number of answers, and the median and the 99th percentile of their times in milliseconds."""
    seconds = [request.seconds for request in requests if request.outcome == "answered"]
    if not seconds:
        return {"n": 0}
    return {"n": len(seconds), "p50_ms": percentile(seconds, 0.5), "p99_ms": percentile(seconds, 0.99)}


def references(url: str, key: str, questions: Sequence[str]) -> dict[tuple[str, bool], str]:
    """Return {(question, streamed): the answer when nothing disturbs}."""
    texts = {}
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=_SECONDS) as session:
        for question in questions:
            for streamed in (False, True):
                request = ask(session, url, question, streamed)
                if request.outcome != "answered":
                    raise SystemExit(f"The calm gateway did not answer: {request}")
                texts[question, streamed] = request.text
    return texts


def wrong(requests: Iterable[Request], expected: Mapping[tuple[str, bool], str]) -> list[Request]:
    """Return the answers that differ from the expected ones, and parts of answers that are no beginning of them."""
    return [
        request
        for request in requests
        if request.outcome in ("answered", "broken off")
        and not (
            request.text == expected[request.question, request.streamed]
            if request.outcome == "answered"
            else expected[request.question, request.streamed].startswith(request.text)
        )
    ]
