import hashlib
import json
from dataclasses import replace

import pytest

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.evidence import Evidence
from ragtune.answer.language_packs import ENGLISH, packs
from ragtune.answer.prompt import (
    REFUSAL,
    build_messages,
    passages_in,
    prompt_sha256,
    system_text,
    target_text,
    user_text,
)
from ragtune.answer.small_talk import SMALL_TALK
from ragtune.answer.units import Unit
from ragtune.knowledge.excerpts import choose_lines
from ragtune.records import Message
from ragtune.text.words import content_words
from tests.support.answering_fakes import chunk, hits

SYSTEM = (
    "Answer the question briefly from the numbered passages. End each sentence with the number of its passage, like "
    "[1]. If the passages do not hold the answer, say: I could not find this in the documents."
)

LONG = "\n".join(
    ["`pkg.call(name, limit=5)`  (function)", "", "Calls it often.", "", "Parameters:"]
    + [f"- `option_{i}` (int, default {i}): One of many options that fill the passage up." for i in range(30)]
    + ["- `limit` (int, default 5): The largest number of calls.", "Returns:", "- Report: What became of the calls."]
)


def cut_excerpt(text: str, question: str, words: int, title: str = "a") -> str:
    """Return the lines of one passage that are shown by the words that they share with the question."""
    return choose_lines([chunk("a", text, title)], question, words)[0]


def test_passages_are_numbered_in_their_order_and_the_question_comes_last():
    system, user = build_messages("What is b?", hits(chunk("a", "A is one."), chunk("b", "B is two.")))
    assert (system.role, system.content) == ("system", SYSTEM)
    assert user.content == "[1] a\nA is one.\n\n[2] b\nB is two.\n\nQuestion: What is b?"


def test_the_closest_sentences_come_after_the_question_with_the_numbers_of_their_passages():
    closest = [Evidence(Unit("B is two.", "b"), 2, 0.9), Evidence(Unit("A is one.", "a"), 1, 0.4)]
    _, user = build_messages("What is b?", hits(chunk("a", "A is one.")), closest=closest)
    assert user.content.endswith("\n\nQuestion: What is b?\nClosest sentences:\n- B is two. [2]\n- A is one. [1]")
    assert passages_in(user.content) == "[1] a\nA is one."


def test_history_is_between_the_system_text_and_the_passages():
    earlier = (Message("user", "Hello"), Message("assistant", "Hi."))
    messages = build_messages("And b?", hits(chunk("b", "B is two.")), earlier)
    assert messages[1:3] == earlier
    assert "[1] b" in messages[3].content


def test_without_retrieval_the_message_is_only_the_question():
    system, user = build_messages(" What is b? ", None)
    assert user.content == "What is b?"
    assert "passage" not in system.content


def test_the_prompt_says_that_nothing_was_found_so_that_the_model_can_refuse():
    assert build_messages("What is b?", [])[1].content == "(no passages were found)\n\nQuestion: What is b?"


def test_the_heading_of_a_chunk_follows_the_title_of_its_document():
    text = build_messages("q", hits(chunk("c", "Text.", "pkg.call", ("pkg.call", "Parameters"))))[1].content
    assert text.startswith("[1] pkg.call > Parameters\nText.")


def test_neutral_controls_leave_the_system_text_alone_and_others_change_it():
    assert system_text(NEUTRAL) == SYSTEM
    assert "[1]" not in system_text(replace(NEUTRAL, citations=False))
    assert REFUSAL not in system_text(replace(NEUTRAL, strict_grounding=False))
    for other in (replace(NEUTRAL, depth=1.0), replace(NEUTRAL, technical_level=0.0), replace(NEUTRAL, examples=True)):
        assert system_text(other).startswith(SYSTEM)
        assert system_text(other) != SYSTEM


@pytest.mark.parametrize(
    ("answer", "number", "expected"),
    [
        ("The default is 5", 2, "The default is 5. [2]"),
        ("It  is\n5.", 1, "It is 5. [1]"),
        ("It is 5", None, "It is 5."),
        ("", None, REFUSAL),
        ("", 1, REFUSAL),
    ],
)
def test_a_target_is_a_sentence_with_its_citation(answer: str, number: int | None, expected: str):
    assert target_text(answer, number) == expected


def test_trimming_keeps_the_first_line_the_line_asked_for_and_its_heading():
    short = cut_excerpt(LONG, "What is the default of limit in pkg.call?", 60)
    assert short.startswith("`pkg.call(name, limit=5)`")
    assert "Parameters:" in short
    assert "- `limit` (int, default 5): The largest number of calls." in short
    assert len(short) < 60 * 6 + 60


def test_trimming_finds_a_section_by_the_word_that_people_use_for_it():
    text = LONG + "\nRaises:\n- ValueError: When the name is empty."
    assert "- ValueError: When the name is empty." in cut_excerpt(text, "Which exception does pkg.call throw?", 60)
    assert "- Report: What became of the calls." in cut_excerpt(text, "What is the result of pkg.call?", 60)


def test_trimming_keeps_the_order_of_the_text_and_marks_a_gap_inside_a_line():
    sentences = [f"Filler sentence {w} says nothing of use to anybody." for w in ("one", "two", "three", "four")]
    text = " ".join(["Start here.", *sentences, "Zebras sleep at noon.", *sentences, "Zebras eat at dusk."])
    short = cut_excerpt(text, "When do zebras eat and sleep?", 40)
    assert short.index("sleep at noon") < short.index("eat at dusk")
    assert short.startswith("Start here.")
    assert " … " in short


def test_a_signature_as_long_as_a_page_does_not_crowd_out_the_answer():
    signature = "`pkg.call(" + ", ".join(f"argument_{i}: Optional[Mapping[str, Any]] = None" for i in range(60)) + ")`"
    short = cut_excerpt(signature + "\n" + LONG, "What is the default of `limit` in pkg.call?", 60)
    assert "`limit` (int, default 5)" in short
    assert len(short) < 60 * 6 + 200


def test_a_later_sentence_of_a_list_item_brings_its_beginning_along():
    item = "- `zone` (str): Where it runs. It may be empty. A walrus guards the gate of every zone."
    short = cut_excerpt(LONG.replace("Returns:", item + "\nReturns:"), "Who guards the gate?", 60)
    assert "- `zone` (str): Where it runs." in short
    assert "A walrus guards the gate of every zone." in short


OPENING = (
    "The harbour opens at dawn and stays open until the last boat of the day has been made fast by its crew, "
    "which nobody may leave."
)
HARBOUR = "\n\n".join(
    [
        OPENING,
        "When the tide is low, the pilot waits outside until the harbour master has given a sign with the green lamp, "
        "which hangs above the gate near the old customs house, as it has done for longer than anybody remembers.",
        *(f"Boats of class {c} carry {n} barrels of oil to the island." for n, c in enumerate("abcdefgh")),
    ]
)


def test_a_sentence_that_fits_beside_the_first_line_is_not_cut_at_its_commas():
    short = cut_excerpt(HARBOUR, "What does the pilot do when the tide is low?", 60)
    assert "a sign with the green lamp, which hangs above the gate near the old customs house, as" in short
    assert "class h" not in short


def test_a_long_first_sentence_is_shown_to_its_end_where_it_tells_what_was_asked():
    assert OPENING in cut_excerpt(HARBOUR, "Until when does the harbour stay open?", 40)
    assert OPENING in cut_excerpt(HARBOUR, "What is this about?", 40)
    assert OPENING not in cut_excerpt(HARBOUR, "How many barrels do boats of class g carry?", 25)


def test_the_purpose_of_a_thing_stands_even_when_no_word_of_the_question_does():
    text = LONG.replace("Calls it often.", "Rings every bell in town.")
    assert "Rings every bell in town." in cut_excerpt(text, "Describe pkg.call briefly.", 40, "pkg.call")


def test_code_makes_room_for_prose_unless_it_is_asked_for():
    code = "Examples:\n```python\n" + "\n".join(f"step_{i} = pkg.call({i})" for i in range(30)) + "\n```\n"
    text = "`pkg.call(name)`\n" + code + "Bases: `Caller`"
    assert "Bases: `Caller`" in cut_excerpt(text, "From which class does pkg.call inherit?", 40, "pkg.call")
    assert "step_7 = pkg.call(7)" in cut_excerpt(text, "What is step_7?", 40, "pkg.call")


def test_trimming_leaves_a_short_text_whole_and_is_repeatable():
    assert cut_excerpt("One line.\n\nAnother.", "anything", 60) == "One line.\n\nAnother."
    assert len({cut_excerpt(LONG, "What is option_17?", 50) for _ in range(5)}) == 1


def test_identifiers_match_by_their_parts_and_words_by_their_stem():
    assert {"max_retri", "max", "retri"} & content_words("max_retries")
    assert content_words("maxRetries limits") & content_words("a limit of retries")
    assert not content_words("What is the of a")


STYLES = [
    NEUTRAL,
    Controls(depth=0.0, technical_level=0.0),
    Controls(depth=1.0, technical_level=1.0),
    Controls(citations=False, examples=True),
    Controls(step_by_step=True, strict_grounding=False),
]


def test_the_prompt_is_byte_for_byte_the_one_that_the_shipped_adapter_was_trained_on():
    two_passages = hits(chunk("a", "A is one.", "pkg.a", ("pkg.a", "Parameters")), chunk("b", "B is two."))
    prompts = [
        [message.content for message in build_messages("What is b? ", passages, controls=style)]
        for passages in (None, [], two_passages)
        for style in STYLES
    ]
    targets = [target_text("It  is\n5", 2), target_text("", 1)]
    texts = json.dumps([SYSTEM, REFUSAL, prompts, targets, SMALL_TALK])
    # A new hash here needs a new adapter, trained on the new texts.
    assert (
        hashlib.sha256(texts.encode()).hexdigest() == "3d78a95959bdfcbbf0635a5492d9901fa41165b9769ed35fdf1d295c70958f91"
    )


def test_the_passages_can_be_read_back_from_the_users_message():
    assert passages_in(user_text("[1] a\nA is one.", "What is a?")) == "[1] a\nA is one."


def test_the_prompt_hash_is_that_of_the_manifests_and_changes_with_the_prompt():
    # Released versions carry this hash: it stays the same as long as the English prompt does.
    assert prompt_sha256() == "dfd435a8ad0725a8e98bf5c11db337dccf946d437bc988560748f81897306783"
    texts = ENGLISH.prompt.model_copy(update={"cite": "Cite."})
    assert prompt_sha256(ENGLISH.model_copy(update={"prompt": texts})) != prompt_sha256()


def test_the_prompt_can_be_in_the_language_of_another_pack():
    closest = [Evidence(Unit("Das Pfand beträgt 30 €.", "Geräte"), 1, 0.9)]
    german = packs()["de"]
    system, user = build_messages("Was kostet es?", hits(chunk("Geräte", "Text.")), closest=closest, pack=german)
    assert system.content == (
        "Beantworte die Frage kurz aus den nummerierten Textstellen. Beende jeden Satz mit der Nummer seiner "
        "Textstelle, zum Beispiel [1]. Wenn die Antwort nicht in den Textstellen steht, sage: Das konnte ich in den "
        "Dokumenten nicht finden."
    )
    assert user.content.endswith("Frage: Was kostet es?\nSätze, die am besten passen:\n- Das Pfand beträgt 30 €. [1]")
    detailed = build_messages("Was kostet es?", None, controls=Controls(depth=1.0), pack=german)
    assert detailed[0].content == "Beantworte die Frage kurz. Erkläre es ausführlich."
