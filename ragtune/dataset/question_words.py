"""Separates the words that say what a question is about from those that only ask.

The words that only ask are a fixed list, `question_words.yaml`. They do not follow the question templates: otherwise a
new template would change which questions count as the same, and with it the splits.
"""

import re
from functools import cache
from pathlib import Path

from ragtune.text.words import STOP_WORDS

_FILE = Path(__file__).with_suffix(".yaml")
_TOKEN = re.compile(r"[\w.]*\w")


@cache
def ignored_words() -> frozenset[str]:
    """Return the words that say nothing about what a question asks, such as `explain` and `default`."""
    return _word_list("ignored")


@cache
def first_question_words() -> frozenset[str]:
    """Return the words that begin a question or an order to answer, such as `why` and `describe`."""
    return _word_list("first")


def question_words(question: str) -> frozenset[str]:
    """Return the words that say what a question is about, in lower case; an identifier is one word."""
    words = {word.lower() for word in _TOKEN.findall(question)}
    return frozenset(words - STOP_WORDS["en"] - ignored_words())


def _word_list(name: str) -> frozenset[str]:
    import yaml

    return frozenset(yaml.safe_load(_FILE.read_text(encoding="utf-8"))[name].split())
