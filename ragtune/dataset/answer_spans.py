"""Finds where an answer that people wrote stands in a passage."""

import re
from collections.abc import Set

from ragtune.text.sentences import Span, line_sentence_spans
from ragtune.text.words import content_words


def literal_span(answer: str, text: str) -> Span | None:
    """Return the span of the answer in the text, or None.

    White space, case and the last full stop may differ. The answer begins and ends with whole words.
    """
    words = [re.escape(word) for word in answer.rstrip(".").split()]
    if not words:
        return None
    phrase = r"\s+".join(words)
    match = re.search(rf"(?<!\w){phrase}(?!\w)", text, re.IGNORECASE)
    return match.span() if match else None


def closest_sentence(words: Set[str], text: str) -> Span:
    """Return the span of the sentence that shares the most content words, or (0, 0) for an empty text."""
    spans = line_sentence_spans(text)
    return max(spans, key=lambda span: len(words & content_words(text[slice(*span)])), default=(0, 0))
