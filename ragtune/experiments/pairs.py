"""Compares the two answers of mirrored requests: both versions answered the same question from the same passages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ragtune.evaluation.metrics import token_f1
from ragtune.experiments.comparison import Comparison, Plan, compare
from ragtune.experiments.outcomes import METRICS, SLOWEST_MS, Metric
from ragtune.experiments.wording import result_in_words
from ragtune.store.shadows import ShadowPair, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedReport:
    """What the pairs of one version show.

    `agreement` is the mean token F1 of the two answers, `same_refusals` the share of pairs in which both refuse or both
    answer, `same_citations` the share with the same cited passages. `comparisons` is by metric, the mirrored version
    minus the live one; `words` says the same in sentences.
    """

    version: str
    pairs: int
    users: int
    agreement: float
    same_refusals: float
    same_citations: float
    comparisons: dict[str, Comparison]
    words: tuple[str, ...]


def _speed(side: Side) -> float:
    return 1 - min(max(side.generation_ms, 0.0), SLOWEST_MS) / SLOWEST_MS


_OUTCOMES: dict[str, Callable[[Side], float]] = {
    "answered": lambda side: float(not side.refused),
    "cited": lambda side: float(bool(side.cited_chunk_ids)),
    "sound": lambda side: float(not side.failures),
    "speed": _speed,
}
"""{metric: outcome of one answer in [0, 1]}; larger is better in all of them."""


def compare_pairs(version: str, pairs: Sequence[ShadowPair], plan: Plan) -> PairedReport:
    """Return what the pairs of one version show, oldest first.

    A user counts once in each metric, with the mean difference over the user's pairs, because answers to one user are
    alike. A later pair of the same user changes that mean, so the interval is exact for a look at the end only.
    """
    comparisons = {name: compare(_differences(pairs, outcome), plan, looks=1) for name, outcome in _OUTCOMES.items()}
    words = tuple(result_in_words(f"version {version}", comparisons[name], _metric(name), 0.0) for name in _OUTCOMES)
    return PairedReport(
        version=version,
        pairs=len(pairs),
        users=len({pair.user for pair in pairs}),
        agreement=_mean([token_f1(pair.live.answer, pair.mirrored.answer) for pair in pairs]),
        same_refusals=_mean([float(pair.live.refused == pair.mirrored.refused) for pair in pairs]),
        same_citations=_mean(
            [float(set(pair.live.cited_chunk_ids) == set(pair.mirrored.cited_chunk_ids)) for pair in pairs]
        ),
        comparisons=comparisons,
        words=words,
    )


def _metric(name: str) -> Metric:
    return METRICS[name]


def _differences(pairs: Sequence[ShadowPair], outcome: Callable[[Side], float]) -> list[float]:
    """Return the mean difference (mirrored minus live) of each user, in the order of their first pairs."""
    by_user: dict[str, list[float]] = {}
    for pair in pairs:
        by_user.setdefault(pair.user, []).append(outcome(pair.mirrored) - outcome(pair.live))
    return [_mean(own) for own in by_user.values()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
