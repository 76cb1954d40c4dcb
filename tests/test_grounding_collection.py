"""The training collection of the reading adapter, and the conversations about people's questions."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from grounding import collection
from grounding.collection import chosen_documents, context_documents, near_questions, passage_pairs, span_pairs
from ragtune.answer.prompt import REFUSAL
from ragtune.dataset.people import PassageQuestion, SpanQuestion, read_passage_questions
from ragtune.model.examples.builder import PEOPLE, ExampleBuilder
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.mixture import REPLAY
from ragtune.records import Chunk, Document, Hit, QAPair, SplitItem
from ragtune.settings import AnswerSettings

OPEN = "The museum opens at nine. The shop opens at ten. The garden is open in summer only."
BOATS = "The ferry costs four marks. A bicycle costs one mark more. The last ferry leaves at six."


def passage(name: str, text: str, position: int = 0, **changes: str) -> Chunk:
    fields = {"document_id": f"d-{name}", "source": "folder:x", "title": name, **changes}
    return Chunk(id=name, heading_path=(name,), text=text, position=position, **fields)


def span_question(context: str, part: str, title: str = "Museum", question: str = "when does it open") -> SpanQuestion:
    start = context.index(part)
    return SpanQuestion(origin="web", title=title, context=context, question=question, span=(start, start + len(part)))


def own_question(**changes: str) -> PassageQuestion:
    fields = {
        "origin": "own",
        "passage": "Ferry",
        "source": "folder:x",
        "title": "Ferry",
        "question": "price with a bike",
        "answer": "A bicycle costs one mark more than the four marks of the ferry.",
        "evidence": "A bicycle\ncosts one mark more.",
    }
    return PassageQuestion(**{**fields, **changes})


def test_contexts_of_one_title_become_one_document_with_each_context_once() -> None:
    questions = [
        span_question(OPEN, "nine"),
        span_question(OPEN, "ten"),
        span_question(BOATS, "six"),
        span_question(BOATS, "six", title="Ferry"),
    ]
    documents = context_documents(questions)
    assert [(document.title, document.text) for document in documents] == [
        ("Museum", f"{OPEN}\n\n{BOATS}"),
        ("Ferry", BOATS),
    ]
    assert len({document.id for document in documents}) == 2


def test_a_span_is_placed_in_the_chunk_that_holds_the_words_around_it() -> None:
    (document,) = context_documents([span_question("It opens at ten. " + OPEN, "nine")])
    chunks = [
        passage("a", "It opens at ten.", document_id=document.id),
        passage("b", OPEN, document_id=document.id),
    ]
    left_out: Counter[str] = Counter()
    question = span_question("It opens at ten. " + OPEN, "The shop opens at ten")
    (pair,) = span_pairs([question], chunks, left_out)
    assert (pair.chunk_id, pair.answer) == ("b", "The shop opens at ten.")
    assert chunks[1].text[slice(*pair.span)] == "The shop opens at ten"
    assert not left_out


def test_questions_that_cannot_be_placed_are_counted_with_the_reason() -> None:
    left_out: Counter[str] = Counter()
    assert span_pairs([span_question(OPEN, "nine")], [], left_out) == []
    assert passage_pairs([own_question(passage="gone")], [passage("Ferry", BOATS)], left_out) == []
    assert passage_pairs([own_question(evidence="It is free.")], [passage("Ferry", BOATS)], left_out) == []
    assert left_out == {
        "web: the answer is in no single passage": 1,
        "own: its passage is gone": 1,
        "own: its evidence is not in the passage": 1,
    }


def test_the_evidence_of_our_own_questions_is_found_whatever_white_space_it_has() -> None:
    (pair,) = passage_pairs([own_question()], [passage("Ferry", BOATS)], Counter())
    assert BOATS[slice(*pair.span)] == "A bicycle costs one mark more."
    assert pair.answerable


def test_a_question_without_an_answer_is_unanswerable() -> None:
    (pair,) = passage_pairs([own_question(answer="", evidence="")], [passage("Ferry", BOATS)], Counter())
    assert (pair.answerable, pair.span) == (False, (0, 0))


def test_pages_with_questions_are_indexed_near_the_questions_only() -> None:
    long = [passage(f"p{number}", BOATS, number, document_id="long") for number in range(20)]
    other = [passage("q", OPEN, 0), passage("r", OPEN, 9, document_id="d-q")]
    kept = [chunk.id for chunk in near_questions([*long, *other], [own_question(passage="p10")])]
    assert kept == ["p8", "p9", "p10", "p11", "p12", "q", "r"]


def test_every_page_with_a_question_is_chosen_and_api_pages_with_their_siblings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "_API_GROUP_SHARE", 0.5)

    def document(title: str, kind: str) -> Document:
        return Document(id=title, source="folder:x", path=title, title=title, text="t", sha256="0", kind=kind)

    api = [document(f"pkg.m{module}.f{name}", "api") for module in range(20) for name in range(3)]
    chosen = {chosen.title for chosen in chosen_documents([document("Ferry", "prose"), *api], [own_question()], 1)}
    assert "Ferry" in chosen
    groups = Counter(title.rpartition(".")[0] for title in chosen - {"Ferry"})
    assert set(groups.values()) == {3}
    assert 0 < len(groups) < 20


def test_our_own_questions_have_their_evidence_and_no_question_twice() -> None:
    questions = read_passage_questions(collection.OWN_QUESTIONS)
    assert len(questions) > 1500
    assert all(bool(question.answer) == bool(question.evidence) for question in questions)
    keys = Counter((question.passage, question.question.casefold()) for question in questions)
    assert not [key for key, count in keys.items() if count > 1]


# Conversations


def examples(pairs: Sequence[QAPair], chunks: Sequence[Chunk], **mixture: float) -> list[TrainingExample]:
    hits = [Hit(chunk, 1.0) for chunk in chunks]
    shares = replace(REPLAY, follow_up=0.0, removed_lines=0.0, **mixture)
    builder = ExampleBuilder(chunks, lambda _text, count: hits[:count], AnswerSettings(), 3, shares)
    return builder.build([SplitItem(pair, "train", "c") for pair in pairs])


def pairs_about(count: int, make: Callable[[int], QAPair]) -> list[QAPair]:
    return [replace(make(number), id=f"p{number}") for number in range(count)]


@pytest.fixture
def bicycle() -> QAPair:
    (pair,) = passage_pairs([own_question()], [passage("Ferry", BOATS)], Counter())
    return pair


def test_the_target_is_the_answer_with_the_number_of_the_passage_that_shows_the_evidence(bicycle: QAPair) -> None:
    (example,) = examples([bicycle], [passage("Museum", OPEN), passage("Ferry", BOATS)])
    target = example.messages[-1].content
    number = int(target[-2])
    assert target == f"{bicycle.answer} [{number}]"
    shown = example.messages[-2].content
    assert f"[{number}] Ferry" in shown
    assert example.evidence == "A bicycle costs one mark more."


def test_if_only_the_lines_with_the_evidence_are_removed_the_rest_of_the_passage_stays(bicycle: QAPair) -> None:
    chunks = [passage("Museum", OPEN), passage("Ferry", BOATS)]
    made = examples(pairs_about(40, lambda _: bicycle), chunks, missed=0.0)
    assert all(REFUSAL not in example.messages[-1].content for example in made)
    hits = [Hit(chunk, 1.0) for chunk in chunks]
    builder = ExampleBuilder(chunks, lambda _t, n: hits[:n], AnswerSettings(), 3, replace(REPLAY, removed_lines=1.0))
    (refused,) = builder.build([SplitItem(bicycle, "train", "c")])
    assert refused.messages[-1].content == REFUSAL
    assert "A bicycle costs" not in refused.messages[-2].content
    assert "The ferry costs four marks." in refused.messages[-2].content
    assert refused.evidence == ""


def test_a_name_in_another_sentence_does_not_count_as_the_evidence() -> None:
    text = "Ada Holm kept the light for nine years. " + "The lamp was cleaned on every single morning. " * 30
    text += "The roof of the tower was paid for by Ada Holm and her two sisters."
    question = span_question(text, "Ada Holm and her two sisters", question="who paid for the roof of the tower")
    chunk = passage("Museum", text)
    pair = QAPair(
        id="p",
        question=question.question,
        answer="The roof of the tower was paid for by Ada Holm.",
        kind="web",
        document_id=chunk.document_id,
        chunk_id=chunk.id,
        span=(0, len("Ada Holm")),
        writer=PEOPLE,
    )
    builder = ExampleBuilder([chunk], lambda _t, _n: [], AnswerSettings(), 3)
    assert builder._is_answered_by(pair, "[1] Museum The roof of the tower was paid for by Ada Holm.")
    assert not builder._is_answered_by(pair, "[1] Museum Ada Holm kept the light for nine years.")


def test_the_questions_file_is_json_lines_with_one_question_a_line() -> None:
    for path in Path(collection.OWN_QUESTIONS).glob("*.jsonl"):
        assert all(isinstance(json.loads(line)["question"], str) for line in path.read_text().splitlines())
