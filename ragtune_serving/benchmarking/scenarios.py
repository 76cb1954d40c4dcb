"""The scenarios: one user, the load curve, twice the saturation, a spike, a long load, a killed engine."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ragtune.errors import ResourceError
from ragtune.ports import Progress, silent
from ragtune.store.speed_rows import LoadRow
from ragtune_serving.benchmarking.figures import (
    MemoryWatch,
    Run,
    summarise,
    watched_memory,
    within,
)
from ragtune_serving.benchmarking.generator import Request, Sample, run_load, run_one_by_one
from ragtune_serving.benchmarking.workloads import Workload, bodies, due, steady

ALONE_REQUESTS = 12
"""Requests of a single user; chosen by hand: enough for a median, little for a p95."""
FULL_REQUESTS = 32
"""Requests at the same moment that show a busy engine; chosen by hand."""
KEEPS_UP = 0.9
"""Below this share of the offered rate a gateway does not keep up. Chosen by hand: the times of arrival alone make the
measured rate vary by some percent."""
SERVED = 0.95
"""Share of the requests that have to be answered within the service level. Chosen by hand, as is usual."""
_FIRST_RATE, _LEAST_RATE, _MOST_RATE = 0.5, 0.05, 4096.0
"""Requests per second with which the curve begins, and the rates at which it ends. The first is chosen by hand: a model
of 135 million parameters on two cores keeps up with it."""
_NARROW = 1.2
"""The saturation is found once the lowest rate that was too much is less than this times the highest that was not."""
_COLLAPSE = 0.8
"""Of its capacity, what a gateway still has to do when twice as much is asked of it. Chosen by hand."""
_CALM = 2.0
"""Times the p95 before the load up to which latency counts as back to normal. Chosen by hand."""
_SPIKE, _SOAK, _CHAOS, _PROBE = 3.0, 0.7, 0.5, 0.3
"""Rates of the scenarios relative to the saturation; chosen by hand, as such tests usually are."""
_LONGEST_RECOVERY = 120.0
"""Seconds after which a gateway counts as not recovered. Chosen by hand."""
_PAUSE_SECONDS = 2.0
"""Longest pause between the requests that look whether latency is normal again. Chosen by hand."""
_LATER = (429, 503)
"""Statuses that ask a client to come back."""
_MIB = 1 << 20
_GROWTH = 0.1
"""Share of its memory by which a gateway may grow in an hour of a steady load. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that has to hold under load, whether it did, and what was seen."""

    what: str
    held: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """The result of a scenario: a row per part, and what has to hold."""

    name: str
    rows: tuple[LoadRow, ...]
    claims: tuple[Claim, ...] = ()
    memory: MemoryWatch = field(default_factory=MemoryWatch)


@dataclass(frozen=True, slots=True)
class Curve:
    """The load curve of a work load: the highest rate that was kept up with, and the most answers per second."""

    workload: str
    rows: tuple[LoadRow, ...]
    saturation: float
    capacity: float

    @property
    def served(self) -> float:
        """The highest rate at which nearly all requests are answered within the service level, 0 if there is none."""
        return max((row.offered for row in self.rows if row.good >= SERVED * row.offered), default=0.0)


class LoadTest:
    """Puts loads on one gateway. Every request of a test asks the next question, so that few are asked twice."""

    def __init__(self, run: Run, questions: Sequence[str], progress: Progress = silent) -> None:
        self.run, self.questions, self.progress = run, questions, progress
        self.seconds, self.seed = run.settings.load.seconds, run.settings.seed
        self._bodies: dict[str, Iterator[dict[str, Any]]] = {}
        self._usual: dict[str, float] = {}
        self._loads = 0

    def alone(self, workload: Workload) -> Scenario:
        """Measure a single user, who asks again as soon as the answer is there."""
        self.progress(f"{workload.name}: one user", 0, 0)
        samples = run_one_by_one(self.run.gateway.target, [next(self.bodies(workload)) for _ in range(ALONE_REQUESTS)])
        self._usual[workload.name] = median(sample.total for sample in samples)
        return Scenario("alone", (self._row(samples, workload, "alone"),))

    def full(self, workload: Workload) -> tuple[Scenario, float]:
        """Send many requests at the same moment; return the result, and the seconds in which the engine was busy."""
        self.progress(f"{workload.name}: {FULL_REQUESTS} at once", 0, 0)
        samples = run_load(self.run.gateway.target, due(self.bodies(workload), [0.0] * FULL_REQUESTS))
        return Scenario("full", (self._row(samples, workload, "full"),)), max(sample.end for sample in samples)

    def curve(self, workload: Workload, least: float = _FIRST_RATE) -> Curve:
        """Raise the rate until the gateway does not keep up, then narrow the saturation down.

        Call `alone` first: what a single user waits is no queue.
        """
        rows: list[LoadRow] = []
        kept, lost, rate = 0.0, 0.0, least
        while _LEAST_RATE <= rate <= _MOST_RATE and not (kept and lost / kept >= 1 and lost / kept < _NARROW):
            rows.append(self.at_rate(workload, rate, "curve", f"{rate:.3g}/s"))
            row = rows[-1]
            if row.answered >= KEEPS_UP * row.offered and not row.failed and not row.limited:
                kept = rate
            else:
                lost = rate
            rate = (kept * lost) ** 0.5 if kept and lost else 2 * kept if kept else lost / 2
        capacity = max(row.answered for row in rows)
        return Curve(workload.name, tuple(rows), kept or min(capacity, _LEAST_RATE), capacity)

    def stress(self, workload: Workload, saturation: float, capacity: float) -> Scenario:
        """Ask twice as much as the gateway keeps up with, and wait until it is back to normal."""
        before = self.at_rate(workload, _PROBE * saturation, "stress", "before")
        samples, memory = self._load(workload, 2 * max(saturation, capacity), "stress")
        during = self._row(samples, workload, "stress", "during", self.seconds, memory)
        drained = max(sample.end for sample in samples) - self.seconds
        after, seconds = self._recovery(workload, _PROBE * saturation, before.total_p95_ms)
        claims = (
            _only_429(during),
            Claim(
                f"no collapse: at least {_COLLAPSE:.0%} of the capacity of {capacity:.2g} answers/s",
                during.answered >= _COLLAPSE * capacity,
                f"{during.answered:.2g} answers/s",
            ),
            _recovered(None if seconds is None else drained + seconds),
        )
        return Scenario("stress", (before, during, after), claims)

    def spike(self, workload: Workload, saturation: float) -> Scenario:
        """Ask half of what the gateway keeps up with, three times as much for a moment, and half again."""
        part, calm = self.seconds / 3, saturation / 2
        requests: list[Request] = []
        for place, rate in enumerate((calm, _SPIKE * saturation, calm)):
            length = part / 2 if place == 1 else part
            begin = (0.0, part, 1.5 * part)[place]
            loaded = steady(self.bodies(workload), rate, length, self._next_seed())
            requests += [Request(begin + request.due, request.body) for request in loaded]
        self.progress(f"{workload.name}: spike", 0, 0)
        samples = run_load(self.run.gateway.target, requests)
        parts = {
            "before": ([sample for sample in samples if sample.due < part], part),
            "during": ([sample for sample in samples if part <= sample.due < 1.5 * part], part / 2),
            "after": ([sample for sample in samples if sample.due >= 1.5 * part], part),
        }
        rows = [self._row(of_part, workload, "spike", name, long) for name, (of_part, long) in parts.items()]
        late = [sample for sample in parts["after"][0] if not within(sample, self.run.level)]
        seconds = max((sample.due for sample in late), default=1.5 * part) - 1.5 * part
        end = f"the last answer outside of the service level was due {seconds:.1f} s after the spike"
        claims = (_only_429(rows[1]), Claim("answers after the spike", rows[2].answered > 0, end))
        return Scenario("spike", tuple(rows), claims)

    def soak(self, workload: Workload, saturation: float, minutes: float) -> Scenario:
        """Put a steady load on the gateway for long: does memory grow, does it become slower?"""
        requests = steady(self.bodies(workload), _SOAK * saturation, minutes * 60, self._next_seed())
        self.progress(f"{workload.name}: soak for {minutes:g} minutes", 0, 0)
        with watched_memory(self.run.gateway) as memory:
            samples = run_load(self.run.gateway.target, requests)
        halves = (
            [sample for sample in samples if sample.due < minutes * 30],
            [sample for sample in samples if sample.due >= minutes * 30],
        )
        rows = [
            self._row(half, workload, "soak", name, minutes * 30, memory)
            for half, name in zip(halves, ("first half", "second half"), strict=True)
            if half
        ]
        slope, error = memory.growth
        hourly, surely = slope * 60, (slope - 2 * error) * 60
        failed = sum(row.failed + row.limited for row in rows)
        claims = (
            Claim("every request is answered", not failed, f"{failed} of {len(samples)} were not"),
            Claim(
                f"memory grows by less than {_GROWTH:.0%} an hour",
                surely < _GROWTH * memory.peak,
                f"{hourly / _MIB:+.0f} MiB an hour, at least {surely / _MIB:+.0f}, of {memory.peak / _MIB:.0f} MiB, "
                f"from {len(memory.looks)} looks in {minutes:g} minutes",
            ),
        )
        return Scenario("soak", tuple(rows), claims, memory)

    def chaos(self, workload: Workload, saturation: float, seconds: float) -> Scenario:
        """Kill the engine in the middle of a load of this many seconds.

        Raises ResourceError if the gateway has no engine that may be killed.
        """
        pids = self.run.gateway.engine_pids()
        if not pids:
            raise ResourceError(
                "This gateway has no engine of its own that could be killed.",
                "a gateway that `ragtune benchmark` started, with engine.backend: vllm",
                "leave chaos out of --only, or leave --running out",
            )
        requests = steady(self.bodies(workload), _CHAOS * saturation, seconds, self._next_seed())
        kill = _Kill(pids, self.seconds / 2)
        self.progress(f"{workload.name}: the engine is killed", 0, 0)
        samples = run_load(self.run.gateway.target, requests, meanwhile=kill.wait_and_kill)
        parts = {
            "before": [sample for sample in samples if sample.end < kill.after],
            "killed": [sample for sample in samples if sample.end >= kill.after],
        }
        rows = [self._row(of_part, workload, "chaos", name) for name, of_part in parts.items() if of_part]
        failed = [sample for sample in samples if sample.due >= kill.after and not sample.answered]
        again = [sample.due for sample in samples if sample.due > kill.after and sample.answered]
        broken = [sample for sample in samples if sample.due < kill.after <= sample.end and not sample.answered]
        unhelpful = [sample for sample in failed if sample.status not in _LATER or not sample.retry_after]
        claims = (
            Claim(
                "requests that come without an engine get a 503 or 429 with Retry-After",
                not unhelpful,
                f"{len(failed) - len(unhelpful)} of {len(failed)} did; {len(broken)} answers were cut off by the kill",
            ),
            Claim(
                "the engine comes back by itself",
                bool(again) and samples[-1].answered,
                f"first answer {again[0] - kill.after:.0f} s after the kill" if again else "no answer since the kill",
            ),
        )
        return Scenario("chaos", tuple(rows), claims)

    def replay(self, requests: Sequence[Request]) -> Scenario:
        """Send recorded questions when they came."""
        self.progress("replay", 0, 0)
        with watched_memory(self.run.gateway) as memory:
            samples = run_load(self.run.gateway.target, requests)
        row = summarise(self.run, samples, "replay", "replay", memory=memory)
        return Scenario("replay", (row,), memory=memory)

    def bodies(self, workload: Workload) -> Iterator[dict[str, Any]]:
        """Return the requests of a work load that were not sent yet."""
        if workload.name not in self._bodies:
            self._bodies[workload.name] = bodies(workload, self.questions, self.seed)
        return self._bodies[workload.name]

    def at_rate(self, workload: Workload, rate: float, scenario: str, part: str = "") -> LoadRow:
        """Measure one rate."""
        samples, memory = self._load(workload, rate, scenario)
        return self._row(samples, workload, scenario, part, self.seconds, memory)

    def _load(self, workload: Workload, rate: float, scenario: str) -> tuple[list[Sample], MemoryWatch]:
        self.progress(f"{workload.name}: {scenario} at {rate:.3g}/s", 0, 0)
        requests = steady(self.bodies(workload), rate, self.seconds, self._next_seed())
        with watched_memory(self.run.gateway) as memory:
            return run_load(self.run.gateway.target, requests), memory

    def _recovery(self, workload: Workload, rate: float, calm_ms: float) -> tuple[LoadRow, float | None]:
        """Ask little until latency is normal; return the last look, and after how many seconds, or None if never."""
        began = time.monotonic()
        while True:
            looked = time.monotonic()
            requests = due(self.bodies(workload), [place * min(1 / rate, _PAUSE_SECONDS) for place in range(4)])
            samples = run_load(self.run.gateway.target, requests)
            calm = all(sample.answered and sample.total * 1000 <= _CALM * calm_ms for sample in samples)
            if calm or time.monotonic() - began > _LONGEST_RECOVERY:
                return self._row(samples, workload, "stress", "after"), looked - began if calm else None

    def _row(
        self,
        samples: Sequence[Sample],
        workload: Workload,
        scenario: str,
        part: str = "",
        seconds: float = 0.0,
        memory: MemoryWatch | None = None,
    ) -> LoadRow:
        usual = self._usual.get(workload.name, 0.0)
        return summarise(self.run, samples, workload.name, scenario, part, seconds, memory, usual)

    def _next_seed(self) -> int:
        """Return another seed for each load, the same ones in every test: compared gateways get the same arrivals."""
        self._loads += 1
        return self.seed + self._loads


class _Kill:
    """Kills processes some seconds after a load began."""

    def __init__(self, pids: Sequence[int], after: float) -> None:
        self.pids, self.after = pids, after

    async def wait_and_kill(self) -> None:
        """Wait, then kill."""
        import asyncio

        await asyncio.sleep(self.after)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)


def _only_429(row: LoadRow) -> Claim:
    return Claim(
        "what is not answered gets a 429 with Retry-After",
        not row.failed and not row.unhelpful,
        f"{row.limited} got a 429, {row.unhelpful} of them without Retry-After; {row.failed} failed otherwise",
    )


def _recovered(seconds: float | None) -> Claim:
    seen = f"after {seconds:.1f} s" if seconds is not None else f"not within {_LONGEST_RECOVERY:.0f} s"
    return Claim(f"latency is back within {_CALM:g} times the p95 of before", seconds is not None, seen)
