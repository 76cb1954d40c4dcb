"""The response recorder over a real database that really runs full."""

import time
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sa

from ragtune.records import ResponseRecord
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.recorder import ResponseRecorder

RECORD = ResponseRecord(
    id="r0",
    created_at="2026-01-01T00:00:00+00:00",
    question="What is it?",
    answer="word " * 400,
    model="ragtune",
    model_version="1",
    chunk_ids=("a",),
    cited_chunk_ids=(),
    refused=False,
    user="ann",
    latency_ms=1.0,
)


def fill_disk(log: FeedbackLog, full: bool) -> None:
    """Let SQLite answer as on a full disk: the file may have no more pages, or again as many as it likes."""
    pages = 1 if full else 1_000_000
    log._engine.dispose()
    sa.event.listen(log._engine, "connect", lambda connection, _: connection.execute(f"PRAGMA max_page_count={pages}"))


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


@pytest.fixture
def log(tmp_path):
    with closing(FeedbackLog(f"sqlite:///{tmp_path / 'feedback.db'}")) as log:
        yield log


def test_a_response_is_written_soon_and_feedback_can_wait_for_it(log):
    recorder = ResponseRecorder(log)
    recorder.add(RECORD)
    assert not recorder.holds("r0", wait=20)
    assert log.response("r0") == RECORD
    recorder.close()


def test_a_full_disk_delays_no_answer_and_loses_none_once_there_is_room(log):
    fill_disk(log, full=True)
    recorder = ResponseRecorder(log)
    for number in range(50):
        recorder.add(replace(RECORD, id=f"r{number}"))
    assert (recorder.pending, recorder.dropped) == (50, 0)
    until(lambda: recorder.error)
    assert "full" in recorder.error
    assert recorder.holds("r0", wait=0.1)
    fill_disk(log, full=False)
    until(lambda: recorder.pending == 0)
    assert recorder.error == ""
    assert log.count_responses() == 50
    recorder.close()


def test_a_buffer_that_is_full_drops_the_oldest_and_counts_them(log):
    fill_disk(log, full=True)
    recorder = ResponseRecorder(log, most_pending=10)
    for number in range(25):
        recorder.add(replace(RECORD, id=f"r{number}"))
    assert (recorder.pending, recorder.dropped) == (10, 15)
    fill_disk(log, full=False)
    until(lambda: recorder.pending == 0)
    assert log.response("r24")
    assert log.response("r14") is None
    recorder.close()


def test_a_response_that_cannot_be_stored_is_dropped_and_holds_up_no_other(log):
    recorder = ResponseRecorder(log)
    records = [RECORD, replace(RECORD, id="r1", question="half \ud800"), replace(RECORD, id="r2"), RECORD]
    for record in records:
        recorder.add(record)
    until(lambda: recorder.pending == 0)
    assert recorder.dropped == 2, "half of a surrogate pair, and an id that is there already"
    assert log.response("r2")
    recorder.close()


def test_counts_are_none_while_the_log_cannot_be_read(log, tmp_path):
    recorder = ResponseRecorder(log)
    recorder.add(RECORD)
    until(lambda: recorder.pending == 0)
    assert recorder.counts() == (1, 0)
    log.close()
    for file in tmp_path.glob("feedback.db*"):
        file.unlink()
    (tmp_path / "feedback.db").mkdir()
    assert recorder.counts() is None
    assert "cannot be read" in recorder.error
    recorder.close()


def test_closing_writes_what_is_pending(log):
    recorder = ResponseRecorder(log)
    for number in range(300):
        recorder.add(replace(RECORD, id=f"r{number}"))
    recorder.close()
    assert log.count_responses() == 300
