"""Judges whether a piece of text can stand as an answer without the text around it."""

import re
import unicodedata

from ragtune.text.sentences import Span, brackets_closed, sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

_NOISE = re.compile(
    r"https?://|\]\(|</?\w+|::|:\w+:`|```|\*\*|__\w+__:|\\|\$|^\||~~|#{2,}|…|\.\.\.$|\{\{|\{ ?\x22|@param|_\(|\)_|\(#\d"
    r"|[\U0001F000-\U0001FAFF\u2600-\u27BF]|TODO|FIXME|XXX"
)
_REFERENCE = re.compile(
    r"\b(?:see (?:below|above|also|the (?:docs?|documentation|original|following)|:|[`A-Z])|as (?:above|below|follows)"
    r"|(?:described|shown|listed|mentioned|defined|discussed|explained|given) (?:above|below|here|later|in the)"
    r"|the following|following (?:example|code)|refer to|for (?:more )?(?:details|information)|this example"
    r"|above\b|below\b)",
    re.IGNORECASE,
)
_SIGNS_OF_PROSE = frozenset("‘’‚“”„«»‹›–—‐‑·°×±€£¥§")
_DEICTIC = re.compile(
    r"^(?:this|that|these|those|it|its|they|he|she|we|note|also|however|therefore|thus|hence|then|otherwise|instead"
    r"|similarly|additionally|furthermore|moreover|but|and|or|so|here|there|such|same|same as|ditto|alias|see|e\.g"
    r"|for example|in this case|in that case|by doing so|as a result|default)\b",
    re.IGNORECASE,
)
_DANGLING = re.compile(
    r"\b(?:these|this|call|by|with|to|the|a|an|as|are|is|and|or|like|use|run|do|of|for|from|in|e\.g)[.:]?$",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\): |^\w+ \(`|(?:^|\s)\[\w+\]|(?<![\w*`'\"(])([*_])(?=[^\W_])[^*_`]*\1(?![\w*])")
_TYPE_LABEL = re.compile(
    r"`?(?!(?:Note|Warning|Example|Tip|Important|Deprecated|Status)\b)"
    r"[\w.]*(?:\[(?:[^\[\]\n]|\[(?:[^\[\]\n]|\[[^\[\]\n]*\])*\])*\])?`?:\s+(?=[A-Z`])"
)


def first_sentence(text: str, start: int, end: int) -> Span | None:
    """Return the span of the first sentence without a leading `type:` label, or None if there is no sentence."""
    span = next(sentence_spans(text, start, end), None)
    if span is None:
        return None
    label = _TYPE_LABEL.match(text[span[0] : span[1]])
    return (span[0] + label.end(), span[1]) if label else span


def stands_alone(answer: str, fewest: int = 3, most: int = 34) -> bool:
    """Return whether a sentence can be an answer: whole, short, clean, and pointing at nothing outside itself."""
    answer = collapse_whitespace(answer)
    words = answer.split()
    if not fewest <= len(words) <= most or len(answer) > 260:
        return False
    if _NOISE.search(answer) or _REFERENCE.search(answer) or _DEICTIC.match(answer):
        return False
    if answer[-1] in ":,;(-" or not brackets_closed(answer) or answer.count('"') % 2:
        return False
    if _DANGLING.search(answer) or _BRACKETED.search(answer):
        return False
    return clean(answer) and answer[0] not in "-*|>#=()]},.;:" and bool(re.search(r"[^\W\d_]{3}", answer))


def is_running_text(text: str) -> bool:
    """Return whether the text has only letters of any script, digits and the signs of prose: no arrows, no pictures."""
    return text.isascii() or all(
        character.isascii() or character in _SIGNS_OF_PROSE or unicodedata.category(character)[0] in "LMN"
        for character in text
    )


def clean(text: str) -> bool:
    """Return whether brackets and backticks balance and no markup is left."""
    balanced = (
        all(text.count(pair[0]) == text.count(pair[1]) for pair in ("()", "[]", "{}")) and text.count("`") % 2 == 0
    )
    return balanced and not _NOISE.search(text)


def says_something_new(answer: str, question: str, fewest: int = 2) -> bool:
    """Return whether the answer carries at least `fewest` meaningful words that the question does not."""
    return len(content_words(answer) - content_words(question)) >= fewest
