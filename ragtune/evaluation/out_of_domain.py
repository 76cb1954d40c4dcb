"""Out-of-domain questions: they test that training on one set of documents did not make the model forget others.

The texts are the descriptions of installed Python packages: prose by many authors that every machine has. Questions
are written and checked like those of a dataset, and stored with their passages.
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
"""Descriptions held out for the gate; training replays as many others. Chosen by hand: they give the gate's 48
questions (docs/decisions/out-of-domain-gate.md) with some to spare."""
SHORTEST, LONGEST = 1500, 6000
"""Characters of a description. Shorter ones say too little to ask about; longer ones are cut, because change logs tend
to follow. Both chosen by hand, not sensitive."""
_SALT = "outside"
"""Salt of the seeded draws; another salt would choose other descriptions and questions."""


@dataclass(frozen=True, slots=True)
class OutOfDomainQuestion:
    """A pair with the passages that are shown for it, best first."""

    pair: QAPair
    passages: tuple[Chunk, ...]


class FixedPassages:
    """A search that returns for each question the passages that are stored with it."""

    def __init__(self, questions: Sequence[OutOfDomainQuestion]) -> None:
        self.passages = {question.pair.question: question.passages for question in questions}

    def search(self, text: str, limit: int) -> list[Hit]:
        """Return the stored passages of a question, best first."""
        return [Hit(chunk, 1.0 / rank) for rank, chunk in enumerate(self.passages[text][:limit], 1)]


def out_of_domain_questions(
    documents: Sequence[Document], embedder: Embedder, settings: Settings, progress: Progress = silent
) -> list[OutOfDomainQuestion]:
    """Return up to `evaluation.out_of_domain_items` questions about texts unlike the documents, chosen by seed.

    Descriptions that nearly equal a document are left out. The passages of a question are the most similar ones of all
    descriptions with a question, and the right one is always among them if the question is answerable.
    """
    texts = descriptions(settings.seed)
    limit = settings.evaluation.out_of_domain_items
    return _write_questions(_unlike(texts, documents, settings), limit, embedder, settings, progress)


def replay_questions(
    documents: Sequence[Document], limit: int, embedder: Embedder, settings: Settings, progress: Progress = silent
) -> list[OutOfDomainQuestion]:
    """Return up to `limit` questions of the same kind to train on, so that a model keeps what it could do before.

    They are about other descriptions than `out_of_domain_questions`, and about none that nearly equals one of those or
    a document.
    """
    held_out = descriptions(settings.seed)
    texts = descriptions(settings.seed, skip=len(held_out))
    return _write_questions(_unlike(texts, [*documents, *held_out], settings), limit, embedder, settings, progress)


def descriptions(seed: int, limit: int = DESCRIPTIONS, skip: int = 0) -> list[Document]:
    """Return the beginnings of long descriptions of installed packages, sampled by seed.

    `skip` leaves out the first ones of the sample, so that two calls can return different descriptions.
    """
    names = sorted({str(package.metadata["Name"]) for package in distributions()})
    names.sort(key=lambda name: draw(seed, _SALT, name))
    texts = (document for name in names for document in package_description(name) if len(document.text) >= SHORTEST)
    sample = islice(texts, skip, skip + limit)
    return [replace(document, text=document.text[:LONGEST].rpartition("\n\n")[0]) for document in sample]


def with_nearest_passages(
    pairs: Sequence[QAPair], chunks: Sequence[Chunk], embedder: Embedder, limit: int
) -> list[OutOfDomainQuestion]:
    """Return each pair with the `limit` chunks most similar to its question.

    If the pair is answerable and its own chunk is not among them, that chunk replaces the last one.
    """
    import numpy as np

    vectors = embedder.embed([chunk.embedded_text for chunk in chunks])
    positions = {chunk.id: position for position, chunk in enumerate(chunks)}
    questions = []
    for pair, scores in zip(
        pairs, embedder.embed_questions([pair.question for pair in pairs]) @ vectors.T, strict=True
    ):
        nearest = [int(i) for i in np.argsort(-scores, kind="stable")[:limit]]
        right = positions[pair.chunk_id]
        if pair.answerable and right not in nearest:
            nearest[-1] = right
        questions.append(OutOfDomainQuestion(pair, tuple(chunks[i] for i in nearest)))
    return questions


def _write_questions(
    texts: Sequence[Document], limit: int, embedder: Embedder, settings: Settings, progress: Progress
) -> list[OutOfDomainQuestion]:
    """Return up to `limit` checked questions about the texts, chosen by seed, with their passages."""
    if not limit:
        return []
    chunks = [
        chunk for chunk in chunk_documents(texts, settings.chunking, embedder.count_tokens) if not chunk.duplicate_of
    ]
    pairs = ExtractiveWriter(settings.seed, unanswerable_share=settings.dataset.unanswerable_share).write(chunks)
    accepted = check_pairs(pairs, chunks, settings.dataset).pairs
    accepted.sort(key=lambda pair: draw(settings.seed, _SALT, pair.id))
    sample = accepted[:limit]
    document_ids = {pair.document_id for pair in sample}
    progress("reading descriptions of installed packages", 1, 2)
    candidates = [chunk for chunk in chunks if chunk.document_id in document_ids]
    questions = with_nearest_passages(sample, candidates, embedder, settings.answer.passages)
    progress("reading descriptions of installed packages", 2, 2)
    return questions


def _unlike(texts: Sequence[Document], documents: Sequence[Document], settings: Settings) -> list[Document]:
    """Return the texts that nearly equal none of the documents.

    Only prose documents are compared: an API page never resembles a description.
    """
    prose = [document for document in documents if document.kind == "prose"]
    all_texts = [*texts, *prose]
    duplicates = {
        position
        for pair in near_pairs([document.text for document in all_texts], settings.dataset.jaccard)
        if min(pair) < len(texts) <= max(pair)
        for position in pair
    }
    return [text for position, text in enumerate(texts) if position not in duplicates]
