"""Turns text into the terms of word search.

The core does the whole analysis (normal form, words, stop words, stems), so every index stores the same terms and
only has to cut them at spaces. A document is stemmed in its own language. A question is stemmed in all of them,
because it is too short to tell its language. The stems of languages other than English carry a mark, `de|haus`, so
that a German stem never meets an English one.
"""

import hashlib
import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from ragtune.text.normal_form import normalize_for_search
from ragtune.text.segments import combining_marks, segment
from ragtune.text.words import STOP_WORDS

if TYPE_CHECKING:
    from snowballstemmer.basestemmer import BaseStemmer

_LATIN_STEMMERS = {
    "de": "german",
    "fr": "french",
    "es": "spanish",
    "it": "italian",
    "pt": "portuguese",
    "nl": "dutch",
    "sv": "swedish",
    "pl": "polish",
    "cs": "czech",
    "tr": "turkish",
}
"""Snowball's stemmers of languages in Latin script, by ISO 639-1 code; English is the default."""
_SCRIPT_STEMMERS = (
    ("russian", "ru", re.compile("[\u0400-\u04ff]")),
    ("arabic", "ar", re.compile("[\u0600-\u06ff]")),
    ("greek", "el", re.compile("[\u0370-\u03ff]")),
    ("hindi", "hi", re.compile("[\u0900-\u097f]")),
)
"""Stemmers of words in other scripts, with the language of their stop words."""

_ONE_AT_A_TIME = threading.Lock()

_LONGEST_TERM = 64
"""Characters of the longest term that an index stores as it is; a longer one is stored as its beginning and a hash.

Chosen by hand: indexes refuse or cut long terms, and a SHA-512 has 128 characters.
"""
_MOST_FOREIGN_WORDS = 64
"""Words of a question that are stemmed in languages other than English. Chosen by hand; a question is shorter."""

_JOINTS = r"[-._/@:+=~^\\]{1,3}"
_COMPOUND = re.compile(rf"(?<![^\W_])[^\W_]++(?:(?:{_JOINTS}[^\W_]++)+|(?:\+\+|\#)(?!\w))")
"""Matches words that punctuation joins, such as `cve-2023-1`, `a.b_c`, `ops@example.org` and `c++`.

It begins at the beginning of a word and takes words whole: to try every part of a word takes the square of its length,
which is minutes for the 80,000 letters of a picture in base64.
"""
_ASCII_WORD = re.compile("[a-z0-9]+")
_COMPOUNDING = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]{3,}")
_LATIN_OR_GREEK = re.compile("[A-Za-z\u0370-\u03ff]")
_OTHER_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "ı": "i", "þ": "th", "ё": "е"}
)


def index_terms(text: str, language: str = "en") -> list[str]:
    """Return the terms of a passage in order; `language` is the ISO 639-1 code of its document."""
    text = normalize_for_search(text).lower()
    terms = [term for word in _words(text) for term in _word_terms(word, language)]
    return terms + [_short(compound) for compound in _compounds(text)]


def query_terms(text: str) -> list[str]:
    """Return the terms of a question: those that a passage in any language would have for it."""
    terms = index_terms(text)
    words = list(dict.fromkeys(_words(normalize_for_search(text).lower())))[:_MOST_FOREIGN_WORDS]
    foreign = (term for word in words for language in _LATIN_STEMMERS for term in _word_terms(word, language))
    return terms + list(dict.fromkeys(term for term in foreign if "|" in term))


def identifiers(text: str) -> list[str]:
    """Return the parts of a question that name one exact thing, in lower case and without repeats.

    These are words with punctuation inside (`a.b_c`), words with a digit, and words that are not in Latin script. A
    script without spaces also gives the whole run of characters.
    """
    text = normalize_for_search(text).lower()
    compounds = list(_compounds(text))
    rest = _COMPOUND.sub(" ", text)
    words = [word for run in _word_pattern().findall(rest) for word in (run, *segment(run)) if _is_identifier(word)]
    return list(dict.fromkeys([*compounds, *words]))


def contains_identifier(normal_text: str, identifier: str) -> bool:
    """Return whether an identifier occurs in a lower-case text in search form, not as a part of a longer word."""
    start = normal_text.find(identifier)
    while start >= 0:
        end = start + len(identifier)
        if _is_edge(normal_text, start - 1, identifier[0]) and _is_edge(normal_text, end, identifier[-1]):
            return True
        start = normal_text.find(identifier, start + 1)
    return False


def _is_edge(text: str, place: int, neighbour: str) -> bool:
    outside = not 0 <= place < len(text)
    return outside or not (text[place].isalnum() and text[place].isascii() and neighbour.isascii())


def _is_identifier(word: str) -> bool:
    if word.isascii():
        return any(character.isdigit() for character in word)
    first = unicodedata.name(word[0], "")
    return len(word) > 1 and not first.startswith("LATIN") and word not in _all_stop_words()


@cache
def _all_stop_words() -> frozenset[str]:
    return frozenset[str]().union(*STOP_WORDS.values())


def _compounds(text: str) -> Iterator[str]:
    return (match[0] for match in _COMPOUND.finditer(text))


def _words(text: str) -> Iterable[str]:
    """Return the words of a text in search form, split at every punctuation mark."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return [part for word in _word_pattern().findall(text) for part in segment(word)]


@cache
def _word_pattern() -> re.Pattern[str]:
    return re.compile(f"[^\\W_][^\\W_{combining_marks()}]*(?:[{combining_marks()}]+[^\\W_]*)*")


# The vocabulary of a large collection in several languages fits; one entry takes some 300 bytes.
@lru_cache(maxsize=1 << 18)
def _word_terms(word: str, language: str) -> tuple[str, ...]:
    """Return the terms of a lower-case word; none for a stop word.

    Chinese and Korean words also give their pairs of characters, because the dictionary cuts a compound in
    another way than a question does, and Korean writes particles onto the word.
    """
    if any(character.isdigit() for character in word):
        return (_short(_without_accents(word)),)
    for algorithm, code, script in _SCRIPT_STEMMERS:
        if script.match(word):
            return () if word in STOP_WORDS.get(code, ()) else (_short(_without_accents(_stem(word, algorithm))),)
    if not word.isascii() and not unicodedata.name(word[0], "").startswith("LATIN"):
        return (_short(word), *(a + b for a, b in pairwise(word) if _COMPOUNDING.fullmatch(word)))
    mark = f"{language}|" if language in _LATIN_STEMMERS else ""
    stop_words = STOP_WORDS[language if mark else "en"]
    term = _without_accents(_stem(word, _LATIN_STEMMERS.get(language, "english")))
    return () if word in stop_words or term in stop_words else (_short(mark + term),)


def _without_accents(word: str) -> str:
    """Return the word without accents on Latin and Greek letters and without the vowel signs of Arabic and Hebrew."""
    if word.isascii():
        return word
    folded, base = "", ""
    for character in unicodedata.normalize("NFD", word.translate(_OTHER_LETTERS)):
        if not unicodedata.combining(character):
            base = character
        elif _LATIN_OR_GREEK.match(base) or "\u0590" <= character <= "\u06ff":
            continue
        folded += character
    return unicodedata.normalize("NFC", folded)


def _short(term: str) -> str:
    if len(term) <= _LONGEST_TERM:
        return term
    return f"{term[: _LONGEST_TERM // 2]}{hashlib.sha256(term.encode()).hexdigest()[: _LONGEST_TERM // 2]}"


def _stem(word: str, algorithm: str) -> str:
    # A stemmer keeps its state in itself, and searches run in several threads.
    with _ONE_AT_A_TIME:
        return str(_stemmer(algorithm).stemWord(word))


@cache
def _stemmer(algorithm: str) -> "BaseStemmer":
    import snowballstemmer

    return snowballstemmer.stemmer(algorithm)
