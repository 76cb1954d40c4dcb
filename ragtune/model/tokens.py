"""Conversations as token ids: what is learnt of each, and which share a prompt."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ragtune.errors import DatasetError
from ragtune.model.base.conversations import Conversation, Example, render_chat

_IGNORED = -100
STRETCH = 8
"""Batches that are drawn together: after each such number of steps, that many examples in their order were learnt."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A conversation as token ids, with others that share its beginning; labels are -100 where nothing is learnt.

    `branches` is 0 for the tokens that all share and n for those of conversation n; 0 everywhere for a
    conversation alone.
    """

    input_ids: list[int]
    labels: list[int]
    branches: list[int]

    @property
    def conversations(self) -> int:
        """How many there are."""
        return max(1, self.branches[-1])


def tokenize(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> tuple[list[Tokenized], int]:
    """Return the examples as tokens and how many conversations were too long; nothing is cut.

    The prompt is read as it will be when the model is asked: rendered and tokenised by itself. What
    is learnt is the last message up to and including the end token. Siblings follow in the same row
    as long as it has room for them.
    """
    kept, dropped = [], 0
    for example in examples:
        first, *others = (_split(tokenizer, each) for each in (example, *example.siblings))
        if len(first[0]) + len(first[1]) > max_tokens:
            dropped += 1 + len(others)
            continue
        row, left = _together([first, *others], max_tokens)
        kept.append(row)
        dropped += left
    return kept, dropped


def _split(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt and those of the reply with its end."""
    prompt = render_chat(tokenizer, conversation.messages[:-1], open_reply=True)
    whole = render_chat(tokenizer, conversation.messages)
    if conversation.messages[-1].role != "assistant" or not whole.startswith(prompt):
        raise DatasetError(
            f"The conversation cannot be split before its last message: {whole[:120]!r}",
            expected="a conversation that ends with an assistant's message",
        )
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reply = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return start, [*reply[: reply.index(end)], end] if end in reply else [*reply, end]


def _together(parts: Sequence[tuple[list[int], list[int]]], max_tokens: int) -> tuple[Tokenized, int]:
    """Return one row for conversations that begin alike, and how many found no room in it."""
    prompts = [prompt for prompt, _ in parts]
    alike = [len(set(tokens)) == 1 for tokens in zip(*prompts, strict=False)]
    shared = [*alike[:-1], False].index(False) if len(parts) > 1 else 0
    ids, labels, branches = list(prompts[0][:shared]), [_IGNORED] * shared, [0] * shared
    left = 0
    for prompt, reply in parts:
        own = [*prompt[shared:], *reply]
        if len(ids) + len(own) > max_tokens:
            left += 1
            continue
        ids += own
        labels += [_IGNORED] * (len(prompt) - shared) + reply
        branches += [branches[-1] + 1 if shared else 0] * len(own)
    return Tokenized(ids, labels, branches), left


def batch_order(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[int]:
    """Return the indices of `steps` batches, rows of one batch alike in length so that little is padding.

    Stretches of eight batches keep the given order, so that the mix of kinds holds at any stopping point.
    """
    draw, order = random.Random(seed), list(range(len(lengths)))
    stretch = batch_size * STRETCH
    batches: list[list[int]] = []
    while len(batches) < steps:
        for start in range(0, len(order), stretch):
            part = sorted(order[start : start + stretch], key=lambda i: (lengths[i], i))
            pieces = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
            draw.shuffle(pieces)
            batches += [piece for piece in pieces if len(piece) == batch_size or len(order) < batch_size]
        draw.shuffle(order)
    return [index for batch in batches[:steps] for index in batch]
