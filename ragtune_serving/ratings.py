"""The ratings of an answer that a request may send."""

import json
from typing import Any

from ragtune.store.feedback import MOST_STARS

_SHOWN = 60
"""Characters of a wrong value in a message; chosen by hand."""


def thumb_or_stars(value: Any) -> str | int:
    """Return `up`, `down` or a whole number of stars; raise ValueError with one sentence for anything else.

    pydantic by itself has a sentence for each kind of rating.
    """
    if value in ("up", "down"):
        return str(value)
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number not in range(1, MOST_STARS + 1):
        raise ValueError(f'it is {json.dumps(value)[:_SHOWN]}, but "up", "down" or 1 to {MOST_STARS} is allowed')
    return int(number)
