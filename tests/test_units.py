"""Tests of the units of a passage: sentences, list items, rows of tables."""

from dataclasses import replace

from ragtune.answer.units import MOST_WORDS, Unit, chunk_units, text_units
from tests.support.answering_fakes import chunk


def texts(text: str) -> list[str]:
    return [unit.text for unit in text_units(text)]


def test_a_paragraph_is_split_into_sentences_across_its_lines():
    assert texts("The crane lifts\n3 tonnes. It is\nlocked at night.") == [
        "The crane lifts 3 tonnes.",
        "It is locked at night.",
    ]


def test_a_list_item_has_the_line_before_the_list_as_context():
    units = text_units("Bring these:\n\n- a helmet\n- gloves", "Crane", "Rules")
    assert units[-2:] == [
        Unit("a helmet", "Crane > Rules > Bring these:"),
        Unit("gloves", "Crane > Rules > Bring these:"),
    ]


def test_a_label_is_no_unit_but_leads_into_its_list():
    assert text_units("Returns:\n\n- `int`: the price.") == [Unit("`int`: the price.", "Returns:")]


def test_a_sentence_after_a_list_does_not_belong_to_it():
    units = text_units("Bring these:\n\n- a helmet\n\nThe crane is red.")
    assert units[-1] == Unit("The crane is red.", "")


def test_a_long_list_item_is_split_into_sentences():
    sentence = " ".join(["word"] * (MOST_WORDS - 1)) + "."
    assert texts(f"- First {sentence} Second one.") == [f"First {sentence}", "Second one."]


def test_a_short_list_item_stays_whole():
    assert texts("- **E7:** power was lost. Start it again.") == ["**E7:** power was lost. Start it again."]


def test_a_row_of_a_table_has_the_names_of_its_columns():
    table = "| | Agnes | Cora |\n| --- | --- | --- |\n| Volume | 160 litres | 85 litres |\n| Lid | | red |"
    assert texts(table) == ["Volume: Agnes 160 litres, Cora 85 litres", "Lid: Cora red"]


def test_a_heading_is_context_and_no_unit():
    units = text_units("## Opening\n\nWait until 120 °C.\n\n## Fees\n\nA shelf costs 9 mk.", "Kilns")
    assert units == [Unit("Wait until 120 °C.", "Kilns > Opening"), Unit("A shelf costs 9 mk.", "Kilns > Fees")]


def test_the_title_is_not_repeated_if_it_is_the_heading():
    assert text_units("It is hot.", "Kilns", "Kilns") == [Unit("It is hot.", "Kilns")]
    assert Unit("It is hot.", "Kilns").scored_text == "Kilns: It is hot."


def test_a_unit_knows_the_title_and_the_heading_that_it_stands_below():
    (unit,) = text_units("Prices:\n\n- small: 3 mk", "Kilns", "Use")
    assert (unit.place, unit.context) == (("Kilns", "Use"), "Kilns > Use > Prices:")
    assert [unit.place for unit in text_units("It is hot.", "", "Kilns")] == [("Kilns",)]


def test_lines_of_code_are_units_without_their_fence():
    assert texts("Run them.\n\n```sh\nmake install\nmake test\n```") == ["Run them.", "make install", "make test"]


def test_the_units_of_a_chunk_have_its_title_and_its_last_heading():
    passage = replace(chunk("a", "It is hot."), title="Kilns", heading_path=("Kilns", "Opening", "Porcelain"))
    assert chunk_units(passage) == [Unit("It is hot.", "Kilns > Porcelain")]


def test_a_question_is_no_unit_but_the_context_of_its_answer():
    faq = "21. Is the dock deep enough?\n\nYes. It is dredged in May.\n\nLarge boats need a pilot.\n\n22. Lit?\n\nNo."
    assert text_units(faq, "FAQ") == [
        Unit("Yes.", "FAQ > Is the dock deep enough?"),
        Unit("It is dredged in May.", "FAQ > Is the dock deep enough?"),
        Unit("Large boats need a pilot.", "FAQ"),
        Unit("No.", "FAQ > Lit?"),
    ]


def test_the_line_below_a_question_has_it_as_context():
    assert text_units("Q: Who locks the gate?\nA: The keeper.") == [Unit("A: The keeper.", "Q: Who locks the gate?")]


def test_a_heading_ends_the_question_before_it():
    assert text_units("Why so late?\n\n## Hours\n\nThe gate closes at nine.") == [
        Unit("The gate closes at nine.", "Hours")
    ]


def test_a_text_of_nothing_but_questions_has_them_as_units():
    assert texts("Who locks the gate? And when?") == ["Who locks the gate?", "And when?"]


def test_every_item_of_a_list_below_a_question_has_it_as_context():
    units = text_units("What may come aboard?\n\n- Dogs\n- Bicycles\n\nThe ferry is slow.")
    assert units == [
        Unit("Dogs", "What may come aboard?"),
        Unit("Bicycles", "What may come aboard?"),
        Unit("The ferry is slow.", ""),
    ]
