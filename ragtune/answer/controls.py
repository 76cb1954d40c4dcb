"""The linguistic controls: dials from 0 to 1, and switches that are on or off.

They decide how many passages the model reads, how long and how varied its answer may be, and which style the
system text asks for. The defaults come from `AnswerSettings`; a request may override them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from numbers import Real
from typing import Any

from ragtune.errors import SettingsError

DIALS = ("creativity", "depth", "technical_level")
SWITCHES = ("citations", "examples", "markdown", "step_by_step", "strict_grounding")
LOW, HIGH = 0.3, 0.7
"""Below and above these positions a dial asks for another style. Chosen by hand, not measured."""
_MIN_TOKENS = 8
"""A shorter limit cuts off even a value with its citation. Chosen by hand, not measured."""
_MOST_FURTHER = 3
"""Sentences that are quoted in addition at depth 1, and at creativity 1. Chosen by hand: four quotations in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The position of every dial and switch; the defaults are the neutral style."""

    depth: float = 0.5
    creativity: float = 0.0
    technical_level: float = 0.5
    citations: bool = True
    examples: bool = False
    markdown: bool = True
    step_by_step: bool = False
    strict_grounding: bool = True

    def passages(self, default: int) -> int:
        """Return how many passages to show: 0.5 times the default at depth 0, 1.5 times at depth 1."""
        return max(1, round(default * (0.5 + self.depth)))

    def shown_words(self, default: int) -> int:
        """Return how many words of the passages to show, by the same factor."""
        return round(default * (0.5 + self.depth))

    def max_tokens(self, default: int) -> int:
        """Return the length limit in tokens: 0.5 times the default at depth 0, the default at 0.5, 3 times at 1.

        Examples and steps double it. The factors are chosen by hand, not measured.
        """
        factor = 0.5 + self.depth if self.depth <= 0.5 else 1.0 + 4.0 * (self.depth - 0.5)
        return max(_MIN_TOKENS, round(default * factor * (2.0 if self.examples or self.step_by_step else 1.0)))

    @property
    def further(self) -> int:
        """How many sentences to quote in addition to the best one, because of `depth`: 0 up to 0.5, 3 at 1."""
        return max(0, ceil((self.depth - 0.5) * 2 * _MOST_FURTHER))

    @property
    def varied(self) -> int:
        """How many sentences to quote that differ from sample to sample, because of `creativity`: 0 at 0, 3 at 1."""
        return ceil(self.creativity * _MOST_FURTHER)

    @property
    def temperature(self) -> float:
        """Sampling temperature, from 0 (greedy) to 1."""
        return round(self.creativity, 3)


NEUTRAL = Controls()


def changed_controls(controls: Controls) -> dict[str, float]:
    """Return the dials and switches that are not neutral; a switch that is on is 1.0."""
    return {
        name: float(value)
        for name in (*DIALS, *SWITCHES)
        if (value := getattr(controls, name)) != getattr(NEUTRAL, name)
    }


def with_controls(
    base: Controls, dials: Mapping[str, Any] | None = None, switches: Mapping[str, Any] | None = None
) -> Controls:
    """Return a copy of `base` with these dials and switches set.

    Raises:
        SettingsError: for an unknown name, listing the valid ones, or for a value out of range.
    """
    values: dict[str, Any] = {}
    for name, value in (dials or {}).items():
        _check_name(name, DIALS, "dial")
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise SettingsError(
                f"The dial '{name}' has {value!r}.", "a number from 0 to 1", f'send for example {{"{name}": 0.7}}'
            )
        values[name] = float(value)
    for name, value in (switches or {}).items():
        _check_name(name, SWITCHES, "switch")
        if not isinstance(value, bool):
            raise SettingsError(
                f"The switch '{name}' has {value!r}.", "true or false", f'send for example {{"{name}": true}}'
            )
        values[name] = value
    return replace(base, **values)


def _check_name(name: str, valid_names: tuple[str, ...], kind: str) -> None:
    """Raise SettingsError for an unknown name; say so if it is a switch sent as a dial, or the reverse."""
    if name in valid_names:
        return
    plural = {"dial": "dials", "switch": "switches"}[kind]
    actual_kind = next((word for word, names in (("dial", DIALS), ("switch", SWITCHES)) if name in names), "")
    hint = f"'{name}' is a {actual_kind}, send it there" if actual_kind else ""
    raise SettingsError(f"There is no {kind} '{name}'.", f"one of the {plural} {', '.join(valid_names)}", hint)
