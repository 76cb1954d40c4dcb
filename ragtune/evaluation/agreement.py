"""How far people agree who rated the same items: percent, Cohen's and Fleiss' kappa, Krippendorff's alpha, Gwet's AC2.

Ratings may be missing. Kappa and alpha are low if nearly all items belong to one category, although people agree; AC2
(Gwet 2008, 2014) is not, which is why both are reported. The package irrCAC, which has AC2, needs an older numpy than
the rest, so its formulas are written out here; a test compares them with what it returns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from ragtune.errors import DatasetError
from ragtune.evaluation.resampling import cluster_draws

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Ratings = Mapping[str, Mapping[str, str]]
"""{item: {annotator: category}}."""
Scale = Literal["nominal", "ordinal"]
SAMPLES = 1000
"""Bootstrap samples of an interval; the bounds move by less than 0.01 with more (chosen by hand)."""
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A coefficient with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return `0.74 [0.42, 1.00]`."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The agreement of annotators on one question of the rubric.

    `annotators` are all or one pair. `items` were rated by at least two of them. `kappa` is Cohen's for two annotators
    and Fleiss' for more. Ordinal questions have linear weights in `ac2` and ordinal distances in `alpha`.
    """

    question: str
    annotators: tuple[str, ...]
    items: int
    percent: float
    kappa: Estimate
    alpha: Estimate
    ac2: Estimate

    def __str__(self) -> str:
        """Return a line with all of it, such as `clear, ada and bob: 80% equal, alpha 0.61 [0.32, 0.84], ...`."""
        return (
            f"{self.question}, {' and '.join(self.annotators)}: {self.percent:.0%} equal, alpha {self.alpha}, "
            f"AC2 {self.ac2}, kappa {self.kappa}, n = {self.items}"
        )


def agreement(
    question: str, ratings: Ratings, categories: Sequence[str], scale: Scale = "nominal", seed: int = 17
) -> Agreement:
    """Return the agreement of all annotators of these ratings; raise DatasetError if no item has two ratings."""
    rated = _by_several(question, ratings)
    annotators = tuple(sorted({name for of_item in rated.values() for name in of_item}))
    counts = category_counts(rated, categories)
    weights = linear_weights(len(categories)) if scale == "ordinal" else identity_weights(len(categories))
    table = reliability_table(rated, annotators, categories)
    if len(annotators) == 2:
        kappa = bootstrapped(lambda draw: cohen_kappa(table[0, draw], table[1, draw], weights), len(rated), seed)
    else:
        kappa = bootstrapped(lambda draw: fleiss_kappa(counts[draw], weights), len(rated), seed)
    return Agreement(
        question=question,
        annotators=annotators,
        items=len(rated),
        percent=percent_agreement(counts),
        kappa=kappa,
        alpha=bootstrapped(lambda draw: krippendorff_alpha(counts[draw], scale), len(rated), seed),
        ac2=gwet_ac2(counts, weights),
    )


def pairwise_agreement(
    question: str, ratings: Ratings, categories: Sequence[str], scale: Scale = "nominal", seed: int = 17
) -> list[Agreement]:
    """Return the agreement of every pair of annotators with an item in common, the pair that agrees least first."""
    names = sorted({name for of_item in ratings.values() for name in of_item})
    pairs = []
    for first, second in combinations(names, 2):
        common = {
            item: {first: of_item[first], second: of_item[second]}
            for item, of_item in ratings.items()
            if first in of_item and second in of_item
        }
        if common:
            pairs.append(agreement(question, common, categories, scale, seed))
    return sorted(pairs, key=lambda pair: pair.ac2.value)


def worst_items(ratings: Ratings, categories: Sequence[str]) -> list[tuple[str, float]]:
    """Return (item, share of pairs of ratings that agree) for the items with a disagreement, the worst first."""
    rated = {item: of_item for item, of_item in ratings.items() if len(of_item) > 1}
    if not rated:
        return []
    shares = item_agreement(category_counts(rated, categories))
    items = [(item, float(share)) for item, share in zip(rated, shares, strict=True) if share < 1]
    return sorted(items, key=lambda pair: pair[1])


def category_counts(ratings: Ratings, categories: Sequence[str]) -> "Floats":
    """Return how many annotators chose each category, shape (items, categories)."""
    import numpy as np

    places = {category: place for place, category in enumerate(categories)}
    counts = np.zeros((len(ratings), len(categories)))
    for row, of_item in enumerate(ratings.values()):
        for category in of_item.values():
            if category not in places:
                raise DatasetError(f"A rating is '{category}'.", f"one of {', '.join(categories)}")
            counts[row, places[category]] += 1
    return counts


def reliability_table(ratings: Ratings, annotators: Sequence[str], categories: Sequence[str]) -> "Floats":
    """Return the number of the category that each annotator chose, shape (annotators, items), NaN if none."""
    import numpy as np

    table = np.full((len(annotators), len(ratings)), np.nan)
    for column, of_item in enumerate(ratings.values()):
        for row, annotator in enumerate(annotators):
            if annotator in of_item:
                table[row, column] = categories.index(of_item[annotator])
    return table


def identity_weights(categories: int) -> "Floats":
    """Return weights that count only equal ratings as agreement, shape (categories, categories)."""
    import numpy as np

    return np.eye(categories)


def linear_weights(categories: int) -> "Floats":
    """Return 1 - |i - j| / (categories - 1): neighbours on a scale agree in part."""
    import numpy as np

    places = np.arange(categories)
    weights: Floats = 1.0 - np.abs(places[:, None] - places[None, :]) / max(1, categories - 1)
    return weights


def percent_agreement(counts: "Floats") -> float:
    """Return the mean share of pairs of ratings that are equal; items with one rating do not count."""
    several = counts[counts.sum(axis=1) > 1]
    return float(item_agreement(several).mean())


def item_agreement(counts: "Floats", weights: "Floats | None" = None) -> "Floats":
    """Return the weighted share of pairs of ratings of each item that agree, shape (items,); two ratings at least."""
    weights = identity_weights(counts.shape[1]) if weights is None else weights
    totals = counts.sum(axis=1)
    shares: Floats = (counts * (counts @ weights.T - 1)).sum(axis=1) / (totals * (totals - 1))
    return shares


def cohen_kappa(first: "Floats", second: "Floats", weights: "Floats") -> float:
    """Return Cohen's kappa (1960, weighted 1968) of two annotators; 1.0 if both always chose one and the same category.

    Args:
        first: category numbers of the first annotator, shape (items,).
        second: those of the second.
        weights: 1 for full agreement, 0 for none, shape (categories, categories).
    """
    import numpy as np

    table = np.zeros_like(weights)
    np.add.at(table, (first.astype(int), second.astype(int)), 1.0 / len(first))
    expected = float((np.outer(table.sum(axis=1), table.sum(axis=0)) * weights).sum())
    return _beyond_chance(float((table * weights).sum()), expected)


def fleiss_kappa(counts: "Floats", weights: "Floats") -> float:
    """Return Fleiss' kappa (1971) of any number of annotators, weighted and with missing ratings as in Gwet 2014."""
    shares = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
    expected = float(shares @ weights @ shares)
    return _beyond_chance(float(item_agreement(counts, weights).mean()), expected)


def krippendorff_alpha(counts: "Floats", scale: Scale) -> float:
    """Return Krippendorff's alpha of category counts, shape (items, categories); 1.0 if only one category occurs."""
    import krippendorff
    import numpy as np

    if (counts.sum(axis=0) > 0).sum() < 2:
        return 1.0
    return float(
        krippendorff.alpha(
            value_counts=counts, level_of_measurement=scale, value_domain=np.arange(counts.shape[1], dtype=float)
        )
    )


def gwet_ac2(counts: "Floats", weights: "Floats") -> Estimate:
    """Return Gwet's AC2 (AC1 for identity weights) with the interval of his variance over items (Gwet 2014, ch. 5).

    Args:
        counts: annotators per item and category, shape (items, categories); an item may have a single rating.
        weights: agreement of two categories, shape (categories, categories).
    """
    import numpy as np
    from scipy.stats import t

    totals = counts.sum(axis=1)
    several, n = totals > 1, len(counts)
    categories = counts.shape[1]
    observed = item_agreement(counts[several], weights)
    shares = (counts / totals[:, None]).mean(axis=0)
    scale = weights.sum() / (categories * (categories - 1))
    expected = float(scale * (shares * (1 - shares)).sum())
    value = _beyond_chance(float(observed.mean()), expected)
    if n < 2 or expected >= 1:
        return Estimate(value, -1.0, 1.0)
    by_item = np.zeros(n)
    by_item[several] = (n / several.sum()) * (observed - expected) / (1 - expected)
    expected_by_item = scale * (counts @ (1 - shares)) / totals
    by_item = by_item - 2 * (1 - value) * (expected_by_item - expected) / (1 - expected)
    error = float(np.sqrt(((by_item - value) ** 2).sum() / (n * (n - 1))))
    half = float(t.ppf(0.5 + _LEVEL / 2, n - 1)) * error
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half))


def bootstrapped(coefficient: Callable[["npt.NDArray[np.int64]"], float], items: int, seed: int) -> Estimate:
    """Return a coefficient of agreement with its 95% percentile interval over resampled items.

    Args:
        coefficient: computes it from the items with these numbers, from 0; a number may come several times.
        items: how many items there are.
        seed: seed of the resampling.
    """
    import numpy as np

    values = [coefficient(draw) for draw in cluster_draws(items, SAMPLES, seed)]
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(coefficient(np.arange(items)), float(low), float(high))


def _beyond_chance(observed: float, expected: float) -> float:
    """Return (observed - expected) / (1 - expected); 1.0 if chance alone agrees always, and so did the annotators."""
    return (observed - expected) / (1 - expected) if expected < 1 else 1.0


def _by_several(question: str, ratings: Ratings) -> dict[str, Mapping[str, str]]:
    rated = {item: of_item for item, of_item in ratings.items() if len(of_item) > 1}
    if not rated:
        raise DatasetError(
            f"No item has two ratings of '{question}'.",
            "items that at least two annotators rated",
            "assign items to more annotators",
        )
    return rated
