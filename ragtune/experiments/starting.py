"""Starts an experiment from what a person asks for: checks the versions and fixes the design."""

from collections.abc import Sequence
from dataclasses import dataclass

from ragtune.errors import ExperimentError, SettingsError
from ragtune.experiments.assignment import RAMP, shares_at
from ragtune.experiments.comparison import Plan
from ragtune.experiments.outcomes import METRICS
from ragtune.experiments.ramp import USERS_PER_STEP
from ragtune.settings import Settings
from ragtune.store.experiments import Experiment, ExperimentDesign, ExperimentStore
from ragtune.store.registry import ModelRegistry

GUARDRAILS = (("delivered", 0.02), ("answered", 0.05), ("sound", 0.05), ("speed", 0.1))
"""(metric, loss that a candidate may have): 2 points of requests, 5 of answers and checks, 1 second. By hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person asks for; differences are in the unit of the metric (points or seconds).

    `control` is a version, or "" for the champion. `share` is the final share of all candidates together, and `ramp`
    what they get first.
    """

    name: str
    candidates: Sequence[str]
    control: str = ""
    share: float = 0.5
    ramp: float = RAMP[0]
    metric: str = "thumbs"
    smallest: float = 5.0
    margin: float = 2.0
    budget: int = 10_000
    window_hours: float = 24.0
    missing_as_zero: bool = False
    users_per_step: int = USERS_PER_STEP
    guardrail_minutes: float = 10.0
    promote: bool = False


def start(wish: Wish, settings: Settings, registry: ModelRegistry, store: ExperimentStore) -> Experiment:
    """Start an experiment and return it.

    Raises:
        SettingsError: a number or a name is wrong.
        ExperimentError: there is no champion, the name is taken, another experiment runs, or no engine can be started.
        RegistryError: there is no such version.
    """
    if settings.engine.backend == "openai":
        raise ExperimentError(
            "The engine is somebody else's server, which serves one model.",
            "engine.backend to be one whose engines RagTune starts",
        )
    if wish.metric not in METRICS:
        raise SettingsError(f"There is no metric '{wish.metric}'.", f"one of {', '.join(METRICS)}")
    control = wish.control or registry.alias_version("champion")
    if not control:
        raise ExperimentError("There is no champion.", "a version to compare with", "give --control VERSION")
    versions = (control, *wish.candidates)
    if len(set(versions)) < len(versions):
        raise SettingsError(f"The versions are {', '.join(versions)}.", "different versions")
    if len(versions) < 2:
        raise SettingsError("There is no candidate.", "at least one version to compare with the control")
    for version in versions:
        registry.version(version)
    _check_numbers(wish)
    scale = METRICS[wish.metric].scale
    plan = Plan(wish.smallest / scale, wish.margin / scale)
    weights = (1 - wish.share, *(wish.share / len(wish.candidates) for _ in wish.candidates))
    shares_at(weights, wish.ramp)
    design = ExperimentDesign(
        versions=versions,
        weights=weights,
        metric=wish.metric,
        smallest_difference=plan.smallest_difference,
        margin=plan.margin,
        alpha=plan.alpha,
        budget=wish.budget,
        window_hours=wish.window_hours,
        missing=0.0 if wish.missing_as_zero else None,
        guardrails=tuple((name, loss) for name, loss in GUARDRAILS if name != wish.metric),
        guardrail_minutes=wish.guardrail_minutes,
        users_per_step=wish.users_per_step,
        promote=wish.promote,
    )
    return store.start(wish.name, design, wish.ramp)


def _check_numbers(wish: Wish) -> None:
    """Raise SettingsError if a number cannot be, in the unit in which the person gave it."""
    metric = METRICS[wish.metric]
    for name, value in (("smallest difference", wish.smallest), ("margin", wish.margin)):
        if not 0 < value < metric.scale:
            raise SettingsError(
                f"The {name} is {value:g} {metric.unit}.", f"above 0 and below {metric.scale:g} {metric.unit}"
            )
    if not 0 < wish.share < 1:
        raise SettingsError(
            f"The final share of the candidates is {wish.share:g} of the users.",
            "above 0 and below 1: the control needs users, too",
        )
