"""What a reader returns, and how it says that a file cannot be read."""

from dataclasses import dataclass, field

from ragtune.knowledge.blocks import Block, join
from ragtune.records import LeftOut


class UnreadableError(ValueError):
    """A file whose content cannot be read; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a file says, and what is known about it.

    Attributes:
        blocks: the content in reading order.
        title: the document's own title, or "" if the format names none.
        language: an ISO 639-1 code, or "" if the file does not say.
        topic: a label from the file, or "".
        modified: an ISO 8601 date from the file, or "".
        key: tells several documents in one file apart (a JSONL id), else "".
        left_out: the text that is in the file and not in `blocks`, with the reason.
    """

    blocks: tuple[Block, ...]
    title: str = ""
    language: str = ""
    topic: str = ""
    modified: str = ""
    key: str = ""
    left_out: tuple[LeftOut, ...] = field(default=())

    @property
    def text(self) -> str:
        """The document's text: its blocks, joined by blank lines."""
        return join(self.blocks)[0]
