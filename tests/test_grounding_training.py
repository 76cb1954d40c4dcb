"""What `make grounding-people` trains on: which questions validate only, and how many are by templates."""

from collections import Counter
from dataclasses import replace

import pytest

from grounding import train
from grounding.collection import Collection
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.examples.builder import PEOPLE
from ragtune.records import Chunk, Hit, QAPair
from ragtune.settings import Settings
from tests.support.answering_fakes import WordEvidence

TEXT = "The ferry costs {n} marks. A bicycle costs {m} marks more. The last ferry leaves at six."


class FirstFive(Retriever):
    """Finds the passage that the question names, then four others."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.chunks = chunks

    def search_many(self, texts, limit, *_args, **_options):
        return [[Hit(chunk, 1.0) for chunk in self._ranked(text)[:limit]] for text in texts]

    def _ranked(self, text: str) -> list[Chunk]:
        return sorted(self.chunks, key=lambda chunk: (chunk.title not in text, chunk.id))[:5]


def chunk(number: int) -> Chunk:
    return Chunk(
        id=f"c{number:03}",
        document_id=f"d{number:03}",
        source="people:web",
        title=f"Ferry{number:03}",
        heading_path=(),
        text=TEXT.format(n=number, m=number + 1),
        position=0,
    )


def pair(about: Chunk, answer: str, **changes: str) -> QAPair:
    start = about.text.index(answer)
    fields = {"kind": "web", "writer": PEOPLE, **changes}
    return QAPair(
        id=f"{about.id}-{fields['kind']}",
        question=f"how much more for a bicycle on {about.title}",
        answer=answer,
        document_id=about.document_id,
        chunk_id=about.id,
        span=(start, start + len(answer)),
        **fields,
    )


@pytest.fixture(scope="module")
def conversations() -> tuple[Collection, train.Conversations]:
    chunks = [chunk(number) for number in range(120)]
    people = [pair(about, f"A bicycle costs {number + 1} marks more.") for number, about in enumerate(chunks)]
    people += [replace(asked, id=f"{asked.id}-no", answerable=False, answer="") for asked in people[::4]]
    templates = [
        pair(about, "The last ferry leaves at six.", kind="statement", writer="extractive") for about in chunks
    ]
    collection = Collection(chunks, people, templates, Counter())
    # Without a similarity shared words choose the lines, and no embedder is needed.
    built = train.build_conversations(collection, FirstFive(chunks), None, WordEvidence(), Settings())
    return collection, built


def test_questions_about_a_validation_title_are_not_trained_on(conversations) -> None:
    collection, built = conversations
    document_of = {pair.id: pair.document_id for pair in (*collection.people, *collection.templates)}
    validated = {document_of[example.pair_id] for example in built.validation}
    trained = {document_of[example.pair_id] for prompt in built.train for example in (prompt, *prompt.siblings)}
    assert validated
    assert not validated & trained


def test_no_question_by_people_is_refused_in_training(conversations) -> None:
    _, built = conversations
    asked = [example for prompt in built.train for example in (prompt, *prompt.siblings) if example.kind == "web"]
    assert len(asked) > 50
    assert all("bicycle costs" in example.messages[-1].content for example in asked)


def test_validation_questions_have_evidence_to_look_for(conversations) -> None:
    _, built = conversations
    assert all(example.evidence for example in built.validation)


def test_templates_are_at_most_the_given_share_of_the_pairs(conversations) -> None:
    _, built = conversations
    every = [example for prompt in built.train for example in (prompt, *prompt.siblings) if example.kind != "talk"]
    templates = sum(example.kind == "statement" for example in every)
    assert 0.2 < templates / len(every) < 0.4


def test_stories_never_validate(conversations) -> None:
    collection, _ = conversations
    stories = [replace(each, kind="fairytale") for each in collection.people]
    built = train.build_conversations(
        replace(collection, people=stories), FirstFive(collection.chunks), None, None, Settings()
    )
    assert built.validation == []
