"""The record that training and calibration read."""

from dataclasses import dataclass

from ragtune.records import Message


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A conversation whose last message is the target; `kind` is that of its pair, or `talk` for small talk.

    `siblings` ask other questions about exactly the same passages. `evidence` is what a right answer contains, or "" if
    the target is a refusal or there is no such text.
    """

    messages: tuple[Message, ...]
    pair_id: str
    kind: str
    siblings: tuple["TrainingExample", ...] = ()
    evidence: str = ""
