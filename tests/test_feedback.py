"""The feedback log does the same over SQLite and over PostgreSQL, by one suite."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sa

from ragtune.errors import FeedbackError
from ragtune.records import FeedbackEvent, ResponseRecord
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
    checks={"support": 0.8, "failures": {"numbers": "It says 4."}, "replaced": [], "cached": False},
)


@pytest.fixture
def log(database_url):
    log = FeedbackLog(database_url)
    yield log
    log.close()


def test_a_recorded_response_is_read_back_unchanged(log):
    log.record_response(RESPONSE)
    assert log.response("r1") == RESPONSE
    assert log.response("r2") is None


def test_a_log_of_an_earlier_release_keeps_its_rows_and_takes_new_ones(log, database_url):
    log.record_response(RESPONSE)
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        for column in ("key", "dials", "evidence"):
            connection.exec_driver_sql(f"ALTER TABLE responses DROP COLUMN {column}")
    engine.dispose()
    full = replace(RESPONSE, id="r2", key="app", dials={"depth": 0.9}, evidence=0.25)
    with closing(FeedbackLog(database_url)) as opened, closing(FeedbackLog(database_url)) as again:
        opened.record_response(full)
        assert again.responses(["r1", "r2"]) == {"r1": RESPONSE, "r2": full}


def test_a_log_of_an_earlier_version_is_read_and_written_after_a_column_came(database_url):
    with closing(FeedbackLog(database_url)) as log:
        log.record_response(RESPONSE)
        log.add("r1", "up", user="ann")
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:  # as version 0.1 made it
        connection.execute(sa.text("ALTER TABLE responses DROP COLUMN checks"))
    engine.dispose()
    opening = threading.Barrier(4)

    def open_again(number: int) -> None:
        opening.wait()
        with closing(FeedbackLog(database_url)) as log:
            log.record_response(replace(RESPONSE, id=f"new-{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_again, range(4)))
    with closing(FeedbackLog(database_url)) as log:
        assert log.response("r1") == replace(RESPONSE, checks={})
        assert log.response("new-3") == replace(RESPONSE, id="new-3")
        assert [event.response_id for event in log.events()] == ["r1"]


def test_a_verdict_carries_what_it_is_about(log):
    log.record_response(RESPONSE)
    event = log.add("r1", "down", correction=" The default is 5. ", comment="off by one", user="key-1")
    assert log.events() == [event]
    assert (event.question, event.chunk_ids, event.cited_chunk_ids) == (RESPONSE.question, ("a", "b"), ("a",))
    assert (event.model_version, event.correction, event.rating) == ("3", "The default is 5.", "down")


def test_events_after_a_sequence_number_are_the_new_ones_in_order(log):
    log.record_response(RESPONSE)
    added = [log.add("r1", "up", user=f"key-{number}") for number in range(5)]
    assert log.events(after_sequence=added[1].sequence) == added[2:]
    assert log.count_since(added[1].sequence) == 3
    assert log.count_since(0) == 5


def test_a_verdict_that_is_sent_again_is_stored_once_and_a_change_of_mind_is_stored(log):
    log.record_response(RESPONSE)
    first, new = log.add_once("r1", "up", comment="good ", user="ann")
    assert new
    assert log.add_once("r1", "up", comment="good", user="ann") == (first, False)
    assert log.add_once("r1", "up", comment="good", user="bob")[1]
    assert log.add_once("r1", "down", user="ann")[1]
    assert log.add_once("r1", "up", comment="good", user="ann")[1]
    assert [(event.user, event.rating) for event in log.events()] == [
        ("ann", "up"), ("bob", "up"), ("ann", "down"), ("ann", "up"),
    ]  # fmt: skip


def test_a_verdict_on_an_unknown_response_is_refused(log):
    with pytest.raises(FeedbackError, match="no response 'nowhere'"):
        log.add("nowhere", "up")
    assert log.count_since(0) == 0


def test_an_unknown_rating_is_refused_with_the_valid_ones(log):
    log.record_response(RESPONSE)
    with pytest.raises(FeedbackError, match="up or neutral or down"):
        log.add("r1", "meh")


def test_a_character_that_a_database_does_not_store_costs_only_itself(log):
    log.record_response(replace(RESPONSE, question="What is\0 ∑ of 😀?", answer="It's 100%: \\x00."))
    event = log.add("r1", "down", comment="Not\0 a sum.")
    assert event.question.replace("\0", "") == "What is ∑ of 😀?"
    assert event.comment.replace("\0", "") == "Not a sum."
    assert log.response("r1").answer == "It's 100%: \\x00."


def test_all_who_open_a_new_database_at_once_find_its_tables(database_url):
    opening = threading.Barrier(8)

    def open_one(_: int) -> int:
        opening.wait()
        with closing(FeedbackLog(database_url)) as own:
            return own.count_responses()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(open_one, range(8))) == [0] * 8


def test_writers_lose_nothing_and_a_reader_who_follows_them_misses_nothing(log, database_url):
    names, each = ("left", "middle", "right"), 30

    def write(name: str) -> None:
        with closing(FeedbackLog(database_url)) as own:
            for i in range(each):
                own.record_response(replace(RESPONSE, id=f"{name}-{i}"))
                own.add(f"{name}-{i}", "up", user=name)

    followed: list[FeedbackEvent] = []
    with ThreadPoolExecutor(len(names)) as pool:
        writing = [pool.submit(write, name) for name in names]
        while not all(one.done() for one in writing):
            followed += log.events(after_sequence=followed[-1].sequence if followed else 0)
    for one in writing:
        one.result()
    followed += log.events(after_sequence=followed[-1].sequence if followed else 0)
    assert len(followed) == len(names) * each
    assert followed == log.events()


@pytest.mark.parametrize("url", ["nonsense://nowhere", "postgresql://127.0.0.1:9/nowhere"])
def test_an_impossible_url_says_which_setting_to_correct(url):
    with pytest.raises(FeedbackError, match="RAGTUNE_FEEDBACK__URL"):
        FeedbackLog(url)
