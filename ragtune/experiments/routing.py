"""Which model answers a request while an experiment runs: a pure function that a gateway calls for each request."""

from dataclasses import dataclass

from ragtune.experiments.assignment import arm_of, shares_at, unit_of
from ragtune.store.experiments import Experiment


@dataclass(frozen=True, slots=True)
class Route:
    """The model version that answers, the arm (0 for the control), who was assigned, and the shares of all arms now."""

    version: str
    arm: int
    unit: str
    shares: tuple[float, ...]


def route(experiment: Experiment, user: str, key: str, conversation: str) -> Route:
    """Return the route of a request; the same user always gets the same arm as long as the ramp does not grow.

    Args:
        experiment: the running experiment.
        user: the end user that the request names, or "".
        key: the name of the request's key.
        conversation: what identifies the conversation; used if there is no user.
    """
    unit = unit_of(user, key, conversation)
    design = experiment.design
    arm = arm_of(unit, design.salt, design.weights, experiment.ramp)
    return Route(design.versions[arm], arm, unit, shares_at(design.weights, experiment.ramp))
