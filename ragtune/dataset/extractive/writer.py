"""Writes questions and answers from the structure of the documents, without a language model.

The same chunks and the same seed give the same pairs. Every choice is a seeded hash of the fact itself, so new
documents leave the pairs of the old ones as they were.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ragtune.dataset.extractive.api_facts import api_facts
from ragtune.dataset.extractive.api_page import ApiObject, is_api_page, prose_spans, read_object
from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.extractive.list_facts import row_keys
from ragtune.dataset.extractive.object_names import ObjectNames, article
from ragtune.dataset.extractive.prose_facts import (
    heading_facts,
    is_about_a_name,
    is_generic_title,
    is_project_news,
    prose_facts,
)
from ragtune.dataset.extractive.questions import is_identifier, question_for, quote_name
from ragtune.dataset.extractive.selection import chosen_facts, chosen_unanswerable, distinct_pairs, is_worth_asking
from ragtune.dataset.extractive.unanswerable import (
    Neighbours,
    Passages,
    unanswerable_api_facts,
    unanswerable_prose_facts,
)
from ragtune.dataset.extractive.verbs import in_plain_nouns, with_s_ending, with_synonym_verb
from ragtune.draws import choose, draw
from ragtune.ports import PairWriter, Progress, silent
from ragtune.records import Chunk, QAPair, content_id
from ragtune.text.normal_form import straight_quotes
from ragtune.text.whitespace import collapse_whitespace

# How often a class is asked for by its words, and an action in everyday nouns and with another verb. Chosen by hand,
# not measured; docs/decisions/questions-as-people-type.md says why questions are worded so.
_CLASS_AS_WORDS_SHARE = 0.35
_PLAIN_NOUNS_SHARE = 0.5
_SYNONYM_VERB_SHARE = 0.5
_PROGRESS_EVERY = 200
"""Documents."""
# Objects whose pages have running text worth reading; those of attributes are one sentence.
_OBJECTS_WITH_PROSE = ("module", "class", "function")
# Slots that hold an identifier, which people type with or without backticks.
_IDENTIFIER_SLOTS = ("parameter", "exception")
# Templates that describe an object and ask for its name, and the slot with the description.
_DESCRIPTION_SLOTS = {"how_to.api": "action", "how_to.thing": "thing"}
_TERM_KINDS = ("definition", "list_item")
LANGUAGE = "en"
"""The language of the patterns and templates. Questions in it about text in another one would teach nothing useful."""
_LONGEST_PLACE = 9
"""Words of a title that fits into a question. Chosen by hand, not sensitive."""


@dataclass(frozen=True, slots=True)
class _ApiPage:
    chunks: list[Chunk]
    owner: ApiObject


@dataclass(frozen=True, slots=True)
class _ProsePage:
    """A document of running text, with the facts to ask about in each chunk."""

    facts: list[tuple[Chunk, list[Fact]]]


class ExtractiveWriter(PairWriter):
    """Asks about what the chunks state, a few questions for each chunk; it reads English chunks only.

    After a call of `write`, `unread` counts the other chunks by their language.

    Args:
        limit_per_chunk: Most answerable questions for one chunk.
        unanswerable_share: Share of all pairs that have no answer, on average.
    """

    name = "extractive"

    def __init__(self, seed: int, limit_per_chunk: int = 3, unanswerable_share: float = 0.15) -> None:
        self.seed = seed
        self.limit_per_chunk = limit_per_chunk
        self.unanswerable_share = unanswerable_share
        self.unread: Counter[str] = Counter()

    def write(self, chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return pairs whose answers are spans of their chunks, in the order of the chunks, each question once."""
        self.unread = Counter(chunk.language for chunk in chunks if chunk.language != LANGUAGE)
        english = [chunk for chunk in chunks if chunk.language == LANGUAGE]
        pages = [self._read_page(document) for document in _documents(english)]
        objects = [page.owner for page in pages if isinstance(page, _ApiPage)]
        names, neighbours = ObjectNames(objects), Neighbours(objects, self.seed)
        passages = Passages([chunk.text for chunk in english])
        pairs: list[QAPair] = []
        for done, page in enumerate(pages):
            if isinstance(page, _ApiPage):
                pairs += self._api_pairs(page, names, neighbours)
            else:
                pairs += self._prose_pairs(page, passages)
            if done % _PROGRESS_EVERY == 0:
                progress("writing questions", done, len(pages))
        progress("writing questions", len(pages), len(pages))
        return distinct_pairs(self.seed, pairs)

    def _read_page(self, chunks: list[Chunk]) -> _ApiPage | _ProsePage:
        if is_api_page(chunks):
            return _ApiPage(chunks, read_object(chunks))
        rows = Counter(key for chunk in chunks for key in row_keys(chunk.text))
        return _ProsePage([(chunk, self._choose(chunk, _askable_prose_facts(chunk, rows))) for chunk in chunks])

    def _choose(self, chunk: Chunk, facts: Sequence[Fact]) -> list[Fact]:
        return chosen_facts(self.seed, chunk, facts, self.limit_per_chunk)

    def _choose_unanswerable(self, chunk: Chunk, facts: Sequence[Fact], answerable: int) -> list[Fact]:
        return chosen_unanswerable(self.seed, chunk, facts, answerable, self.unanswerable_share)

    def _api_pairs(self, page: _ApiPage, names: ObjectNames, neighbours: Neighbours) -> list[QAPair]:
        pairs = []
        for chunk in page.chunks:
            for fact in self._choose(chunk, self._askable_api_facts(chunk, page.owner, names)):
                pairs.append(self._pair(chunk, self._with_object(fact, page.owner, names)))
        first = page.chunks[0]
        unanswerable = list(unanswerable_api_facts(page.owner, neighbours, self.seed))
        for fact in self._choose_unanswerable(first, unanswerable, answerable=len(pairs)):
            pairs.append(self._pair(first, self._fill_slots(fact, page.owner, names)))
        return pairs

    def _askable_api_facts(self, chunk: Chunk, owner: ApiObject, names: ObjectNames) -> list[Fact]:
        """Return the facts of a chunk, without descriptions that other objects fit too."""
        facts = list(api_facts(chunk, owner))
        if owner.noun in _OBJECTS_WITH_PROSE:
            place = f" in {names.name_for(owner, self.seed, 'prose', chunk.id)}"
            facts += prose_facts(chunk, prose_spans(chunk), place)
        return [
            fact
            for fact in facts
            if fact.template_group not in _DESCRIPTION_SLOTS or names.descriptions(owner, fact.focus)
        ]

    def _with_object(self, fact: Fact, owner: ApiObject, names: ObjectNames) -> Fact:
        """Return the fact with all slots; the purpose of some classes is asked for by two words: `an io manager`."""
        phrase = names.class_as_words(owner)
        if fact.kind == "purpose" and phrase.count(" ") == 1:
            share = draw(self.seed, "spoken", owner.title, fact.template_group)
            if share < _CLASS_AS_WORDS_SHARE:
                slots = {"term": phrase, "article": article(phrase), "plural": with_s_ending(phrase)}
                fact = replace(fact, template_group="purpose.spoken", slots=slots)
        return self._fill_slots(fact, owner, names)

    def _fill_slots(self, fact: Fact, owner: ApiObject, names: ObjectNames) -> Fact:
        """Return the fact with the slots of its object, and its own slots as people would put them."""
        draw_parts = (owner.title, fact.template_group, fact.focus)
        own_slots = {slot: self._as_people_say(slot, words, fact, owner, names) for slot, words in fact.slots.items()}
        name = names.name_for(owner, self.seed, *draw_parts)
        return replace(fact, slots={"object": name, "package": owner.package, "noun": owner.noun, **own_slots})

    def _as_people_say(self, slot: str, words: str, fact: Fact, owner: ApiObject, names: ObjectNames) -> str:
        draw_parts = (owner.title, fact.template_group, fact.focus)
        if slot in _IDENTIFIER_SLOTS:
            return quote_name(words, self.seed, *draw_parts)
        if slot != _DESCRIPTION_SLOTS.get(fact.template_group):
            return words
        words = choose(self.seed, names.descriptions(owner, words), "way", *draw_parts)
        if draw(self.seed, "loosely", *draw_parts) < _PLAIN_NOUNS_SHARE:
            words = in_plain_nouns(words)
        if slot == "action" and draw(self.seed, "other verb", *draw_parts) < _SYNONYM_VERB_SHARE:
            words = with_synonym_verb(words, draw(self.seed, "which verb", *draw_parts))
        return words

    def _prose_pairs(self, page: _ProsePage, passages: Passages) -> list[QAPair]:
        pairs = []
        for chunk, facts in page.facts:
            if not facts:
                continue
            candidates = [self._pair(chunk, fact) for fact in facts]
            pairs += [pair for pair in candidates if is_worth_asking(self.seed, pair, chunk)]
            terms = [fact.focus for fact in facts if fact.kind in _TERM_KINDS]
            subjects = [fact.slots["subject"] for fact in facts if "subject" in fact.slots]
            subjects += [fact.slots["row"] for fact in facts if is_identifier(fact.slots.get("row", "").strip("`"))]
            place = _place(chunk)
            unanswerable = list(unanswerable_prose_facts(chunk, terms, subjects, place, passages, self.seed))
            chosen = self._choose_unanswerable(chunk, unanswerable, answerable=len(facts))
            pairs += [self._pair(chunk, fact) for fact in chosen]
        return pairs

    def _pair(self, chunk: Chunk, fact: Fact) -> QAPair:
        """Return the question for a fact whose slots are all filled, with the answer at its span."""
        draw_parts = (chunk.document_id, fact.kind, fact.focus, str(fact.start))
        question, template = question_for(self.seed, fact.template_group, fact.slots, *draw_parts)
        answer = collapse_whitespace(chunk.text[fact.start : fact.end])
        return QAPair(
            id=content_id(chunk.id, question, answer),
            question=question,
            answer=answer,
            kind=fact.kind,
            document_id=chunk.document_id,
            chunk_id=chunk.id,
            span=(fact.start, fact.end),
            answerable=bool(answer),
            topic=chunk.topic,
            writer=self.name,
            template=template,
        )


def _documents(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Return the chunks of each document in their order, without duplicates of other chunks."""
    documents: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        if not chunk.duplicate_of:
            documents[chunk.document_id].append(chunk)
    return [sorted(document, key=lambda chunk: chunk.position) for document in documents.values()]


def _askable_prose_facts(chunk: Chunk, rows: Mapping[str, int]) -> list[Fact]:
    """Return the facts of a chunk of running text that a question can name without the page.

    `rows` counts how often each row key occurs in the tables of the document.
    """
    if is_project_news(chunk):
        return []
    place = _place(chunk)
    facts = [*prose_facts(chunk, [(0, len(chunk.text))], place), *heading_facts(chunk, place)]
    # The key of two rows, such as a parameter of two functions, does not say which one is meant.
    facts = [fact for fact in facts if fact.kind != "table" or rows[fact.slots["row"].strip("`")] == 1]
    if place:
        return facts
    return [fact for fact in facts if fact.kind in ("definition", "statement") and is_about_a_name(fact)]


def _place(chunk: Chunk) -> str:
    """Return ` in TITLE` for a chunk of prose, or "" if neither title nor topic says what the text is about."""
    for title in (chunk.title.removesuffix(" (package)"), chunk.topic):
        # Without a subtitle and without pictures: `Parcelware: sorts mail 📦`.
        name = re.sub(r"[^\w\x20-\x7e]", "", straight_quotes(re.split(r": | [—–-] ", title)[0])).strip(" :!?.#")
        if len(name.split()) <= _LONGEST_PLACE and not is_generic_title(name) and not title.rstrip().endswith("?"):
            return f" in {name}"
    return ""
