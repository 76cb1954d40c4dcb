"""Splits text into sentences.

Sentences are offsets into the text, so that an answer stays a span of its passage.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

Span = tuple[int, int]
"""Start and end offsets, the end exclusive."""

# `|` separates the abbreviations, because some have a space in them.
_ABBREVIATIONS_TEXT = {
    "en": "e.g|i.e|etc|vs|cf|approx|resp|Eq|Fig|Sec|No|Dr|Mr|St|Mrs|Ms|Prof|Rev|Hon|Gov|Gen|Col|Capt|Lt|Sgt|Jr|Sr|Mt|Ft"
    "|Inc|Ltd|Corp|Co|Bros|Dept|Univ|Assn|Ave|Blvd|viz|al|ibid|incl|excl|esp|ed|eds|Figs|Eqs",
    "de": "bzw|vgl|Vgl|ggf|evtl|inkl|exkl|zzgl|bspw|sog|usw|d.h|z.B|z|u.a|u.U|i.d.R|i. d|o.g|s.o|s.u|ca|Nr|Abs|Abb|Kap"
    "|Aufl|Hrsg|Bd|Anm|Str|Tel|Hr|Frl|Dipl|Ing|Mio|Mrd|lfd|gem|geb|gest|zzt|zt|v.Chr|n.Chr|einschl|max|min|Art",
    "fr": "p.ex|c.-à-d|env|Mme|Mlle|Ste|chap|éd|réf|tél|Tél|av|apr",
    "es": "p.ej|p. ej|Sra|Srta|Dra|Ud|Uds|pág|págs|núm|aprox|tel|EE",
    "it": "Sig|Dott|Avv|Ing|pag|pagg|ecc|cfr|Cfr|p.es|ad es",
    "pt": "Sra|Dra|Exmo|Exma|pág|págs|núm",
    "nl": "bijv|bv|d.w.z|enz|blz|nr|evt|dhr|mevr|mw|o.a|m.b.t|t.a.v|i.v.m",
    "pl": "np|tj|itd|itp|m.in|ul|prof|godz|ust|św|tzn|tzw",
    "sv": "t.ex|bl.a|d.v.s|dvs|osv|m.m|f.d",
    "cs": "např|atd|apod|tzv|čl|odst|Mgr|resp|str|č",
    "tr": "vb|örn|Sn|Av",
    "ru": "т.е|т. е|т.д|т. д|т.п|т.к|напр|ул|стр|рис|табл|им|руб|тыс|млн|млрд|см|др|гг|г",
}
ABBREVIATIONS: Mapping[str, tuple[str, ...]] = {
    language: tuple(words.split("|")) for language, words in _ABBREVIATIONS_TEXT.items()
}
"""Abbreviations whose full stop ends no sentence, by ISO 639-1 code; all of them hold in every text.

Abbreviations that stand before numbers only (`p. 7`, `Jan. 5`) are missing, because no full stop before a number ends
a sentence. So are those that English sentences end with as words (`Tab`, `ok`).
"""

_ABBREVIATED = "|".join(re.escape(word) for words in ABBREVIATIONS.values() for word in words)
_LONGEST_ABBREVIATION = max(len(word) for words in ABBREVIATIONS.values() for word in words)
# An abbreviation or an initial ("J. Smith").
_ABBREVIATION = re.compile(rf"\b(?:{_ABBREVIATED}|[A-Z])\.$")
# The number of a list item ("1. Install it", "b. Run it").
_ITEM_NUMBER = re.compile(r"\(?(?:\d+|[a-z]|[ivxlc]+)\.")
# "1. Install it. 2. Run it."
_NUMBERED = re.compile(r"\(?\d{1,2}[.)] ")
# Scripts without spaces have none behind a sentence either.
_END = re.compile(r"[.!?؟۔।][\"'`’”»)\]]*(?=\s|$)|[。！？｡]+[\"'`’”)\]」』）】》〉]*")
# What may stand before the first letter of a sentence, and markup that a sentence may begin with.
_OPENING = " \t\n\"'“‘([«「『（【《〈¿¡"
_MARKUP = "`*_"
# A blank line, or a line end before a list item.
_BLOCK_END = re.compile(r"\n\s*\n|\n\s*(?:[-*+]|\d+[.)]) ")

_ASCII_BRACKETS = (("(", ")"), ("[", "]"))
_BRACKETS = (*_ASCII_BRACKETS, ("（", "）"), ("「", "」"), ("『", "』"))


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> Iterator[Span]:
    """Yield the spans of the sentences between two offsets, without white space around them.

    A sentence ends at a full stop, question mark or exclamation mark before white space, except inside brackets
    and backticks, after an abbreviation or an initial, and before anything but a capital, a digit or markup. A full
    stop before a digit (`max. 40`) ends none, unless the sentences are numbered. The marks 。！？ need no white space.
    Blank lines and list items end a sentence too.
    """
    end = len(text) if end is None else end
    position, limit = start, -1
    while position < end:
        while position < end and text[position].isspace():
            position += 1
        if position >= end:
            return
        if position > limit:
            block_end = _BLOCK_END.search(text, position, end)
            limit = block_end.start() if block_end else end
        stop = _sentence_end(text, position, limit)
        last = stop
        while last > position and text[last - 1].isspace():
            last -= 1
        if last > position:
            yield position, last
        position = stop


def line_sentence_spans(text: str) -> Iterator[Span]:
    """Yield the spans of the sentences of every line; here a line end always ends a sentence."""
    start = 0
    for line in text.splitlines(keepends=True):
        yield from sentence_spans(text, start, start + len(line))
        start += len(line)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, without white space around them."""
    return [text[start:end] for start, end in sentence_spans(text)]


def brackets_closed(text: str) -> bool:
    """Return whether no bracket or backtick is left open."""
    pairs = _ASCII_BRACKETS if text.isascii() else _BRACKETS
    return text.count("`") % 2 == 0 and all(text.count(left) <= text.count(right) for left, right in pairs)


def _sentence_end(text: str, start: int, limit: int) -> int:
    """Return where the sentence ends that begins at `start`, at the latest at `limit`.

    Every character is looked at once: a text of 10 MB may be one sentence with 100,000 full stops.
    """
    counted, open_signs = start, Counter[str]()
    for mark in _END.finditer(text, start, limit):
        open_signs += _signs(text[counted : mark.end()])
        counted = mark.end()
        if _ends_abbreviation(text, start, mark.start() + 1) or not _are_closed(open_signs):
            continue
        following = mark.end()
        while following < limit and text[following] in _OPENING:
            following += 1
        if following == limit or _begins_sentence(text, following, mark[0], start):
            return mark.end()
    return limit


def _signs(text: str) -> Counter[str]:
    """Return how often each bracket and the backtick stand in the text."""
    pairs = _ASCII_BRACKETS if text.isascii() else _BRACKETS
    return Counter({sign: text.count(sign) for pair in ("`", *pairs) for sign in pair if sign in text})


def _are_closed(signs: Counter[str]) -> bool:
    return signs["`"] % 2 == 0 and all(signs[left] <= signs[right] for left, right in _BRACKETS)


def _ends_abbreviation(text: str, start: int, end: int) -> bool:
    """Return whether the text up to `end` ends with an abbreviation, or is nothing but the number of a list item."""
    if _ABBREVIATION.search(text, max(start, end - _LONGEST_ABBREVIATION - 1), end):
        return True
    return _ITEM_NUMBER.fullmatch(text, start, end) is not None


def _begins_sentence(text: str, following: int, mark: str, start: int) -> bool:
    """Return whether a new sentence may begin at `following`, after a mark that may end the one begun at `start`."""
    first = text[following]
    if first.isdigit() and mark[0] == ".":
        return _NUMBERED.match(text, following) is not None and _NUMBERED.match(text, start) is not None
    return first in _MARKUP or (first.isalnum() and not first.islower())
