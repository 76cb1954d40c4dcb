"""The whole benchmark: noise floor, one user, load curves, comparisons, stress, spike, soak, chaos, replay."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragtune.errors import EngineError, SettingsError
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.speed import PRESENT, VLLM_DEFAULTS
from ragtune.model.base.capacity import chosen_device
from ragtune.ports import Progress, silent
from ragtune.settings import Settings
from ragtune.store.speed_rows import LoadRow, SpeedRow
from ragtune.store.warehouse import Warehouse
from ragtune_serving.benchmarking.advice import applied, worth_trying
from ragtune_serving.benchmarking.breakdown import Breakdown, breakdown
from ragtune_serving.benchmarking.comparing import (
    Pair,
    Plan,
    changed_pair,
    compare,
    engine_device,
    gateway_over_default_vllm,
    gpu_share,
    new_run_id,
    noise_floors,
    side_by_side,
)
from ragtune_serving.benchmarking.figures import Run
from ragtune_serving.benchmarking.gateways import Gateway, in_words, running_gateway, started_gateway
from ragtune_serving.benchmarking.roofline import Roofline, measured_machine, model_folder, roofline
from ragtune_serving.benchmarking.scenarios import Curve, LoadTest, Scenario
from ragtune_serving.benchmarking.workloads import REPLAY, WORKLOADS, Workload, named, read_questions, replayed

PHASES = ("curve", "compare", "stress", "spike", "soak", "chaos", REPLAY)
"""The parts of the benchmark that can be chosen."""
STEADY_SHARE = 0.6
"""Of the saturation, the rate at which settings are compared: users wait now and then. Chosen by hand."""
_CHAOS_EXTRA = 45.0
"""Seconds of a load with a killed engine in addition to a cold start: before the kill, and after the engine is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of the benchmark; empty lists mean all.

    `changes` are the settings to compare with, one gateway for each; without any the benchmark chooses what is worth
    trying. `vllm_defaults` compares with vLLM as it starts by itself, and with nothing else. `running` measures the
    gateway of this home that runs. `soak_minutes` is the length of the soak, `replay` the most recorded questions to
    replay, `speed` how many times as fast.
    """

    phases: Sequence[str] = ()
    workloads: Sequence[str] = ()
    changes: Sequence[Mapping[str, str]] = ()
    vllm_defaults: bool = False
    questions: Path | None = None
    running: bool = False
    rounds: int = 5
    soak_minutes: float = 1.0
    replay: int = 200
    speed: float = 1.0


@dataclass(slots=True, kw_only=True)
class Results:
    """Everything that a benchmark found.

    `breakdowns` are by load, such as `stream, one user`. `left_out` says what was not measured, and why.
    """

    run: Run
    curves: list[Curve] = field(default_factory=list)
    scenarios: list[Scenario] = field(default_factory=list)
    breakdowns: dict[str, Breakdown] = field(default_factory=dict)
    roofline: Roofline | None = None
    noise: list[SpeedRow] = field(default_factory=list)
    differences: list[SpeedRow] = field(default_factory=list)
    questions: int = 0
    left_out: list[str] = field(default_factory=list)

    def rows(self) -> list[LoadRow]:
        """Return every load that was measured, and each saturation once more under its own name."""
        rows = [row for scenario in self.scenarios for row in scenario.rows]
        for curve in self.curves:
            rows += curve.rows
            rows += [
                replace(row, scenario="saturation", part="")
                for row in curve.rows
                if row.part == f"{curve.saturation:.3g}/s"
            ][-1:]
        return rows


def run_suite(settings: Settings, wish: Wish, warehouse: Warehouse, progress: Progress = silent) -> Results:
    """Measure a gateway, record every number in the warehouse, and return what was found."""
    workloads, phases = named(wish.workloads), _phases(wish.phases)
    questions = read_questions(settings, wish.questions)
    device = chosen_device(settings.device)
    with _gateway(settings, wish, phases) as gateway:
        version, precision = gateway.model()
        run = Run(id=new_run_id(), gateway=gateway, version=version, precision=precision)
        results = Results(run=run, questions=len(questions))
        test = LoadTest(run, questions, progress)
        _measure_alone(test, workloads, results, device)
        main = workloads[0]
        results.curves += [test.curve(workload) for workload in (workloads if "curve" in phases else workloads[:1])]
        saturation = results.curves[0].saturation
        warehouse.append(results.rows())
        if "compare" in phases:
            plan = Plan(
                workloads=workloads if wish.changes or wish.vllm_defaults else workloads[:1],
                questions=questions,
                rate=STEADY_SHARE * saturation,
                rounds=wish.rounds,
                run_id=run.id,
                seed=settings.seed,
                progress=progress,
            )
            _compare(plan, wish, results, settings, warehouse.speed_differences(), device)
        warehouse.append(results.noise)
        warehouse.append(results.differences)
        before = len(results.scenarios)
        _under_stress(test, main, phases, wish, results, settings)
        warehouse.append([row for scenario in results.scenarios[before:] for row in scenario.rows])
    return results


@contextmanager
def _gateway(settings: Settings, wish: Wish, phases: Sequence[str]) -> Iterator[Gateway]:
    """Yield the gateway to measure: the one that runs, or one of our own."""
    if wish.running:
        yield running_gateway(settings)
        return
    with started_gateway(settings, gpu_share(settings) if "compare" in phases else {}) as gateway:
        yield gateway


def _phases(names: Sequence[str]) -> Sequence[str]:
    if unknown := sorted(set(names) - set(PHASES)):
        raise SettingsError(f"There is no part {', '.join(unknown)}.", f"one of {', '.join(PHASES)}")
    return names or [name for name in PHASES if name != REPLAY]


def _measure_alone(test: LoadTest, workloads: Sequence[Workload], results: Results, device: str) -> None:
    """Measure a single user, and a full engine, with where the time goes."""
    gateway = test.run.gateway
    # The machine that computes here is the one on which the engine computes only if both take the same device.
    here = gateway.pid and engine_device(gateway.settings) == device
    machine = measured_machine(device, test.run.precision) if here else None
    for workload in workloads:
        before = gateway.metrics()
        results.scenarios.append(test.alone(workload))
        between = gateway.metrics()
        results.breakdowns[f"{workload.name}, one user"] = breakdown(before, between)
        full, seconds = test.full(workload)
        results.scenarios.append(full)
        under_load = breakdown(between, gateway.metrics())
        results.breakdowns[f"{workload.name}, {full.rows[0].requests} at once"] = under_load
        if machine and under_load.engine and results.roofline is None:
            folder = model_folder(gateway.settings, test.run.version, test.run.precision)
            results.roofline = roofline(under_load.engine, seconds, folder, device, machine)


def _compare(
    plan: Plan, wish: Wish, results: Results, settings: Settings, history: Sequence[SpeedRow], device: str
) -> None:
    """Find the noise floor, then measure again what was applied, and try changes."""
    gateway = results.run.gateway
    if wish.running:
        results.left_out.append("Comparisons: a gateway that somebody else started cannot be given other settings.")
        return
    asked = bool(wish.changes or wish.vllm_defaults)
    pairs = [] if asked else applied([row for row in history if row.hardware == hardware()], settings)
    tried = wish.changes if asked else worth_trying(settings, results.breakdowns, device)
    changes = [(change, changed_pair(settings, change)) for change in tried]
    if not (pairs or changes or wish.vllm_defaults):
        results.left_out.append("Comparisons: no setting is worth trying on this machine.")
        return
    with side_by_side(settings, {}) as again:
        floors, results.noise = noise_floors(gateway, again, plan)
    if wish.vllm_defaults:
        pair = Pair(before=VLLM_DEFAULTS, after=PRESENT, settings={}, former={})
        with gateway_over_default_vllm(settings, results.run.version, results.run.precision) as default:
            results.differences += compare(default, gateway, plan, pair, floors)
    for former, pair in pairs:
        workload = [WORKLOADS[pair.predicted.workload]] if pair.predicted else plan.workloads
        with side_by_side(settings, former) as earlier:
            results.differences += compare(earlier, gateway, replace(plan, workloads=workload), pair, floors)
    for change, pair in changes:
        try:
            with side_by_side(settings, change) as other:
                results.differences += compare(gateway, other, plan, pair, floors)
        except EngineError as error:
            results.left_out.append(f"{in_words(change)}: {error.found.splitlines()[0]}")


def _under_stress(
    test: LoadTest, workload: Workload, phases: Sequence[str], wish: Wish, results: Results, settings: Settings
) -> None:
    curve = results.curves[0]
    if "stress" in phases:
        results.scenarios.append(test.stress(workload, curve.saturation, curve.capacity))
    if "spike" in phases:
        results.scenarios.append(test.spike(workload, curve.saturation))
    if "soak" in phases:
        results.scenarios.append(test.soak(workload, curve.saturation, wish.soak_minutes))
    if REPLAY in phases:
        results.scenarios.append(test.replay(replayed(settings, wish.replay, wish.speed)))
    if "chaos" in phases and not test.run.gateway.engine_pids():
        results.left_out.append("Chaos: this gateway has no engine of its own that could be killed.")
    elif "chaos" in phases:
        seconds = test.run.gateway.cold_start + _CHAOS_EXTRA
        results.scenarios.append(test.chaos(workload, curve.saturation, seconds))


def facts(results: Results) -> dict[str, str]:
    """Return where the numbers come from."""
    run = results.run
    level = run.level
    return {
        "run": run.id,
        "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": hardware(),
        "model": f"version {run.version} {run.precision}",
        "questions": f"{results.questions} different ones",
        "service level": f"first text within {level.first_token_ms:.0f} ms, answer within {level.answer_ms:.0f} ms",
        "engine": json.dumps(run.settings.engine.model_dump(mode="json", exclude={"api_key", "python", "url"})),
        "length of a load": f"{level.seconds:g} s",
        "compared with": PRESENT,
    }
