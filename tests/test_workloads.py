"""The work loads: which questions are asked, in which form, and when."""

import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest

from ragtune.errors import SettingsError
from ragtune.records import QAPair, ResponseRecord, SplitItem
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.benchmarking.workloads import (
    USER,
    WORKLOADS,
    bodies,
    named,
    read_questions,
    replayed,
    steady,
)
from ragtune_serving.schema import ChatRequest
from tests.support.served_gateway import DOCUMENTS, index_documents


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_every_request_is_one_that_the_gateway_takes_and_that_no_cache_answers(workload):
    body = next(bodies(workload, ["q1?", "q2?", "q3?"], seed=1))
    request = ChatRequest.model_validate(body)
    assert request.ragtune is not None
    assert request.ragtune.cache == "no-store"
    assert request.user == USER
    assert not request.ignored


def test_questions_come_in_a_seeded_order_again_and_again_and_none_twice_in_a_round():
    def asked(seed):
        return [
            body["messages"][-1]["content"]
            for body in itertools.islice(bodies(WORKLOADS["stream"], list("abcd"), seed), 8)
        ]

    first = asked(1)
    assert sorted(first[:4]) == list("abcd")
    assert first[:4] == first[4:]
    assert first == asked(1) != asked(2)


def test_a_chat_has_earlier_turns_and_a_long_answer_may_be_long():
    chat, long = (next(bodies(WORKLOADS[name], list("abcd"), 1)) for name in ("chat", "long"))
    assert [turn["role"] for turn in chat["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert len({turn["content"] for turn in chat["messages"] if turn["role"] == "user"}) == 3
    assert long["max_tokens"] > 200
    assert long["ragtune"]["dials"] == {"depth": 1.0}


def test_an_unknown_work_load_is_refused_with_the_valid_names():
    assert [workload.name for workload in named([])] == list(WORKLOADS)
    with pytest.raises(SettingsError, match=r"no work load dance[\s\S]*stream"):
        named(["dance"])


def test_questions_are_those_of_the_file_or_held_out_ones_or_about_the_titles_of_the_documents(tmp_path):
    settings = load_settings({"home": tmp_path / "home"})
    with pytest.raises(SettingsError, match="no question to ask"):
        read_questions(settings)
    (tmp_path / "home").mkdir()
    index_documents(tmp_path / "home")
    titles = read_questions(settings)
    assert "What is shop.total?" in titles
    assert len(set(titles)) == len(titles) >= len(DOCUMENTS)
    items = [
        SplitItem(QAPair(id=s, question=f"{s}?", answer="a", kind="k", document_id="d", chunk_id="c"), s, "x")
        for s in ("test", "train")
    ]
    store = ArtifactStore(settings.home / "artifacts")
    store.set_current(store.write_records("qa_splits", items))
    assert read_questions(settings) == ["test?"]
    file = tmp_path / "mine.txt"
    file.write_text("one?\n\ntwo?\n")
    assert read_questions(settings, file) == ["one?", "two?"]
    lines = tmp_path / "mine.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in ({"question": "three?"}, {"id": 1, "text": "four?"})))
    assert read_questions(settings, lines) == ["three?", "four?"]


def test_a_recorded_log_is_replayed_with_its_arrival_times(tmp_path):
    settings = load_settings({"home": tmp_path})
    with pytest.raises(SettingsError, match="none to replay"):
        replayed(settings, 10)
    log, begin = FeedbackLog(settings.feedback_url), datetime(2026, 1, 1, tzinfo=UTC)
    # The second began first: it took four seconds.
    for number, (end, milliseconds, user) in enumerate(
        [(2, 500, "ada"), (5, 4000, "bob"), (9, 500, USER), (10, 500, "ada")]
    ):
        log.record_response(
            ResponseRecord(
                id=f"r{number}",
                created_at=(begin + timedelta(seconds=end)).isoformat(timespec="milliseconds"),
                question=f"q{number}?",
                answer="a",
                model="ragtune",
                model_version="base",
                chunk_ids=(),
                cited_chunk_ids=(),
                refused=False,
                user=user,
                latency_ms=milliseconds,
            )
        )
    log.close()
    requests = replayed(settings, 10, speed=2.0)
    assert [request.body["messages"][-1]["content"] for request in requests] == ["q1?", "q0?", "q3?"]
    assert [request.due for request in requests] == pytest.approx([0.0, 0.25, 4.25])
    assert "cache" not in requests[0].body["ragtune"], "the cache may answer, as it did when they were asked"
    assert [request.due for request in replayed(settings, 1)] == [0.0]


def test_a_steady_load_takes_the_next_questions():
    asked = bodies(WORKLOADS["stream"], list("abcdef"), 1)
    first, second = steady(asked, 2.0, 1.0, 1), steady(asked, 2.0, 1.0, 1)
    assert [request.due for request in first] == [request.due for request in second]
    contents = [request.body["messages"][-1]["content"] for request in (*first, *second)]
    assert len(set(contents)) == 4
