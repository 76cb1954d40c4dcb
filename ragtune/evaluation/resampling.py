"""Seeded bootstrap intervals that resample whole clusters, here documents.

Questions about the same document tend to succeed or fail together. Resampling single questions would treat them as
independent and make every interval too narrow.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]


def cluster_totals(values: Sequence[float], clusters: Sequence[str]) -> tuple["Floats", "Floats"]:
    """Return the sums and the counts per cluster, each of shape (clusters,).

    A value with an empty cluster name forms a cluster by itself.
    """
    import numpy as np

    index = cluster_index(clusters)
    weights = np.asarray(values, dtype=np.float64)
    return np.bincount(index, weights=weights).astype(np.float64), np.bincount(index).astype(np.float64)


def cluster_index(clusters: Sequence[str]) -> "Integers":
    """Return the number of each value's cluster, from 0; an empty name is a cluster by itself."""
    import numpy as np

    names = [name or f"\0{i}" for i, name in enumerate(clusters)]
    _, index = np.unique(names, return_inverse=True)
    return index.astype(np.int64)


def cluster_draws(clusters: int, samples: int, seed: int) -> "Integers":
    """Return which clusters each resample holds, shape (samples, clusters)."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, clusters, size=(samples, clusters))


def bootstrap_means(sums: "Floats", counts: "Floats", samples: int, seed: int) -> "Floats":
    """Return the means of `samples` resamples of the clusters, shape (samples,)."""
    indices = cluster_draws(len(sums), samples, seed)
    means: Floats = sums[indices].sum(axis=1) / counts[indices].sum(axis=1)
    return means


def mean_interval(
    values: Sequence[float], clusters: Sequence[str], samples: int, seed: int, level: float = 0.95
) -> tuple[float, float, float]:
    """Return (mean, low, high) of a two-sided percentile interval.

    If all values are equal, the bootstrap interval has no width. A share of 0 or 1 then gets the Wilson interval
    (Wilson 1927) over the clusters: ten right answers of ten do not prove that the eleventh is right.
    """
    import numpy as np

    sums, counts = cluster_totals(values, clusters)
    mean = float(sums.sum() / counts.sum())
    if np.ptp(np.asarray(values)) == 0.0:
        return (mean, *_wilson(mean, len(sums), level)) if mean in (0.0, 1.0) else (mean, mean, mean)
    tail = (1 - level) / 2
    low, high = np.quantile(bootstrap_means(sums, counts, samples, seed), [tail, 1 - tail])
    return mean, float(low), float(high)


def _wilson(share: float, n: int, level: float) -> tuple[float, float]:
    from statistics import NormalDist

    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((share * (1 - share) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
