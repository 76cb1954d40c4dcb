"""The documents and pairs of the collection that the reading adapter is trained on.

It has three parts: contexts of public question sets, the pages that our own questions are about, and API pages of
packages, about which the rule-based writer asks. All of them are in one index, so that the passages of a training
prompt are those that a search returns.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.people import (
    PassageQuestion,
    SpanQuestion,
    read_passage_questions,
    read_span_questions,
    whole_answer,
)
from ragtune.draws import draw
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.library import Library
from ragtune.model.examples.builder import PEOPLE
from ragtune.ports import Embedder, Progress, silent
from ragtune.records import Chunk, Document, QAPair, content_id
from ragtune.settings import Settings
from ragtune.text.whitespace import collapse_whitespace

OWN_QUESTIONS = Path(__file__).parent / "questions"
STORIES = "fairytale"
EXCLUDED = ("policy",)
"""Sets whose text must not reach the shipped adapter: the policies of PolicyQA are for research."""
PACKAGES = tuple(f"package:{name}" for name in ("sklearn", "pydantic", "aiohttp", "click", "requests", "fastapi"))
"""Packages about whose API pages the rule-based writer asks: those of `grounding/ragtune.yaml` without numpy, whose
pages take as long to embed as all others together."""
_NEIGHBOUR_SHARE = 0.01
"""Pages of our own questions' sources that are indexed although no question is about them. Chosen by hand: the search
needs pages to confuse, and each takes time to embed."""
_NEAR_PASSAGES = 2
"""Passages before and after one that a question is about are indexed too. Chosen by hand: some pages have hundreds."""
_STORY_SHARE = 0.3
"""Stories of FairytaleQA that are used. Chosen by hand: they have four of five questions by people, and their prose is
far from documentation."""
_API_GROUP_SHARE = 0.08
"""Modules and classes of the packages whose pages are indexed, whole, so that siblings stay together. Chosen by hand:
they give some 2,000 questions."""


@dataclass(frozen=True, slots=True)
class Collection:
    """The passages to index, and the pairs about them: `people` by people, `templates` by the rule-based writer.

    `left_out` counts the questions that could not be used, by reason.
    """

    chunks: list[Chunk]
    people: list[QAPair]
    templates: list[QAPair]
    left_out: Counter[str]


def build_collection(
    questions: Path, settings: Settings, embedder: Embedder, progress: Progress = silent
) -> Collection:
    """Return the training collection: the public sets in the folder `questions`, our own questions, and templates.

    Raises DatasetError or SourceError if data or a documentation package is missing.
    """
    passages = read_passage_questions(OWN_QUESTIONS)
    spans = [
        question
        for question in read_span_questions(questions, EXCLUDED)
        if question.origin != STORIES or draw(settings.seed, "story", question.title) < _STORY_SHARE
    ]
    own_sources = tuple(dict.fromkeys(question.source for question in passages))
    sources = tuple(dict.fromkeys((*own_sources, *PACKAGES)))
    library = Library(settings.model_copy(update={"sources": sources}))
    read = library.read(reread=(), progress=progress).documents
    contexts = context_documents(spans)
    documents = [*contexts, *chosen_documents(read, passages, settings.seed)]
    all_chunks = chunk_changed(documents, settings, embedder, progress)
    chunks = [*near_questions(all_chunks, passages)]
    left_out: Counter[str] = Counter()
    people = [*span_pairs(spans, chunks, left_out), *passage_pairs(passages, chunks, left_out)]
    api = [chunk for chunk in chunks if chunk.source in PACKAGES]
    written = ExtractiveWriter(settings.seed).write(api, progress)
    checked = check_pairs(written, api, settings.dataset)
    return Collection(chunks, people, checked.pairs, left_out)


def context_documents(questions: Sequence[SpanQuestion]) -> list[Document]:
    """Return one document per title: its contexts as paragraphs, each once, in their order."""
    by_title: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for question in questions:
        by_title[question.origin, question.title][question.context] = None
    documents = []
    for (origin, title), contexts in by_title.items():
        text = "\n\n".join(contexts)
        documents.append(
            Document(
                id=content_id(origin, title),
                source=f"people:{origin}",
                path=title,
                title=title,
                text=text,
                sha256=hashlib.sha256(f"{title}\0{text}".encode()).hexdigest(),
                topic=origin,
            )
        )
    return documents


def chosen_documents(documents: Sequence[Document], questions: Sequence[PassageQuestion], seed: int) -> list[Document]:
    """Return the documents that questions are about, a share of the other pages, and whole groups of API pages."""
    asked = {(question.source, question.title) for question in questions}

    def is_chosen(document: Document) -> bool:
        if (document.source, document.title) in asked:
            return True
        if document.kind == "api":
            return draw(seed, "group", document.title.rpartition(".")[0]) < _API_GROUP_SHARE
        return draw(seed, "page", document.id) < _NEIGHBOUR_SHARE

    return [document for document in documents if is_chosen(document)]


def near_questions(chunks: Sequence[Chunk], questions: Sequence[PassageQuestion]) -> Iterator[Chunk]:
    """Yield the chunks that are near one that a question is about, and all chunks of documents without questions."""
    asked = {question.passage for question in questions}
    places: dict[str, list[int]] = defaultdict(list)
    for chunk in chunks:
        if chunk.id in asked:
            places[chunk.document_id].append(chunk.position)
    for chunk in chunks:
        near = places.get(chunk.document_id)
        if near is None or min(abs(chunk.position - place) for place in near) <= _NEAR_PASSAGES:
            yield chunk


def span_pairs(questions: Iterable[SpanQuestion], chunks: Iterable[Chunk], left_out: Counter[str]) -> list[QAPair]:
    """Return a pair for each question whose span stands in one chunk; `pair.span` is the span's place in the chunk."""
    by_document: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        by_document[chunk.document_id].append(chunk)
    pairs = []
    for question in questions:
        document_id = content_id(question.origin, question.title)
        target = whole_answer(question.context, question.span)
        span_text = question.context[slice(*question.span)]
        if not target or span_text.lower() not in target.lower():
            left_out[f"{question.origin}: no sentence could be made"] += 1
            continue
        place = _place_in_chunks(question, by_document[document_id])
        if place is None:
            left_out[f"{question.origin}: the answer is in no single passage"] += 1
            continue
        chunk, span = place
        pairs.append(_pair(question.origin, question.question, target, chunk, span))
    return pairs


def _place_in_chunks(question: SpanQuestion, chunks: Sequence[Chunk]) -> tuple[Chunk, tuple[int, int]] | None:
    """Return the chunk that holds the question's span with some words around it, and the span's place there."""
    start, end = question.span
    for reach in (60, 25, 0):
        context = question.context[max(0, start - reach) : end + reach]
        for chunk in chunks:
            place = chunk.text.find(context)
            if place >= 0:
                first = place + min(start, reach)
                return chunk, (first, first + end - start)
    return None


def passage_pairs(
    questions: Iterable[PassageQuestion], chunks: Iterable[Chunk], left_out: Counter[str]
) -> list[QAPair]:
    """Return a pair for each of our own questions whose passage exists; `pair.span` is the place of the evidence."""
    by_id = {chunk.id: chunk for chunk in chunks}
    pairs = []
    for question in questions:
        chunk = by_id.get(question.passage)
        if chunk is None or chunk.duplicate_of:
            left_out[f"{question.origin}: its passage is gone"] += 1
            continue
        span = _span_on_any_lines(chunk.text, question.evidence) if question.answer else (0, 0)
        if span is None:
            left_out[f"{question.origin}: its evidence is not in the passage"] += 1
            continue
        pairs.append(_pair(question.origin, question.question, question.answer, chunk, span))
    return pairs


def _span_on_any_lines(text: str, part: str) -> tuple[int, int] | None:
    """Return where `part` stands in the text, whatever white space separates the words; None if nowhere."""
    places = [index for index, character in enumerate(text) if not character.isspace()]
    dense = "".join(text[index] for index in places)
    wanted = "".join(part.split())
    start = dense.find(wanted)
    return (places[start], places[start + len(wanted) - 1] + 1) if wanted and start >= 0 else None


def _pair(origin: str, question: str, answer: str, chunk: Chunk, span: tuple[int, int]) -> QAPair:
    answer = collapse_whitespace(answer)
    return QAPair(
        id=content_id(chunk.id, question, answer),
        question=question,
        answer=answer,
        kind=origin,
        document_id=chunk.document_id,
        chunk_id=chunk.id,
        span=span,
        answerable=bool(answer),
        topic=chunk.topic,
        writer=PEOPLE,
    )
