"""Feedback becomes preference examples only if people may train on it and its prompt is that of serving."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ragtune.answer.answering import Answerer
from ragtune.answer.prompt import REFUSAL
from ragtune.dataset.corrections import correction_statuses
from ragtune.dataset.reviews.decisions import new_decision
from ragtune.model.examples.preferences import (
    ExampleCounts,
    PreferenceExample,
    ShownPrompts,
    UsableFeedback,
    choose_method,
    count_examples,
    usable_feedback,
)
from ragtune.model_settings import PreferenceSettings
from ragtune.records import FeedbackEvent, QAPair, ResponseRecord, SplitItem
from ragtune.settings import AnswerSettings, DatasetSettings, FeedbackSettings
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.cli import app
from tests.support.answering_fakes import ListRetriever, WordEvidence, chunk

CHUNKS = [
    chunk("c1", "Loads a file. The limit is the most rows that are read.", "pkg.load"),
    chunk("c2", "Saves a file. The path must not exist yet.", "pkg.save"),
]
ANSWER = AnswerSettings(passages=2, shown_words=60)
QUESTION = "what is the path of a saved file"


def event(number: int = 1, **fields: Any) -> FeedbackEvent:
    plain: dict[str, Any] = {
        "id": f"fb-{number}",
        "sequence": number,
        "created_at": "2026-01-01",
        "response_id": f"r{number}",
        "rating": "up",
        "answer": "The path must not exist yet. [2]",
        "question": QUESTION,
        "chunk_ids": ("c1", "c2"),
        "user": "app",
    }
    return FeedbackEvent(**{**plain, **fields})


def usable(
    events: Sequence[FeedbackEvent], decisions: Sequence[Any] = (), items: Sequence[SplitItem] = (), **feedback: Any
) -> UsableFeedback:
    """Return what can train, with the thumbs of every key trusted unless approval is asked for."""
    settings = FeedbackSettings(**{"approval": False, **feedback})
    statuses = correction_statuses(events, CHUNKS, decisions, settings, DatasetSettings(reviews_per_pair=1))
    prompts = ShownPrompts(CHUNKS, ANSWER, None, WordEvidence())
    trusted = PreferenceSettings(thumbs_from=("ada",))
    return usable_feedback(events, statuses, items, prompts, settings, trusted)


def test_the_prompt_of_an_example_is_the_one_that_serving_sent() -> None:
    served = Answerer(ListRetriever(CHUNKS), ANSWER, None, WordEvidence()).prepare(QUESTION)
    assert [hit.chunk.id for hit in served.passages or ()] == ["c1", "c2"]
    [example] = usable([event()]).examples
    assert example.messages == served.messages
    assert (example.chosen, example.rejected) == ("The path must not exist yet. [2]", "")


def test_a_thumb_down_gives_an_unwanted_answer_and_three_stars_give_nothing() -> None:
    [example] = usable([event(rating="down"), event(2, rating="neutral")]).examples
    assert (example.chosen, example.rejected) == ("", "The path must not exist yet. [2]")


def test_an_accepted_correction_is_a_pair_with_the_answer_that_it_corrects() -> None:
    said = event(rating="down", answer="The limit is the most rows. [1]", correction="The path must not exist yet.")
    [example] = usable([said]).examples
    assert example.chosen == "The path must not exist yet. [2]"
    assert example.rejected == "The limit is the most rows. [1]"
    assert example.feedback_ids == ("fb-1",)


def test_while_corrections_need_approval_only_accepted_ones_and_trusted_thumbs_train() -> None:
    said = event(rating="down", answer="The limit is the most rows. [1]", correction="The path must not exist yet.")
    thumbs = [event(2), event(3, user="ada")]
    waiting = usable([said, *thumbs], approval=True)
    assert [example.feedback_ids for example in waiting.examples] == [("fb-3",)]
    assert waiting.left_out["the correction is waiting"] == 1
    assert waiting.left_out["the thumb is of a key that preference.thumbs_from does not name"] == 2
    statuses = correction_statuses([said], CHUNKS, [], FeedbackSettings(), DatasetSettings())
    assert statuses[0].made is not None
    accepted = usable(
        [said, *thumbs], [replace(new_decision(statuses[0].made, "eve", "accept"), sequence=1)], approval=True
    )
    assert [example.feedback_ids for example in accepted.examples] == [("fb-1",), ("fb-3",)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unlike_prompt": "quotation"}, "the prompt cannot be built again: quotation"),
        ({"chunk_ids": ("c1", "gone")}, "the prompt cannot be built again: other passages or settings"),
        ({"chunk_ids": ()}, "the prompt cannot be built again: other passages or settings"),
        ({"question": "hello"}, "the prompt cannot be built again: other passages or settings"),
        ({"answer": "Ask ada.smith@example.com. [1]"}, "it holds personal data or a secret"),
    ],
)
def test_feedback_that_must_not_train_is_left_out_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    outcome = usable([event(**changes)])
    assert outcome == UsableFeedback(examples=(), left_out={reason: 1})


@pytest.mark.parametrize("split", ["validation", "test", "gate"])
def test_a_question_of_a_held_out_split_never_trains_however_it_is_written(split: Any) -> None:
    pair = QAPair(
        id="p",
        question="What is the path of the saved files?",
        answer="x",
        kind="fact",
        document_id="d",
        chunk_id="c2",
        span=(0, 1),
        topic="t",
        writer="w",
    )
    outcome = usable([event()], items=[SplitItem(pair, split, "d")])
    assert outcome.left_out == {"the question is in a split that no training may see": 1}
    assert usable([event()], items=[SplitItem(pair, "train", "d")]).examples


def test_a_key_has_a_share_and_its_newest_thumbs_fill_it() -> None:
    events = [event(number, question=QUESTION + "?" * number) for number in range(5)]
    outcome = usable([*events, event(9, user="other")], per_key=2)
    assert [example.feedback_ids for example in outcome.examples] == [("fb-3",), ("fb-4",), ("fb-9",)]
    assert outcome.left_out == {"its key has feedback.per_key newer thumbs": 3}


def test_the_majority_decides_about_an_answer_and_nobody_about_a_tie() -> None:
    votes = [event(1), event(2, rating="down", user="b"), event(3, user="c")]
    [example] = usable(votes).examples
    assert (example.chosen != "", example.feedback_ids) == (True, ("fb-1", "fb-3"))
    assert usable(votes[:2]) == UsableFeedback(examples=(), left_out={"people disagree about the answer": 2})


def test_the_newest_verdict_of_a_key_on_a_response_counts() -> None:
    [example] = usable([event(1), event(2, response_id="r1", rating="down")]).examples
    assert example.rejected


def test_a_refusal_trains_as_the_model_writes_it_without_the_closest_passages() -> None:
    text = f"{REFUSAL}\n\nClosest passages: pkg.save"
    [example] = usable([event(answer=text, rating="down")]).examples
    assert example.rejected == REFUSAL


def test_numbers_of_what_was_found_and_needed_stand_in_the_message_of_a_skipped_training() -> None:
    settings = PreferenceSettings(enabled=True, min_examples=20)
    method, reason = choose_method(ExampleCounts(up=12, down=1, corrections=3), settings)
    assert method is None
    assert "12 thumbs up, 1 thumbs down and 3 accepted corrections can train" in reason
    assert "20 rated answers, 2 or more of each kind" in reason
    assert "20 accepted corrections" in reason
    assert choose_method(ExampleCounts(up=99, down=99, corrections=99), PreferenceSettings())[0] is None, "it is off"


@pytest.mark.parametrize(
    ("numbers", "wanted", "method"),
    [
        (ExampleCounts(up=15, down=5, corrections=0), "auto", "kto"),
        (ExampleCounts(up=20, down=1, corrections=0), "auto", None),
        (ExampleCounts(up=3, down=3, corrections=25), "auto", "dpo"),
        (ExampleCounts(up=30, down=30, corrections=25), "auto", "kto"),
        (ExampleCounts(up=0, down=0, corrections=10), "auto", "kto"),
        (ExampleCounts(up=30, down=30, corrections=25), "dpo", "dpo"),
        (ExampleCounts(up=0, down=0, corrections=10), "dpo", None),
    ],
)
def test_auto_takes_the_method_for_which_there_is_most_feedback(
    numbers: ExampleCounts, wanted: Any, method: Any
) -> None:
    assert choose_method(numbers, PreferenceSettings(enabled=True, min_examples=20, method=wanted))[0] == method


def test_a_correction_counts_as_two_rated_answers() -> None:
    pair = PreferenceExample(messages=(), chosen="a", rejected="b")
    numbers = count_examples([pair, PreferenceExample(messages=(), chosen="a")])
    assert numbers == ExampleCounts(up=1, down=0, corrections=1)
    assert numbers.rated == 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"checks": {}}, "recorded by an earlier version"),
        ({"dials": {"depth": 0.9}}, "dials or switches"),
        ({"checks": {"delivered": "quotation", "earlier_turns": 0, "instructed": False}}, "quotation"),
        ({"checks": {"delivered": "answer", "earlier_turns": 2, "instructed": False}}, "earlier turns or instructions"),
        ({"checks": {"delivered": "answer", "earlier_turns": 0, "instructed": True}}, "earlier turns or instructions"),
    ],
)
def test_the_log_says_why_a_response_cannot_be_asked_for_again(fields: Any, reason: str, database_url: str) -> None:
    response: dict[str, Any] = {
        "id": "r1",
        "created_at": "2026-01-01",
        "question": QUESTION,
        "answer": "The path. [2]",
        "model": "ragtune",
        "model_version": "3",
        "chunk_ids": ("c1",),
        "cited_chunk_ids": (),
        "refused": False,
        "checks": {"delivered": "answer", "earlier_turns": 0, "instructed": False},
    }
    with closing(FeedbackLog(database_url)) as log:
        log.record_response(ResponseRecord(**{**response, **fields}))
        rated = log.add("r1", "up")
    assert (rated.answer, rated.unlike_prompt) == ("The path. [2]", reason)


def test_the_command_says_what_is_found_what_is_needed_and_how_to_switch_it_on(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["feedback", "preferences"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "skipped: 0 thumbs up, 0 thumbs down and 0 accepted corrections can train" in said
    assert "set preference.enabled: true in ragtune.yaml" in said
    assert "name the keys that you trust in preference.thumbs_from" in said
    shown = json.loads(CliRunner().invoke(app, ["feedback", "preferences", "--json"]).stdout)
    assert (shown["enabled"], shown["method"], shown["up"]) == (False, None, 0)
