"""Decides whether a candidate may replace the live model, from their answers to the same held-out questions.

The candidate must be better, not merely no worse: the rule `candidate >= live` promotes a model that is no better in
half of all cases. The test is paired and one-sided, and alpha is spent over all candidates that are tested on the same
questions (`alpha_spending.py`). Every decision also states the smallest gain that the test would have detected, so that
a refusal is not mistaken for a proof that the models are equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from ragtune.errors import DatasetError, SettingsError
from ragtune.evaluation.alpha_spending import POWER, alpha_left, alpha_of_look, questions_needed
from ragtune.evaluation.metrics import METRICS
from ragtune.evaluation.resampling import bootstrap_means, cluster_totals
from ragtune.evaluation.text_metrics import BLEU, bleu_counts, corpus_bleu, resampled_bleu
from ragtune.records import ORIGINS, GateDecision, ScoredAnswer
from ragtune.settings import EvaluationSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

EXACT_UP_TO = 14
"""Up to this many differing documents all 2**14 = 16,384 sign patterns are counted; chosen by hand, not sensitive."""
_BEYOND_THE_BOUND = 20
"""Least number of resamples expected beyond a bound, so that a small level is not read off a handful of them.

Chosen by hand; a bound from 20 resamples varies by about a fifth of its tail.
"""
# Differences below this are rounding errors of adding floats.
_ZERO = 1e-12
_SUM_TOLERANCE = 1e-9
# Step in which the expected count of improved questions is searched: a hundredth of a question.
_COUNT_STEP = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedGain:
    """The mean gain of one set of answers over another to the same questions, with its interval."""

    metric: str
    gain: float
    low: float
    high: float
    smallest_detectable_gain: float
    standard_error: float
    p_value: float
    n: int


@dataclass(frozen=True, slots=True)
class ModelGain:
    """The gain of a model at a precision over another one, named with its precision, such as `base bf16`."""

    over: str
    model: str
    precision: str
    gain: PairedGain


@dataclass(frozen=True, slots=True)
class GateEntry:
    """A model at the gate: its version, its answers to the gate questions, and those to out-of-domain questions."""

    version: str
    answers: Sequence[ScoredAnswer]
    out_of_domain: Sequence[ScoredAnswer] = ()


def decide(
    live: GateEntry, candidate: GateEntry, settings: EvaluationSettings, seed: int, refusals: int = 0
) -> GateDecision:
    """Return whether the candidate is promoted, with the numbers behind the decision.

    Its gain needs a one-sided lower bound above 0 and a p-value of at most the alpha of one look, which is also the
    level of `low` and `high`. It is refused, whatever it gained, if the upper bound (at `settings.alpha`) of its gain
    on the out-of-domain questions is below 0, or after `settings.gate_looks` refusals. People's questions decide
    alone if there are at least `settings.people_items` of them; the gain on each origin is reported as well. Raises
    DatasetError if the two models answered different questions, SettingsError for an unknown metric.

    Args:
        live: the model that is served.
        candidate: the model that wants to replace it.
        settings: metric, alpha, over how many refusals it is spent, bootstrap samples.
        seed: seed of the bootstrap.
        refusals: how many candidates were refused on these questions before.
    """
    metric, alpha = settings.metric, alpha_of_look(settings)
    samples = max(settings.bootstrap_samples, math.ceil(_BEYOND_THE_BOUND / alpha))
    before, after = (_decisive(entry.answers, settings.people_items) for entry in (live, candidate))
    gain = paired_gain(before, after, metric, alpha, samples, seed)
    elsewhere = None
    if live.out_of_domain or candidate.out_of_domain:
        others = live.out_of_domain, candidate.out_of_domain
        elsewhere = paired_gain(*others, metric, settings.alpha, settings.bootstrap_samples, seed)
    better = _is_better(gain, alpha)
    loses = elsewhere is not None and elsewhere.high < 0
    exhausted = refusals >= settings.gate_looks
    promoted = better and not loses and not exhausted
    left = alpha_left(refusals if promoted else refusals + 1, settings)
    needed = questions_needed(settings.gate_gain, max(gain.standard_error, _ZERO) * math.sqrt(gain.n), alpha)
    return GateDecision(
        promoted=promoted,
        reason=f"{_reason(gain, elsewhere, alpha)} {_budget(refusals, left, settings)}",
        metric=metric,
        live=_mean(before, metric),
        candidate=_mean(after, metric),
        gain=gain.gain,
        low=gain.low,
        high=gain.high,
        smallest_detectable_gain=gain.smallest_detectable_gain,
        n=gain.n,
        alpha=alpha,
        live_version=live.version,
        candidate_version=candidate.version,
        out_of_domain_gain=elsewhere.gain if elsewhere else 0.0,
        out_of_domain_low=elsewhere.low if elsewhere else 0.0,
        out_of_domain_high=elsewhere.high if elsewhere else 0.0,
        out_of_domain_n=elsewhere.n if elsewhere else 0,
        refusals_before=refusals,
        alpha_left=left,
        questions_needed=needed,
        decided_on="all questions" if len(before) == len(live.answers) else "people's questions",
        by_origin=_by_origin(live.answers, candidate.answers, settings, seed),
    )


def decisive_number(questions: int, by_people: int, people_items: int) -> int:
    """Return how many questions decide: people's alone if there are `people_items`, else all."""
    return by_people if by_people >= people_items else questions


def sign_test_needs(alpha: float) -> int:
    """Return how many documents must improve, with none that gets worse, for the sign test to pass at this level."""
    return math.ceil(math.log2(1 / alpha))


def _decisive(answers: Sequence[ScoredAnswer], people_items: int) -> Sequence[ScoredAnswer]:
    of_people = [answer for answer in answers if answer.origin != "writer"]
    return of_people if decisive_number(len(answers), len(of_people), people_items) == len(of_people) else answers


def _by_origin(
    before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer], settings: EvaluationSettings, seed: int
) -> str:
    """Return the gain on the questions of each origin, such as `people: +0.031 (-0.010 to +0.072, n = 64)`."""
    parts = []
    for origin in ORIGINS:
        old, new = ([answer for answer in answers if answer.origin == origin] for answers in (before, after))
        if any(settings.metric in answer.metrics for answer in old):
            gain = paired_gain(old, new, settings.metric, settings.alpha, settings.bootstrap_samples, seed)
            parts.append(f"{origin}: {gain.gain:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}, n = {gain.n})")
    return "; ".join(parts)


def paired_gain(
    before: Sequence[ScoredAnswer],
    after: Sequence[ScoredAnswer],
    metric: str,
    alpha: float = 0.05,
    samples: int = 2000,
    seed: int = 0,
) -> PairedGain:
    """Return the mean gain of `after` over `before`, paired by question and resampled by document.

    `low` and `high` are one-sided bounds at `alpha` each; use 0.025 for a two-sided 95% interval.
    """
    differences, documents = _differences(before, after, metric)
    sums, counts = cluster_totals(differences, documents)
    means = bootstrap_means(sums, counts, samples, seed)
    low, high = _bounds(means, alpha)
    standard_error = float(means.std())
    return PairedGain(
        metric=metric,
        gain=float(sums.sum() / counts.sum()),
        low=low,
        high=high,
        smallest_detectable_gain=smallest_detectable_gain(standard_error, len(differences), alpha),
        standard_error=standard_error,
        p_value=sign_flip_p_value(sums, seed, samples),
        n=len(differences),
    )


def bleu_gain(
    before: Sequence[ScoredAnswer],
    after: Sequence[ScoredAnswer],
    alpha: float = 0.05,
    samples: int = 2000,
    seed: int = 0,
) -> PairedGain:
    """Return the gain in corpus BLEU with its interval: both models are resampled by the same documents (Koehn 2004).

    The p-value is the share of resamples without a gain.
    """
    import numpy as np

    # The pairs of chrF are those of BLEU: the answerable questions.
    _, documents = _differences(before, after, "chrf")
    order = {answer.pair_id: place for place, answer in enumerate(before)}
    old, new = (
        bleu_counts([answer for answer in sorted(answers, key=lambda a: order[a.pair_id]) if "chrf" in answer.metrics])
        for answers in (before, after)
    )
    differences = resampled_bleu(new, documents, samples, seed) - resampled_bleu(old, documents, samples, seed)
    low, high = _bounds(differences, alpha)
    standard_error = float(differences.std())
    return PairedGain(
        metric=BLEU,
        gain=corpus_bleu(new.sum(axis=0)) - corpus_bleu(old.sum(axis=0)),
        low=low,
        high=high,
        smallest_detectable_gain=smallest_detectable_gain(standard_error, len(documents), alpha),
        standard_error=standard_error,
        p_value=float((1 + np.sum(differences <= 0)) / (1 + samples)),
        n=len(documents),
    )


def smallest_detectable_gain(standard_error: float, n: int, alpha: float, power: float = POWER) -> float:
    """Return the smallest true gain that the one-sided test detects with this power.

    It is the larger of two bounds. The first is the normal approximation. The second matters for few questions: the
    sign test needs k = ceil(log2(1 / alpha)) questions that all improved, and if their count follows a Poisson
    distribution, its mean gain * n must be large enough to reach k with the given power.
    """
    normal = NormalDist()
    approximation = (normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) * standard_error
    needed = sign_test_needs(alpha)
    mean = float(needed)
    while _poisson_at_least(needed, mean) < power:
        mean += _COUNT_STEP
    return max(approximation, mean / n)


def sign_flip_p_value(sums: "Floats", seed: int, samples: int) -> float:
    """Return the share of random sign patterns whose total is at least as large as the observed one.

    This is Fisher's randomisation test. It is exact for up to `EXACT_UP_TO` non-zero sums and sampled for more; it
    returns 1.0 if nothing differs.

    Args:
        sums: the sum of the differences of each document, shape (documents,).
        seed: seed of the sampled patterns.
        samples: number of sampled patterns.
    """
    import numpy as np

    nonzero = sums[np.abs(sums) > _ZERO]
    n = len(nonzero)
    if n == 0:
        return 1.0
    observed = nonzero.sum() - _SUM_TOLERANCE
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(signs @ nonzero >= observed))
    signs = 1 - 2 * np.random.default_rng(seed).integers(0, 2, size=(samples, n))
    return float((1 + np.sum(signs @ nonzero >= observed)) / (1 + samples))


def _is_better(gain: PairedGain, alpha: float) -> bool:
    return gain.low > 0 and gain.p_value <= alpha


def _reason(gain: PairedGain, elsewhere: PairedGain | None, alpha: float) -> str:
    """Return the decision in a sentence, with its numbers."""
    bounds = f"bound {gain.low:+.3f}, p {gain.p_value:.3f}, needed above 0 and at most {alpha}"
    result = f"{gain.gain:+.3f} {gain.metric} over {gain.n} questions ({bounds})"
    limit = f"A gain below {gain.smallest_detectable_gain:.3f} is found in fewer than {POWER:.0%} of cases."
    if _is_better(gain, alpha) and elsewhere is not None and elsewhere.high < 0:
        loss = f"{elsewhere.gain:+.3f} over {elsewhere.n} out-of-domain questions (bound {elsewhere.high:+.3f})"
        return f"The candidate is better on the documents, {result}, but lost what it could do before: {loss}."
    if _is_better(gain, alpha):
        return f"The candidate is better: {result}. {limit}"
    if gain.gain == 0 and gain.low == gain.high == 0:
        return f"The candidate answers no better: {result}. {limit}"
    return f"The candidate is not shown to be better: {result}. {limit}"


def _budget(refusals: int, left: float, settings: EvaluationSettings) -> str:
    """Return a sentence about the refusals so far and the alpha that is left."""
    if refusals >= settings.gate_looks:
        return (
            f"It is refused in any case: {refusals} candidates were refused on these questions, and no alpha is left. "
            "How to fix: add documents or people's questions, so that the gate has questions that were not used up."
        )
    return f"Refused on these questions before: {refusals} of {settings.gate_looks}. Alpha left: {left:.4f}."


def _bounds(means: "Floats", alpha: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(means, [alpha, 1 - alpha])
    return float(low), float(high)


def _differences(
    before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer], metric: str
) -> tuple[list[float], list[str]]:
    """Return the difference on each question that the metric applies to, and the question's document or group."""
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
    keys = [key for key in old if metric in old[key].metrics and metric in new[key].metrics]
    if not keys:
        raise DatasetError(f"No question has the metric '{metric}'.", "held-out questions that it applies to")
    differences = [new[key].metrics[metric] - old[key].metrics[metric] for key in keys]
    return differences, [old[key].group or old[key].document_id for key in keys]


def _mean(answers: Sequence[ScoredAnswer], metric: str) -> float:
    values = [answer.metrics[metric] for answer in answers if metric in answer.metrics]
    return sum(values) / len(values)


def _poisson_at_least(k: int, mean: float) -> float:
    return 1 - sum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(k))
