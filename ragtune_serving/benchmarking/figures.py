"""Turns the samples of a load into numbers: percentiles, rates, goodput, memory and cost."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from ragtune.evaluation.benchmark import hardware, percentile
from ragtune.gateway_settings import LoadSettings
from ragtune.settings import Settings
from ragtune.store.speed_rows import LoadRow
from ragtune_serving.benchmarking.gateways import Gateway
from ragtune_serving.benchmarking.generator import Sample

_MEMORY_SECONDS = 2.0
"""Between two looks at the memory. Chosen by hand: a look costs the gateway some milliseconds."""
_SHAPING = ("engine", "gateway", "answer", "index", "embedder", "quantization")
"""Sections of the settings on which speed depends."""
_HOUR = 3600.0
_PRICED = 1000


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes of the gateway with its engines, and of all GPUs, `at` seconds of the monotonic clock."""

    at: float
    resident: int
    gpu: int


@dataclass(slots=True)
class MemoryWatch:
    """The memory of a gateway over time; `error` says why it could not be read at the end, or is ""."""

    looks: list[Memory] = field(default_factory=list)
    error: str = ""

    @property
    def peak(self) -> int:
        """The most bytes that the gateway and its engines had, 0 if nobody looked."""
        return max((look.resident for look in self.looks), default=0)

    @property
    def gpu_peak(self) -> int:
        """The most bytes that the GPUs had in use."""
        return max((look.gpu for look in self.looks), default=0)

    @property
    def growth(self) -> tuple[float, float]:
        """Bytes per minute by which memory grew, by least squares, and their standard error.

        The first quarter of the looks does not count, in which caches fill. (0, 0) with fewer than three others.
        """
        from scipy.stats import linregress

        looks = self.looks[len(self.looks) // 4 :]
        if len(looks) < 3:
            return 0.0, 0.0
        line = linregress([look.at / 60 for look in looks], [look.resident for look in looks])
        return float(line.slope), float(line.stderr)


@contextmanager
def watched_memory(gateway: Gateway) -> Iterator[MemoryWatch]:
    """Look at the memory of a gateway again and again for the length of the block."""
    watch, ending = MemoryWatch(), threading.Event()

    def look() -> None:
        import httpx

        try:
            watch.looks.append(memory_of(gateway.metrics()))
            watch.error = ""
        except httpx.HTTPError as error:  # a saturated gateway may answer late, and so may one whose engine was killed
            watch.error = str(error)

    def repeat() -> None:
        while not ending.wait(_MEMORY_SECONDS):
            look()

    look()
    thread = threading.Thread(target=repeat, name="memory")
    thread.start()
    try:
        yield watch
    finally:
        ending.set()
        thread.join()
        look()


def memory_of(metrics: str) -> Memory:
    """Return the memory that a scrape of `/metrics` shows."""
    sizes = {"ragtune_memory_bytes": 0.0, "ragtune_gpu_memory_used_bytes": 0.0}
    for family in text_string_to_metric_families(metrics):
        if family.name in sizes:
            sizes[family.name] = sum(sample.value for sample in family.samples)
    return Memory(time.monotonic(), int(sizes["ragtune_memory_bytes"]), int(sizes["ragtune_gpu_memory_used_bytes"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all rows of a run have in common: its id, the gateway, its model, and the service level."""

    id: str
    gateway: Gateway
    version: str
    precision: str

    @property
    def settings(self) -> Settings:
        """The settings of the gateway."""
        return self.gateway.settings

    @property
    def level(self) -> LoadSettings:
        """The service level and the price."""
        return self.gateway.settings.load


def within(sample: Sample, level: LoadSettings) -> bool:
    """Return whether a request was answered within the service level."""
    return (
        sample.answered
        and sample.first * 1000 <= level.first_token_ms
        and sample.total * 1000 <= level.answer_ms
    )  # fmt: skip


def answered_per_second(samples: Sequence[Sample], seconds: float, usual: float) -> float:
    """Return the answers per second of a load of this many seconds.

    The time goes on until the last answer, so that a queue at the end counts; but `usual` does not count, the seconds
    that the last answer takes without any queue.
    """
    answered = [sample for sample in samples if sample.answered]
    if not answered:
        return 0.0
    end = max(sample.end for sample in answered) - min(sample.due for sample in samples)
    return len(answered) / max(seconds, end - usual)


def summarise(
    run: Run,
    samples: Sequence[Sample],
    workload: str,
    scenario: str,
    part: str = "",
    seconds: float = 0.0,
    memory: MemoryWatch | None = None,
    usual: float = 0.0,
) -> LoadRow:
    """Return one row about a load.

    Args:
        run: what all rows have in common.
        samples: at least one.
        workload: its name.
        scenario: why the load was put on the gateway.
        part: of the scenario.
        seconds: the length of the load; by default until the end of the last request.
        memory: of the gateway meanwhile.
        usual: seconds that an answer takes a single user.
    """
    seconds = seconds or max(sample.end for sample in samples) - min(sample.due for sample in samples)
    answered = [sample for sample in samples if sample.answered]
    limited = [sample for sample in samples if sample.limited]
    good = sum(within(sample, run.level) for sample in samples) / seconds
    span = max((sample.end for sample in answered), default=seconds) - min(sample.due for sample in samples)
    between = [sample for sample in answered if sample.between]
    return LoadRow(
        run_id=run.id,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        workload=workload,
        scenario=scenario,
        part=part,
        model_version=run.version,
        precision=run.precision,
        settings=settings_hash(run.settings),
        offered=len(samples) / seconds,
        seconds=seconds,
        requests=len(samples),
        answered=answered_per_second(samples, seconds, usual),
        good=good,
        limited=len(limited),
        unhelpful=sum(not sample.retry_after for sample in limited),
        failed=len(samples) - len(answered) - len(limited),
        **_percentiles("first", answered, lambda sample: sample.first),
        **_percentiles("between", between, lambda sample: sample.between),
        **_percentiles("total", answered, lambda sample: sample.total),
        tokens_per_second=sum(sample.completion_tokens for sample in answered) / span if span else 0.0,
        generator_ms=percentile([sample.sent - sample.due for sample in samples], 99) * 1000,
        memory_bytes=memory.peak if memory else 0,
        gpu_bytes=memory.gpu_peak if memory else 0,
        cost=run.level.price_per_hour / (good * _HOUR) * _PRICED if good else 0.0,
        hardware=hardware(),
    )


def _percentiles(name: str, samples: Sequence[Sample], seconds: Callable[[Sample], float]) -> dict[str, float]:
    values = [seconds(sample) * 1000 for sample in samples]
    return {f"{name}_p{percent}_ms": percentile(values, percent) if values else 0.0 for percent in (50, 95, 99)}


def settings_hash(settings: Settings) -> str:
    """Return 12 hex digits that change if a setting changes on which speed depends."""
    plain = {name: settings.model_dump(mode="json")[name] for name in _SHAPING}
    plain["gateway"] = {name: value for name, value in plain["gateway"].items() if name not in ("host", "port")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
