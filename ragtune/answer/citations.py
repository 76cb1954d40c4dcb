"""Citation marks such as `[2]`: reading them, removing them, and correcting the ones that name the wrong passage.

A small model copies a sentence well but miscounts passages. If the words before a mark are not in the passage that
it names, but are word for word in another one, the mark is changed to that passage.
docs/decisions/citations-corrected.md says how often that corrects an answer and how often it spoils one.
"""

import re
from collections.abc import Sequence

from ragtune.records import Hit
from ragtune.text.sentences import sentence_spans
from ragtune.text.words import content_words

_MARK = re.compile(r"\[(\d{1,3}(?:\s{0,2},\s{0,2}\d{1,3}){0,9})\]")
_CITING_MARK = re.compile(rf"(?<![\w)\"'`]){_MARK.pattern}")
"""A mark that can be a citation: brackets right after a word, as in `argv[1]`, are an index."""
_MARK_AND_SPACE = re.compile(rf"(?:\s+|(?<![\w)\"'`\]])){_MARK.pattern}")
_UNFINISHED_MARK_AND_SPACE = re.compile(r"\s*(?:\[[\d\s,]{0,80})?$")
_UNFINISHED_MARK = re.compile(r"\[[\d\s,]{0,80}$")
_TOKEN = re.compile(r"[-+]?\w+(?:[.'\-/:+]\w+)*")
_ARTICLES = frozenset({"a", "an", "the"})
_MIN_CLAIM_WORDS = 2
"""A claim with fewer content words is in many passages by chance. Chosen by hand, not measured."""


def cited_numbers(text: str) -> list[int]:
    """Return the passage numbers cited in the text, each once, in the order of their first mark."""
    numbers = [int(number) for mark in _MARK.findall(text) for number in mark.split(",")]
    return list(dict.fromkeys(numbers))


def without_citations(text: str) -> str:
    """Return the text without its citation marks."""
    return re.sub(r"\s+([.,;:!?])", r"\1", _MARK.sub("", text)).strip()


def sentences_with_marks(text: str) -> list[tuple[int, int]]:
    """Return [start, end) of each sentence; a mark behind a full stop belongs to the sentence before it."""
    starts = [start for start, _ in sentence_spans(_MARK.sub(lambda mark: " " * len(mark[0]), text))]
    return [
        (start, start + len(text[start:following].rstrip()))
        for start, following in zip(starts, [*starts, len(text)][1:], strict=True)
    ]


def answer_tokens(text: str) -> list[str]:
    """Return the words of an answer in lower case, without citation marks and articles.

    Dotted names, hyphenated words and signed numbers are one word each: `torch.nn.Linear`, `-1`.
    """
    return [token for token in _TOKEN.findall(without_citations(text).lower()) if token not in _ARTICLES]


def occurs_in(words: Sequence[str], text: Sequence[str]) -> bool:
    """Return whether the words occur in the text one right after the other."""
    return any(list(text[i : i + len(words)]) == list(words) for i in range(len(text) - len(words) + 1))


class CitationRemover:
    """Removes the citation marks of one answer, each with the space before it, while the answer streams through."""

    corrections: tuple[tuple[int, int], ...] = ()

    def __init__(self) -> None:
        self._shown = self._held_back = ""

    def feed(self, piece: str) -> str:
        """Take the next piece of the answer and return the text that can be shown now."""
        text = _MARK_AND_SPACE.sub("", f"{self._shown}{self._held_back}{piece}")[len(self._shown) :]
        unfinished = _UNFINISHED_MARK_AND_SPACE.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._held_back = text[end:]
        self._shown = (self._shown + text[:end])[-1:]  # whether a bracket is a mark depends on the character before it
        return text[:end]

    def end(self) -> str:
        """Return the text that is still held back at the end of the answer."""
        rest, self._held_back = self._held_back, ""
        return rest


class CitationCorrector:
    """Corrects the citation marks of one answer while it streams through.

    Text that may be the beginning of a mark is held back until the mark is complete. `corrections` lists
    (number the model wrote, number of the passage that has the words) in the order of the text.
    """

    def __init__(self, passages: Sequence[Hit]) -> None:
        self.passages = passages
        self.corrections: list[tuple[int, int]] = []
        self._passage_tokens: list[list[str]] = []
        self._claim = ""
        """The text since the last mark that was already returned."""
        self._held_back = ""
        self._last_correction = ""

    def feed(self, piece: str) -> str:
        """Take the next piece of the answer and return the text that can be shown now."""
        if not self.passages:
            return piece
        text = f"{self._claim}{self._held_back}{piece}"
        claim_start, copied = 0, len(self._claim)
        output = ""
        for mark in _CITING_MARK.finditer(text, copied):
            claim = text[claim_start : mark.start()]
            is_index = claim.endswith("]")
            is_inside_code = claim.count("`") % 2 == 1
            if is_index or is_inside_code:
                continue
            output += text[copied : mark.start()] + self._correct_mark(claim, mark)
            claim_start = copied = mark.end()
        unfinished = _UNFINISHED_MARK.search(text, copied)
        end = unfinished.start() if unfinished else len(text)
        self._claim, self._held_back = text[claim_start:end], text[end:]
        return output + text[copied:end]

    def end(self) -> str:
        """Return the text that is still held back at the end of the answer."""
        rest, self._held_back = self._held_back, ""
        return rest

    def _correct_mark(self, claim: str, mark: re.Match[str]) -> str:
        """Return the mark to show behind a claim; "" if it only repeats the corrected mark before it."""
        if not claim.strip() and mark[0] == self._last_correction:
            return ""
        self._last_correction = ""
        is_single_number = mark[1].isdigit()
        if not is_single_number or len(content_words(claim)) < _MIN_CLAIM_WORDS:
            return mark[0]
        if not self._passage_tokens:
            self._passage_tokens = [answer_tokens(hit.chunk.embedded_text) for hit in self.passages]
        cited, tokens = int(mark[1]), answer_tokens(claim)
        matches = [number for number, text in enumerate(self._passage_tokens, 1) if occurs_in(tokens, text)]
        if not matches or cited in matches:
            return mark[0]
        self.corrections.append((cited, matches[0]))
        self._last_correction = f"[{matches[0]}]"
        return self._last_correction
