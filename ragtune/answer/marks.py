"""Citation marks: read from an answer, left out of it, and set right where they point to the wrong passage.

A small model copies a sentence well and miscounts passages. Where the words before a mark do not stand in the
passage that it names, but word for word in another, the mark becomes that passage's.
"""

import re
from collections.abc import Sequence

from ragtune.records import Hit
from ragtune.text.words import content_words

_MARK = re.compile(r"\[(\d{1,3}(?:\s{0,2},\s{0,2}\d{1,3}){0,9})\]")
_CITING_MARK = re.compile(rf"(?<![\w)\"'`]){_MARK.pattern}")
"""What stands right behind a word, as in `argv[1]`, is an index."""
_UNFINISHED = re.compile(r"\[[\d\s,]{0,80}$")
_TOKEN = re.compile(r"[-+]?\w+(?:[.'\-/:+]\w+)*")
_ARTICLES = frozenset({"a", "an", "the"})
_TELLING_WORDS = 2


def cited_numbers(text: str) -> list[int]:
    """Return the passage numbers in the text, each once, in the order of their first mark."""
    numbers = [int(number) for mark in _MARK.findall(text) for number in mark.split(",")]
    return list(dict.fromkeys(numbers))


def without_marks(text: str) -> str:
    """Return the text without its citation marks."""
    return re.sub(r"\s+([.,;:!?])", r"\1", _MARK.sub("", text)).strip()


def answer_tokens(text: str) -> list[str]:
    """Return the words of an answer in lower case, without citation marks and articles.

    Dotted names, hyphenated words and signed numbers are one word each: `torch.nn.Linear`, `-1`.
    """
    return [token for token in _TOKEN.findall(without_marks(text).lower()) if token not in _ARTICLES]


def stands_in(words: Sequence[str], text: Sequence[str]) -> bool:
    """Return whether the words stand in the text one after the other."""
    return any(list(text[i : i + len(words)]) == list(words) for i in range(len(text) - len(words) + 1))


class CitationCorrector:
    """Passes an answer on piece by piece; of a piece that may end inside a mark, the mark is held back.

    Behind a mark that was set right the same mark is left out. `moved` lists (passage that was cited, passage
    where the words stand) in the order of the text.
    """

    def __init__(self, passages: Sequence[Hit]) -> None:
        self.passages = passages
        self.moved: list[tuple[int, int]] = []
        self._words: list[list[str]] = []
        self._claim = self._held = self._last = ""

    def feed(self, piece: str) -> str:
        """Return what can be shown now."""
        if not self.passages:
            return piece
        text, shown, begin = f"{self._claim}{self._held}{piece}", len(self._claim), 0
        right = ""
        for mark in _CITING_MARK.finditer(text, shown):
            claim = text[begin : mark.start()]
            if claim.endswith("]") or claim.count("`") % 2:
                continue  # an index, or inside code
            right += text[shown : mark.start()] + self._right(claim, mark)
            shown = begin = mark.end()
        unfinished = _UNFINISHED.search(text, shown)
        end = unfinished.start() if unfinished else len(text)
        self._claim, self._held = text[begin:end], text[end:]
        return right + text[shown:end]

    def end(self) -> str:
        """Return what was held back, at the end of the answer."""
        rest, self._held = self._held, ""
        return rest

    def _right(self, claim: str, mark: re.Match[str]) -> str:
        if not claim.strip() and mark[0] == self._last:
            return ""
        self._last = ""
        if not mark[1].isdigit() or len(content_words(claim)) < _TELLING_WORDS:
            return mark[0]
        if not self._words:
            self._words = [answer_tokens(hit.chunk.embedded_text) for hit in self.passages]
        number, words = int(mark[1]), answer_tokens(claim)
        holding = [place for place, text in enumerate(self._words, 1) if stands_in(words, text)]
        if not holding or number in holding:
            return mark[0]
        self.moved.append((number, holding[0]))
        self._last = f"[{holding[0]}]"
        return self._last
