"""Recognises a refusal in the text that a model wrote."""

from collections.abc import Iterable

from ragtune.answer.citations import without_citations
from ragtune.answer.language_packs import ENGLISH, LanguagePack
from ragtune.text.sentences import split_sentences


def is_refusal(text: str, packs: Iterable[LanguagePack] = (ENGLISH,)) -> bool:
    """Return whether the answer is a refusal in the language of one of the packs.

    It has the sentence that the model is trained on, or its first sentence says that there is no answer.
    """
    first_sentence = next(iter(split_sentences(without_citations(text))), "")
    return any(pack.is_refusal(text, first_sentence) for pack in packs)
