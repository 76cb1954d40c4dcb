"""Turns questions and answers that people wrote before into pairs, by finding the passages that hold the answers.

A search by words proposes passages. A passage holds an answer if it contains the answer's words and resembles the
question, or the text that the answer was taken from if the file gives it. The limits below were chosen on the
development questions of `benchmarks/questions`; `python -m benchmarks.dataset.existing` measures them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ragtune.dataset.answer_spans import closest_sentence, literal_span
from ragtune.dataset.checks.quality import LEAST_SHARE_IN_CHUNK, LONGEST_ANSWER_WORDS
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, ExistingPair, Hit, QAPair, content_id
from ragtune.text.segments import word_count
from ragtune.text.sentences import split_sentences
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

Search = Callable[[Sequence[str], int], list[list[Hit]]]
"""Takes queries and a limit; returns at most that many hits for each query, best first."""

WRITER, KIND, UNANSWERABLE_KIND = "people", "existing", "unanswerable.existing"
PROPOSED = 20
"""Passages that the search proposes for a pair."""
SHORT_ANSWER_WORDS = 3
"""Answers with fewer content words, such as `30 days`, stand in many passages; these must resemble the question."""
LEAST_OF_QUESTION = 0.5
"""Share of the question's content words that a passage with a short answer has."""
LEAST_OF_QUESTION_IF_FIRST = 0.2
"""The same for the passage that the search puts first."""
LEAST_OF_QUESTION_IF_REWORDED = 0.3
"""The same for a longer answer whose words are not all in the passage."""
LEAST_OF_CONTEXT = 0.8
"""Share of the content words of the sentence that the answer was taken from."""
_YES_OR_NO = frozenset({"yes", "no", "ja", "nein", "oui", "non", "si", "sí"})
_PER_PLACE = 0.02
"""What a place in the search result costs against a whole answer; it decides between equal passages."""
_NEW_SHARE = 0.2
"""Share of the answer's words from which another passage of the document counts as evidence too; chosen by hand."""
_MOST_EVIDENCE = 2
_LONGEST_QUERY = 80
"""Words of a query; chosen by hand, about a paragraph."""
_BATCH = 64
"""Queries of one search; chosen by hand, bounds memory only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An existing pair, and the pair that was made from it, or None and the reason.

    `shortened` says that the answer was cut after its first sentences because it was longer than 60 words.
    """

    existing: ExistingPair
    pair: QAPair | None
    reason: str = ""
    shortened: bool = False


@dataclass(frozen=True, slots=True)
class _Evidence:
    """How well a passage supports a pair; shares are in 0..1, `of_context` is -1 without a context.

    `place` counts the hits before it.
    """

    chunk: Chunk
    place: int
    is_named: bool
    literal: tuple[int, int] | None
    of_answer: float
    of_question: float
    of_context: float

    @property
    def rank(self) -> tuple[float, ...]:
        """Sort key; larger is better."""
        likeness = self.of_answer + self.of_question / 2 - _PER_PLACE * self.place
        return (self.of_context, self.literal is not None, likeness + self.is_named)


def match_pairs(existing: Sequence[ExistingPair], search: Search, progress: Progress = silent) -> list[Match]:
    """Return one match for each existing pair, in order.

    `search` looks for words in the indexed passages. Equal files and passages give equal pairs.
    """
    matches: list[Match] = []
    for first in range(0, len(existing), _BATCH):
        batch = existing[first : first + _BATCH]
        answers = [_first_sentences(pair.answer) for pair in batch]
        queries = [_query(pair, answer) for pair, answer in zip(batch, answers, strict=True)]
        results = search(queries, PROPOSED)
        matches += [_match(*row) for row in zip(batch, answers, results, strict=True)]
        progress("finding the passages of existing answers", len(matches), len(existing))
    return matches


def _query(pair: ExistingPair, answer: str) -> str:
    words = f"{pair.question} {answer} {_context_sentence(pair)}".split()
    return " ".join(words[:_LONGEST_QUERY])


def _first_sentences(answer: str) -> str:
    """Return the answer, or as many of its first sentences as an answer may have words; "" if not even one fits."""
    text = collapse_whitespace(answer)
    if word_count(text) <= LONGEST_ANSWER_WORDS:
        return text
    kept = ""
    for sentence in split_sentences(answer):
        longer = collapse_whitespace(f"{kept} {sentence}")
        if word_count(longer) > LONGEST_ANSWER_WORDS:
            break
        kept = longer
    return kept


def _context_sentence(pair: ExistingPair) -> str:
    """Return the sentence of the context that the answer was taken from, or the whole context if none is found."""
    context = pair.context
    if not context or not pair.answer:
        return context
    start = pair.answer_start
    if start < 0:
        span = literal_span(pair.answer, context)
        start = span[0] if span else -1
    position = 0
    for sentence in split_sentences(context) if start >= 0 else ():
        position = context.find(sentence, position) + len(sentence)
        if start < position:
            return sentence
    return context


def _match(existing: ExistingPair, answer: str, hits: Sequence[Hit]) -> Match:
    if existing.answerable and not answer:
        words = len(split_sentences(existing.answer)[0].split())
        reason = f"the answer's first sentence has {words} words; an answer has at most {LONGEST_ANSWER_WORDS}"
        return Match(existing=existing, pair=None, reason=reason)
    evidence = sorted(_evidence(existing, answer, hits), key=lambda item: item.rank, reverse=True)
    if not evidence:
        return Match(existing=existing, pair=None, reason="no passage shares a word with it")
    best = evidence[0]
    reason = _missing(existing, answer, best)
    if reason:
        return Match(existing=existing, pair=None, reason=reason)
    pair = _pair(existing, answer, best, _further_chunks(answer, evidence))
    return Match(existing=existing, pair=pair, shortened=answer != collapse_whitespace(existing.answer))


def _evidence(existing: ExistingPair, answer: str, hits: Sequence[Hit]) -> Iterator[_Evidence]:
    question_words, answer_words = content_words(existing.question), content_words(answer)
    context_words = content_words(_context_sentence(existing))
    for place, hit in enumerate(hits):
        chunk, words = hit.chunk, content_words(hit.chunk.embedded_text)
        yield _Evidence(
            chunk=chunk,
            place=place,
            is_named=bool(existing.document) and existing.document in (chunk.path, chunk.title, chunk.document_id),
            literal=literal_span(answer, chunk.text),
            of_answer=len(answer_words & words) / len(answer_words) if answer_words else 0.0,
            of_question=len(question_words & words) / len(question_words) if question_words else 0.0,
            of_context=len(context_words & words) / len(context_words) if context_words else -1.0,
        )


def _missing(existing: ExistingPair, answer: str, best: _Evidence) -> str:
    """Return why the best passage does not hold the answer, or "" if it does."""
    closest = f"the closest is '{best.chunk.title}' ({best.chunk.origin})"
    if not existing.answerable:
        needed, share = (LEAST_SHARE_IN_CHUNK, best.of_context) if existing.context else (0.0, best.of_question)
        return "" if share >= needed else f"no passage holds its context: {closest} with {share:.0%} of the words"
    if best.of_context >= 0 and best.of_context < LEAST_OF_CONTEXT and len(_context_sentence(existing).split()) > 1:
        share = best.of_context
        return f"no passage holds its context: {closest} with {share:.0%} of the words, {LEAST_OF_CONTEXT:.0%} needed"
    if best.of_context < 0 and answer.rstrip(".!").lower() in _YES_OR_NO:
        return f"the answer '{answer}' says nothing that a passage could hold; write it as a sentence"
    is_short = len(content_words(answer)) < SHORT_ANSWER_WORDS
    if is_short and best.literal is None:
        return f"no passage contains the short answer '{answer}' as it is written; {closest}"
    if best.literal is None and best.of_answer < LEAST_SHARE_IN_CHUNK:
        share = best.of_answer
        return (
            f"no passage holds the answer: {closest} with {share:.0%} of its words, {LEAST_SHARE_IN_CHUNK:.0%} needed"
        )
    is_whole = best.of_answer >= 1.0 or best.literal is not None
    if is_short:
        needed = LEAST_OF_QUESTION if best.place else LEAST_OF_QUESTION_IF_FIRST
    else:
        needed = 0.0 if is_whole else LEAST_OF_QUESTION_IF_REWORDED
    if best.of_context < 0 and best.of_question < needed:
        share = best.of_question
        return (
            f"the passage with the answer says too little of the question: {closest} with {share:.0%} of its words, "
            f"{needed:.0%} needed"
        )
    return ""


def _further_chunks(answer: str, evidence: Sequence[_Evidence]) -> tuple[str, ...]:
    """Return the ids of other passages of the best one's document that hold what is missing of the answer."""
    best, *others = evidence
    missing = content_words(answer) - content_words(best.chunk.embedded_text)
    least, chosen = _NEW_SHARE * len(content_words(answer)), []
    for other in others:
        new = missing & content_words(other.chunk.text)
        if other.chunk.document_id == best.chunk.document_id and new and len(new) >= least:
            chosen.append(other.chunk.id)
            missing -= new
    return tuple(chosen[:_MOST_EVIDENCE])


def _pair(existing: ExistingPair, answer: str, best: _Evidence, further: tuple[str, ...]) -> QAPair:
    chunk, is_answerable = best.chunk, existing.answerable
    span = best.literal or closest_sentence(content_words(answer), chunk.text)
    return QAPair(
        id=content_id(chunk.id, existing.question, answer),
        question=existing.question,
        answer=answer,
        kind=KIND if is_answerable else UNANSWERABLE_KIND,
        document_id=chunk.document_id,
        chunk_id=chunk.id,
        span=span if is_answerable else (0, 0),
        answerable=is_answerable,
        topic=chunk.topic,
        writer=WRITER,
        evidence_ids=further if is_answerable else (),
        imported_from=f"{existing.source}, {existing.place}",
    )
