from dataclasses import replace

import numpy as np
import pytest

from ragtune.dataset.checks.paraphrases import cached_embedder, paraphrase_pairs, with_nearness
from ragtune.dataset.checks.retrievability import with_retrievability
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.records import Hit, QAPair
from tests.support.api_pages import articles, chunk
from tests.support.counting_embedder import CountingEmbedder

CHUNKS = [chunk(item) for item in articles(12)]
PAIRS = ExtractiveWriter(2).write(CHUNKS)


def pair(name, question, answer, answerable=True):
    return QAPair(
        id=name, question=question, answer=answer, kind="purpose", document_id="d", chunk_id="c", answerable=answerable
    )


def test_a_pair_is_as_retrievable_as_the_rank_of_its_own_passage():
    question_pair = next(item for item in PAIRS if item.answerable)
    others = [Hit(item, 1.0) for item in CHUNKS if item.id != question_pair.chunk_id]
    own = Hit(next(item for item in CHUNKS if item.id == question_pair.chunk_id), 1.0)
    for hits, score in (([own, *others], 1.0), ([*others[:3], own], 0.25), (others[:10], 0.0)):
        (scored,) = with_retrievability([question_pair], lambda texts, most, hits=hits: [hits[:most]])
        assert scored.scores["retrievable"] == score


def test_an_unanswerable_pair_has_no_passage_to_find():
    unanswerable = [item for item in PAIRS if not item.answerable][:2]
    assert unanswerable
    assert with_retrievability(unanswerable, lambda texts, most: pytest.fail("nothing to search for")) == unanswerable


def test_the_nearest_question_is_never_the_question_itself():
    vectors = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.0, 1.0]}
    pairs = [pair(name, name, "x") for name in vectors]
    scored = with_nearness(pairs, lambda texts: np.array([vectors[text] for text in texts], dtype=np.float32))
    assert [item.scores["nearest"] for item in scored] == [0.8, 0.8, 0.6]


def test_all_questions_are_embedded_at_once_and_order_does_not_matter():
    embedder = CountingEmbedder()
    forward = with_nearness(PAIRS, embedder.embed)
    assert len(embedder.embedded) == len(PAIRS)
    backward = with_nearness(PAIRS[::-1], embedder.embed)
    assert forward == backward[::-1]


def test_paraphrases_have_near_questions_and_nearly_equal_answers():
    long = "the number of parcels that one ramp can hold"
    pairs = [
        pair("a", "What is parcel limit of the ramp?", long),
        pair("b", "What is the parcel limit of a ramp?", f"{long} now"),
        pair("c", "What is the parcel limit of a ramp here?", "a thing that is quite different from it"),
        pair("d", "Where do lorries sleep at night in winter?", long),
        pair("e", "What is the parcel limit of a ramp?", "int"),
        pair("f", "What is parcel limit of the ramp?", "int"),
    ]
    assert paraphrase_pairs(pairs, CountingEmbedder(dimension=256).embed, 0.7) == [("a", "b")]


def test_no_pairs_need_no_embedder():
    assert (
        paraphrase_pairs([replace(PAIRS[0], answer="too short")], lambda texts: pytest.fail("nothing to embed"), 0.5)
        == []
    )
    assert with_nearness([], lambda texts: pytest.fail("nothing to embed")) == []


def test_a_text_is_embedded_once():
    embedder = CountingEmbedder()
    embed = cached_embedder(embedder.embed)
    first = embed(["a sensor", "a schedule", "a sensor"])
    again = embed(["a schedule", "an asset"])
    assert embedder.embedded == ["a sensor", "a schedule", "an asset"]
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(first[1], again[0])
