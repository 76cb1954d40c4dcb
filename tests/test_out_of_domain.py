from dataclasses import replace

import pytest

from ragtune.evaluation.out_of_domain import FixedPassages, descriptions, out_of_domain_questions, replay_questions
from ragtune.settings import load_settings
from ragtune.text.shingles import jaccard, shingles
from tests.support.api_pages import document
from tests.support.counting_embedder import CountingEmbedder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return load_settings({"home": home, "evaluation": {"out_of_domain_items": 30}, "answer": {"passages": 3}})


@pytest.fixture(scope="module")
def questions(settings):
    return out_of_domain_questions([], CountingEmbedder(), settings)


def test_installed_packages_give_questions_with_their_passages(questions):
    assert len(questions) == 30
    assert len({question.pair.document_id for question in questions}) > 5
    for question in questions:
        assert len(question.passages) == 3
        texts = {chunk.id: chunk.text for chunk in question.passages}
        if question.pair.answerable:
            start, end = question.pair.span
            assert texts[question.pair.chunk_id][start:end]


def test_the_same_seed_gives_the_same_questions(settings, questions):
    assert out_of_domain_questions([], CountingEmbedder(), settings) == questions


def test_no_question_is_about_a_description_that_is_among_the_documents(settings, questions):
    title = questions[0].passages[0].title
    (description,) = (text for text in descriptions(settings.seed) if text.title == title)
    copied = replace(document("notes/copied", f"{description.text} One more word."), kind="prose")
    assert jaccard(shingles(copied.text), shingles(description.text)) > settings.dataset.jaccard
    remaining = out_of_domain_questions([copied], CountingEmbedder(), settings)
    assert title in {chunk.title for question in questions for chunk in question.passages}
    assert title not in {chunk.title for question in remaining for chunk in question.passages}


def test_training_replays_questions_about_other_texts_than_the_held_out_ones(settings, questions):
    replayed = replay_questions([], 40, CountingEmbedder(), settings)
    assert len(replayed) == 40
    assert not {q.pair.document_id for q in questions} & {q.pair.document_id for q in replayed}
    held_out = [shingles(text.text) for text in descriptions(settings.seed)]
    sources = {q.pair.document_id for q in replayed}
    texts = [text for text in descriptions(settings.seed, skip=len(held_out)) if text.id in sources]
    assert texts
    assert all(jaccard(shingles(text.text), other) < settings.dataset.jaccard for text in texts for other in held_out)


def test_a_limit_of_zero_gives_no_questions_and_embeds_nothing(settings):
    none = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update={"out_of_domain_items": 0})})
    embedder = CountingEmbedder()
    assert out_of_domain_questions([], embedder, none) == []
    assert embedder.embedded == []


def test_the_stored_passages_are_found_for_their_question(questions):
    finder = FixedPassages(questions)
    hits = finder.search(questions[3].pair.question, 2)
    assert [hit.chunk for hit in hits] == list(questions[3].passages[:2])
    assert hits[0].score > hits[1].score
