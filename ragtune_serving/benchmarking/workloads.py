"""The work loads: what is asked, in which form, and when."""

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ragtune.errors import SettingsError
from ragtune.knowledge.catalogue import Catalogue
from ragtune.records import SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.benchmarking.generator import Request, arrivals

USER = "ragtune-benchmark"
"""The end user that the requests name, so that they can be told from those of people in the feedback log."""
_LONG_TOKENS = 256
"""Longest answer of the work load `long`: two or three paragraphs. Chosen by hand."""
_TURNS = 2
"""Earlier questions in a conversation of the work load `chat`. Chosen by hand."""
_EARLIER_ANSWER = (
    "The documents describe this in detail. In short: follow the steps in the order in which they are listed, check "
    "the result after each of them, and ask the person in charge if something differs from the description. [1]"
)
"""What the assistant said before in a conversation. What it says does not matter, its length does."""
_TITLES = ("What is {}?", "What do I have to know about {}?", "How does {} work?", "When does {} apply?")


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of requests; `form` is what their bodies have in addition to the question."""

    name: str
    about: str
    form: Mapping[str, Any]
    turns: int = 0


_STREAM = {"stream": True, "stream_options": {"include_usage": True}}
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("stream", "questions, answers as a stream", _STREAM),
        Workload("questions", "questions, answers in one piece", {}),
        Workload("chat", f"questions after {_TURNS} earlier turns, as a stream", _STREAM, turns=_TURNS),
        Workload("long", f"long answers of up to {_LONG_TOKENS} tokens, as a stream", {**_STREAM, "depth": 1.0}),
    )
}
"""The work loads whose rate is chosen; `replay` has the times of a recorded log instead."""
REPLAY = "replay"


def named(names: Sequence[str]) -> list[Workload]:
    """Return the work loads of these names, or all; raise SettingsError for an unknown one."""
    if unknown := sorted(set(names) - set(WORKLOADS)):
        raise SettingsError(f"There is no work load {', '.join(unknown)}.", f"one of {', '.join(WORKLOADS)}")
    return [WORKLOADS[name] for name in names or WORKLOADS]


def read_questions(settings: Settings, file: Path | None = None) -> list[str]:
    """Return the questions to ask: of the file, one per line; or else held-out ones; or else ones from titles.

    Raises:
        SettingsError: there are none.
    """
    questions = _lines(file) if file is not None else _held_out(settings) or _from_titles(settings)
    if not questions:
        raise SettingsError(
            f"There is no question to ask in {file or settings.home}.",
            "a file with a question per line, test questions of the graph, or documents that were indexed",
            "run `ragtune index`, or name a file with --questions",
        )
    return questions


def bodies(workload: Workload, questions: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Yield bodies of chat requests for ever: the questions in a seeded order, again and again.

    None of them is answered from the response cache, which would be measured otherwise.
    """
    order = list(questions)
    random.Random(seed).shuffle(order)
    for place in itertools.count():
        earlier = [order[(place + turn + 1) % len(order)] for turn in range(workload.turns)]
        yield body(order[place % len(order)], workload, earlier)


def body(question: str, workload: Workload, earlier: Sequence[str] = (), cache: bool = False) -> dict[str, Any]:
    """Return the body of one chat request."""
    turns = [
        {"role": role, "content": text}
        for asked in earlier
        for role, text in (("user", asked), ("assistant", _EARLIER_ANSWER))
    ]
    controls: dict[str, Any] = {} if cache else {"cache": "no-store"}
    form = dict(workload.form)
    if depth := form.pop("depth", None):
        controls["dials"] = {"depth": depth}
        form["max_tokens"] = _LONG_TOKENS
    messages = [*turns, {"role": "user", "content": question}]
    return {"model": "ragtune", "messages": messages, "user": USER, "ragtune": controls, **form}


def due(bodies: Iterator[Mapping[str, Any]], times: Sequence[float]) -> list[Request]:
    """Return one request for each time at which one is due."""
    return [Request(time, next(bodies)) for time in times]


def steady(bodies: Iterator[Mapping[str, Any]], rate: float, seconds: float, seed: int) -> list[Request]:
    """Return requests at a rate per second, as many independent users send them."""
    return due(bodies, arrivals(rate, seconds, seed))


def replayed(settings: Settings, limit: int, speed: float = 1.0) -> list[Request]:
    """Return the newest recorded questions, due when they came relative to the first, `speed` times as fast.

    The response cache may answer them, as it did when they were asked. Raises SettingsError if nobody asked anything.
    """
    log = FeedbackLog(settings.feedback_url)
    try:
        recorded = [response for response in log.newest_responses(limit) if response.user != USER][::-1]
    finally:
        log.close()
    if not recorded:
        raise SettingsError(
            "No question was recorded in this home yet, so there is none to replay.",
            "questions that people asked",
            f"choose other work loads: {', '.join(WORKLOADS)}",
        )
    # A response is recorded at its end.
    times = [datetime.fromisoformat(one.created_at).timestamp() - one.latency_ms / 1000 for one in recorded]
    ordered = sorted(zip(times, recorded, strict=True), key=lambda pair: pair[0])
    first, form = ordered[0][0], WORKLOADS["stream"]
    return [Request((time - first) / speed, body(one.question, form, cache=True)) for time, one in ordered]


def _lines(file: Path) -> list[str]:
    """Return the questions of a text file, or of JSON lines with `text` or `question`."""
    if not file.is_file():
        raise SettingsError(f"There is no file {file}.", "a file with a question per line")
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if file.suffix != ".jsonl":
        return lines
    rows = [json.loads(line) for line in lines]
    return [str(row.get("question") or row.get("text") or "") for row in rows if row.get("question") or row.get("text")]


def _held_out(settings: Settings) -> list[str]:
    store = ArtifactStore(settings.home / "artifacts")
    ref = store.current("qa_splits")
    items = store.read_records(ref, SplitItem) if ref else []
    return [item.pair.question for item in items if item.split == "test"]


def _from_titles(settings: Settings) -> list[str]:
    """Return questions about the headings of the documents that were read."""
    catalogue = Catalogue(settings)
    subjects: list[str] = []
    for entry in catalogue.find({}):
        subjects.append(entry.title)
        document = catalogue.document(entry)
        subjects += [document.text[block.start : block.end].strip("# \n") for block in document.blocks
                     if block.kind == "heading"]  # fmt: skip
    named_once = list(dict.fromkeys(subject for subject in subjects if subject))
    return [form.format(subject) for form in _TITLES for subject in named_once]
