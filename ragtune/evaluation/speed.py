"""Compares speeds and sizes: interleaved rounds, intervals, and a noise floor below which nothing counts as different.

The same thing is measured twice in every round. What it differs from itself is the noise floor of the machine at that
time. A difference counts if its interval excludes zero and it is larger than the floor.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ragtune.evaluation.benchmark import Load, MeasuredModel, Prompt, distinct_prompts, hardware, run_load
from ragtune.ports import Engine, Progress, RunningEngine, silent
from ragtune.records import BenchmarkRow
from ragtune.store.speed_rows import SpeedRow

Verdict = Literal["better", "worse", "no difference"]
LEVEL = 0.95
PRESENT, VLLM_DEFAULTS = "present settings", "vLLM's defaults"
"""What comparisons of gateways call the settings of a home, and vLLM as it starts if it only gets a model."""
THROUGHPUT = "answers per second in a burst"
"""The metric that says how many answers a second are possible."""
MEMORY_FLOOR = 0.05
"""Relative difference of peak memory that counts: allocators and thread stacks differ by some percent from start to
start. Chosen by hand."""
SIZE_FLOOR = 0.001
"""Relative difference of sizes that counts: files of equal weights differ by some bytes of header. Chosen by hand."""
_APART = 1_000
"""Rounds between the prompts of two measurements of one engine, so that none finds a prompt of the other in its cache.
Chosen by hand: more than any benchmark has."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that is compared: its name for people, its unit, and whether more is better."""

    name: str
    unit: str
    more_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The relative difference of the means of two series that were measured in the same rounds, with its interval."""

    before: float
    after: float
    change: float
    low: float
    high: float
    rounds: int

    @property
    def extent(self) -> float:
        """The largest relative difference that the interval holds; half as much counts like twice as much."""
        return extent(self.low, self.high)

    def verdict(self, metric: Metric, floor: float) -> Verdict:
        """Return "no difference" unless the interval excludes zero and the difference exceeds the noise floor."""
        if self.low <= 0 <= self.high or _growth(self.change) <= floor:
            return "no difference"
        return "better" if (self.change > 0) == metric.more_is_better else "worse"


def extent(low: float, high: float) -> float:
    """Return the largest relative difference in an interval; see `Difference.extent`."""
    return max(_growth(low), _growth(high))


def _growth(change: float) -> float:
    """Return a relative difference as the growth by the same factor: -0.5, half as much, is 1.0, twice as much."""
    if change >= 0:
        return change
    return 1 / (1 + change) - 1 if change > -1 else math.inf


def difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """Return how `after` differs from `before`, both of shape (rounds,).

    The interval is Student's t over the logarithms of the ratios within rounds: what slows the machine in one round
    slows both by the same factor. If a value is 0, it is over the differences, relative to the mean of `before`. A
    single round has no interval: its bounds are infinite. From nothing to something is an infinite difference, which
    counts if it was so in every round.
    """
    rounds = len(before)
    means = sum(before) / rounds, sum(after) / rounds
    if min(*before, *after) > 0:
        steps = [math.log(new / old) for old, new in zip(before, after, strict=True)]
        change, low, high = (math.exp(bound) - 1 for bound in _mean_interval(steps))
    elif means[0]:
        steps = [(new - old) / means[0] for old, new in zip(before, after, strict=True)]
        change, low, high = _mean_interval(steps)
    else:
        change = high = math.inf if means[1] else 0.0
        low = high if rounds > 1 and min(after) > 0 else 0.0
    return Difference(before=means[0], after=means[1], change=change, low=low, high=high, rounds=rounds)


def exact_difference(before: float, after: float, rounds: int) -> Difference:
    """Return the difference of two values that do not vary from round to round: the interval is a point.

    The relative difference is 0 if `before` is 0.
    """
    change = after / before - 1 if before else 0.0
    return Difference(before=before, after=after, change=change, low=change, high=change, rounds=rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the rows of a comparison have in common; `SpeedRow` explains the fields."""

    run_id: str
    before: str
    after: str
    model_version: str
    settings: str = "{}"
    former: str = "{}"

    def row(
        self, workload: str, metric: Metric, difference: Difference, floor: float, measured_at: str, predicted: str = ""
    ) -> SpeedRow:
        """Return a difference as a row of the warehouse, with its verdict and this machine's hardware."""
        return SpeedRow(
            run_id=self.run_id,
            measured_at=measured_at,
            before=self.before,
            after=self.after,
            workload=workload,
            metric=metric.name,
            unit=metric.unit,
            before_value=difference.before,
            after_value=difference.after,
            change=difference.change,
            low=difference.low,
            high=difference.high,
            floor=floor,
            rounds=difference.rounds,
            verdict=difference.verdict(metric, floor),
            settings=self.settings,
            former=self.former,
            predicted=predicted,
            model_version=self.model_version,
            hardware=hardware(),
        )


def _mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (mean, low, high) of Student's t interval."""
    from scipy.stats import t

    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half


@dataclass(frozen=True, slots=True)
class EngineArm:
    """A model of a comparison: its weights, and what it is called."""

    model: MeasuredModel
    folder: Path


ENGINE_METRICS: Mapping[Metric, Callable[[BenchmarkRow], float]] = {
    Metric("tokens per second", "/s", True): lambda row: row.tokens_per_second,
    Metric("answer p50", "ms", False): lambda row: row.p50_ms,
    Metric("first token p50", "ms", False): lambda row: row.ttft_p50_ms,
}
"""What is compared of two engines, round by round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InTurn:
    """How engines are compared.

    Attributes:
        prompts: if they do not suffice, they are sent again in another form.
        load: the load of one measurement.
        rounds: at least 2.
        together: whether both engines run all the time and are measured in turn; if not, which one GPU needs, all
            rounds of one come after those of the other, and the live model runs again at the end.
        run_id: of the rows.
        progress: called after each measurement.
    """

    prompts: Sequence[Prompt]
    load: Load
    rounds: int
    together: bool
    run_id: str
    progress: Progress = silent


def compare_engines(engine: Engine, live: EngineArm, candidate: EngineArm, turns: InTurn) -> list[SpeedRow]:
    """Return how the candidate's speed, memory and size differ from those of the live model.

    In every round the live model is measured, the candidate, and the live model again, all with the same questions.
    """
    prompts, load = turns.prompts, turns.load
    measured: dict[str, list[BenchmarkRow]] = {"live": [], "candidate": [], "again": []}
    arms = {"live": live, "candidate": candidate, "again": live}
    with ExitStack() as engines:
        running: dict[str, RunningEngine] = {}
        for name, number in _order(turns.rounds, turns.together):
            if not turns.together and name not in running:
                engines.close()
                running.clear()
            if name not in running:
                started = engines.enter_context(engine.running(arms[name].folder, f"speed-{name}"))
                running |= {"live": started, "again": started} if name != "candidate" else {name: started}
                _warm_up(started, prompts, load, name)
            place = number * load.requests + (_APART * len(prompts) if name == "again" else 0)
            chosen = distinct_prompts(prompts, load.requests, start=place)
            measured[name].append(run_load(running[name], chosen, load, arms[name].model, turns.run_id))
            turns.progress("comparing speeds", sum(map(len, measured.values())), 3 * turns.rounds)
    return _engine_rows(measured, arms)


def _order(rounds: int, together: bool) -> Iterator[tuple[str, int]]:
    """Yield (arm, round); if both run together, who comes first alternates."""
    names = ("live", "candidate", "again")
    if not together:
        yield from ((name, number) for name in names for number in range(rounds))
        return
    for number in range(rounds):
        yield from ((name, number) for name in (names if number % 2 == 0 else names[::-1]))


def _warm_up(engine: RunningEngine, prompts: Sequence[Prompt], load: Load, name: str) -> None:
    """Send one request that is not measured: it pays for allocating memory and loading kernels."""
    [prompt] = distinct_prompts(prompts, 1, start=2 * _APART * len(prompts) + (name == "candidate"))
    engine.chat().complete(prompt, max_tokens=load.max_tokens, temperature=0.0, seed=load.seed)


def _engine_rows(measured: Mapping[str, Sequence[BenchmarkRow]], arms: Mapping[str, EngineArm]) -> list[SpeedRow]:
    names = {name: f"{arm.model.name} {arm.model.precision}" for name, arm in arms.items()}
    live, candidate, again = (measured[name] for name in ("live", "candidate", "again"))
    rows = []
    for metric, value in ENGINE_METRICS.items():
        before, after, itself = ([value(row) for row in series] for series in (live, candidate, again))
        floor = difference(before, itself).extent
        change = difference([(a + b) / 2 for a, b in zip(before, itself, strict=True)], after)
        rows.append((metric, change, floor))
    sizes: list[tuple[Metric, float, float, float]] = [
        (Metric("peak memory", "bytes", False), *_last(live, candidate, lambda r: r.peak_memory_bytes), MEMORY_FLOOR),
        (Metric("size of the weights", "bytes", False), *_last(live, candidate, lambda r: r.model_bytes), SIZE_FLOOR),
    ]
    for metric, old, new, floor in sizes:
        rows.append((metric, exact_difference(old, new, rounds=len(live)), floor))
    first = live[0]
    comparison = Comparison(
        run_id=first.run_id, before=names["live"], after=names["candidate"], model_version=names["candidate"]
    )
    workload = f"{first.concurrency} at once"
    return [comparison.row(workload, metric, change, floor, first.measured_at) for metric, change, floor in rows]


def _last(
    live: Sequence[BenchmarkRow], candidate: Sequence[BenchmarkRow], value: Callable[[BenchmarkRow], float]
) -> tuple[float, float]:
    """Return the largest values of both; a value that only grows is largest in the last round."""
    return float(max(map(value, live))), float(max(map(value, candidate)))


def in_words(row: SpeedRow) -> str:
    """Return a difference as a sentence, such as `tokens per second: +12% [+8%, +16%], 93 instead of 83 /s`."""
    values = f"{amount(row.after_value, row.unit)} instead of {amount(row.before_value, row.unit)}"
    return f"{row.metric}: {' '.join(filter(None, (percent(row.change), interval(row))))}, {values}"


def interval(row: SpeedRow) -> str:
    """Return the interval of a difference, or "" if it was counted and not measured."""
    return f"[{percent(row.low)}, {percent(row.high)}]" if row.high > row.low else ""


def percent(change: float) -> str:
    """Return a relative difference for people, such as `+12.0%`."""
    return f"{change:+.1%}" if math.isfinite(change) else "from 0"


def amount(value: float, unit: str) -> str:
    """Return a number with its unit, with as many digits as mean something."""
    if unit == "bytes":
        return f"{value / (1 << 20):.0f} MiB"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".replace(" /", "/")


def regressions(rows: Sequence[SpeedRow]) -> list[str]:
    """Return a sentence for each metric in which the candidate is slower or larger than the live model."""
    return [f"{row.after} against {row.before}, {in_words(row)}" for row in rows if row.verdict == "worse"]
