"""Searches for settings with more goodput, with Optuna; the winner is measured again next to the present settings."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.errors import EngineError, SettingsError
from ragtune.evaluation.benchmark import hardware
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
from ragtune_serving.benchmarking.settings_patch import as_patch, patched
from ragtune_serving.benchmarking.suite import STEADY_SHARE
from ragtune_serving.benchmarking.workloads import Workload, named, read_questions

if TYPE_CHECKING:
    import optuna

RATES = (0.6, 1.0, 1.4)
"""Rates of a trial relative to the saturation of the present settings. Chosen by hand: below it, at it, above it."""
_STARTUP_TRIALS = 3
"""Trials before the pruner compares; the present settings are the first. Chosen by hand."""
_FINALISTS = 2
"""Settings that are measured again next to the present ones, the best first. Chosen by hand."""
_GOAL_METRICS = ("goodput", "answers per second in a burst")
"""A winner has to be better by one of these."""
Space = Mapping[str, Sequence[str]]
"""{name of a setting: the values to try, as they are written in ragtune.yaml}."""


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


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of settings: its mean goodput over the rates, and its state in Optuna's words."""

    settings: Mapping[str, str]
    goodput: float
    state: str


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
        study = _study(settings, run, workloads[0], space)
        if "saturation" not in study.user_attrs:
            test.alone(workloads[0])
            study.set_user_attr("saturation", test.curve(workloads[0]).saturation)
    _search(study, settings, run, space, workloads[0], questions, wish.minutes, progress)
    trials = [_trial(trial) for trial in study.trials]
    finalists = _finalists(study, settings)
    if not finalists:
        return Tuning(run=run, trials=trials, differences=(), noise=(), winner={}, patch="")
    plan = Plan(
        workloads=workloads,
        questions=questions,
        rate=STEADY_SHARE * study.user_attrs["saturation"],
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


def _study(settings: Settings, run: Run, workload: Workload, space: Space) -> "optuna.Study":
    """Return the study of this model, machine, goal and space; a new one begins with the present settings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    goal = [run.version, run.precision, hardware(), workload.name, run.level.model_dump(mode="json"), dict(space)]
    name = hashlib.sha256(json.dumps(goal, sort_keys=True).encode()).hexdigest()[:12]
    folder = settings.home / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'tuning.db'}",
        study_name=name,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed, multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
    )
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.RUNNING:  # its process was killed
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if not study.trials:
        study.enqueue_trial({name: value_of(settings, name) for name in space})
    return study


def _search(
    study: "optuna.Study",
    settings: Settings,
    run: Run,
    space: Space,
    workload: Workload,
    questions: Sequence[str],
    minutes: float,
    progress: Progress,
) -> None:
    """Run trials until the time is over or every combination was tried."""
    import optuna

    def objective(trial: "optuna.Trial") -> float:
        chosen = {name: trial.suggest_categorical(name, values) for name, values in space.items()}
        for earlier in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
            if earlier.params == chosen and earlier.value is not None:
                return earlier.value
        changes = {name: value for name, value in chosen.items() if value != value_of(settings, name)}
        progress(f"trial {trial.number + 1}: {in_words(changes)}", 0, 0)
        with started_gateway(settings, changes) as gateway:
            return _goodput(trial, Run(id=run.id, gateway=gateway, version=run.version, precision=run.precision))

    def _goodput(trial: "optuna.Trial", run: Run) -> float:
        test = LoadTest(run, questions, progress)
        total = 0.0
        for step, share in enumerate(RATES):
            total += test.at_rate(workload, share * study.user_attrs["saturation"], "tune", f"{share:g}").good
            trial.report(total / len(RATES), step)
            if step + 1 < len(RATES) and trial.should_prune():
                raise optuna.TrialPruned
        return total / len(RATES)

    combinations = 1
    for values in space.values():
        combinations *= len(values)
    left = combinations - len({json.dumps(trial.params, sort_keys=True) for trial in study.trials if trial.params})
    if left > 0:
        # A combination that does not start is a failed trial; the search goes on.
        study.optimize(objective, n_trials=2 * left, timeout=minutes * 60, catch=(EngineError,))


def _trial(trial: "optuna.trial.FrozenTrial") -> Trial:
    reached = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=0.0)
    return Trial(trial.params, reached, trial.state.name.lower())


def _finalists(study: "optuna.Study", settings: Settings) -> list[dict[str, str]]:
    """Return the changes of the best trials that beat the present settings, the best first."""
    import optuna

    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    present = [trial.value or 0.0 for trial in complete if not _changes(trial.params, settings)]
    best: list[dict[str, str]] = []
    for trial in sorted(complete, key=lambda trial: trial.value or 0.0, reverse=True):
        changes = _changes(trial.params, settings)
        if changes and changes not in best and (trial.value or 0.0) > max(present, default=0.0):
            best.append(changes)
    return best[:_FINALISTS]


def _changes(params: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    return {name: value for name, value in params.items() if value != value_of(settings, name)}


def _decide(
    present: Gateway, settings: Settings, finalists: Sequence[Changes], plan: Plan
) -> tuple[list[SpeedRow], list[SpeedRow], Changes]:
    """Return the noise, the comparisons, and the first finalist that is better and worse on no work load."""
    with side_by_side(settings, {}) as again:
        floors, noise = noise_floors(present, again, plan)
    rows: list[SpeedRow] = []
    for changes in finalists:
        with side_by_side(settings, changes) as other:
            found = compare(present, other, plan, changed_pair(settings, changes), floors)
        rows += found
        better = any(row.verdict == "better" and row.metric in _GOAL_METRICS for row in found)
        if better and not any(row.verdict == "worse" for row in found):
            return noise, rows, changes
    return noise, rows, {}
