"""Rules across settings: which values do not fit each other, and what to do about it."""

from typing import Any

MINILM_TOKENS = 256
"""Tokens that the packaged embedder reads of a text: `max_seq_length` of all-MiniLM-L6-v2."""


def inconsistency(settings: Any) -> str:
    """Return which values of a `Settings` do not fit each other and how to fix it, or "" if all do."""
    return _chunking(settings) or _dataset(settings) or _training(settings) or _answers(settings)


def too_long_for(chunk: int, limit: int, embedder: str) -> str:
    """Return what is wrong with passages that are longer than what an embedder reads, and how to fix it."""
    return (
        f"chunking.max_tokens is {chunk}, but {embedder} reads only the first {limit} tokens of a passage, so the rest "
        f"would not be found: set chunking.max_tokens to at most {limit}, or choose an embedder that reads more"
    )


def _chunking(settings: Any) -> str:
    longest, overlap = settings.chunking.max_tokens, settings.chunking.overlap_tokens
    if overlap >= longest:
        return (
            f"chunking.overlap_tokens is {overlap} and chunking.max_tokens {longest}, but a passage must be longer "
            "than what it repeats of the one before: lower chunking.overlap_tokens (32 is the default) or raise "
            "chunking.max_tokens"
        )
    if settings.embedder.backend == "minilm" and longest > MINILM_TOKENS:
        return too_long_for(longest, MINILM_TOKENS, "the packaged embedder")
    return ""


def _dataset(settings: Any) -> str:
    dataset, batch = settings.dataset, settings.training.batch_size
    held_out = dataset.test_share + dataset.gate_share + dataset.validation_share
    if held_out >= 1:
        return (
            f"dataset.test_share {dataset.test_share:g}, dataset.gate_share {dataset.gate_share:g} and "
            f"dataset.validation_share {dataset.validation_share:g} add up to {held_out:g}, which leaves nothing to "
            "train on: lower them until they add up to less than 1 (0.29 is the default)"
        )
    if dataset.min_pairs > dataset.max_pairs:
        return (
            f"dataset.min_pairs is {dataset.min_pairs} and dataset.max_pairs {dataset.max_pairs}, so no dataset would "
            "be accepted: lower dataset.min_pairs or raise dataset.max_pairs"
        )
    if batch > dataset.max_pairs:
        return (
            f"training.batch_size is {batch} and dataset.max_pairs {dataset.max_pairs}, so no step could be filled: "
            "lower training.batch_size (4 is the default) or raise dataset.max_pairs"
        )
    return ""


def _training(settings: Any) -> str:
    if settings.training.qat and settings.preference.enabled:
        return (
            "training.qat and preference.enabled are both true, but preference training moves the adapter without "
            "rounding, so that what training.qat learnt would be lost: set one of them to false"
        )
    return ""


def _answers(settings: Any) -> str:
    longest, window = settings.answer.max_tokens, settings.engine.max_model_len
    if settings.engine.backend == "vllm" and longest >= window:
        return (
            f"answer.max_tokens is {longest} and engine.max_model_len {window}, which leaves no room for a question: "
            "lower answer.max_tokens or raise engine.max_model_len"
        )
    return ""
