"""Turns question and answer pairs into the conversations that a model is trained on.

The passages are those that the search returns for the question, so that the wrong ones are as hard to tell apart
as in use. If the search misses the right passage, it is put in. `ExampleBuilder` has one method for each idea that
varies the conversations: earlier turns, removed passages, styles, shared prompts and small talk.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.evidence import Evidence, rank_evidence
from ragtune.answer.lines import LineSimilarity
from ragtune.answer.passages import Search, find_passages, hits_needed, search_text, select_passages, with_lines
from ragtune.answer.prompt import REFUSAL, build_messages, passage_text, passages_in, target_text, user_text
from ragtune.draws import draw
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.mixture import DEFAULT, Mixture
from ragtune.model.examples.order import mix_kinds
from ragtune.model.examples.styles import REFUSAL_STYLES, REWORDING_STYLES, UNCHANGED_STYLES, styled_target
from ragtune.model.examples.talk import choose_small_talk, short_form
from ragtune.ports import EvidenceModel, Progress, silent
from ragtune.records import Chunk, Hit, Message, QAPair, SplitItem
from ragtune.settings import AnswerSettings
from ragtune.text.sentences import line_sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

PEOPLE = "people"
"""The writer of pairs whose answer a person wrote and whose span holds the evidence in the chunk."""
_LONG_EVIDENCE, _SHOWN_SHARE = 12, 0.8
"""Evidence of at least 12 words counts as shown if 0.8 of its content words are: an excerpt cuts long sentences.
Chosen by hand, not measured."""
_PROGRESS_STEP = 50
"""Examples between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The last question of a conversation: its pair, the turns before it, the text to search for, and the hits."""

    pair: QAPair
    history: tuple[Message, ...]
    search_text: str
    hits: Sequence[Hit]


@dataclass(frozen=True, slots=True)
class Lesson:
    """The passages that a conversation shows, the target text, and the style that the system text asks for.

    `number` is that of the passage with the answer, or None for a refusal.
    """

    passages: Sequence[Hit]
    target: str
    number: int | None
    style: Controls


class WaitingPairs:
    """Pairs, by chunk, that may still share the prompt of another pair."""

    def __init__(self, pairs: Iterable[QAPair] = ()) -> None:
        self._by_chunk: dict[str, dict[str, QAPair]] = defaultdict(dict)
        for pair in pairs:
            self._by_chunk[pair.chunk_id][pair.id] = pair

    def of_chunk(self, chunk_id: str) -> list[QAPair]:
        """Return the pairs of one chunk that are still waiting."""
        return list(self._by_chunk[chunk_id].values())

    def remove(self, pair: QAPair) -> None:
        """Remove a pair that has its example now."""
        self._by_chunk[pair.chunk_id].pop(pair.id, None)


class ExampleBuilder:
    """Builds training conversations; equal pairs, hits, seed and mixture give equal conversations.

    Every choice is a seeded draw by the pair's id, so that adding a pair does not change the choices for the others.
    `similarity` and `evidence` have to be those of serving: they choose the lines shown and the sentences pointed out.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        search: Search,
        settings: AnswerSettings,
        seed: int,
        mixture: Mixture = DEFAULT,
        similarity: LineSimilarity | None = None,
        evidence: EvidenceModel | None = None,
    ) -> None:
        self.chunks: Mapping[str, Chunk] = {chunk.id: chunk for chunk in chunks}
        self.search, self.settings, self.seed, self.mixture = search, settings, seed, mixture
        self.similarity, self.evidence = similarity, evidence

    def build(
        self, items: Sequence[SplitItem], together: int = 1, limit: int | None = None, progress: Progress = silent
    ) -> list[TrainingExample]:
        """Return a conversation for each pair, in an order in which every stretch has all kinds in their shares.

        Up to `together` pairs share one prompt. After `limit` prompts, not counting small talk, the rest of the pairs
        is left out. So is a pair whose chunk is missing, or whose answer is trimmed out of the prompt.
        """
        earlier_pairs = self.earlier_pairs(items)
        waiting = self.waiting_pairs(items, earlier_pairs) if together > 1 else WaitingPairs()
        limit = len(items) if limit is None else min(limit, len(items))
        examples: list[TrainingExample] = []
        small_talk: list[TrainingExample] = []
        joined: set[str] = set()
        for item in items:
            if item.pair.id in joined:
                continue
            if len(examples) >= limit:
                break
            waiting.remove(item.pair)
            turn = self.turn(item.pair, earlier_pairs.get(item.pair.id))
            lesson = self.lesson(turn)
            if lesson is None:
                continue
            example = self.conversation(turn, lesson)
            if lesson.style == NEUTRAL and not turn.history:
                example = self.with_siblings(example, lesson, waiting, together - 1)
            joined.update(sibling.pair_id for sibling in example.siblings)
            examples.append(example)
            if draw(self.seed, "talk", item.pair.id) < self.mixture.small_talk:
                small_talk.append(self.small_talk(turn, example))
            if len(examples) % _PROGRESS_STEP == 0:
                progress("building training examples", len(examples), limit)
        progress("building training examples", limit, limit)
        return mix_kinds([*examples, *small_talk], self.seed)

    # Earlier turns

    def earlier_pairs(self, items: Iterable[SplitItem]) -> dict[str, QAPair]:
        """Return, by the id of a follow-up, the pair about the same document that is asked before it."""
        earlier: dict[str, QAPair] = {}
        last_of_document: dict[str, QAPair] = {}
        for item in items:
            pair = item.pair
            before = last_of_document.get(pair.document_id)
            if before is not None and draw(self.seed, "follow-up", pair.id) < self.mixture.follow_up:
                earlier[pair.id] = before
            last_of_document[pair.document_id] = pair
        return earlier

    def turn(self, pair: QAPair, before: QAPair | None) -> Turn:
        """Return the pair's question with what the search finds for it, after the pair `before` if there is one.

        Some follow-ups are shortened to a question that is only clear after the one before it.
        """
        history: tuple[Message, ...] = ()
        if before is not None:
            history = self._earlier_turn(before)
            pair = self._shortened(pair, before)
        text = search_text(pair.question, history) if self.mixture.search_with_history else pair.question
        # One search serves all styles. At full depth, which shows one passage more, serving would ask for one hit more.
        hits = self.search(text, hits_needed(self.settings.passages))
        return Turn(pair, history, text, hits)

    def _earlier_turn(self, before: QAPair) -> tuple[Message, ...]:
        """Return a question and its answer. The passage that it cites is no longer shown, so any number will do."""
        number = 1 + int(draw(self.seed, "earlier number", before.id) * self.settings.passages)
        answer = target_text(before.answer, number if before.answerable else None)
        return Message("user", before.question), Message("assistant", answer)

    def _shortened(self, pair: QAPair, before: QAPair) -> QAPair:
        chunk = self.chunks.get(pair.chunk_id)
        if chunk is None or _has_free_answer(pair) or draw(self.seed, "short", pair.id) >= self.mixture.shortened:
            return pair
        return replace(pair, question=short_form(pair, before, chunk, self.seed) or pair.question)

    # Removed passages

    def is_removed(self, pair: QAPair) -> bool:
        """Return whether the passages with the pair's answer are removed, so that the answer is the refusal."""
        share = self.mixture.removed_lines if pair.writer == PEOPLE else self.mixture.removed_share(pair.kind)
        return pair.answerable and draw(self.seed, "removed", pair.id) < share

    def passages_without_answer(self, turn: Turn, style: Controls) -> list[Hit]:
        """Return the passages to show after removing the pair's document and every passage that has its answer.

        The whole document goes, because another of its passages may answer in other words.
        """
        document_id = turn.pair.document_id
        others = [
            hit for hit in turn.hits if hit.chunk.document_id != document_id and not _has_answer(hit.chunk, turn.pair)
        ]
        return self._selected(turn, others, style)

    def passages_without_evidence(self, turn: Turn, style: Controls) -> list[Hit]:
        """Return the passages to show after removing every sentence with the evidence; near misses stay.

        So the question has the form of an answerable one, and its passages look as if they answered it.
        """
        evidence = self.evidence_of(turn.pair).casefold()
        hits = [replace(hit, chunk=_without_sentences(hit.chunk, evidence)) for hit in turn.hits]
        return self._selected(turn, [hit for hit in hits if hit.chunk.text], style)

    def passages_with_answer(self, turn: Turn, style: Controls) -> list[Hit]:
        """Return the passages to show, the right one among them unless none of its lines is chosen.

        If the search missed it, it is put in at a random place. Otherwise some lists are shuffled.
        """
        pair, count = turn.pair, style.passages(self.settings.passages)
        passages = select_passages(turn.search_text, turn.hits, count, self.similarity)
        if not any(hit.chunk.id == pair.chunk_id for hit in passages) and not self._is_shown(turn, passages, style):
            passages = passages[: count - 1]
            place = int(draw(self.seed, "place", pair.id) * (len(passages) + 1))
            passages.insert(place, Hit(self.chunks[pair.chunk_id], 0.0))
        elif draw(self.seed, "shuffle", pair.id) < self.mixture.shuffled:
            passages.sort(key=lambda hit: draw(self.seed, "order", pair.id, hit.chunk.id))
        return self._with_lines(turn, self._with_evidence(pair, passages), style)

    def _is_shown(self, turn: Turn, passages: Sequence[Hit], style: Controls) -> bool:
        return self._answer_number(turn.pair, self._with_lines(turn, passages, style)) is not None

    def _selected(self, turn: Turn, hits: Sequence[Hit], style: Controls) -> list[Hit]:
        """Return the passages that serving shows for these hits."""
        count = style.passages(self.settings.passages)
        return self._with_lines(turn, select_passages(turn.search_text, hits, count, self.similarity), style)

    def _with_lines(self, turn: Turn, hits: Sequence[Hit], style: Controls) -> list[Hit]:
        words = style.shown_words(self.settings.shown_words)
        return with_lines(turn.search_text, hits, words, self.similarity)

    def _answer_number(self, pair: QAPair, passages: Sequence[Hit]) -> int | None:
        """Return the number of the passage that shows the answer: the pair's chunk, else the first of its document.

        None if no passage of the document shows it.
        """
        same_document = None
        for number, hit in enumerate(passages, 1):
            passage = _on_one_line(hit, number)
            if not self._is_answered_by(pair, passage):
                continue
            if hit.chunk.id == pair.chunk_id:
                return number
            if hit.chunk.document_id == pair.document_id:
                same_document = same_document or number
        return same_document

    def evidence_of(self, pair: QAPair) -> str:
        """Return the text of the pair's chunk that a prompt has to show for the answer, on one line."""
        if pair.writer == PEOPLE and pair.chunk_id in self.chunks:
            return collapse_whitespace(self.chunks[pair.chunk_id].text[slice(*pair.span)])
        return "" if _has_free_answer(pair) else collapse_whitespace(pair.answer)

    def _is_answered_by(self, pair: QAPair, passage: str) -> bool:
        """Return whether a passage, as shown on one line, holds the pair's evidence; of long evidence most words.

        If the answer is the sentence around a short evidence, such as a name, most of its words have to be shown too:
        the name alone may stand in other sentences.
        """
        evidence = self.evidence_of(pair)
        if pair.writer != PEOPLE or not evidence:
            return evidence in passage
        if evidence.casefold() in pair.answer.casefold() and not _has_most_words(passage, pair.answer):
            return False
        is_long = len(evidence.split()) >= _LONG_EVIDENCE
        return evidence in passage or (is_long and _has_most_words(passage, evidence))

    def _with_evidence(self, pair: QAPair, passages: Sequence[Hit]) -> list[Hit]:
        """Replace the last passages that the answer does not need by the further chunks that it needs."""
        needed = {pair.chunk_id, *pair.evidence_ids}
        passages = list(passages)
        for chunk_id in pair.evidence_ids:
            replaceable = [place for place, hit in enumerate(passages) if hit.chunk.id not in needed]
            is_shown = chunk_id in {hit.chunk.id for hit in passages}
            if chunk_id in self.chunks and not is_shown and replaceable:
                passages[replaceable[-1]] = Hit(self.chunks[chunk_id], 0.0)
        return passages

    # Styles

    def styles(self, pair: QAPair) -> tuple[Controls, ...]:
        """Return the styles to try for a pair; the last one fits any answer. Most pairs get the neutral one alone.

        An answer that a person wrote is never restyled.
        """
        if _has_free_answer(pair) or draw(self.seed, "style", pair.id) >= self.mixture.styled:
            return (NEUTRAL,)
        position = draw(self.seed, "which style", pair.id)
        if not pair.answerable or self.is_removed(pair):
            return (REFUSAL_STYLES[int(position * len(REFUSAL_STYLES))],)
        unchanged = UNCHANGED_STYLES[int(position * len(UNCHANGED_STYLES))]
        if draw(self.seed, "kept style", pair.id) < self.mixture.unchanged_style:
            return (unchanged,)
        rewording = sorted(REWORDING_STYLES, key=lambda style: draw(self.seed, "order of styles", pair.id, repr(style)))
        return (*rewording, unchanged)

    def lesson(self, turn: Turn) -> Lesson | None:
        """Return the passages and target in the first style that changes the answer, else in the last style.

        None if the pair cannot be taught: its chunk is missing, or the prompt does not show its answer.
        """
        *rewording, last = self.styles(turn.pair)
        for style in rewording:
            lesson = self._lesson_in(style, turn)
            if lesson is not None and lesson.target != target_text(turn.pair.answer, lesson.number):
                return lesson
        return self._lesson_in(last, turn)

    def _lesson_in(self, style: Controls, turn: Turn) -> Lesson | None:
        pair = turn.pair
        if not pair.answerable:
            return Lesson(self._selected(turn, turn.hits, style), REFUSAL, None, style)
        if pair.chunk_id not in self.chunks:
            return None
        if self.is_removed(pair):
            without = self.passages_without_evidence if pair.writer == PEOPLE else self.passages_without_answer
            return Lesson(without(turn, style), REFUSAL, None, style)
        passages = self.passages_with_answer(turn, style)
        number = self._answer_number(pair, passages)
        if number is None:
            return self._missed_lesson(turn, passages, style)
        hit = passages[number - 1]
        # A style may add more of the chunk than the answer. In another chunk of the document, the answer's span is off.
        chunk = self.chunks[pair.chunk_id] if hit.chunk.id == pair.chunk_id else None
        target = styled_target(pair, chunk, _on_one_line(hit, number), number, style)
        return Lesson(passages, target, number, style)

    def _missed_lesson(self, turn: Turn, passages: Sequence[Hit], style: Controls) -> Lesson | None:
        """Return a refusal if a person's question is answered by none of the lines shown, else None.

        Serving misses some answers too, and then the lines shown are near misses.
        """
        pair = turn.pair
        if pair.writer != PEOPLE or draw(self.seed, "missed", pair.id) >= self.mixture.missed:
            return None
        if any(self._is_answered_by(pair, _on_one_line(hit, number)) for number, hit in enumerate(passages, 1)):
            return None
        return Lesson(passages, REFUSAL, None, style)

    def conversation(self, turn: Turn, lesson: Lesson) -> TrainingExample:
        """Return the messages of one example: what the product would send, then the target."""
        closest = self.closest(turn.search_text, lesson.passages)
        messages = build_messages(turn.pair.question, lesson.passages, turn.history, lesson.style, closest)
        evidence = "" if lesson.number is None else self.evidence_of(turn.pair)
        return TrainingExample(
            (*messages, Message("assistant", lesson.target)), turn.pair.id, turn.pair.kind, evidence=evidence
        )

    def closest(self, text: str, passages: Sequence[Hit]) -> tuple[Evidence, ...]:
        """Return the sentences of the passages that the prompt points out for a question; none without evidence."""
        if self.evidence is None or not self.settings.pointed_out:
            return ()
        return rank_evidence(self.evidence, text, passages)[: self.settings.pointed_out]

    # Shared prompts

    def waiting_pairs(self, items: Iterable[SplitItem], earlier_pairs: Mapping[str, QAPair]) -> WaitingPairs:
        """Return the pairs that may share another pair's prompt, in a seeded order.

        Those are the ones without an earlier turn, a style, removed passages or further evidence.
        """
        pairs = [item.pair for item in items if item.pair.id not in earlier_pairs and self._may_join(item.pair)]
        return WaitingPairs(sorted(pairs, key=lambda pair: draw(self.seed, "join", pair.id)))

    def _may_join(self, pair: QAPair) -> bool:
        return (
            not self.is_removed(pair)
            and not pair.evidence_ids
            and (pair.writer == PEOPLE or not _has_free_answer(pair))
            and self.styles(pair) == (NEUTRAL,)
        )

    def with_siblings(
        self, example: TrainingExample, lesson: Lesson, waiting: WaitingPairs, limit: int
    ) -> TrainingExample:
        """Return the example with up to `limit` waiting pairs that its passages answer, or are known not to answer.

        Reading the passages is most of the cost of learning a short answer, so several questions share them. The
        passages are trimmed to the first question; a sibling joins only if its answer survived that.
        """
        candidates: list[tuple[int, int, QAPair]] = []
        for number, hit in enumerate(lesson.passages, 1):
            passage = _on_one_line(hit, number)
            pairs = [
                pair
                for pair in waiting.of_chunk(hit.chunk.id)
                if not pair.answerable or self._is_answered_by(pair, passage)
            ]
            candidates += [(rank, number, pair) for rank, pair in enumerate(pairs)]
        # Take the first pair of each passage, then the second of each, so that no passage takes all places.
        candidates.sort(key=lambda candidate: candidate[:2])
        siblings = []
        system, user, _ = example.messages
        for _, number, pair in candidates[:limit]:
            closest = self.closest(pair.question, lesson.passages)
            question = Message("user", user_text(passages_in(user.content), pair.question, closest))
            target = Message("assistant", target_text(pair.answer, number if pair.answerable else None))
            siblings.append(TrainingExample((system, question, target), pair.id, pair.kind))
            waiting.remove(pair)
        return replace(example, siblings=tuple(siblings))

    # Small talk

    def small_talk(self, turn: Turn, example: TrainingExample) -> TrainingExample:
        """Return a turn of small talk with the passages that a search finds for it, at the beginning or after a turn.

        `turn` and `example` are the question that may come before it.
        """
        phrase, reply = choose_small_talk(self.seed, turn.pair.id)
        history: tuple[Message, ...] = ()
        is_later = draw(self.seed, "talk later", turn.pair.id) < self.mixture.small_talk_later
        if is_later and not turn.history:
            history = (Message("user", turn.pair.question), example.messages[-1])
        count, words = self.settings.passages, self.settings.shown_words
        text = search_text(phrase, history)
        passages = find_passages(self.search, text, count, words, self.similarity)
        closest = self.closest(text, passages)
        messages = build_messages(phrase, passages, history, NEUTRAL, closest)
        return TrainingExample((*messages, Message("assistant", reply)), turn.pair.id, "talk")


def _has_free_answer(pair: QAPair) -> bool:
    """Return whether a person or a language model wrote the answer, so that it need not be in a chunk word for word."""
    return bool(pair.feedback_id) or pair.writer != "extractive"


def _has_answer(chunk: Chunk, pair: QAPair) -> bool:
    return collapse_whitespace(pair.answer).lower() in collapse_whitespace(chunk.text).lower()


def _has_most_words(passage: str, text: str) -> bool:
    words, shown = Counter(content_words(text)), Counter(content_words(passage))
    return (words & shown).total() >= _SHOWN_SHARE * words.total()


def _without_sentences(chunk: Chunk, part: str) -> Chunk:
    """Return the chunk without the sentences that hold the part, which is in lower case and on one line."""
    text = chunk.text
    spans = [span for span in line_sentence_spans(text) if part in collapse_whitespace(text[slice(*span)]).casefold()]
    for start, end in reversed(spans):
        text = text[:start] + text[end:]
    if part in collapse_whitespace(text).casefold():  # it goes over several sentences
        text = ""
    return replace(chunk, text=text.strip())


def _on_one_line(hit: Hit, number: int) -> str:
    """Return a passage as the prompt shows it, on one line."""
    return collapse_whitespace(passage_text(hit, number))
