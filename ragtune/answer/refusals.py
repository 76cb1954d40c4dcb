"""Recognises a refusal in the text that a model wrote."""

import re

from ragtune.answer.citations import without_citations
from ragtune.answer.prompt import REFUSAL
from ragtune.text.sentences import split_sentences

_REFUSALS = re.compile(
    r"\b(i|we) (could not|couldn't|cannot|can't|can not|am unable to|are unable to|did not|didn't) (find|answer)\b"
    r"|^(sorry|unable to (find|answer)|(the|an|no) (answer|information)( to this)? (could not|cannot|can't) be found)\b"
    r"|not (mentioned|found|stated|given|provided) in the (documents|passages|document)"
    r"|(do not|does not|don't|doesn't) (hold|contain|have|provide) the answer",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return whether the answer is the trained refusal, or its first sentence says that there is no answer."""
    first_sentence = next(iter(split_sentences(without_citations(text))), "")
    return REFUSAL.rstrip(".").lower() in text.lower() or bool(_REFUSALS.search(first_sentence))
