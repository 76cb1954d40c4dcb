"""How many pairs a collection must yield, how far a share of few pairs may be off, and what to do about too few."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

from ragtune.records import Chunk, QAPair
from ragtune.settings import DatasetSettings

FEWEST_PAIRS = 6
"""One question each for test, gate and validation, and three to train on: with fewer there is nothing to divide."""
MOST_NEEDED = 1000
"""Pairs that are enough for any collection; chosen by hand, half of what the demo's two packages yield."""
SHARE_OF_PASSAGES = 0.1
"""Pairs for each passage below which the writer must have failed. It writes 0.44 for each passage of prose and 1.4 for
each of API documentation (docs/howto/own-documents.md); the smallest English collection tried has 0.22 (examples/faq).
"""
_CONFIDENCE = 0.95


def least_pairs(settings: DatasetSettings, passages: int) -> int:
    """Return how many pairs the dataset needs: `min_pairs`, or if that is 0 a number that grows with the passages."""
    return settings.min_pairs or min(max(FEWEST_PAIRS, round(passages * SHARE_OF_PASSAGES)), MOST_NEEDED)


def within_chance(limit: float, n: int) -> float:
    """Return the largest share among n pairs that chance explains if the true share is `limit`.

    It is the upper 95% bound of a binomial share in its normal approximation, limit + z * sqrt(limit * (1 - limit) / n)
    (Wald), and `limit` itself for very many pairs.
    """
    spread = math.sqrt(limit * (1 - limit) / max(n, 1))
    return min(limit + NormalDist().inv_cdf(_CONFIDENCE) * spread, 1.0)


def shortage(pairs: Sequence[QAPair], chunks: Sequence[Chunk], settings: DatasetSettings) -> str:
    """Return what is missing and what to do if there are too few pairs, or "" if there are enough."""
    passages = [chunk for chunk in chunks if not chunk.duplicate_of]
    needed = least_pairs(settings, len(passages))
    if len(pairs) >= needed:
        return ""
    origins = Counter(pair.origin for pair in pairs)
    existing = origins["people"] + origins["feedback"]
    sentences = [
        f"The {len(passages)} passages gave {len(pairs)} question and answer pairs ({origins['writer']} written, "
        f"{existing} by people), and training needs {needed}."
    ]
    languages = Counter(chunk.language for chunk in passages if chunk.language != "en")
    if languages.total() * 2 > len(passages) and not settings.writer.model:
        names = ", ".join(name for name, _ in languages.most_common(3))
        sentences = [
            f"The rule-based writer writes English only, and {languages.total()} of the {len(passages)} passages are "
            f"in other languages ({names}).",
            "Let a language model write pairs in their language (`dataset.writer.model`), or add existing questions "
            "and answers (`ragtune sources add pairs:FILE`).",
            *sentences,
        ]
    else:
        sentences.append(
            "Add documents, add existing questions and answers (`ragtune sources add pairs:FILE`), or let a language "
            "model write pairs (`dataset.writer.model`)."
        )
    if settings.min_pairs > FEWEST_PAIRS:
        sentences.append("Or lower `dataset.min_pairs`.")
    return " ".join([*sentences, "Search and answers work without any of this."])
