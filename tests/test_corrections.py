from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.corrections import corrected_pairs, feedback_ids
from ragtune.records import Chunk, FeedbackEvent
from ragtune.settings import DatasetSettings

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


def event(number: int, question: str, correction: str, chunks=("c1", "c2"), cited=()) -> FeedbackEvent:
    return FeedbackEvent(
        id=f"fb-{number}",
        sequence=number,
        created_at="2026-01-01",
        response_id=f"r{number}",
        rating="down",
        correction=correction,
        comment="",
        user="",
        question=question,
        chunk_ids=chunks,
        cited_chunk_ids=cited,
    )


def test_a_correction_becomes_a_pair_of_the_passage_that_says_it():
    corrections = corrected_pairs(
        [event(1, "What must the path of pkg.save be?", "The path must not exist yet.")], CHUNKS
    )
    (pair,) = corrections.pairs
    assert (pair.chunk_id, pair.document_id, pair.feedback_id, pair.writer) == ("c2", "d2", "fb-1", "feedback")
    assert CHUNKS[1].text[slice(*pair.span)] == "The path must not exist yet"
    assert corrections.dropped == []


def test_a_correction_in_other_words_gets_the_span_of_the_closest_sentence():
    (pair,) = corrected_pairs([event(1, "What does limit do in pkg.load?", "It sets the most rows read")], CHUNKS).pairs
    assert pair.chunk_id == "c1"
    assert "The most rows that are read." in CHUNKS[0].text[slice(*pair.span)]


def test_the_newest_correction_of_a_question_wins():
    events = [event(1, "What does pkg.load do?", "Saves a file."), event(2, "what does  pkg.load do?", "Loads.")]
    pairs = corrected_pairs(events, CHUNKS).pairs
    assert [pair.answer for pair in pairs] == ["Loads."]
    assert feedback_ids(pairs) == ("fb-2",)


def test_a_correction_whose_passages_are_gone_is_dropped_with_the_reason():
    corrections = corrected_pairs([event(1, "What does pkg.gone do?", "Nothing.", chunks=("gone",))], CHUNKS)
    assert corrections.pairs == []
    assert "still in the index" in corrections.dropped[0][1]


def test_feedback_without_a_correction_gives_no_pair():
    assert corrected_pairs([event(1, "What does pkg.load do?", "")], CHUNKS).pairs == []


def test_corrections_pass_the_same_checks_as_written_pairs():
    events = [
        event(1, "What does pkg.load read?", "The most rows that are read."),
        event(2, "Who may call pkg.save, and why?", "Only administrators between midnight and dawn."),
    ]
    report = check_pairs(corrected_pairs(events, CHUNKS).pairs, CHUNKS, DatasetSettings(min_pairs=1))
    assert [pair.feedback_id for pair in report.pairs] == ["fb-1"]
    assert [reason for _, reason in report.rejected] == ["the answer does not stand in its chunk"]
