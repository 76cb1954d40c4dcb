"""Content words: the words that carry meaning, found with a stop list and a light stemmer.

Search, excerpts, checks of answers and checks of training data all use these, so that training data
is judged by the same words as answers in serving.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache

from ragtune.text.language import COMMON_WORDS
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.segments import combining_marks, segment

# `s` and `t` are what "it's" and "don't" leave. `no` and `not` are missing because they change what is said.
_ENGLISH = """
a an and are as at be but by can did do does for from had has have how i if in into is it its of on or s such t that
the their them then there these they this to used use using was we what when where which who whose why will with would
you your
"""
_OTHER_SCRIPTS = {
    "ru": "и в во не что он на я с со как а то все она так его но да ты к у же вы за бы по ее мне было вот от меня еще "
    "о из ему ли если или ни быть был до нас для мы их это этот эта чем при какой какая какие где когда почему кто",
    "ar": "في من على إلى عن مع هذا هذه ذلك التي الذي هو هي ما ماذا متى أين كيف لماذا هل أن إن كان كانت أو و ثم كل قد",
    "el": "ο η το οι τα του της των τον την στο στη στην στον και να με σε για από που ότι είναι δεν θα τι πώς πότε "
    "πού ένα μια ένας ή αν",
}
STOP_WORDS: Mapping[str, frozenset[str]] = {
    **{language: frozenset(words.split()) for language, words in COMMON_WORDS.items()},
    **{language: frozenset(words.split()) for language, words in _OTHER_SCRIPTS.items()},
    "en": frozenset(_ENGLISH.split()),
}
"""Words that carry no meaning of their own, by ISO 639-1 code.

The English list was chosen by hand for questions about documentation. Excerpts in prompts, the search by words and
the checks of training data all depend on it, so a change is measured on all of them. Languages in Latin script take
the common words by which their texts are recognised, the others a list chosen by hand.
"""

_TOKEN = re.compile(r"[^\W_]+(?:_[^\W_]+)*")
_CAMEL_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_ENDINGS = ("ing", "ed", "es", "s")
# Chosen by hand: a shorter rest no longer tells words apart (`uses` would become `us`).
_SHORTEST_STEM = 4


def content_words(text: str, language: str = "en") -> frozenset[str]:
    """Return the lower-case stems of the words that carry meaning.

    An identifier counts whole and by its parts: `LoraConfig` gives `loraconfig`, `lora` and `config`. Only
    English words are stemmed; a language without a stop list keeps all its words. Text in a script without spaces
    is cut into its words.
    """
    text = normalize_for_search(text)
    if text.isascii():
        tokens = _TOKEN.findall(text)
    else:
        tokens = [part for token in _token_pattern().findall(text) for part in segment(token)]
    return frozenset[str]().union(*(_token_stems(token, language) for token in tokens))


def wording_key(question: str) -> tuple[str, ...]:
    """Return a key that is equal for questions that differ only in small words, case, endings or order.

    A question that may train must not share it with one of a held-out split. Of a question of nothing but small words,
    such as "Who is it?", it is the question itself.
    """
    words = content_words(question)
    return tuple(sorted(words)) or (" ".join(_TOKEN.findall(normalize_for_search(question).casefold())),)


def stem(word: str) -> str:
    """Return a lower-case English word without its plural, -ed or -ing ending and without a final e."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


@cache
def _token_pattern() -> re.Pattern[str]:
    letter = f"[^\\W_][{combining_marks()}]*"
    return re.compile(f"(?:{letter})+(?:_+(?:{letter})+)*")


# The vocabulary of a large collection fits; one entry takes some 300 bytes.
@lru_cache(maxsize=1 << 16)
def _token_stems(token: str, language: str) -> frozenset[str]:
    words = [token, *token.split("_")]
    # Words with other letters, such as "Größe", are no CamelCase identifiers.
    if token.isascii():
        words += _CAMEL_PART.findall(token)
    lowered = (word.lower() for word in words)
    stems = map(stem, lowered) if language == "en" else lowered
    return frozenset(stems) - STOP_WORDS.get(language, frozenset())
