"""Random choices that depend on a seed and a key alone, so that adding data changes no earlier choice."""

import hashlib
from collections.abc import Sequence


def draw(seed: int, *parts: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the parts alone."""
    digest = hashlib.sha256("\x1f".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def choose(seed: int, options: Sequence[str], *parts: str) -> str:
    """Return one of the options, by the seeded hash of the parts."""
    return options[int(draw(seed, *parts) * len(options))]
