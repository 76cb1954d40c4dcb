"""Searches for settings with more goodput; the winner is measured again next to the present settings."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragtune.errors import SettingsError
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.speed import THROUGHPUT
from ragtune.model.base.capacity import chosen_device
from ragtune.ports import Progress, silent
from ragtune.settings import Settings, config_file
from ragtune.store.speed_rows import SpeedRow
from ragtune.store.warehouse import Warehouse
from ragtune_serving.benchmarking.comparing import (
    Plan,
    changed_pair,
    compare,
    gpu_share,
    new_run_id,
    noise_floors,
    side_by_side,
)
from ragtune_serving.benchmarking.figures import Run
from ragtune_serving.benchmarking.gateways import (
    Changes,
    Gateway,
    in_words,
    started_gateway,
    value_of,
    with_changes,
)
from ragtune_serving.benchmarking.scenarios import LoadTest
from ragtune_serving.benchmarking.search import Report, Search, Space, Trial
from ragtune_serving.benchmarking.settings_patch import as_patch, patched
from ragtune_serving.benchmarking.suite import STEADY_SHARE
from ragtune_serving.benchmarking.workloads import Workload, named, read_questions

RATES = (0.6, 1.0, 1.5, 2.25)
"""Rates of a trial relative to the saturation of the present settings. Chosen by hand: below it, at it, and two above
it, so that settings that bring much differ from those that bring little."""
_FINALISTS = 2
"""Settings that are measured again next to the present ones, the best first. Chosen by hand."""
_GOAL_METRICS = ("goodput", THROUGHPUT)
"""A winner has to be better by one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of a search: work loads of which none may get worse, minutes, and settings to vary.

    The first work load is the one whose goodput is maximised. `vary` replaces or adds to the default space.
    """

    workloads: Sequence[str] = ()
    minutes: float = 30.0
    vary: Space = field(default_factory=dict)
    questions: Path | None = None
    rounds: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The result of a search: the trials, the comparisons of the finalists, and the winner, empty if there is none."""

    run: Run
    trials: Sequence[Trial]
    differences: Sequence[SpeedRow]
    noise: Sequence[SpeedRow]
    winner: Changes
    patch: str


def default_space(settings: Settings, device: str) -> dict[str, list[str]]:
    """Return the settings that change no answer and the values to try, of the engine and of the gateway."""
    cores = len(os.sched_getaffinity(0))
    space: dict[str, list[str]] = {"gateway.workers": ["1", "2"]}
    if settings.engine.backend != "vllm":
        return space
    space |= {"engine.eager": ["true", "false"], "engine.speculative_tokens": ["0", "2", "4", "6"]}
    if device == "cpu":
        space |= {"engine.threads": sorted({str(cores), str(max(1, cores - 1))}), "engine.kv_cache_gib": ["1", "2"]}
    return space


def tune(settings: Settings, wish: Wish, warehouse: Warehouse, progress: Progress = silent) -> Tuning:
    """Search within the budget, measure the best settings again, and record the comparison.

    A search that was interrupted goes on where it stopped, as long as model, machine, goal and space are the same.
    """
    workloads, questions = named(wish.workloads), read_questions(settings, wish.questions)
    space = checked_space(settings, {**default_space(settings, chosen_device(settings.device)), **wish.vary})
    with started_gateway(settings, gpu_share(settings)) as gateway:
        version, precision = gateway.model()
        run = Run(id=new_run_id(), gateway=gateway, version=version, precision=precision)
        test = LoadTest(run, questions, progress)
        search = _search(settings, run, workloads[0], space)
        if "saturation" not in search.facts:
            test.alone(workloads[0])
            search.remember("saturation", test.curve(workloads[0]).saturation)
    saturation = search.facts["saturation"]

    def goodput(chosen: dict[str, str], report: Report) -> float:
        changes = search.changes(chosen)
        progress(f"trial with {in_words(changes)}", 0, 0)
        with started_gateway(settings, changes) as gateway:
            test = LoadTest(replace(run, gateway=gateway), questions, progress)
            total = 0.0
            for step, share in enumerate(RATES):
                total += test.at_rate(workloads[0], share * saturation, "tune", f"{share:g}").good
                report(step, total)
        return total / len(RATES)

    search.run(goodput, wish.minutes)
    trials, finalists = search.trials(), search.better()[:_FINALISTS]
    if not finalists:
        return Tuning(run=run, trials=trials, differences=(), noise=(), winner={}, patch="")
    plan = Plan(
        workloads=workloads,
        questions=questions,
        rate=STEADY_SHARE * saturation,
        rounds=wish.rounds,
        run_id=run.id,
        seed=settings.seed,
        progress=progress,
    )
    with started_gateway(settings, gpu_share(settings)) as present:
        noise, rows, winner = _decide(present, settings, finalists, plan)
    warehouse.append(noise)
    warehouse.append(rows)
    text = config_file().read_text() if config_file().is_file() else ""
    patch = as_patch(text, patched(text, winner), config_file()) if winner else ""
    return Tuning(run=run, trials=trials, differences=rows, noise=noise, winner=winner, patch=patch)


def checked_space(settings: Settings, space: Space) -> dict[str, list[str]]:
    """Return the space with the present value of each setting first; raise SettingsError for an invalid value."""
    checked = {}
    for name, values in space.items():
        present = value_of(settings, name)
        for value in values:
            with_changes(settings, {name: value})
        checked[name] = list(dict.fromkeys([present, *values]))
    return checked


def parsed_space(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return `engine.kv_cache_gib=1,2,4` and the like as a space; raise SettingsError for another form."""
    space = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise SettingsError(f"--vary is {text!r}.", "SETTING=VALUE,VALUE, such as engine.kv_cache_gib=1,2,4")
        space[name.strip()] = [value.strip() for value in values.split(",")]
    return space


def _search(settings: Settings, run: Run, workload: Workload, space: Mapping[str, Sequence[str]]) -> Search:
    """Return the search of this model, machine, goal and space."""
    goal = [run.version, run.precision, hardware(), workload.name, run.level.model_dump(mode="json"), dict(space)]
    name = hashlib.sha256(json.dumps(goal, sort_keys=True).encode()).hexdigest()[:12]
    return Search(settings.home / "speed" / "tuning.db", name, space, settings.seed)


def _decide(
    present: Gateway, settings: Settings, finalists: Sequence[Changes], plan: Plan
) -> tuple[list[SpeedRow], list[SpeedRow], Changes]:
    """Return the noise, the comparisons, and the first finalist that is better and worse on no work load."""
    with side_by_side(settings, {}) as again:
        floors, noise = noise_floors(present, again, plan)
    rows: list[SpeedRow] = []
    for changes in finalists:
        with side_by_side(settings, changes) as other:
            differences = compare(present, other, plan, changed_pair(settings, changes), floors)
        rows += differences
        better = any(row.verdict == "better" and row.metric in _GOAL_METRICS for row in differences)
        if better and not any(row.verdict == "worse" for row in differences):
            return noise, rows, changes
    return noise, rows, {}
