"""Conversations as token ids, with labels for the part that is learned; some rows hold several conversations.

Conversations share a row in two ways. Siblings have the same prompt, which is written once. With packing, rows that
have nothing to do with each other are put behind each other, so that a GPU computes few padding tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ragtune.errors import DatasetError
from ragtune.model.base.conversations import Example, render_chat
from ragtune.records import Message

_IGNORED = -100
"""The label of tokens that are read but not learned, as PyTorch's cross entropy defines it."""
STRETCH = 8
"""Batches that are shuffled together. After each stretch of this many steps, all its examples have been seen.

Larger stretches group lengths better, smaller ones keep the mix of kinds. Chosen by hand, not measured.
"""


_WINDOW = 64
"""Rows that are packed together. Larger windows leave less padding, smaller ones keep the order. Chosen by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """One row of token ids: a conversation, several that share a beginning, or several of these packed.

    The lists have one entry per token. `labels` are -100 for tokens that are not learned. `branches` are 0 for the
    shared beginning and n for the tokens of conversation n; they are all 0 for a single conversation. `segments` count
    packed parts from 0: tokens of different segments do not see each other. `examples` are the positions of the row's
    examples in the list that was tokenised, and `conversations` is their number with siblings.
    """

    input_ids: list[int]
    labels: list[int]
    branches: list[int]
    segments: list[int]
    examples: tuple[int, ...]
    conversations: int


def tokenize(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> tuple[list[Tokenized], int]:
    """Return one row per example, and the number of conversations dropped because they were too long.

    The prompt is rendered and tokenised by itself, exactly as in serving. Only the last message is learned, up to and
    including the end token. Nothing is cut: siblings go into the same row while it has room for them.
    """
    rows: list[Tokenized] = []
    dropped = 0
    for place, example in enumerate(examples):
        first, *siblings = (
            split_reply(tokenizer, conversation.messages) for conversation in (example, *example.siblings)
        )
        prompt, reply = first
        if len(prompt) + len(reply) > max_tokens:
            dropped += 1 + len(siblings)
            continue
        row, dropped_siblings = _join([first, *siblings], max_tokens, place)
        rows.append(row)
        dropped += dropped_siblings
    return rows, dropped


def split_reply(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation's prompt, and those of its reply with the end token.

    Raises DatasetError if the last message is not the assistant's.
    """
    prompt_text = render_chat(tokenizer, messages[:-1], open_reply=True)
    text = render_chat(tokenizer, messages)
    if messages[-1].role != "assistant" or not text.startswith(prompt_text):
        raise DatasetError(
            f"The conversation cannot be split before its last message: {text[:120]!r}",
            expected="a conversation that ends with an assistant's message",
        )
    prompt = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    reply = tokenizer(text[len(prompt_text) :], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    # Some chat templates write a line break after the end token; others write no end token.
    return prompt, [*reply[: reply.index(end)], end] if end in reply else [*reply, end]


def pack(rows: Sequence[Tokenized], max_tokens: int) -> list[Tokenized]:
    """Return rows of up to `max_tokens` tokens that together hold the given ones, in nearly the same order.

    Rows are packed within windows of 64, the longest first, each into the fullest row that has room for it.
    """
    packed: list[Tokenized] = []
    for start in range(0, len(rows), _WINDOW):
        bins: list[list[Tokenized]] = []
        for row in sorted(rows[start : start + _WINDOW], key=lambda row: -len(row.input_ids)):
            room = [parts for parts in bins if _length(parts) + len(row.input_ids) <= max_tokens]
            if room:
                max(room, key=_length).append(row)
            else:
                bins.append([row])
        packed += sorted((_packed(parts) for parts in bins), key=lambda row: min(row.examples))
    return packed


def _length(rows: Sequence[Tokenized]) -> int:
    return sum(len(row.input_ids) for row in rows)


def _packed(rows: Sequence[Tokenized]) -> Tokenized:
    """Return one row in which each of the given ones is a segment."""
    return Tokenized(
        input_ids=[token for row in rows for token in row.input_ids],
        labels=[label for row in rows for label in row.labels],
        branches=[branch for row in rows for branch in row.branches],
        segments=[segment for segment, row in enumerate(rows) for _ in row.input_ids],
        examples=tuple(sorted(place for row in rows for place in row.examples)),
        conversations=sum(row.conversations for row in rows),
    )


def _join(conversations: Sequence[tuple[list[int], list[int]]], max_tokens: int, place: int) -> tuple[Tokenized, int]:
    """Return one row with the beginning that the conversations share written once, and how many did not fit."""
    shared = _shared_tokens([prompt for prompt, _ in conversations])
    ids, labels, branches = conversations[0][0][:shared], [_IGNORED] * shared, [0] * shared
    dropped = 0
    for prompt, reply in conversations:
        tokens = [*prompt[shared:], *reply]
        if len(ids) + len(tokens) > max_tokens:
            dropped += 1
            continue
        branch = branches[-1] + 1 if shared else 0
        ids += tokens
        labels += [_IGNORED] * (len(prompt) - shared) + reply
        branches += [branch] * len(tokens)
    row = Tokenized(
        input_ids=ids,
        labels=labels,
        branches=branches,
        segments=[0] * len(ids),
        examples=(place,),
        conversations=max(1, branches[-1]),
    )
    return row, dropped


def _shared_tokens(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all prompts begin with; 0 for a single prompt.

    The last token that could be shared stays with each conversation: a branch needs a token to predict from.
    """
    if len(prompts) < 2:
        return 0
    are_equal = [len(set(tokens)) == 1 for tokens in zip(*prompts, strict=False)]
    return [*are_equal[:-1], False].index(False)


def batch_order(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[int]:
    """Return the row indices of `steps` batches in order, `batch_size` each.

    Rows of one batch have similar lengths, so that little is padding. Each stretch of eight batches holds the same
    rows as in the given order, so that the mix of kinds is right wherever training stops.
    """
    generator, order = random.Random(seed), list(range(len(lengths)))
    stretch = batch_size * STRETCH
    batches: list[list[int]] = []
    while len(batches) < steps:
        for start in range(0, len(order), stretch):
            rows = sorted(order[start : start + stretch], key=lambda i: (lengths[i], i))
            stretch_batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
            generator.shuffle(stretch_batches)
            batches += [batch for batch in stretch_batches if len(batch) == batch_size or len(order) < batch_size]
        generator.shuffle(order)
    return [index for batch in batches[:steps] for index in batch]
