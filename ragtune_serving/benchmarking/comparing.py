"""Compares gateways that run at the same time: loads in turn, the same questions and arrivals, noise floor first."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ragtune.backends.engines import VllmEngine
from ragtune.errors import SettingsError
from ragtune.evaluation.benchmark import percentile
from ragtune.evaluation.speed import (
    MEMORY_FLOOR,
    PRESENT,
    THROUGHPUT,
    Comparison,
    Difference,
    Metric,
    difference,
    exact_difference,
    extent,
)
from ragtune.gateway_settings import LoadSettings
from ragtune.ports import Progress, silent
from ragtune.settings import Settings, child_environment
from ragtune.store.speed_rows import SpeedRow
from ragtune_serving.benchmarking.figures import memory_of, within
from ragtune_serving.benchmarking.gateways import (
    ENGINE_MODULE,
    Changes,
    Gateway,
    in_words,
    started_gateway,
    value_of,
)
from ragtune_serving.benchmarking.generator import (
    PATIENCE_SECONDS,
    Sample,
    run_load,
    run_one_by_one,
)
from ragtune_serving.benchmarking.roofline import model_folder
from ragtune_serving.benchmarking.workloads import Workload, bodies, due, steady

BURST = 16
"""Requests that arrive at the same moment, to see how many answers a second are possible. Chosen by hand: more than a
small machine answers at once."""
_WARM_UP = 3
"""Requests before the first measurement: connections, kernels and the first pages of the index. Chosen by hand."""
MEMORY = Metric("peak memory", "bytes", False)


@dataclass(frozen=True, slots=True)
class Round:
    """What one gateway did in one round: a steady load, and a burst of requests at the same moment."""

    steady: Sequence[Sample]
    burst: Sequence[Sample]
    seconds: float

    def latency(self, percent: float, first: bool = False) -> float:
        """Return a percentile of the latency under the steady load in milliseconds.

        It is the time until the whole answer, or with `first` until its first text. A missing answer counts as the
        longest wait.
        """
        seconds = [
            (sample.first if first else sample.total) if sample.answered else PATIENCE_SECONDS for sample in self.steady
        ]
        return percentile(seconds, percent) * 1000

    def burst_rate(self) -> float:
        """Return the answers per second until the last of the burst."""
        answered = [sample.end for sample in self.burst if sample.answered]
        return len(answered) / max(answered) if answered else 0.0


def _metrics(level: LoadSettings) -> Mapping[Metric, Callable[[Round], float]]:
    """Return what is compared: a number of each round."""
    return {
        Metric(THROUGHPUT, "/s", True): Round.burst_rate,
        Metric("goodput", "/s", True): lambda one: sum(within(sample, level) for sample in one.steady) / one.seconds,
        Metric("answer p50", "ms", False): lambda one: one.latency(50),
        Metric("answer p95", "ms", False): lambda one: one.latency(95),
        Metric("first token p50", "ms", False): lambda one: one.latency(50, first=True),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How two gateways are compared: which load, how often, and under which id the rows are recorded.

    `rate` is that of the steady load, per second.
    """

    workloads: Sequence[Workload]
    questions: Sequence[str]
    rate: float
    rounds: int
    run_id: str
    seed: int
    progress: Progress = silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two sides of a comparison: their names, and the settings in which they differ.

    `predicted` is the row of an earlier comparison that this one repeats, or None.
    """

    before: str
    after: str
    settings: Mapping[str, str]
    former: Mapping[str, str]
    predicted: SpeedRow | None = None


Floors = Mapping[tuple[str, str], float]
"""{(work load, metric): noise floor}."""


def noise_floors(present: Gateway, again: Gateway, plan: Plan) -> tuple[Floors, list[SpeedRow]]:
    """Return the differences that two gateways with the same settings show, and the rows that say so."""
    pair = Pair(before=PRESENT, after=f"{PRESENT}, again", settings={}, former={})
    rows = compare(present, again, plan, pair, {})
    return floors_of(rows), rows


def floors_of(rows: Sequence[SpeedRow]) -> Floors:
    """Return the noise floors that a comparison of the same settings shows."""
    return {(row.workload, row.metric): extent(row.low, row.high) for row in rows}


def compare(before: Gateway, after: Gateway, plan: Plan, pair: Pair, floors: Floors) -> list[SpeedRow]:
    """Return how `after` differs from `before`, a row per work load and metric.

    Who is measured first alternates from round to round. A work load without a noise floor has one of 0.
    """
    level = before.settings.load
    metrics = _metrics(level)
    rows = []
    comparison = Comparison(
        run_id=plan.run_id,
        before=pair.before,
        after=pair.after,
        model_version=after.model()[0],
        settings=json.dumps(dict(pair.settings), sort_keys=True),
        former=json.dumps(dict(pair.former), sort_keys=True),
    )
    for workload in plan.workloads:
        for gateway in (before, after):
            warm_up = bodies(workload, plan.questions, plan.seed)
            run_one_by_one(gateway.target, [next(warm_up) for _ in range(_WARM_UP)])
        rounds: tuple[list[Round], list[Round]] = ([], [])
        requests = [bodies(workload, plan.questions, plan.seed + 1) for _ in range(2)]
        for number in range(plan.rounds):
            plan.progress(f"{workload.name}: {pair.after} against {pair.before}, round", number + 1, plan.rounds)
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for side in order:
                gateway = (before, after)[side]
                rounds[side].append(_round(gateway, requests[side], plan.rate, level.seconds, plan.seed + number))
        changes = {
            metric: difference(*([value(one) for one in side] for side in rounds)) for metric, value in metrics.items()
        }
        for metric, change in changes.items():
            floor = floors.get((workload.name, metric.name), 0.0)
            predicted = _predicted(pair, metric, workload.name)
            rows.append(comparison.row(workload.name, metric, change, floor, _now(), predicted))
    if memory := _memory(before, after):
        rows.append(comparison.row("all", MEMORY, memory, MEMORY_FLOOR, _now(), _predicted(pair, MEMORY, "all")))
    return rows


def _round(gateway: Gateway, requests: Iterator[Mapping[str, object]], rate: float, seconds: float, seed: int) -> Round:
    steady_samples = run_load(gateway.target, steady(requests, rate, seconds, seed))
    burst_samples = run_load(gateway.target, due(requests, [0.0] * BURST))
    return Round(steady_samples, burst_samples, seconds)


def _memory(before: Gateway, after: Gateway) -> Difference | None:
    """Return the difference in memory, or None if the engine of one of them is not among its processes."""
    if not (before.engine_pids() and after.engine_pids()):
        return None
    old, new = (float(memory_of(gateway.metrics()).resident) for gateway in (before, after))
    return exact_difference(old, new, rounds=1)


def _predicted(pair: Pair, metric: Metric, workload: str) -> str:
    """Return what the earlier comparison that is repeated measured by this metric, as JSON, or "" if it did not."""
    earlier = pair.predicted
    if earlier is None or (earlier.metric, earlier.workload) != (metric.name, workload):
        return ""
    return json.dumps([earlier.change, earlier.low, earlier.high])


def changed_pair(settings: Settings, changes: Changes) -> Pair:
    """Return the comparison of the present settings with changed ones; raise SettingsError if nothing differs."""
    former = {name: value_of(settings, name) for name in changes}
    if all(former[name] == value for name, value in changes.items()):
        raise SettingsError(
            f"The settings have {in_words(changes)} already.", "a value that differs", "name another value"
        )
    return Pair(before=PRESENT, after=in_words(changes), settings=changes, former=former)


@contextmanager
def side_by_side(settings: Settings, changes: Changes) -> Iterator[Gateway]:
    """Start a gateway with changed settings next to one that runs already.

    On a GPU both get half of the memory, because two engines with `engine.gpu_memory_share` each do not fit.
    """
    with started_gateway(settings, {**gpu_share(settings), **changes}) as gateway:
        yield gateway


def gpu_share(settings: Settings) -> dict[str, str]:
    """Return the changes that let two gateways share a GPU; none without one."""
    if engine_device(settings) != "cuda":
        return {}
    return {"engine.gpu_memory_share": str(settings.engine.gpu_memory_share / 2)}


def engine_device(settings: Settings) -> str:
    """Return where the engine of a gateway computes: "cpu", "cuda", or "" if it is somebody else's server."""
    if settings.engine.backend != "vllm":
        return ""
    return VllmEngine(settings.engine, settings.home, settings.device).device


class VllmByDefault(VllmEngine):
    """vLLM as it starts if it only gets a model: none of our flags, none of our environment variables."""

    def arguments(self, model: Path, name: str, port: int) -> list[str]:
        """Return the arguments: the model, where to listen, and on a GPU its half of the memory."""
        arguments = ["-m", ENGINE_MODULE, "--model", str(model), "--served-model-name", name]
        arguments += ["--host", "127.0.0.1", "--port", str(port)]
        if self.device == "cuda":
            arguments += ["--gpu-memory-utilization", str(self.settings.gpu_memory_share / 2)]
        return arguments

    def environment(self, key: str, at_once: int = 1) -> dict[str, str]:  # noqa: ARG002 the interface's
        """Return the environment: where to write, and that nothing is downloaded."""
        cache = self.home / "engine-cache"
        environment = child_environment(
            VLLM_API_KEY=key, VLLM_CACHE_ROOT=str(cache), TORCHINDUCTOR_CACHE_DIR=str(cache / "inductor"),
            HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1",
        )  # fmt: skip
        del environment["OMP_WAIT_POLICY"]
        return environment


@contextmanager
def gateway_over_default_vllm(settings: Settings, version: str, precision: str) -> Iterator[Gateway]:
    """Start the same gateway in front of a vLLM with its own defaults, on the same weights."""
    engine = VllmByDefault(settings.engine, settings.home, settings.device)
    with ExitStack() as stack:
        folder = model_folder(settings, version, precision)
        running = stack.enter_context(engine.running(folder, "vllm-defaults"))
        changes = {
            "engine.backend": "openai",
            "engine.url": running.url,
            "engine.model": running.model_name,
            "engine.api_key": running.api_key,
            "gateway.engine_metrics": "true",
        }
        yield stack.enter_context(started_gateway(settings, changes))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """Return the id of a run: its time, so that ids sort by age."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())
