"""A search over settings with Optuna: pruned, within a budget, and continued where it stopped."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragtune.errors import EngineError

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 3
"""Trials before the pruner compares; the present settings are the first. Chosen by hand."""
Space = Mapping[str, Sequence[str]]
"""{name of a setting: the values to try, the present one first}."""
Report = Callable[[int, float], None]
"""Called with a step and what was reached by then; it gives the trial up if others were better at this step."""
Measure = Callable[[dict[str, str], Report], float]
"""Returns how good some settings are; more is better."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of settings: how good it is, and its state in Optuna's words."""

    settings: Mapping[str, str]
    value: float
    state: str


class Search:
    """The trials over a space, in a SQLite file; those of an earlier search of the same name count."""

    def __init__(self, file: Path, name: str, space: Space, seed: int) -> None:
        """Open the search; a new one begins with the present settings."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.space, self.present = space, {name: values[0] for name, values in space.items()}
        self.study = optuna.create_study(
            storage=f"sqlite:///{file}",
            study_name=name,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        )
        for trial in self.study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
        if not self.study.trials:
            self.study.enqueue_trial(self.present)

    @property
    def facts(self) -> dict[str, float]:
        """What was remembered of the search."""
        return dict(self.study.user_attrs)

    def remember(self, name: str, value: float) -> None:
        """Keep a number for the time when the search goes on."""
        self.study.set_user_attr(name, value)

    def run(self, measure: Measure, minutes: float) -> None:
        """Try combinations until the time is over or all were tried; one that does not start is a failed trial.

        A combination that was measured before is not measured again.
        """
        import optuna

        def objective(trial: "optuna.Trial") -> float:
            chosen = {name: trial.suggest_categorical(name, values) for name, values in self.space.items()}
            if known := self._known(chosen):
                return known.value

            def report(step: int, value: float) -> None:
                trial.report(value, step)
                if trial.should_prune():
                    raise optuna.TrialPruned

            return measure(chosen, report)

        def stop_if_done(study: "optuna.Study", _: "optuna.trial.FrozenTrial") -> None:
            if self._left() <= 0:
                study.stop()

        if self._left() > 0:
            self.study.optimize(objective, timeout=minutes * 60, catch=(EngineError,), callbacks=[stop_if_done])

    def trials(self) -> list[Trial]:
        """Return every combination that was tried, the best first; one that was drawn twice counts once."""
        trials: dict[tuple[tuple[str, str], ...], Trial] = {}
        for trial in self.study.trials:
            reached = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=0.0)
            if trial.params:
                key = tuple(sorted(trial.params.items()))
                trials.setdefault(key, Trial(trial.params, reached, trial.state.name.lower()))
        return sorted(trials.values(), key=lambda trial: -trial.value)

    def better(self) -> list[dict[str, str]]:
        """Return the changes of the combinations that beat the present settings, the best first."""
        complete = [trial for trial in self.trials() if trial.state == "complete"]
        present = next((trial.value for trial in complete if trial.settings == self.present), 0.0)
        return [self.changes(trial.settings) for trial in complete if trial.value > present]

    def changes(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return in which settings a combination differs from the present ones."""
        return {name: value for name, value in settings.items() if value != self.present[name]}

    def _known(self, chosen: Mapping[str, str]) -> Trial | None:
        return next((one for one in self.trials() if one.settings == chosen and one.state == "complete"), None)

    def _left(self) -> int:
        """Return how many combinations were not tried yet."""
        return math.prod(len(values) for values in self.space.values()) - len(self.trials())
