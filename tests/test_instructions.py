import pytest

from ragtune.answer.controls import NEUTRAL
from ragtune_serving.instructions import read_instructions


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("Please be brief.", "depth", 0.2),
        ("Answer in one sentence.", "depth", 0.2),
        ("Explain everything in detail.", "depth", 0.8),
        ("Write for beginners.", "technical_level", 0.2),
        ("Use plain language.", "technical_level", 0.2),
        ("The readers are experts.", "technical_level", 0.8),
        ("Explain step by step.", "step_by_step", True),
        ("Give examples.", "examples", True),
        ("Do not include citations.", "citations", False),
        ("Use plain text, no markdown.", "markdown", False),
    ],
)
def test_an_instruction_sets_the_control_that_stands_for_it(text, name, value):
    reading = read_instructions(text, NEUTRAL)
    assert getattr(reading.controls, name) == value
    assert reading.unmet == ()


def test_what_no_control_stands_for_is_named_and_long_sentences_are_cut():
    reading = read_instructions(f"Be brief. Talk like a pirate. Never {'ever ' * 40}swear.", NEUTRAL)
    assert reading.controls.depth == 0.2
    assert reading.unmet[0] == "Talk like a pirate."
    assert len(reading.unmet[1]) == 83
    assert reading.unmet[1].endswith("...")


def test_what_the_request_sets_itself_wins():
    assert read_instructions("Be brief.", NEUTRAL, frozenset({"depth"})).controls == NEUTRAL


@pytest.mark.parametrize("text", ["The shop sells shorts.", "Explain experts' steps.", "Cite your sources."])
def test_a_word_that_only_looks_alike_changes_little(text):
    controls = read_instructions(text, NEUTRAL).controls
    assert (controls.depth, controls.step_by_step, controls.citations) == (0.5, False, True)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Answer in German.", "de"),
        ("Antworte auf Deutsch.", "de"),
        ("Réponds en français.", "fr"),
        ("Always reply in English, please.", "en"),
        ("Do not answer in German.", ""),
        ("The German embassy is in Berlin.", ""),
    ],
)
def test_the_language_of_the_answers_is_read(text, language):
    reading = read_instructions(text, NEUTRAL)
    assert reading.language == language
    assert (reading.unmet == ()) == bool(language)


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("Answer in JSON.", True),
        ("Return only a valid JSON object.", True),
        ("Never answer in JSON.", False),
        ("The files are JSON files.", False),
    ],
)
def test_a_wish_for_json_is_read(text, json):
    assert read_instructions(text, NEUTRAL).json is json
