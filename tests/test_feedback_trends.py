"""What feedback says: rates, intervals by user, the worst documents and questions, and what the documents lack."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ragtune.dataset.corrections import correction_statuses, feedback_ids, trainable_pairs
from ragtune.dataset.feedback_trace import Built, feedback_of_version, trace_feedback
from ragtune.errors import FeedbackError
from ragtune.evaluation.feedback_trends import rated_responses, trends, wilson, worst, worst_questions
from ragtune.evaluation.question_gaps import question_gaps
from ragtune.records import Chunk, FeedbackEvent, RegisteredModel, ResponseRecord, SplitItem
from ragtune.settings import DatasetSettings, FeedbackSettings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from tests.support.releases import manifest


def response(number: int, **changes) -> ResponseRecord:
    fields = {
        "id": f"r{number}",
        "created_at": f"2026-01-{1 + number // 4:02}T00:00:00.000+00:00",
        "question": f"What is {number}?",
        "answer": "An answer.",
        "model": "ragtune",
        "model_version": "1",
        "chunk_ids": ("c1",),
        "cited_chunk_ids": ("c1",),
        "refused": False,
        "user": f"user {number}",
    }
    return ResponseRecord(**{**fields, **changes})


def verdict(number: int, rating: str, sequence: int = 0, **changes) -> FeedbackEvent:
    fields = {"id": f"f{number}-{sequence}", "sequence": sequence or number + 1, "rating": rating}
    fields |= {"created_at": "2026-02-01T00:00:00.000+00:00", "response_id": f"r{number}"}
    return FeedbackEvent(**{**fields, **changes})


def chunk(name: str, path: str, text: str = "Text.") -> Chunk:
    return Chunk(
        id=name,
        document_id=f"doc {path}",
        source="folder:docs",
        title=path,
        heading_path=(),
        text=text,
        position=0,
        topic="boats" if name == "c1" else "",
        path=path,
    )


CHUNKS = {"c1": chunk("c1", "boats.md"), "c2": chunk("c2", "safety.md")}


def group(rows, kind: str, name: str = ""):
    return next(row for row in rows if (row.kind, row.name) == (kind, name))


def test_an_interval_of_wilson_equals_the_one_computed_by_hand():
    # 8 of 10: (0.8 + 3.8415 / 20) / 1.38415 = 0.7167, half 1.95996 / 1.38415 * sqrt(0.016 + 0.0096) = 0.2266
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_a_user_counts_once_and_the_newest_verdict_on_a_response_counts():
    responses = [response(0, user="ann"), response(1, user="ann"), response(2, user="bob"), response(3)]
    events = [verdict(0, "up"), verdict(1, "down"), verdict(2, "down"), verdict(2, "up", 9)]
    rows = trends(rated_responses(responses, events), CHUNKS)
    total = group(rows, "all")
    assert (total.responses, total.rated, total.users) == (4, 3, 2)
    assert total.value == pytest.approx((0.5 + 1.0) / 2)
    assert (total.low, total.high) == wilson(0.75, 2)


def test_groups_are_days_versions_topics_sources_dials_and_documents():
    responses = [
        response(0),
        response(4, model_version="2", cited_chunk_ids=("c2",), dials={"depth": 0.9}, refused=True),
        response(5, cited_chunk_ids=(), chunk_ids=("gone",)),
    ]
    rows = trends(rated_responses(responses, [verdict(0, "up"), verdict(4, "neutral", correction="Better.")]), CHUNKS)
    assert group(rows, "version", "2").value == 0.5
    assert group(rows, "version", "2").corrections == group(rows, "version", "2").refused == 1
    assert group(rows, "topic", "boats").responses == 1
    assert group(rows, "source", "folder:docs").responses == 2
    assert group(rows, "dial", "depth 0.9").responses == 1
    assert group(rows, "dial", "neutral").responses == 2
    assert [row.name for row in rows if row.kind == "day"] == ["2026-01-01", "2026-01-02"]
    assert {row.name for row in rows if row.kind == "document"} == {"boats.md", "safety.md"}


def test_the_worst_document_is_the_one_that_is_surely_bad_and_not_the_one_with_a_single_thumb_down():
    responses = [response(n, cited_chunk_ids=("c1",)) for n in range(8)] + [response(8, cited_chunk_ids=("c2",))]
    rows = trends(rated_responses(responses, [verdict(n, "down") for n in range(9)]), CHUNKS)
    assert [row.name for row in worst(rows, "document", 5)] == ["boats.md", "safety.md"]


def test_questions_are_counted_without_regard_to_case_and_spaces():
    responses = [response(0, question="How long?"), response(1, question="how  LONG?"), response(2, question="Why?")]
    rated = rated_responses(responses, [verdict(0, "down"), verdict(1, "down"), verdict(2, "up")])
    assert worst_questions(rated, 5) == [("How long?", 2, 2)]


class WordEmbedder:
    """Embeds a question as the direction of its first word."""

    def embed_questions(self, questions):
        words = sorted({question.split()[0] for question in questions})
        return np.eye(len(words) + 1)[[words.index(question.split()[0]) for question in questions]]


def test_unanswered_questions_are_grouped_and_a_growing_group_is_seen():
    responses = [
        *(response(n, question="Parking where?", refused=True) for n in range(4)),
        response(4, question="Boats for hire?", evidence=0.9),
        response(5, question="Dogs allowed?", evidence=0.01),
        *(response(n, question=f"Prices of {n}?", refused=True) for n in range(34, 40)),
    ]
    gaps = question_gaps(responses, WordEmbedder())
    assert [(gap.question.split()[0], gap.count, gap.recent) for gap in gaps] == [
        ("Prices", 6, 6),
        ("Parking", 4, 0),
        ("Dogs", 1, 0),
    ]
    assert gaps[0].recent > 2 * gaps[0].expected
    assert gaps[1].examples == ("Parking where?",)
    assert question_gaps(responses[4:5], WordEmbedder()) == []


def test_a_verdict_is_followed_to_its_pair_and_to_the_versions_that_learned_it_and_back(tmp_path):
    log = FeedbackLog(f"sqlite:///{tmp_path / 'log.db'}")
    log.record_response(response(0, question="How long is it valid?"))
    event = log.add("r0", "down", correction="It is valid for four hours.")
    other = log.add("r0", "up", user="bob")
    passage = chunk("c1", "safety.md", "A hot work note. It is valid for four hours.")
    found = correction_statuses(log.events(), [passage], [], FeedbackSettings(approval=False), DatasetSettings())
    (pair,) = trainable_pairs(found)
    items = [SplitItem(pair, "train", "cluster")]
    learned = RegisteredModel("2", "folder", manifest(feedback_ids=feedback_ids([pair])))
    models = [RegisteredModel("1", "folder", manifest()), learned]
    traced = trace_feedback(event.id, event, log.response("r0"), found, Built(items, "abc", models))
    assert (traced.event, traced.response.model_version) == (event, "1")
    assert (traced.pairs, traced.dataset) == (((pair, "train"),), "abc")
    assert pair.answer == "It is valid for four hours."
    assert (traced.status, traced.versions) == ("released", ("2",))
    assert traced.reason.endswith("version 2 learned from it")
    assert feedback_of_version(learned, log.events()) == [event]
    built = trace_feedback(event.id, event, None, found, Built(items, "abc", models[:1]))
    assert (built.status, built.reason.endswith("it is in the split train of dataset abc")) == ("in_dataset", True)
    coming = trace_feedback(event.id, event, None, found, Built())
    assert (coming.status, coming.reason.endswith("the dataset that is built next")) == ("accepted", True)
    thumb = trace_feedback(other.id, other, None, found, Built(items, "abc", models))
    assert (thumb.status, thumb.versions) == ("no_correction", ())
    with pytest.raises(FeedbackError, match="no verdict 'nowhere'"):
        trace_feedback("nowhere", log.event("nowhere"), None, found, Built())
    log.close()


def test_the_command_reports_and_traces(tmp_path, monkeypatch):
    from ragtune_serving.cli import app

    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    settings = load_settings()

    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["feedback", *arguments])
        if result.exception:
            raise result.exception
        return result.stdout

    assert "Nobody has asked" in invoke("report")
    store = ArtifactStore(settings.home / "artifacts")
    store.set_current(store.write_records("chunks", list(CHUNKS.values())))
    log = FeedbackLog(settings.feedback_url)
    log.record_responses([response(n) for n in range(5)])
    event = log.add("r0", "down", comment="wrong")
    log.add("r1", "up")
    shown = invoke("report", "--no-gaps")
    assert "50% up [9%, 91%] by 2 users; 40% of 5 rated, 0 refused" in shown
    assert "1 of 1: What is 0?" in shown
    assert "boats.md" in shown
    plain = json.loads(invoke("report", "--no-gaps", "--json"))
    assert plain["trends"][0]["kind"] == "all"
    traced = invoke("trace", event.id)
    assert "answered by version 1; correction: none" in traced
    assert "no pair of the current dataset comes from it" in traced
    log.close()
