"""Finds sentences and judges whether a piece of text can stand as an answer of its own.

Works on offsets, so that every answer stays a span of its chunk.
"""

import re
from collections.abc import Iterator

Span = tuple[int, int]

_STOP_WORDS_TEXT = """
a an and are as at be been being but by can could did do does for from had has have how i if in into is it its
may me might must my of on or should so such that the their them then there these they this those to use used
using was we were what when where which while who whose why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|resp|Eq|Fig|Sec|No|Dr|Mr|St)\.|\b[A-Z]\.)$")
_JOINT = re.compile(r"\n\s*\n|\n\s*(?:[-*+]|\d+[.)]) ")
_END = re.compile(r"[.!?][\"'`)\]]*(?=\s|$)")
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
_BRACKETED = re.compile(r"\): |^\w+ \(`|(?:^|\s)\[\w+\]|(?<![\w*`'\"(])([*_])(?=[A-Za-z0-9])[^*_`]*\1(?![\w*])")
_TYPE_LABEL = re.compile(
    r"`?(?!(?:Note|Warning|Example|Tip|Important|Deprecated|Status)\b)"
    r"[\w.]*(?:\[(?:[^\[\]\n]|\[(?:[^\[\]\n]|\[[^\[\]\n]*\])*\])*\])?`?:\s+(?=[A-Z`])"
)
_WORD = re.compile(r"[A-Za-z0-9][\w'-]*")


def sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield the spans of the sentences between two offsets; blank lines end a sentence too."""
    position = start
    while position < end:
        while position < end and text[position].isspace():
            position += 1
        if position >= end:
            return
        stop = _sentence_end(text, position, end)
        last = stop
        while last > position and text[last - 1].isspace():
            last -= 1
        if last > position:
            yield position, last
        position = stop


def _sentence_end(text: str, start: int, end: int) -> int:
    joint = _JOINT.search(text, start, end)
    limit = joint.start() if joint else end
    for match in _END.finditer(text, start, limit):
        before = text[start : match.start() + 1]
        if _ABBREVIATION.search(before) or not _closed(text[start : match.end()]):
            continue
        after = text[match.end() : limit].lstrip()
        if after and after[0].islower():
            continue
        return match.end()
    return limit


def _closed(text: str) -> bool:
    return text.count("`") % 2 == 0 and text.count("(") <= text.count(")") and text.count("[") <= text.count("]")


def first_sentence(text: str, start: int, end: int) -> Span | None:
    """Return the span of the first sentence, without a leading `type:` label; None for none."""
    span = next(sentences(text, start, end), None)
    if span is None:
        return None
    label = _TYPE_LABEL.match(text[span[0] : span[1]])
    return (span[0] + label.end(), span[1]) if label else span


def collapse_whitespace(text: str) -> str:
    """Return the text with every run of white space as one space: what an answer looks like."""
    return " ".join(text.split())


def content_words(text: str) -> frozenset[str]:
    """Return the lower-case words that carry meaning, identifiers cut into parts, plural and -ing endings dropped."""
    found = set()
    for word in _WORD.findall(text):
        for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", word):
            lowered = part.lower()
            if lowered not in STOP_WORDS:
                found.add(_stem(lowered))
    return frozenset(found)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def stands_alone(answer: str, fewest: int = 3, most: int = 34) -> bool:
    """Return whether a sentence can be an answer: whole, short, clean, and pointing at nothing outside itself."""
    answer = collapse_whitespace(answer)
    words = answer.split()
    if not fewest <= len(words) <= most or len(answer) > 260:
        return False
    if _NOISE.search(answer) or _REFERENCE.search(answer) or _DEICTIC.match(answer):
        return False
    if answer[-1] in ":,;(-" or not _closed(answer) or answer.count('"') % 2:
        return False
    if _DANGLING.search(answer) or _BRACKETED.search(answer):
        return False
    return clean(answer) and answer[0] not in "-*|>#=()]},.;:" and bool(re.search(r"[A-Za-z]{3}", answer))


def clean(text: str) -> bool:
    """Return whether brackets and backticks balance and no markup is left."""
    balanced = (
        all(text.count(pair[0]) == text.count(pair[1]) for pair in ("()", "[]", "{}")) and text.count("`") % 2 == 0
    )
    return balanced and not _NOISE.search(text)


def says_something_new(answer: str, question: str, fewest: int = 2) -> bool:
    """Return whether the answer carries at least `fewest` meaningful words that the question does not."""
    return len(content_words(answer) - content_words(question)) >= fewest
