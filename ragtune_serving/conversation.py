"""Reads a conversation: the question, the turns before it, the application's instructions; fits it into the context."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ragtune.answer.answering import Prepared
from ragtune.errors import SettingsError
from ragtune.records import Message
from ragtune_serving.schema import ChatMessage

CountTokens = Callable[[str], int]
_TURN_TOKENS = 8
"""Tokens that a chat template adds to a turn. ChatML adds 5: a begin, the role, a line end, an end, a line end."""
_EXACT_CHARACTERS = 50_000
"""Of a longer text only this much is counted, and the rest is estimated from it. Chosen by hand: 0.05 s."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The last question, the turns before it, oldest first, and the text of all system and developer messages."""

    question: str
    history: tuple[Message, ...]
    instructions: str


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prepared question whose prompt fits into the context.

    `left_out` is the number of old turns that were left out, `prompt_tokens` the length of what remains.
    """

    prepared: Prepared
    left_out: int
    prompt_tokens: int


def read_conversation(messages: Sequence[ChatMessage]) -> Conversation:
    """Return the parts of a conversation; raise SettingsError if it does not end with a question."""
    turns = [turn for turn in messages if turn.role not in ("system", "developer")]
    if not turns or turns[-1].role != "user":
        raise SettingsError("The last message is not from the user.", "a last message with the role user")
    if not turns[-1].text.strip():
        raise SettingsError("The question is empty.", "some text", "send a question as the last user message")
    history = tuple(
        Message("user" if turn.role == "user" else "assistant", turn.text) for turn in turns[:-1] if turn.text.strip()
    )
    instructions = "\n".join(turn.text.strip() for turn in messages if turn.role in ("system", "developer"))
    return Conversation(turns[-1].text, history, instructions.strip())


@lru_cache(maxsize=8)
def token_counter(folder: Path) -> CountTokens:
    """Return a function that counts tokens as the model in this folder does.

    Without a `tokenizer.json` there, it counts with OpenAI's cl100k_base, which LiteLLM brings: other tokenizers
    differ from it by some 20%.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))

        def count_exactly(text: str) -> int:
            return len(tokenizer.encode(text, add_special_tokens=False).ids)

        return lambda text: _scaled(text, count_exactly)

    from litellm import encoding

    return lambda text: _scaled(text, lambda part: len(encoding.encode(part, disallowed_special=())))


def check_question(question: str, instructions: str, max_tokens: int, context: int, count: CountTokens) -> None:
    """Raise SettingsError if a question cannot fit, before anything is searched for it.

    Args:
        question: the last user message.
        instructions: text of the system messages.
        max_tokens: the longest answer, in tokens.
        context: tokens that the model can read and write together.
        count: counts the tokens of a text.
    """
    if max_tokens >= context:
        raise SettingsError(
            f"max_tokens={max_tokens} leaves no room for the question: the model reads and writes at most "
            f"{context} tokens.",
            fix="lower max_tokens, or raise engine.max_model_len if the model reads more",
        )
    question_tokens = count(question)
    needed = question_tokens + count(instructions) + 2 * _TURN_TOKENS + max_tokens
    if needed > context:
        raise _too_long(question_tokens, needed - context, context)


def fit_history(prepared: Prepared, max_tokens: int, context: int, count: CountTokens) -> Fitted:
    """Return the prepared question without the oldest turns that do not fit.

    The system text, the passages and the question always stay.

    Raises:
        SettingsError: these alone are too long; the message says by how many tokens.
    """
    system, *history, user = prepared.messages
    used = sum(count(turn.content) + _TURN_TOKENS for turn in (system, user))
    room = context - max_tokens
    if used > room:
        raise _too_long(count(prepared.question), used - room, context)
    kept: list[Message] = []
    for turn in reversed(history):
        tokens = count(turn.content) + _TURN_TOKENS
        if used + tokens > room:
            break
        used += tokens
        kept.insert(0, turn)
    # A conversation begins with the user: chat templates of some models refuse any other.
    while kept and kept[0].role != "user" and len(kept) < len(history):
        used -= count(kept.pop(0).content) + _TURN_TOKENS
    left_out = len(history) - len(kept)
    return Fitted(replace(prepared, messages=(system, *kept, user)), left_out, used)


def _too_long(question_tokens: int, excess: int, context: int) -> SettingsError:
    return SettingsError(
        f"The question has about {question_tokens} tokens, {excess} too many: question, instructions, passages and "
        f"answer have {context} tokens together.",
        fix="shorten the question or lower max_tokens; engine.max_model_len sets how much the model reads",
    )


def _scaled(text: str, count: CountTokens) -> int:
    """Return the number of tokens of a text; of a long one only the beginning is counted and scaled up."""
    part = text[:_EXACT_CHARACTERS]
    return round(count(part) * len(text) / len(part)) if part else 0
