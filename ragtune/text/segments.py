"""Finds the words of a text, also in scripts that write no spaces between them.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are segmented by ICU, the dictionary of the Unicode project.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

UNSPACED = (
    "\u0e00-\u0eff"  # Thai and Lao
    "\u1000-\u109f\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3031-\u3035\u303b\u3041-\u30ff\u31f0-\u31ff"  # kana and marks of repetition
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese characters
)
"""Characters of the scripts that write no spaces between words, as the inside of a regular expression's class."""

_UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")
_UNSPACED_AT_END = re.compile(f"[{UNSPACED}、。，．！？：；」』）】》〉]\\Z")
_UNSPACED_AT_START = re.compile(f"[{UNSPACED}、。，．！？：；「『（【《〈]")
_ASCII_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Return the words of a text in order, without punctuation; underscores and combining marks are part of a word."""
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return [part for word in word_pattern().findall(text) for part in segment(word)]


def word_count(text: str) -> int:
    """Return how many words a text has: the pieces between spaces, or more in a script without spaces."""
    return sum(1 if piece.isascii() else sum(1 for _ in segment(piece)) for piece in text.split())


def is_unspaced(character: str) -> bool:
    """Return whether the character belongs to a script that writes no spaces between words."""
    return _UNSPACED_RUN.match(character) is not None


def segment(word: str) -> Iterator[str]:
    """Yield the words in a run of letters and digits: itself, or several in a script without spaces."""
    if word.isascii():
        yield word
        return
    start = 0
    for run in _UNSPACED_RUN.finditer(word):
        if run.start() > start:
            yield word[start : run.start()]
        yield from _segment_unspaced(run[0])
        start = run.end()
    if start < len(word):
        yield word[start:]


def joint(before: str, after: str) -> str:
    """Return what stands between two sentences that are put together: a space, or nothing in scripts without spaces."""
    return "" if _UNSPACED_AT_END.search(before) and _UNSPACED_AT_START.match(after) else " "


# Words come again and again; one entry takes some 200 bytes.
@lru_cache(maxsize=1 << 14)
def _segment_unspaced(run: str) -> tuple[str, ...]:
    from icu4py.breakers import WordBreaker

    # ICU chooses its dictionary by script, so that one locale serves all languages.
    return tuple(run[start:end] for start, end in WordBreaker(run, "en").segments())


@cache
def word_pattern() -> re.Pattern[str]:
    """Return the pattern of a word: letters, digits and underscores as Python's pattern has it, and combining marks."""
    return re.compile(f"[\\w{combining_marks()}]+")


@cache
def combining_marks() -> str:
    """Return the combining marks of all living scripts, as the inside of a regular expression's class."""
    codes = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
