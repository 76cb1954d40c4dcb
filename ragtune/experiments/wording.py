"""Says in words what an experiment shows."""

import math

from ragtune.experiments.comparison import Comparison
from ragtune.experiments.outcomes import Metric


def result_in_words(name: str, comparison: Comparison, metric: Metric, days: float, budget_spent: bool = False) -> str:
    """Return a sentence or two about a comparison.

    Args:
        name: what to call the candidate, such as `version 7`.
        comparison: the candidate minus the control.
        metric: what was compared.
        days: days that the experiment has run so far, to estimate how long it still takes.
        budget_spent: whether no more responses will come.
    """
    low, high = comparison.low * metric.scale, comparison.high * metric.scale
    if comparison.declaration == "better":
        return f"{name} is better by {_range(max(low, 0.0), high, metric)} ({metric.text})."
    if comparison.declaration == "worse":
        return f"{name} is worse by {_range(max(-high, 0.0), -low, metric)} ({metric.text})."
    between = f"the difference is between {low:+.3g} and {high:+.3g} {metric.unit} ({metric.text})"
    if comparison.declaration == "equivalent":
        return f"{name} is as good as the control: {between}."
    if budget_spent:
        return f"Undecided, and the budget is spent: {between}."
    return f"Not decided yet: {between}. {_remaining(comparison, days)}"


def _range(low: float, high: float, metric: Metric) -> str:
    return f"{low:.3g} to {high:.3g} {metric.unit}"


def _remaining(comparison: Comparison, days: float) -> str:
    """Return how long a decision takes if the difference is the smallest one worth having."""
    missing = comparison.blocks_needed - comparison.blocks
    if comparison.blocks == 0 or (days <= 0 and missing > 0):
        so_far = f"there are {comparison.blocks} so far" if comparison.blocks else "there is none yet"
        return f"A decision takes about {comparison.blocks_needed} pairs of users; {so_far}."
    if missing <= 0:
        return (
            "It takes longer than expected, so the difference is probably smaller than the smallest one worth having."
        )
    return f"About {_duration(missing / comparison.blocks * days)} to know."


def _duration(days: float) -> str:
    """Return a time that is still to come, such as `4 more days`, in the largest unit of which it has two or more."""
    for unit, size in (("day", 1.0), ("hour", 1 / 24), ("minute", 1 / 1440)):
        more = math.ceil(days / size)
        if days > size or unit == "minute":
            return f"{more} more {unit}{'' if more == 1 else 's'}"
    raise AssertionError("a minute is the smallest unit")
