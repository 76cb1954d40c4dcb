"""The conversations that training and calibration read, and their text in the model's chat format."""

from collections.abc import Sequence
from typing import Any, Protocol

from ragtune.records import Message
from ragtune.text.control_tokens import break_control_tokens


class Conversation(Protocol):
    """Anything with messages; the last one is what the model should say."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation, ending with the assistant's turn."""


class Example(Conversation, Protocol):
    """A conversation to learn from, with others that share its prompt and are learnt in the same pass."""

    @property
    def siblings(self) -> Sequence[Conversation]:
        """Conversations that share this one's prompt; empty if there are none."""


def render_chat(tokenizer: Any, messages: Sequence[Message], open_reply: bool = False) -> str:
    """Return the conversation as the text that the model reads; `open_reply` appends the start of the assistant's turn.

    Example: `<|im_start|>user` and a newline, then the question and `<|im_end|>`, in SmolLM2's template.
    """
    turns = [{"role": message.role, "content": break_control_tokens(message.content)} for message in messages]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_reply)
    return text
