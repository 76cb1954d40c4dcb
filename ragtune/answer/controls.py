"""The linguistic controls: dials from 0 to 1 and switches, on or off.

They act on how many passages are read, how long and how bold the answer is, and on what
the system prompt asks for. Defaults come from `AnswerSettings`, a request overrides them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any

from ragtune.errors import SettingsError

DIALS = ("creativity", "depth", "technical_level")
SWITCHES = ("citations", "examples", "step_by_step", "strict_grounding")


@dataclass(frozen=True, slots=True)
class Controls:
    """Where every dial stands and which switches are on; the defaults are the neutral style."""

    depth: float = 0.5
    creativity: float = 0.0
    technical_level: float = 0.5
    citations: bool = True
    examples: bool = False
    step_by_step: bool = False
    strict_grounding: bool = True

    def as_dict(self) -> dict[str, dict[str, float] | dict[str, bool]]:
        """Return {"dials": {...}, "switches": {...}}, the shape that a request uses."""
        values = asdict(self)
        return {"dials": {name: values[name] for name in DIALS}, "switches": {name: values[name] for name in SWITCHES}}

    def passages(self, default: int) -> int:
        """Return how many passages to read: half of the default at depth 0, half as many again at 1."""
        return max(1, round(default * (0.5 + self.depth)))

    def max_tokens(self, default: int) -> int:
        """Return the length limit in tokens: the default at depth 0.5, half of it at 0, three times it at 1."""
        factor = 0.5 + self.depth if self.depth <= 0.5 else 1.0 + 4.0 * (self.depth - 0.5)
        return max(8, round(default * factor * (2.0 if self.examples or self.step_by_step else 1.0)))

    @property
    def temperature(self) -> float:
        """Sampling temperature: 0 (greedy) to 1."""
        return round(self.creativity, 3)


NEUTRAL = Controls()


def with_controls(
    base: Controls, dials: Mapping[str, Any] | None = None, switches: Mapping[str, Any] | None = None
) -> Controls:
    """Return the base with these dials and switches set.

    Raises SettingsError that lists the valid names, or the valid range of a value.
    """
    values: dict[str, Any] = {}
    for name, value in (dials or {}).items():
        _known(name, DIALS, "dial")
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise SettingsError(
                f"The dial '{name}' has {value!r}.", "a number from 0 to 1", f'send for example {{"{name}": 0.7}}'
            )
        values[name] = float(value)
    for name, value in (switches or {}).items():
        _known(name, SWITCHES, "switch")
        if not isinstance(value, bool):
            raise SettingsError(
                f"The switch '{name}' has {value!r}.", "true or false", f'send for example {{"{name}": true}}'
            )
        values[name] = value
    return replace(base, **values)


def _known(name: str, names: tuple[str, ...], what: str) -> None:
    if name not in names:
        plural = {"dial": "dials", "switch": "switches"}[what]
        other = next((word for word, group in (("dial", DIALS), ("switch", SWITCHES)) if name in group), "")
        hint = f"'{name}' is a {other}, send it there" if other else ""
        raise SettingsError(f"There is no {what} '{name}'.", f"one of the {plural} {', '.join(names)}", hint)
