"""The conversations that a training or a quantisation read, as one file of its run: repeating it needs no index."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.preferences import PreferenceExample

CONVERSATIONS_FILE = "conversations.json.gz"
"""File of a run: for a training a list of those to train on and one of those to validate on, else a list of one."""
PREFERENCES_FILE = "preferences.json.gz"
"""File of a run that trained preferences: a list with the list of its examples."""


def packed(lists: Sequence[Sequence[Any]]) -> bytes:
    """Return lists of records, such as conversations, as compressed JSON; equal lists give equal bytes."""
    rows = [[asdict(example) for example in examples] for examples in lists]
    return gzip.compress(json.dumps(rows, sort_keys=True).encode(), mtime=0)


def unpacked(content: bytes) -> list[list[TrainingExample]]:
    """Return the lists of conversations that `packed` compressed."""
    return TypeAdapter(list[list[TrainingExample]]).validate_json(gzip.decompress(content))


def unpacked_preferences(content: bytes) -> list[PreferenceExample]:
    """Return the preference examples that `packed` compressed."""
    [examples] = TypeAdapter(list[list[PreferenceExample]]).validate_json(gzip.decompress(content))
    return examples
