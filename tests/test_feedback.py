import threading
from dataclasses import replace

import pytest

from ragtune.errors import FeedbackError
from ragtune.records import ResponseRecord
from ragtune.store.feedback import FeedbackLog

RESPONSE = ResponseRecord(
    id="r1",
    created_at="2026-01-01T00:00:00+00:00",
    question="What is the default of `limit`?",
    answer="The default is 4. [1]",
    model="ragtune",
    model_version="3",
    chunk_ids=("a", "b"),
    cited_chunk_ids=("a",),
    refused=False,
)


@pytest.fixture
def log(tmp_path):
    log = FeedbackLog(f"sqlite:///{tmp_path / 'deep' / 'feedback.db'}")
    yield log
    log.close()


def test_a_recorded_response_is_read_back_unchanged(log):
    log.record_response(RESPONSE)
    assert log.response("r1") == RESPONSE
    assert log.response("r2") is None


def test_a_verdict_carries_what_it_is_about(log):
    log.record_response(RESPONSE)
    event = log.add("r1", "down", correction=" The default is 5. ", comment="off by one", user="key-1")
    assert log.events() == [event]
    assert (event.question, event.chunk_ids, event.cited_chunk_ids) == (RESPONSE.question, ("a", "b"), ("a",))
    assert (event.model_version, event.correction, event.rating) == ("3", "The default is 5.", "down")


def test_events_after_a_sequence_number_are_the_new_ones_in_order(log):
    log.record_response(RESPONSE)
    added = [log.add("r1", "up") for _ in range(5)]
    assert log.events(after_sequence=added[1].sequence) == added[2:]
    assert log.count_since(added[1].sequence) == 3
    assert log.count_since(0) == 5


def test_a_verdict_on_an_unknown_response_is_refused(log):
    with pytest.raises(FeedbackError, match="no response 'nowhere'"):
        log.add("nowhere", "up")
    assert log.count_since(0) == 0


def test_an_unknown_rating_is_refused_with_the_valid_ones(log):
    log.record_response(RESPONSE)
    with pytest.raises(FeedbackError, match="up or down"):
        log.add("r1", "meh")


def test_two_writers_and_a_reader_lose_nothing(tmp_path):
    url = f"sqlite:///{tmp_path / 'feedback.db'}"
    FeedbackLog(url).record_response(RESPONSE)

    def write(name: str) -> None:
        own = FeedbackLog(url)
        for i in range(30):
            own.record_response(replace(RESPONSE, id=f"{name}-{i}"))
            own.add(f"{name}-{i}", "up", user=name)
        own.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = FeedbackLog(url).events()
    assert len(events) == 60
    assert [e.sequence for e in events] == sorted({e.sequence for e in events})


def test_an_impossible_url_says_which_setting_to_correct():
    with pytest.raises(FeedbackError, match="RAGTUNE_FEEDBACK__URL"):
        FeedbackLog("nonsense://nowhere")
