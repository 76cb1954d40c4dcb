"""Checks an answer: which passages it cites, whether it is a refusal, what looks wrong."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ragtune.answer.citations import cited_numbers, without_citations
from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.decision import SUPPORTED_SHARE, Rules
from ragtune.answer.delivery import Delivery
from ragtune.answer.evidence import Evidence, closest_passages, support_of
from ragtune.answer.failures import find_failures, format_failures
from ragtune.answer.language_packs import ENGLISH, ENGLISH_FRAME, Frame
from ragtune.answer.question_language import NO_PACK
from ragtune.answer.refusals import is_refusal
from ragtune.answer.styles import unmet_controls
from ragtune.records import Answer, Citation, Completion, Hit
from ragtune.text.words import content_words

GROUNDED_SHARE = 0.5
"""An answer with a smaller share of its content words in the passages gets a warning. Chosen by hand, not measured."""
AS_WRITTEN = Rules(threshold=0.0, strict=False)
"""Rules under which every answer is delivered as the model wrote it."""


def check_answer(
    question: str,
    passages: Sequence[Hit] | None,
    completion: Completion,
    retrieval_ms: float = 0.0,
    controls: Controls = NEUTRAL,
    evidence: Sequence[Evidence] = (),
    rules: Rules = AS_WRITTEN,
    frame: Frame = ENGLISH_FRAME,
) -> Answer:
    """Return what people get for the text that the model wrote, with its citations, warnings and failures."""
    hits = tuple(passages or ())
    delivery = Delivery(question, passages, evidence, rules, controls=controls, frame=frame)
    delivery.feed(completion.text)
    delivery.end()
    text = delivery.text
    refused = is_refusal(text, (ENGLISH, frame.pack))
    texts = frame.pack.warnings
    warnings = [NO_PACK.format(language=frame.language)] if frame.lacks_pack else []
    if not text:
        warnings.append(texts.empty)
    if completion.finish_reason == "length" and delivery.own_words:
        warnings.append(texts.cut_off)
    warnings += [
        texts.corrected.format(cited=cited, corrected=corrected)
        for cited, corrected in dict.fromkeys(delivery.corrections)
    ]
    is_small_talk = text in ENGLISH.replies | frame.pack.replies
    if text and not refused and not is_small_talk:
        warnings += unmet_controls(text, controls, delivery.missing, frame.pack)
    support, failures = 1.0, format_failures(text, completion.finish_reason if delivery.own_words else "", None)
    # A refusal, a quotation and small talk make no claim in the model's own words.
    if passages is not None and delivery.own_words and not refused and not is_small_talk:
        warnings += _grounding_warnings(question, delivery.own_words, hits, controls, frame)
        if evidence:
            support, claim_failures = find_failures(delivery.own_words, question, hits, evidence, frame.pack)
            failures = (*claim_failures, *failures)
    return Answer(
        text=text,
        citations=tuple(_citation(n, hits[n - 1]) for n in cited_numbers(text) if 1 <= n <= len(hits)),
        passages=hits,
        refused=refused,
        warnings=tuple(warnings),
        completion=completion,
        retrieval_ms=retrieval_ms,
        own_words=delivery.own_words,
        quotation=delivery.quotation,
        closest=closest_passages(evidence, hits) if refused else (),
        language=frame.language,
        support=support,
        failures=failures,
    )


def check_json(
    question: str,
    passages: Sequence[Hit] | None,
    completion: Completion,
    schema: Mapping[str, Any],
    retrieval_ms: float = 0.0,
    evidence: Sequence[Evidence] = (),
    frame: Frame = ENGLISH_FRAME,
) -> Answer:
    """Return an answer in JSON, as the model wrote it, with what is wrong with its form.

    JSON has no citation marks, so an answer cites the passages whose sentences hold one of its texts.
    """
    hits, text = tuple(passages or ()), completion.text.strip()
    numbers = dict.fromkeys(
        support.number
        for value in _texts_in(text)
        for share, support in [support_of(value, question, evidence, frame.language)]
        if support is not None and share >= SUPPORTED_SHARE
    )
    return Answer(
        text=text,
        citations=tuple(_citation(number, hits[number - 1]) for number in numbers),
        passages=hits,
        refused=False,
        warnings=() if text else (frame.pack.warnings.empty,),
        completion=completion,
        retrieval_ms=retrieval_ms,
        own_words=text,
        language=frame.language,
        failures=format_failures(text, completion.finish_reason, schema),
    )


def _texts_in(text: str) -> Iterator[str]:
    """Yield the texts in a JSON value that have a content word; nothing if it is no JSON."""
    try:
        left = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while left:
        value = left.pop(0)
        if isinstance(value, str) and content_words(value):
            yield value
        elif isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value


def grounded_share(question: str, text: str, passages: Sequence[Hit], language: str = "en") -> float:
    """Return the share of the answer's content words that are in its passages, not counting words of the question.

    Its passages are the cited ones, or all of them if it cites none. An answer that only repeats the question
    counts as grounded (1.0). `language` says which words carry no meaning.
    """
    words = content_words(without_citations(text), language) - content_words(question, language)
    if not words:
        return 1.0
    cited = [passages[n - 1] for n in cited_numbers(text) if 1 <= n <= len(passages)]
    passage_words: set[str] = set()
    for hit in cited or passages:
        passage_words |= content_words(hit.chunk.embedded_text, language)
    return len(words & passage_words) / len(words)


def _grounding_warnings(
    question: str, text: str, hits: Sequence[Hit], controls: Controls, frame: Frame
) -> Iterator[str]:
    """Yield a warning for each way in which the passages do not support the answer."""
    texts = frame.pack.warnings
    numbers = cited_numbers(text)
    existing = [n for n in numbers if 1 <= n <= len(hits)]
    for n in numbers:
        if n not in existing:
            yield texts.nonexistent.format(number=n)
    if controls.citations and not existing:
        yield texts.uncited
    share = grounded_share(question, text, hits, frame.language)
    if controls.strict_grounding and share < GROUNDED_SHARE:
        yield texts.unsupported.format(percent=f"{100 * share:.0f}")
    for n in existing:
        if not _shares_a_word(question, hits[n - 1], frame.language):
            yield texts.unrelated.format(number=n)


def _shares_a_word(question: str, hit: Hit, language: str) -> bool:
    """Return whether the passage has a content word of the question, or the question has no content words."""
    words = content_words(question, language)
    return not words or bool(words & content_words(hit.chunk.embedded_text, language))


def _citation(number: int, hit: Hit) -> Citation:
    chunk = hit.chunk
    return Citation(
        number=number,
        document_id=chunk.document_id,
        chunk_id=chunk.id,
        title=chunk.title,
        text=chunk.text,
        source=chunk.origin,
        headings=tuple(chunk.headings),
        page=chunk.page,
        start=chunk.start,
    )
