"""The page Health: what is live and how fresh, load, latency, memory, feedback, errors, and what needs a person."""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import Histogram

from ragtune.knowledge.catalogue import Catalogue
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.disk_use import disk_use, in_words
from ragtune.store.feedback import Activity
from ragtune.store.home_lock import builder
from ragtune.store.problems import Problem
from ragtune_serving.attention import problems
from ragtune_serving.checks import Finding, examine
from ragtune_serving.console.pages import render
from ragtune_serving.routes import Services

HOURS = 24
"""How far back the charts of the load go."""
_MOST_RESPONSES = 20_000
"""Responses that the charts count, the newest ones; chosen by hand: a page should take less than a second."""
_KEEP_SECONDS = 60.0
"""How long what needs attention is kept: finding it starts a process for seconds. Chosen by hand."""
_LOG_BYTES = 1 << 16
"""How much of the end of the log is read; chosen by hand: some 500 lines."""
_LAST_ERRORS = 20
_LEVEL = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) ")
"""The first line of a record in the log, by its format in `commands/running.py`."""
_ARTIFACTS = ("raw_documents", "search_index", "qa_dataset", "lora_adapter", "quantized_model", "eval_scores")
"""Artefacts whose age says how fresh a home is."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """What a histogram says: the number of values, their mean, and estimates of the median and of the 95th percentile.

    An estimate is the upper bound of the bucket that holds it, or None beyond the last one.
    """

    name: str
    count: int
    mean: float
    p50: float | None
    p95: float | None


class Kept:
    """Keeps the result of a slow function for a while; only one thread computes it."""

    def __init__(self, compute: Callable[[], list[Problem]], seconds: float) -> None:
        self._compute, self._seconds = compute, seconds
        self._lock = threading.Lock()
        self._until, self._result = 0.0, list[Problem]()

    def get(self) -> list[Problem]:
        """Return the result, at most `seconds` old."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._result = self._compute()
                self._until = time.monotonic() + self._seconds
            return self._result


def add_health_pages(app: FastAPI, services: Services, settings: Settings, catalogue: Catalogue) -> None:
    """Add the page Health and its parts, which load after it because they take seconds."""
    attention = Kept(lambda: problems(settings, services.deployment.status()), _KEEP_SECONDS)

    @app.get("/console/health")
    def health(request: Request) -> Response:
        since = datetime.now(UTC) - timedelta(hours=HOURS)
        responses = services.log.activity(since.isoformat(), _MOST_RESPONSES)
        days = services.log.verdicts_by_day()
        return render(
            request,
            "health.html",
            **now(services, settings, responses),
            load=load_chart(responses, since),
            latency=latency_chart(responses, since),
            verdicts=_verdict_chart(days),
            verdict_days=list(reversed(days.items())),
            quantiles=_all_quantiles(services),
            artifacts=[(name, _built_at(settings, name)) for name in _ARTIFACTS],
            sources=catalogue.contents().sources,
            building=builder(settings.home),
            errors=last_errors(settings.home / "logs" / "gateway.log"),
        )

    @app.get("/console/health/attention")
    def what_needs_attention(request: Request) -> Response:
        return render(request, "health_attention.html", problems=attention.get())

    @app.get("/console/health/installation")
    def installation(request: Request) -> Response:
        findings: list[Finding] = examine(settings)
        return render(request, "health_installation.html", findings=findings)

    @app.get("/console/health/disk")
    def disk(request: Request) -> Response:
        used = {kind: in_words(size) for kind, size in disk_use(settings.home).items()}
        return render(request, "health_disk.html", used=used)


def now(services: Services, settings: Settings, responses: Sequence[Activity]) -> dict[str, Any]:
    """Return what the page shows of this moment."""
    import psutil

    status = services.deployment.status()
    process = psutil.Process()
    memory = []
    for one in (process, *process.children(recursive=True)):
        try:
            memory.append((one.name() if one.pid != process.pid else "gateway", one.memory_info().rss))
        except psutil.NoSuchProcess:  # it ended since the list was made
            continue
    counts = services.recorder.counts()
    times = sorted(one.latency_ms for one in responses)
    return {
        "engines": {role: status[role] for role in ("live", "next", "comparison") if status[role]},
        "champion": status["champion"],
        "has_index": services.grounding.present,
        "state_errors": [
            error for error in (status["error"], services.grounding.error, services.recorder.error) if error
        ],
        "started": services.started,
        "recorded": counts,
        "pending": services.recorder.pending,
        "dropped": services.recorder.dropped,
        "day": {
            "responses": len(responses),
            "refused": sum(one.refused for one in responses) / len(responses) if responses else 0.0,
            "p50": _percentile(times, 0.5),
            "p95": _percentile(times, 0.95),
        },
        "memory": [(name, in_words(size)) for name, size in memory],
        "memory_total": in_words(sum(size for _, size in memory)),
        "memory_free": in_words(psutil.virtual_memory().available),
        "engine_url": settings.engine.url if settings.engine.backend == "openai" else "",
    }


def load_chart(responses: Sequence[Activity], since: datetime) -> dict[str, Any]:
    """Return a chart of the responses and refusals of every hour."""
    hours = _by_hour(responses, since)
    return {
        **_hour_axis(hours),
        "unit": "",
        "series": [
            {"label": "responses", "values": [len(own) for own in hours.values()]},
            {"label": "refusals", "values": [sum(one.refused for one in own) for own in hours.values()]},
        ],
    }


def latency_chart(responses: Sequence[Activity], since: datetime) -> dict[str, Any]:
    """Return a chart of the median and of the 95th percentile of every hour, in seconds."""
    hours = _by_hour(responses, since)

    def values(share: float) -> list[float | None]:
        percentiles = [_percentile(sorted(one.latency_ms for one in own), share) for own in hours.values()]
        return [None if one is None else round(one / 1000, 3) for one in percentiles]

    series = [{"label": "median", "values": values(0.5)}, {"label": "p95", "values": values(0.95)}]
    return {**_hour_axis(hours), "unit": "s", "series": series}


def quantiles(name: str, histogram: Histogram, labels: Mapping[str, str]) -> Quantiles | None:
    """Return what a histogram of the metrics says about one series, or None if it has no value yet."""
    samples = [
        sample
        for metric in histogram.collect()
        for sample in metric.samples
        if all(sample.labels.get(label) == value for label, value in labels.items())
    ]
    buckets = [(float(sample.labels["le"]), sample.value) for sample in samples if sample.name.endswith("_bucket")]
    count = next((sample.value for sample in samples if sample.name.endswith("_count")), 0.0)
    if not count:
        return None
    total = next(sample.value for sample in samples if sample.name.endswith("_sum"))

    def bound(share: float) -> float | None:
        upper = next(bound for bound, below in buckets if below >= share * count)
        return upper if upper != float("inf") else None

    return Quantiles(name, int(count), total / count, bound(0.5), bound(0.95))


def last_errors(path: Path) -> list[str]:
    """Return the last warnings and errors of the gateway's log, newest first."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    return [line for line in reversed(lines) if _LEVEL.search(line)][:_LAST_ERRORS]


def _all_quantiles(services: Services) -> list[Quantiles]:
    metrics = services.metrics
    models = sorted({sample.labels["model"] for metric in metrics.latency.collect() for sample in metric.samples})
    rows = [quantiles(f"whole answer, {model} (s)", metrics.latency, {"model": model}) for model in models]
    rows += [quantiles(f"first token, {model} (s)", metrics.first_token, {"model": model}) for model in models]
    rows.append(quantiles("search (ms)", metrics.retrieval, {}))
    return [row for row in rows if row]


def _by_hour(responses: Sequence[Activity], since: datetime) -> dict[datetime, list[Activity]]:
    first = since.replace(minute=0, second=0, microsecond=0)
    hours: dict[datetime, list[Activity]] = {first + timedelta(hours=hour): [] for hour in range(HOURS + 1)}
    for response in responses:
        hour = datetime.fromisoformat(response.created_at).replace(minute=0, second=0, microsecond=0)
        if hour in hours:
            hours[hour].append(response)
    return hours


def _hour_axis(hours: Mapping[datetime, Any]) -> dict[str, Any]:
    return {"x": [int(hour.timestamp()) for hour in hours], "labels": None}


def _verdict_chart(days: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    ratings: dict[str, list[int]] = defaultdict(list)
    for counts in days.values():
        for rating, number in counts.items():
            ratings[rating].append(number)
    names = {"up": "right", "down": "wrong"}
    series = [{"label": names.get(rating, rating), "values": values} for rating, values in ratings.items()]
    return {"x": list(range(len(days))), "labels": list(days), "unit": "", "series": series}


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return a percentile by linear interpolation between the two nearest values, or None if there is none."""
    if len(ordered) < 2:
        return ordered[0] if ordered else None
    place = share * (len(ordered) - 1)
    low, high = list(pairwise(ordered))[min(int(place), len(ordered) - 2)]
    return low + (high - low) * (place - min(int(place), len(ordered) - 2))


def _built_at(settings: Settings, name: str) -> float | None:
    """Return when the current artefact of this name was written, in seconds since 1970, or None if there is none."""
    file = ArtifactStore(settings.home / "artifacts").root / name / "current.json"
    return file.stat().st_mtime if file.is_file() else None
