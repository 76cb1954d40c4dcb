"""Turns the text of the model, piece by piece, into the text that people get.

A stream and a plain request both go through this one object, so that they end with the same text. It holds back the
first sentence until it is complete, because a refusal or a sentence without support is replaced. What follows is
passed on as it comes, with corrected citation marks.
"""

import re
from collections.abc import Sequence

from ragtune.answer.additions import choose_additions
from ragtune.answer.citations import (
    CitationCorrector,
    CitationRemover,
    cited_numbers,
    sentences_with_marks,
    without_citations,
)
from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.decision import MOST_WORDS, Kind, Rules, decide, quotation_mark
from ragtune.answer.evidence import Evidence, support_of
from ragtune.answer.failures import REPLACED, find_failures
from ragtune.answer.language_packs import ENGLISH, ENGLISH_FRAME, Frame
from ragtune.answer.refusals import is_refusal
from ragtune.answer.styles import has_steps
from ragtune.records import Hit
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.plain_text import PlainText, plain_text
from ragtune.text.sentences import sentence_spans

_MARKS = r"(?:\s*\[[\d\s,]+\])*"
_FEWEST_STEPS = 2
_SENTENCE_END = re.compile(rf"[.!?؟。！？][\"'”’»)\]]*{_MARKS}\s$|\n\s*\n$")


class Delivery:
    """What becomes of one answer.

    `text` is what people have got so far. `kind` is None until the first sentence is complete, unless there is nothing
    to decide. `own_words` is what the model contributed to the text, which is known after `end`; `quotation` is the
    first quoted sentence, "" if there is none. `missing` names the controls for which the passages had no sentence.
    With `checks_first` a first sentence that fails its checks is not shown: `suspect` is set then, and no text follows.
    """

    def __init__(
        self,
        question: str,
        passages: Sequence[Hit] | None,
        evidence: Sequence[Evidence],
        rules: Rules,
        *,
        controls: Controls = NEUTRAL,
        frame: Frame = ENGLISH_FRAME,
        checks_first: bool = False,
    ) -> None:
        self._question, self._passages, self._evidence, self._rules = question, passages, evidence, rules
        self._controls, self._frame, self._checks_first = controls, frame, checks_first
        self._citations = controls.citations and bool(passages)
        # The packaged model writes English whatever the language of the question.
        self._packs = (ENGLISH, frame.pack)
        self._corrector = CitationCorrector(passages or ()) if controls.citations else CitationRemover()
        self._plain = None if controls.markdown else PlainText()
        self._held_back = ""
        self._spaces = ""
        self._written = ""
        self._quotations: list[str] = []
        self._ended = False
        # Without rules or passages there is nothing to decide, so nothing has to wait.
        self.kind: Kind | None = Kind.ANSWER if passages is None or not rules.strict else None
        self.text = ""
        self.own_words = ""
        self.quotation = ""
        self.missing: frozenset[str] = frozenset()
        self.suspect = False

    @property
    def corrections(self) -> Sequence[tuple[int, int]]:
        """The corrected citations: (number the model wrote, number of the passage that has the words)."""
        return self._corrector.corrections

    def feed(self, piece: str) -> str:
        """Take the next piece of the model's text and return what may be shown now.

        With the switch `step_by_step` nothing is shown before the end, because nobody knows yet how many steps come.
        """
        self._written += piece
        text = self._plain.feed(piece) if self._plain else piece
        shown = "".join(self._push(character) for character in text)
        return "" if self._controls.step_by_step else shown

    def end(self) -> str:
        """Return the rest of the text at the end of the model's answer; "" if it was called before.

        With the switch `step_by_step` the rest is the whole text.
        """
        if self._ended:
            return ""
        self._ended = True
        rest = "".join(self._push(character) for character in self._plain.end()) if self._plain else ""
        rest += "" if self.kind else self._decide()
        if self.suspect:
            return ""
        if self.kind in (Kind.ANSWER, Kind.ANSWER_AND_QUOTATION):
            rest += self._end_own_words()
        if self.kind in (Kind.QUOTATION, Kind.ANSWER_AND_QUOTATION):
            rest += self._quote_additions()
        if not self._controls.step_by_step:
            return rest
        if self.kind is not Kind.REFUSAL and not has_steps(self.text) and not self._is_small_talk(self.text):
            self._number_sentences()
        return self.text

    def _number_sentences(self) -> None:
        """Turn the text into numbered lines, a sentence or quotation each; a single one stays as it is."""
        own = [self.own_words[start:end] for start, end in sentences_with_marks(self.own_words)]
        lines = [*own, *self._quotations]
        if len(lines) >= _FEWEST_STEPS:
            self.text = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))

    def _end_own_words(self) -> str:
        """Return the rest of what the model wrote, a citation if it has none, and the best sentence if that helps."""
        rest = self._emit(self._corrector.end())
        self._spaces = ""
        if self._citations and self._is_claim() and not self._cites():
            rest += self._cite()
        self.own_words = self.text
        if self.kind is Kind.ANSWER_AND_QUOTATION and self._quotation_helps():
            rest += self._quote_best()
        return rest

    def _quote_additions(self) -> str:
        """Add the sentences that dials and switches ask for, and return what was added."""
        pack, said = self._frame.pack, without_citations(self.text)
        additions = choose_additions(
            self._evidence, self._passages or (), self._controls, said, pack, variant=self._written
        )
        self.missing = additions.missing
        added = "".join(
            self._quote(item, pack.further or pack.quotation) for item in (*additions.steps, *additions.further)
        )
        return added + (self._quote(additions.example, pack.example or pack.quotation) if additions.example else "")

    def _push(self, character: str) -> str:
        if self.suspect:
            return ""
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
            return self._quote_best()
        self.suspect = self._checks_first and self.kind is Kind.ANSWER_AND_QUOTATION and self._fails(sentence)
        if self.suspect:
            return ""
        return self._emit(self._corrector.feed(sentence.lstrip()))

    def _kind_for(self, sentence: str) -> Kind:
        if self._passages is None or self._is_small_talk(sentence):
            return Kind.ANSWER
        refused = not sentence or self._is_refusal(sentence)
        kind = decide(sentence, refused, self._question, self._evidence, self._rules, self._frame.language)
        if kind is Kind.ANSWER_AND_QUOTATION and self._frame.pack.contradicts(sentence, self._evidence[0].unit.text):
            return Kind.QUOTATION
        return kind

    def _emit(self, text: str) -> str:
        """Return the text to show now; white space waits for what comes after it, so that none ends the answer."""
        text = self._spaces + text
        if not self.text:
            text = text.lstrip()
        shown = text.rstrip()
        self._spaces = text[len(shown) :]
        self.text += shown
        return shown

    def _fails(self, sentence: str) -> bool:
        """Return whether the checks find a reason to replace an answer that begins with this sentence."""
        corrected = CitationCorrector(self._passages or ())
        text = corrected.feed(sentence.strip()) + corrected.end()
        _, failures = find_failures(text, self._question, self._passages or (), self._evidence, self._frame.pack)
        reasons = {failure.reason for failure in failures} & REPLACED
        if not self._ended:
            reasons.discard("amount")  # a later sentence may name it
        return bool(reasons)

    def _quote_best(self) -> str:
        """Quote the best sentence, with its place if that fits into the words that are judged."""
        best, room = self._evidence[0], MOST_WORDS - len(self.own_words.split())
        return self._quote(best, quotation_mark(best, self._question, self._frame, room))

    def _quote(self, item: Evidence, mark: str) -> str:
        """Add a sentence of the documents to the text, and return what was added."""
        text = item.unit.text if self._controls.markdown else plain_text(item.unit.text)
        quotation = mark.format(text=text, number=item.number)
        if not self._citations:
            quotation = quotation.removesuffix(f" [{item.number}]")
        self.quotation = self.quotation or item.unit.text
        self._quotations.append(quotation)
        added = f" {quotation}" if self.text else quotation
        self.text += added
        return added

    def _quotation_helps(self) -> bool:
        """Return whether the best sentence says more than the answer and both fit into the words that are judged."""
        best = self._evidence[0]
        said = _plain(self.own_words)
        marked = self._frame.pack.quotation.format(text=best.unit.text, number=best.number)
        fits = len(self.own_words.split()) + len(marked.split()) <= MOST_WORDS
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
