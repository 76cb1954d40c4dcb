"""Tells which noun phrases a question can be about, and how they stand inside it."""

import re
from itertools import pairwise

from ragtune.dataset.extractive.verbs import VERBS
from ragtune.text.words import STOP_WORDS, content_words

# Words that name nothing by themselves: as a subject they point elsewhere, or mean anything.
_VAGUE_TEXT = """
this that these those it they there he she we you even though what which who here if when in on for by at to each
every some all most many once other another one first second third next note example examples following result reason
problem difference goal purpose main same such both either neither however also then thus since because while although
with without as from after before during under where whether how why any no not only currently default
list value values name parameter parameters argument option options method function class object step steps
constructor section chapter page document table figure file code output input output thing things idea point way rest
right just latest newest unlike like given whenever sometimes certain new different assuming several
now former latter above below user users people their its our your my his her therefore otherwise instead
"""
_VAGUE = frozenset(_VAGUE_TEXT.split())
_MORE_BEGINNINGS_TEXT = """
all been being but could did each every had many may me might most must my no often or several should so some sometimes
such then they while
"""
_SENTENCE_BEGINNINGS = STOP_WORDS["en"] | frozenset(_MORE_BEGINNINGS_TEXT.split())


def is_order(phrase: str) -> bool:
    """Return whether a phrase is an order, `Keep the defaults`, and no subject."""
    return phrase.split()[0].lower() in VERBS


def is_askable(phrase: str) -> bool:
    """Return whether a noun phrase can be asked about: no pronoun, not a generic word alone."""
    words = [word.strip("`.,").lower() for word in phrase.split()]
    if words[0] in ("the", "a", "an"):
        words = words[1:]
    if not words or _runs_on(phrase) or re.fullmatch(r"[a-z]+ly", " ".join(words)):
        return False
    is_code = phrase.removeprefix("The ").startswith("`")
    if (words[0] in _VAGUE and not is_code) or words[-1] in _VAGUE:
        return False
    if any(word in ("that", "which", "and", "or", "is", "of") for word in words):
        return False
    return bool(re.search(r"[^\W\d_]{3}", phrase)) and phrase.count("`") % 2 == 0


def _runs_on(phrase: str) -> bool:
    """Return whether a heading runs into its text, as in a PDF: `Pallets Pallets`, `loading goods Sometimes goods`."""
    words = phrase.split()
    repeats = any(word.lower() == following.lower() for word, following in pairwise(words))
    return repeats or any(word[0].isupper() and word.lower() in _SENTENCE_BEGINNINGS for word in words[1:])


def in_question(phrase: str, text: str, title: str) -> str:
    """Return a subject as it stands inside a question, or "" if it cannot be asked about.

    `Mode` becomes `mode`, unless it is a name: it is no plain word, stands in the title, or has its capital
    inside another sentence too.
    """
    noun_phrase = re.sub(r"^(?:All|Each|Every|Most|Some|Both) | (?:of|for|in|from)(?= )", "", phrase)
    if not is_askable(noun_phrase) or " to " in phrase or is_order(phrase):
        return ""
    first, _, rest = phrase.partition(" ")
    is_plain_word = re.fullmatch(r"[A-Z][a-z]+", first)
    if not is_plain_word or first in title.split() or re.search(rf"[a-z,`)] {first}\b", text):
        return with_small_article(phrase)
    return f"{first.lower()} {rest}".strip()


def with_small_article(phrase: str) -> str:
    """Return a noun phrase with its article or plain first word in lower case, as inside a question."""
    first, _, rest = phrase.partition(" ")
    if first in ("The", "A", "An"):
        return f"{first.lower()} {rest}"
    is_plain = first[1:].islower() and first.isalpha() and bool(rest) and rest.split()[0].islower()
    return f"{first.lower()} {rest}" if is_plain else phrase


def needed_place(place: str, term: str) -> str:
    """Return the place, or "" if the term already names it, or is a name that shares a word with it."""
    place_words, term_words = content_words(place), content_words(term)
    is_name = re.search(r"(?<=.)[A-Z]|[._]", term) is not None
    return "" if place_words <= term_words or (is_name and place_words & term_words) else place
