from dataclasses import replace

import numpy as np
import pytest

from ragtune.dataset.checks.similarity import remembered, same_meaning, with_nearness, with_retrievability
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.records import Hit, QAPair
from tests.support.api_pages import articles, chunk
from tests.support.counting_embedder import CountingEmbedder

CHUNKS = [chunk(each) for each in articles(12)]
PAIRS = ExtractiveWriter(2).write(CHUNKS)


def pair(name, question, answer, answerable=True):
    return QAPair(
        id=name, question=question, answer=answer, kind="purpose", document_id="d", chunk_id="c", answerable=answerable
    )


def test_a_pair_is_as_retrievable_as_the_rank_of_its_own_passage():
    asked = next(each for each in PAIRS if each.answerable)
    others = [Hit(each, 1.0) for each in CHUNKS if each.id != asked.chunk_id]
    own = Hit(next(each for each in CHUNKS if each.id == asked.chunk_id), 1.0)
    for hits, score in (([own, *others], 1.0), ([*others[:3], own], 0.25), (others[:10], 0.0)):
        (scored,) = with_retrievability([asked], lambda texts, most, hits=hits: [hits[:most]])
        assert scored.scores["retrievable"] == score


def test_an_unanswerable_pair_has_no_passage_to_find():
    refused = [each for each in PAIRS if not each.answerable][:2]
    assert refused
    assert with_retrievability(refused, lambda texts, most: pytest.fail("nothing to search for")) == refused


def test_the_nearest_question_is_never_the_question_itself():
    vectors = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.0, 1.0]}
    pairs = [pair(name, name, "x") for name in vectors]
    scored = with_nearness(pairs, lambda texts: np.array([vectors[text] for text in texts], dtype=np.float32))
    assert [each.scores["nearest"] for each in scored] == [0.8, 0.8, 0.6]


def test_all_questions_are_embedded_at_once_and_order_does_not_matter():
    embedder = CountingEmbedder()
    forward = with_nearness(PAIRS, embedder.embed)
    assert len(embedder.embedded) == len(PAIRS)
    backward = with_nearness(PAIRS[::-1], embedder.embed)
    assert forward == backward[::-1]


def test_questions_mean_the_same_when_they_are_near_and_answered_alike():
    long = "the number of parcels that one ramp can hold"
    pairs = [
        pair("a", "What is parcel limit of the ramp?", long),
        pair("b", "What is the parcel limit of a ramp?", f"{long} now"),
        pair("c", "What is the parcel limit of a ramp here?", "a thing that is quite different from it"),
        pair("d", "Where do lorries sleep at night in winter?", long),
        pair("e", "What is the parcel limit of a ramp?", "int"),
        pair("f", "What is parcel limit of the ramp?", "int"),
    ]
    assert same_meaning(pairs, CountingEmbedder(dimension=256).embed, 0.7) == [("a", "b")]


def test_no_pairs_need_no_embedder():
    assert (
        same_meaning([replace(PAIRS[0], answer="too short")], lambda texts: pytest.fail("nothing to embed"), 0.5) == []
    )
    assert with_nearness([], lambda texts: pytest.fail("nothing to embed")) == []


def test_what_was_embedded_once_is_remembered():
    embedder = CountingEmbedder()
    embed = remembered(embedder.embed)
    first = embed(["a sensor", "a schedule", "a sensor"])
    again = embed(["a schedule", "an asset"])
    assert embedder.embedded == ["a sensor", "a schedule", "an asset"]
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(first[1], again[0])
