"""Watches the losses of a training: says when it diverges."""

from collections.abc import Sequence
from statistics import fmean

_WINDOW = 10
"""Losses that are averaged, because the loss of one batch says little. Chosen by hand."""
_FACTOR, _FACTOR_OF_FIRST, _RISE = 2.0, 3.0, 0.1
"""A loss diverges if its mean is twice the lowest mean before it or three times the first loss, and larger by 0.1:
near zero it may double by chance. Chosen by hand; single steps of a good training jump by half."""


def divergence(losses: Sequence[float], rate: str = "training.learning_rate") -> str:
    """Return a warning if the mean of the last ten losses is far above the lowest mean or the first loss, else "".

    `rate` is the setting of the learning rate, which the warning names.
    """
    means = [fmean(losses[end - _WINDOW : end]) for end in range(_WINDOW, len(losses) + 1)]
    if not means:
        return ""
    last, lowest = means[-1], min(means)
    for before, factor in ((lowest, _FACTOR), (losses[0], _FACTOR_OF_FIRST)):
        if last > before * factor and last > before + _RISE:
            return (
                f"the training loss diverges: the mean of the last {_WINDOW} steps is {last:.3g} after {before:.3g}. "
                f"Lower {rate}"
            )
    return ""
