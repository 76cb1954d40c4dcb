"""Turns the text of the model, piece by piece, into the text that people get.

A stream and a plain request both go through this one object, so that they end with the same text. It holds back the
first sentence until it is complete, because a refusal or a sentence without support is replaced. What follows is
passed on as it comes, with corrected citation marks.
"""

import re
from collections.abc import Sequence

from ragtune.answer.citations import CitationCorrector, cited_numbers
from ragtune.answer.decision import MOST_WORDS, Kind, Rules, decide, quotation_text
from ragtune.answer.evidence import Evidence, support_of
from ragtune.answer.language_packs import ENGLISH, ENGLISH_FRAME, Frame
from ragtune.answer.refusals import is_refusal
from ragtune.records import Hit
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.sentences import sentence_spans

_MARKS = r"(?:\s*\[[\d\s,]+\])*"
_SENTENCE_END = re.compile(rf"[.!?؟。！？][\"'”’»)\]]*{_MARKS}\s$|\n\s*\n$")


class Delivery:
    """What becomes of one answer.

    `kind` is None until the first sentence is complete, unless there are no passages. `own_words` is what the model
    contributed to the text, and `quotation` the quoted sentence, "" if there is none.
    """

    def __init__(
        self,
        question: str,
        passages: Sequence[Hit] | None,
        evidence: Sequence[Evidence],
        rules: Rules,
        *,
        citations: bool = True,
        frame: Frame = ENGLISH_FRAME,
    ) -> None:
        self._question, self._passages, self._evidence, self._rules = question, passages, evidence, rules
        self._citations = citations and bool(passages)
        self._frame = frame
        # The packaged model writes English whatever the language of the question.
        self._packs = (ENGLISH, frame.pack)
        self._corrector = CitationCorrector(passages or () if citations else ())
        self._held_back = ""
        self._spaces = ""
        self._ended = False
        # Without passages there is nothing to decide, so nothing has to wait.
        self.kind: Kind | None = Kind.ANSWER if passages is None else None
        self.text = ""
        self.own_words = ""
        self.quotation = ""

    @property
    def corrections(self) -> list[tuple[int, int]]:
        """The corrected citations: (number the model wrote, number of the passage that has the words)."""
        return self._corrector.corrections

    def feed(self, piece: str) -> str:
        """Take the next piece of the model's text and return what may be shown now."""
        return "".join(self._push(character) for character in piece)

    def end(self) -> str:
        """Return the rest of the text at the end of the model's answer; "" if it was called before."""
        if self._ended:
            return ""
        self._ended = True
        rest = "" if self.kind else self._decide()
        if self.kind not in (Kind.ANSWER, Kind.ANSWER_AND_QUOTATION):
            return rest
        rest += self._emit(self._corrector.end())
        self._spaces = ""
        if self._citations and self._is_claim() and not self._cites():
            rest += self._cite()
        self.own_words = self.text
        if self.kind is Kind.ANSWER_AND_QUOTATION and self._quotation_helps():
            rest += self._quote(" ")
        return rest

    def _push(self, character: str) -> str:
        if self.kind in (Kind.ANSWER, Kind.ANSWER_AND_QUOTATION):
            return self._emit(self._corrector.feed(character))
        if self.kind:
            return ""
        self._held_back += character
        if not _SENTENCE_END.search(self._held_back) or not self._held_back.strip():
            return ""
        # With a capital behind it, a full stop that ends no sentence, such as that of "e.g.", still ends none.
        if len(list(sentence_spans(f"{self._held_back}X"))) < 2:
            return ""
        return self._decide()

    def _decide(self) -> str:
        """Decide by the held-back first sentence, and return what can be shown of it."""
        sentence, self._held_back = self._held_back, ""
        self.kind = self._kind_for(sentence.strip())
        if self.kind is Kind.REFUSAL:
            self.text = self._frame.pack.refusal
            return self.text
        if self.kind is Kind.QUOTATION:
            return self._quote("")
        return self._emit(self._corrector.feed(sentence.lstrip()))

    def _kind_for(self, sentence: str) -> Kind:
        if self._passages is None or self._is_small_talk(sentence):
            return Kind.ANSWER
        refused = not sentence or self._is_refusal(sentence)
        return decide(sentence, refused, self._question, self._evidence, self._rules, self._frame.language)

    def _emit(self, text: str) -> str:
        """Return the text to show now; white space waits for what comes after it, so that none ends the answer."""
        text = self._spaces + text
        if not self.text:
            text = text.lstrip()
        shown = text.rstrip()
        self._spaces = text[len(shown) :]
        self.text += shown
        return shown

    def _quote(self, joint: str) -> str:
        best = self._evidence[0]
        quotation = quotation_text(best, self._frame.pack)
        if not self._citations:
            quotation = quotation.removesuffix(f" [{best.number}]")
        self.quotation = best.unit.text
        self.text += joint + quotation
        return joint + quotation

    def _quotation_helps(self) -> bool:
        """Return whether the best sentence says more than the answer and both fit into the words that are judged."""
        best = self._evidence[0]
        said = _plain(self.own_words)
        fits = len(self.own_words.split()) + len(quotation_text(best, self._frame.pack).split()) <= MOST_WORDS
        return fits and _plain(best.unit.text) not in said

    def _is_claim(self) -> bool:
        return bool(self.text) and not self._is_refusal(self.text) and not self._is_small_talk(self.text)

    def _is_refusal(self, text: str) -> bool:
        return is_refusal(text, self._packs)

    def _is_small_talk(self, text: str) -> bool:
        """Return whether the text is a reply to small talk, or the beginning of one."""
        return bool(text) and any(reply.startswith(text) for pack in self._packs for reply in pack.replies)

    def _cites(self) -> bool:
        return any(1 <= number <= len(self._passages or ()) for number in cited_numbers(self.text))

    def _cite(self) -> str:
        """Return the citation mark of the passage that supports the answer; "" if none does."""
        _, evidence = support_of(self.text, self._question, self._evidence, self._frame.language)
        if evidence is None:
            return ""
        mark = f" [{evidence.number}]"
        self.text += mark
        return mark


def _plain(text: str) -> str:
    return " ".join(normalize_for_search(text).lower().rstrip(".").split())
