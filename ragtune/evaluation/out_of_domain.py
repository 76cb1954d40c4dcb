"""Questions about something else: what a model could do before must survive its training.

The texts are the descriptions that installed packages carry: prose by many hands, present on every
machine. The questions are written and checked like those of a dataset; their passages are kept with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from itertools import islice

from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.draws import draw
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.packages import package_description
from ragtune.ports import Embedder, Progress, silent
from ragtune.records import Chunk, Document, Hit, QAPair
from ragtune.settings import Settings
from ragtune.text.shingles import near_pairs

DESCRIPTIONS = 60
"""Held out for the gate; as many more are replayed in training."""
SHORTEST, LONGEST = 1500, 6000
"""Characters of a description that is worth asking about, and that are read; change logs tend to follow."""


@dataclass(frozen=True, slots=True)
class OutOfDomainQuestion:
    """A pair with the passages that are shown for it, in their order."""

    pair: QAPair
    passages: tuple[Chunk, ...]


class FixedPassages:
    """Finds for each question the passages that were kept with it."""

    def __init__(self, questions: Sequence[OutOfDomainQuestion]) -> None:
        self.passages = {question.pair.question: question.passages for question in questions}

    def search(self, text: str, limit: int) -> list[Hit]:
        """Return the kept passages, best first."""
        return [Hit(chunk, 1.0 / place) for place, chunk in enumerate(self.passages[text][:limit], 1)]


def out_of_domain_questions(
    documents: Sequence[Document], embedder: Embedder, settings: Settings, progress: Progress = silent
) -> list[OutOfDomainQuestion]:
    """Return up to `evaluation.out_of_domain_items` questions, chosen by seed, about none of the documents.

    Descriptions that resemble a document are left out. The passages are those most similar to the question
    among the descriptions that are asked about, the right one always among them where there is one.
    """
    texts = descriptions(settings.seed)
    return _asked(
        _unlike(texts, documents, settings), settings.evaluation.out_of_domain_items, embedder, settings, progress
    )


def replay_questions(
    documents: Sequence[Document], most: int, embedder: Embedder, settings: Settings, progress: Progress = silent
) -> list[OutOfDomainQuestion]:
    """Return up to `most` questions of the same kind to train on, so that a model keeps what it could do.

    They come from other descriptions than `out_of_domain_questions`, which resemble neither those nor the documents.
    """
    held_out = descriptions(settings.seed)
    texts = descriptions(settings.seed, skip=len(held_out))
    return _asked(_unlike(texts, [*documents, *held_out], settings), most, embedder, settings, progress)


def descriptions(seed: int, most: int = DESCRIPTIONS, skip: int = 0) -> list[Document]:
    """Return the beginnings of the longer descriptions of installed packages, a sample that the seed chooses."""
    names = sorted({str(each.metadata["Name"]) for each in distributions()})
    names.sort(key=lambda name: draw(seed, "outside", name))
    read = (document for name in names for document in package_description(name) if len(document.text) >= SHORTEST)
    chosen = islice(read, skip, skip + most)
    return [replace(document, text=document.text[:LONGEST].rpartition("\n\n")[0]) for document in chosen]


def _asked(
    texts: Sequence[Document], most: int, embedder: Embedder, settings: Settings, progress: Progress
) -> list[OutOfDomainQuestion]:
    if not most:
        return []
    chunks = [
        chunk for chunk in chunk_documents(texts, settings.chunking, embedder.count_tokens) if not chunk.duplicate_of
    ]
    written = ExtractiveWriter(settings.seed, unanswerable_share=settings.dataset.unanswerable_share).write(chunks)
    kept = check_pairs(written, chunks, settings.dataset).kept
    kept.sort(key=lambda pair: draw(settings.seed, "outside", pair.id))
    chosen = kept[:most]
    asked = {pair.document_id for pair in chosen}
    progress("reading descriptions of installed packages", 1, 2)
    shown = [chunk for chunk in chunks if chunk.document_id in asked]
    questions = with_nearest_passages(chosen, shown, embedder, settings.answer.passages)
    progress("reading descriptions of installed packages", 2, 2)
    return questions


def with_nearest_passages(
    pairs: Sequence[QAPair], chunks: Sequence[Chunk], embedder: Embedder, limit: int
) -> list[OutOfDomainQuestion]:
    """Return each pair with the `limit` chunks most similar to its question, the right one always among them."""
    import numpy as np

    vectors = embedder.embed([chunk.embedded_text for chunk in chunks])
    places = {chunk.id: place for place, chunk in enumerate(chunks)}
    questions = []
    for pair, scores in zip(pairs, embedder.embed([pair.question for pair in pairs]) @ vectors.T, strict=True):
        nearest = [int(i) for i in np.argsort(-scores, kind="stable")[:limit]]
        right = places[pair.chunk_id]
        if pair.answerable and right not in nearest:
            nearest[-1] = right
        questions.append(OutOfDomainQuestion(pair, tuple(chunks[i] for i in nearest)))
    return questions


def _unlike(found: Sequence[Document], documents: Sequence[Document], settings: Settings) -> list[Document]:
    """Leave out what nearly equals one of the documents; API pages are nothing like a description."""
    prose = [document for document in documents if document.kind == "prose"]
    both = [*found, *prose]
    alike = {
        place
        for pair in near_pairs([document.text for document in both], settings.dataset.jaccard)
        if min(pair) < len(found) <= max(pair)
        for place in pair
    }
    return [document for place, document in enumerate(found) if place not in alike]
