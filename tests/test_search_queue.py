import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ragtune.errors import SearchIndexError
from ragtune.records import Chunk, Hit
from ragtune_serving.search_queue import SearchQueue


class SlowRetriever:
    """Finds a chunk named after the text; it holds the first search until `go` is set, and remembers every batch."""

    def __init__(self) -> None:
        self.batches, self.go = [], threading.Event()

    def search_many(self, texts, limit, where):
        self.batches.append((list(texts), limit, where))
        assert self.go.wait(20)
        if "bad" in texts:
            raise SearchIndexError("no index")
        chunk = Chunk(id="", document_id="d", source="s", title="t", heading_path=(), text="", position=0)
        return [[Hit(Chunk(**{**{n: getattr(chunk, n) for n in chunk.__slots__}, "id": text}), 1.0)] for text in texts]


def start_first(pool, searches, retriever):
    first = pool.submit(searches.search, "first", 3)
    while not retriever.batches:
        pass
    return first


def wait_for(searches, count):
    while searches._waiting.qsize() < count:
        pass


def test_questions_that_wait_are_searched_for_together_and_each_gets_its_own_hits():
    retriever = SlowRetriever()
    searches = SearchQueue(retriever)
    with ThreadPoolExecutor(8) as pool:
        first = start_first(pool, searches, retriever)
        others = {text: pool.submit(searches.search, text, 3) for text in "abcde"}
        wait_for(searches, 5)
        retriever.go.set()
        assert first.result()[0].chunk.id == "first"
        assert {text: future.result()[0].chunk.id for text, future in others.items()} == {t: t for t in "abcde"}
    assert [len(texts) for texts, *_ in retriever.batches] == [1, 5]


def test_other_limits_and_filters_are_other_searches():
    retriever = SlowRetriever()
    searches = SearchQueue(retriever)
    with ThreadPoolExecutor(8) as pool:
        start_first(pool, searches, retriever)
        pool.submit(searches.search, "a", 3, {"topic": "x"})
        pool.submit(searches.search, "b", 3)
        pool.submit(searches.search, "c", 5)
        wait_for(searches, 3)
        retriever.go.set()
    assert sorted(retriever.batches[1:], key=str) == [
        (["a"], 3, {"topic": "x"}),
        (["b"], 3, None),
        (["c"], 5, None),
    ]


def test_a_question_that_fails_spoils_no_other():
    retriever = SlowRetriever()
    searches = SearchQueue(retriever)
    with ThreadPoolExecutor(8) as pool:
        start_first(pool, searches, retriever)
        good, bad = pool.submit(searches.search, "good", 3), pool.submit(searches.search, "bad", 3)
        wait_for(searches, 2)
        retriever.go.set()
        assert good.result()[0].chunk.id == "good"
        with pytest.raises(SearchIndexError):
            bad.result()
