"""What becomes of a correction: a pair to train on, or a reason."""

from dataclasses import replace

import pytest

from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.corrections import correction_statuses, feedback_ids, trainable_pairs
from ragtune.dataset.reviews.decisions import Decision, new_decision
from ragtune.records import Chunk, FeedbackEvent, QAPair
from ragtune.settings import DatasetSettings, FeedbackSettings

CHUNKS = [
    Chunk(
        id="c1",
        document_id="d1",
        source="s",
        title="pkg.load",
        heading_path=("pkg.load",),
        text="Loads a file.\n\n- `limit` (int): The most rows that are read.",
        position=0,
    ),
    Chunk(
        id="c2",
        document_id="d2",
        source="s",
        title="pkg.save",
        heading_path=("pkg.save",),
        text="Saves a file. The path must not exist yet.",
        position=0,
    ),
]


def event(number: int, question: str, correction: str, chunks=("c1", "c2"), cited=(), user="app") -> FeedbackEvent:
    return FeedbackEvent(
        id=f"fb-{number}",
        sequence=number,
        created_at="2026-01-01",
        response_id=f"r{number}",
        rating="down",
        correction=correction,
        comment="",
        user=user,
        question=question,
        chunk_ids=chunks,
        cited_chunk_ids=cited,
    )


SAVED = "The path must not exist yet."
ROWS = "The most rows that are read."


def statuses(events, decisions=(), needed=1, **feedback):
    """Return what became of the corrections of these events."""
    return correction_statuses(
        events, CHUNKS, decisions, FeedbackSettings(**feedback), DatasetSettings(reviews_per_pair=needed)
    )


def pairs_without_approval(events, **feedback) -> list[QAPair]:
    return trainable_pairs(statuses(events, approval=False, **feedback))


def named(found) -> list[str]:
    return [one.status for one in found]


def decided(one, verdict: str, number: int, reviewer="ada", **texts) -> Decision:
    """Return the decision that a reviewer makes about a correction."""
    return replace(new_decision(one.made, reviewer, verdict, **texts), sequence=number, created_at=f"2026-02-{number}")


def questions(count: int, user="app", first=1) -> list[FeedbackEvent]:
    """Return corrections of different questions."""
    return [event(n, f"Which path may pkg.save{n} write to?", SAVED, user=user) for n in range(first, first + count)]


def test_a_correction_becomes_a_pair_of_the_passage_that_says_it():
    (pair,) = pairs_without_approval([event(1, "What must the path of pkg.save be?", SAVED)])
    assert (pair.chunk_id, pair.document_id, pair.feedback_id, pair.writer) == ("c2", "d2", "fb-1", "feedback")
    assert CHUNKS[1].text[slice(*pair.span)] == "The path must not exist yet"


def test_a_correction_in_other_words_gets_the_span_of_the_closest_sentence():
    (pair,) = pairs_without_approval([event(1, "What does limit do in pkg.load?", "It sets the most rows read")])
    assert pair.chunk_id == "c1"
    assert ROWS in CHUNKS[0].text[slice(*pair.span)]


def test_the_newest_correction_of_a_question_wins_and_the_other_one_says_so():
    events = [
        event(1, "What does pkg.load do?", "Saves a file.", user="ann"),
        event(2, "what does  pkg.load do?", "Loads a file."),
    ]
    found = statuses(events, approval=False)
    assert [pair.answer for pair in trainable_pairs(found)] == ["Loads a file."]
    assert feedback_ids(trainable_pairs(found)) == ("fb-2",)
    assert found[0].reason == "fb-2 corrects the same question, and is used instead"


def test_a_newer_correction_that_fails_a_check_replaces_nothing():
    events = [event(1, "What does pkg.load do?", "Loads a file."), event(2, "What does pkg.load do?", "Eats bees.")]
    assert named(statuses(events, approval=False)) == ["accepted", "failed"]


def test_a_correction_whose_passages_are_gone_fails_with_the_reason():
    (one,) = statuses([event(1, "What does pkg.gone do?", "Nothing.", chunks=("gone",))])
    assert (one.status, one.made) == ("failed", None)
    assert "still in the index" in one.reason


def test_before_any_passage_was_read_a_correction_waits():
    events = [event(1, "What must the path of pkg.save be?", SAVED)]
    (one,) = correction_statuses(events, [], [], FeedbackSettings(approval=False), DatasetSettings())
    assert (one.status, one.is_reviewable) == ("waiting", False)
    assert "ragtune materialize" in one.reason


def test_feedback_without_a_correction_is_no_correction():
    assert statuses([event(1, "What does pkg.load do?", "")]) == []


def test_corrections_pass_the_same_checks_as_written_pairs():
    events = [
        event(1, "What does pkg.load read?", ROWS),
        event(2, "Who may call pkg.save, and why?", "Only administrators between midnight and dawn."),
    ]
    found = statuses(events, approval=False)
    assert named(found) == ["accepted", "failed"]
    assert found[1].reason == "the answer does not stand in its chunk"
    report = check_pairs(trainable_pairs(found), CHUNKS, DatasetSettings(min_pairs=1))
    assert [pair.feedback_id for pair in report.pairs] == ["fb-1"]


@pytest.mark.parametrize("question", ["my job fails after retry", "limit rows read ???", "pkg.load limit pls"])
def test_a_question_of_a_person_is_not_judged_by_its_grammar(question):
    assert named(statuses([event(1, question, ROWS)], approval=False)) == ["accepted"]


def test_a_correction_that_its_title_supports_does_not_stop_the_dataset():
    titled = [replace(CHUNKS[1], title="Saving archives", heading_path=("Saving archives",))]
    found = correction_statuses(
        [event(1, "What is this about, roughly?", "Saving archives")],
        titled,
        [],
        FeedbackSettings(approval=False),
        DatasetSettings(),
    )
    assert named(found) == ["accepted"]
    report = check_pairs(trainable_pairs(found), titled, DatasetSettings(min_pairs=1))
    assert {result.name for result in report.results if not result.success and result.severity == "critical"} == set()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Ask jane.doe@example.org for the path.", "email address"),
        ("Call +49 30 901820 if the path exists.", "phone number"),
        ("The path of card 4111 1111 1111 1111.", "credit card"),
        ("The path needs AKIAIOSFODNN7EXAMPLE.", "secret"),
        (f"The path needs rt-{'a1B2' * 11}.", "secret"),
    ],
)
def test_a_correction_with_personal_data_or_a_secret_is_held_back_from_reviewers_too(text, kind):
    (one,) = statuses([event(1, "What must the path of pkg.save be?", text)])
    assert (one.status, one.reason) == ("held_back", f"it holds personal data or a secret: {kind}")
    assert not one.is_reviewable
    assert text not in one.reason


def test_a_correction_waits_until_a_reviewer_accepts_it():
    events = [event(1, "What must the path of pkg.save be?", SAVED)]
    (one,) = statuses(events)
    assert (one.status, trainable_pairs([one])) == ("waiting", [])
    assert one.is_reviewable
    (accepted,) = statuses(events, [decided(one, "accept", 1)])
    assert (accepted.status, accepted.reason, accepted.since) == ("accepted", "accepted by ada", "2026-02-1")
    assert trainable_pairs([accepted])[0].scores == {"reviewed": 1.0}


def test_a_rejected_correction_says_by_whom_and_why():
    events = [event(1, "What must the path of pkg.save be?", SAVED)]
    (one,) = statuses(events)
    (rejected,) = statuses(events, [decided(one, "reject", 1, comment="Outdated.")])
    assert (rejected.status, rejected.reason) == ("rejected", "rejected by ada: Outdated.")
    assert statuses(events, [decided(one, "reject", 1)], approval=False)[0].status == "rejected"


def test_a_reviewer_may_correct_a_correction_and_the_new_words_pass_the_checks_too():
    events = [event(1, "What must the path of pkg.save be?", SAVED)]
    (one,) = statuses(events)
    (fixed,) = statuses(events, [decided(one, "correct", 1, answer="It must not exist yet.")])
    assert (fixed.status, fixed.reason) == ("accepted", "corrected and accepted by ada")
    assert [pair.answer for pair in trainable_pairs([fixed])] == ["It must not exist yet."]
    (broken,) = statuses(events, [decided(one, "correct", 1, answer="Bees dance under moonlight.")])
    assert (broken.status, broken.reason) == ("failed", "as ada corrected it: the answer does not stand in its chunk")


def test_reviewers_who_disagree_leave_a_correction_waiting():
    events = [event(1, "What must the path of pkg.save be?", SAVED)]
    (one,) = statuses(events)
    both = [decided(one, "accept", 1), decided(one, "reject", 2, reviewer="bob")]
    (waiting,) = statuses(events, both, needed=2)
    assert (waiting.status, waiting.reason) == ("waiting", "the reviewers disagree about it")
    assert named(statuses(events, both[:1], needed=2)) == ["waiting"]


@pytest.mark.parametrize("approval", [True, False])
def test_a_newer_correction_that_nobody_read_does_not_replace_an_approved_one(approval):
    good = event(1, "What does pkg.load do?", "Loads a file.", user="ann")
    bad = event(2, "What does pkg.load do?", "Saves a file.", user="eve")
    decisions = [decided(statuses([good])[0], "accept", 1)]
    found = statuses([good, bad], decisions, approval=approval)
    assert feedback_ids(trainable_pairs(found)) == ("fb-1",)
    assert named(found) == ["accepted", "waiting" if approval else "replaced"]


def test_a_key_that_repeats_itself_gives_reviewers_one_correction_of_a_question():
    events = [event(n, "What does pkg.load do?", f"Loads a file, {n} rows that are read.") for n in range(1, 40)]
    assert named(statuses(events)) == ["replaced"] * 38 + ["waiting"]


def test_a_key_has_as_many_places_as_the_settings_say_and_the_others_are_listed():
    events = [*questions(4, user="eve"), *questions(2, user="ann", first=5)]
    found = statuses(events, per_key=3, approval=False)
    assert named(found) == ["accepted"] * 3 + ["over_cap"] + ["accepted"] * 2
    assert found[3].reason == "its key has 3 other corrections in training or in review (feedback.per_key)"


def test_a_rejected_correction_takes_no_place_and_an_accepted_one_keeps_its_place():
    events = questions(4)
    found = statuses(events, per_key=3)
    assert named(found) == ["waiting"] * 3 + ["over_cap"]
    decisions = [decided(found[0], "reject", 1), decided(found[2], "accept", 2)]
    assert named(statuses(events, decisions, per_key=3)) == ["rejected", "waiting", "accepted", "waiting"]
    assert named(statuses(events, decisions, per_key=1)) == ["rejected", "over_cap", "accepted", "over_cap"]


def test_corrections_beyond_the_size_of_the_dataset_say_so():
    found = correction_statuses(
        questions(3), CHUNKS, [], FeedbackSettings(approval=False), DatasetSettings(max_pairs=2)
    )
    assert named(found) == ["over_cap", "accepted", "accepted"]
    assert "dataset.max_pairs" in found[0].reason
