"""Decides whether a candidate may replace the live model, on the same held-out questions.

The candidate must be better, not merely not worse: `candidate >= live` promotes a model
that is no better in half of all cases. The test is paired and one-sided, and the smallest
gain that it would have found is part of every decision.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from ragtune.errors import DatasetError, SettingsError
from ragtune.evaluation.metrics import METRICS
from ragtune.evaluation.resampling import bootstrap_means, cluster_totals
from ragtune.records import GateDecision, ScoredAnswer
from ragtune.settings import EvaluationSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

POWER = 0.8
EXACT_UP_TO = 14
"""With at most this many differing clusters all sign patterns are counted."""


@dataclass(frozen=True, slots=True)
class PairedGain:
    """The mean gain of one set of answers over another on the same items, with its interval."""

    metric: str
    gain: float
    low: float
    high: float
    smallest_detectable_gain: float
    p_value: float
    n: int


def decide(
    live: Sequence[ScoredAnswer],
    candidate: Sequence[ScoredAnswer],
    settings: EvaluationSettings,
    seed: int,
    live_version: str,
    candidate_version: str,
    out_of_domain: tuple[Sequence[ScoredAnswer], Sequence[ScoredAnswer]] | None = None,
) -> GateDecision:
    """Return the decision; the candidate is promoted when the one-sided lower bound of its gain is above 0.

    `low` and `high` are each a one-sided bound at `settings.alpha`. `out_of_domain` holds what live and candidate
    answered about something else: a candidate whose upper bound is below 0 there is refused whatever it gained.
    Raises DatasetError when the two did not answer the same items, SettingsError for an unknown metric.
    """
    result = paired_gain(live, candidate, settings.metric, settings.alpha, settings.bootstrap_samples, seed)
    better = result.low > 0 and result.p_value <= settings.alpha
    away = None
    if out_of_domain is not None:
        away = paired_gain(*out_of_domain, settings.metric, settings.alpha, settings.bootstrap_samples, seed)
    spoiled = away is not None and away.high < 0
    promoted = better and not spoiled
    live_mean, candidate_mean = (_mean(answers, settings.metric) for answers in (live, candidate))
    numbers = f"bound {result.low:+.3f}, p {result.p_value:.3f}, needed above 0 and at most {settings.alpha}"
    found = f"{result.gain:+.3f} {settings.metric} over {result.n} questions ({numbers})"
    limit = f"A gain below {result.smallest_detectable_gain:.3f} is found in fewer than {POWER:.0%} of cases."
    if better and spoiled and away is not None:
        lost = f"{away.gain:+.3f} over {away.n} questions about something else (bound {away.high:+.3f})"
        reason = f"The candidate is better at home, {found}, but lost what it could do before: {lost}."
    elif promoted:
        reason = f"The candidate is better: {found}. {limit}"
    elif result.gain == 0 and result.low == result.high == 0:
        reason = f"The candidate answers no better: {found}. {limit}"
    else:
        reason = f"The candidate is not shown to be better: {found}. {limit}"
    return GateDecision(
        promoted=promoted,
        reason=reason,
        metric=settings.metric,
        live=live_mean,
        candidate=candidate_mean,
        gain=result.gain,
        low=result.low,
        high=result.high,
        smallest_detectable_gain=result.smallest_detectable_gain,
        n=result.n,
        alpha=settings.alpha,
        live_version=live_version,
        candidate_version=candidate_version,
        out_of_domain_gain=away.gain if away else 0.0,
        out_of_domain_low=away.low if away else 0.0,
        out_of_domain_high=away.high if away else 0.0,
        out_of_domain_n=away.n if away else 0,
    )


def paired_gain(
    before: Sequence[ScoredAnswer],
    after: Sequence[ScoredAnswer],
    metric: str,
    alpha: float = 0.05,
    samples: int = 2000,
    seed: int = 0,
) -> PairedGain:
    """Return what `after` gains over `before`, paired by item and resampled by document.

    `low` and `high` are one-sided bounds at `alpha` each (use 0.025 for a 95% interval).
    """
    differences, documents = _differences(before, after, metric)
    sums, counts = cluster_totals(differences, documents)
    means = bootstrap_means(sums, counts, samples, seed)
    low, high = _bounds(means, alpha)
    return PairedGain(
        metric,
        float(sums.sum() / counts.sum()),
        low,
        high,
        smallest_detectable_gain(float(means.std()), len(differences), alpha),
        sign_flip_p_value(sums, seed, samples),
        len(differences),
    )


def smallest_detectable_gain(standard_error: float, n: int, alpha: float, power: float = POWER) -> float:
    """Return the smallest true gain that the one-sided test finds with this power.

    Normal approximation, and at least the gain that flips enough items: the sign test needs
    k = ceil(log2(1/alpha)) items that all got better, which a Poisson count of mean gain*n must reach.
    """
    normal = NormalDist()
    approximate = (normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) * standard_error
    needed = math.ceil(math.log2(1 / alpha))
    mean = float(needed)
    while _poisson_at_least(needed, mean) < power:
        mean += 0.01
    return max(approximate, mean / n)


def sign_flip_p_value(sums: "Floats", seed: int, samples: int) -> float:
    """Return how often random signs give a total as large as the one seen (Fisher's randomisation test).

    Exact up to `EXACT_UP_TO` non-zero differences, sampled beyond; 1.0 when nothing differs.
    """
    import numpy as np

    nonzero = sums[np.abs(sums) > 1e-12]
    n = len(nonzero)
    if n == 0:
        return 1.0
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(signs @ nonzero >= nonzero.sum() - 1e-9))
    signs = 1 - 2 * np.random.default_rng(seed).integers(0, 2, size=(samples, n))
    return float((1 + np.sum(signs @ nonzero >= nonzero.sum() - 1e-9)) / (1 + samples))


def _bounds(means: "Floats", alpha: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(means, [alpha, 1 - alpha])
    return float(low), float(high)


def _differences(
    before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer], metric: str
) -> tuple[list[float], list[str]]:
    if metric not in METRICS:
        raise SettingsError(f"There is no metric '{metric}'.", f"one of {', '.join(METRICS)}", "set evaluation.metric")
    old = {answer.pair_id: answer for answer in before}
    new = {answer.pair_id: answer for answer in after}
    if old.keys() != new.keys():
        raise DatasetError(
            f"{len(old.keys() ^ new.keys())} questions were answered by one of the two models only.",
            "the same held-out questions for both",
            "score both models on the same split",
        )
    chosen = [key for key in old if metric in old[key].metrics and metric in new[key].metrics]
    if not chosen:
        raise DatasetError(f"No question has the metric '{metric}'.", "held-out questions that it applies to")
    return [new[k].metrics[metric] - old[k].metrics[metric] for k in chosen], [old[k].document_id for k in chosen]


def _mean(answers: Sequence[ScoredAnswer], metric: str) -> float:
    values = [answer.metrics[metric] for answer in answers if metric in answer.metrics]
    return sum(values) / len(values)


def _poisson_at_least(k: int, mean: float) -> float:
    return 1 - sum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(k))
