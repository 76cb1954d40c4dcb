"""Splits text into sentences.

Sentences are offsets into the text, so that an answer stays a span of its passage.
"""

import re
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
# An abbreviation, an initial ("J. Smith"), or the number of a list item ("1. Install it").
_NO_END = re.compile(rf"\b(?:{_ABBREVIATED}|[A-Z])\.$|^\(?\d+\.$")
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


def _sentence_end(text: str, start: int, end: int) -> int:
    block_end = _BLOCK_END.search(text, start, end)
    limit = block_end.start() if block_end else end
    for mark in _END.finditer(text, start, limit):
        if _NO_END.search(text[start : mark.start() + 1]) or not brackets_closed(text[start : mark.end()]):
            continue
        following = text[mark.end() : limit].lstrip(_OPENING)
        if not following or _begins_sentence(following, mark[0], text[start:limit]):
            return mark.end()
    return limit


def _begins_sentence(following: str, mark: str, sentence: str) -> bool:
    """Return whether a new sentence may begin after a mark that may end the `sentence` begun before it."""
    first = following[0]
    if first.isdigit() and mark[0] == ".":
        return _NUMBERED.match(following) is not None and _NUMBERED.match(sentence) is not None
    return first in _MARKUP or (first.isalnum() and not first.islower())
