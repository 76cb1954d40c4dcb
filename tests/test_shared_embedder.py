"""The embedder that many threads share: what waits is embedded together, once, and each call gets its own vectors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ragtune.backends.shared_embedder import _MOST_AT_ONCE, SharedEmbedder
from ragtune.ports import Embedder, silent


class GatedEmbedder(Embedder):
    """Embeds a text as its length; waits for `gate` before the first batch, and fails for the text "broken"."""

    name, dimension, max_tokens = "gated", 2, 8

    def __init__(self) -> None:
        self.gate, self.begun = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def embed(self, texts, progress=silent):
        self.batches.append(list(texts))
        self.begun.set()
        assert self.gate.wait(20)
        if "broken" in texts:
            raise ValueError("this text is broken")
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    def count_tokens(self, texts):
        return [len(text) for text in texts]


@pytest.fixture
def inner():
    return GatedEmbedder()


def ask_at_once(inner, shared, first, others):
    """Ask for `first`, and for the others while it is computed; return their results as futures."""
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(shared.embed, first)]
        assert inner.begun.wait(20)
        futures += [pool.submit(shared.embed, texts) for texts in others]
        while len(shared._waiting) < len(others):
            assert not inner.gate.is_set()
        inner.gate.set()
    return futures


def test_calls_that_wait_are_embedded_in_one_batch_and_each_gets_its_own_vectors(inner):
    shared = SharedEmbedder(inner)
    others = [["bb", "ccc"], ["dddd"], ["bb"], ["a"]]
    futures = ask_at_once(inner, shared, ["a"], others)
    assert [[int(vector[0]) for vector in future.result()] for future in futures] == [[1], [2, 3], [4], [2], [1]]
    first, second = inner.batches
    assert first == ["a"]
    assert sorted(second) == ["bb", "ccc", "dddd"], "no text twice, and none that is kept"


def test_a_text_that_cannot_be_embedded_spoils_no_other_call(inner):
    shared = SharedEmbedder(inner)
    good, broken, other = ask_at_once(inner, shared, ["a"], [["broken"], ["bb"]])
    assert good.result()[0][0] == 1
    with pytest.raises(ValueError, match="this text is broken"):
        broken.result()
    assert other.result()[0][0] == 2


def test_a_batch_has_a_longest_size_and_a_large_call_goes_straight_through(inner):
    shared = SharedEmbedder(inner)
    large = [f"{number:03}" for number in range(_MOST_AT_ONCE - 1)]
    ask_at_once(inner, shared, ["a"], [large, ["bb"], ["ccc"]])
    assert [len(batch) for batch in inner.batches] == [1, _MOST_AT_ONCE, 1]
    shared.embed(["a"] * (_MOST_AT_ONCE + 1))
    assert len(inner.batches[-1]) == _MOST_AT_ONCE + 1
    assert shared.embed([]).size == 0


def test_calls_do_not_wait_for_each_other_while_there_are_cores(inner):
    shared = SharedEmbedder(inner, at_once=2)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(shared.embed, [text]) for text in ("a", "bb")]
        end = time.monotonic() + 20
        while len(inner.batches) < 2:  # both are being computed, though neither may end yet
            assert time.monotonic() < end
            time.sleep(0.01)
        inner.gate.set()
    assert [int(future.result()[0][0]) for future in futures] == [1, 2]


def test_only_the_newest_vectors_are_kept(inner):
    inner.gate.set()
    shared = SharedEmbedder(inner, kept_texts=2)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        shared.embed([text])
    assert inner.batches == [["a"], ["bb"], ["ccc"], ["bb"]]


def test_questions_are_embedded_like_texts_and_tokens_are_those_of_the_embedder(inner):
    inner.gate.set()
    shared = SharedEmbedder(inner)
    assert (shared.name, shared.dimension, shared.max_tokens) == ("gated", 2, 8)
    assert shared.embed_questions(["bb"])[0][0] == 2
    assert shared.count_tokens(["bb"]) == [2]
