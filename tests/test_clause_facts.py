"""Which question a sentence gives whose part is the answer, and which sentences give none."""

import pytest

from ragtune.dataset.extractive.prose_facts import prose_facts
from ragtune.dataset.extractive.question_templates import question_templates
from ragtune.text.whitespace import collapse_whitespace
from tests.support.api_pages import chunk, document


def questions(sentence, title="Parcelware", before=""):
    """Return (question, answer) for each fact of the sentence, by the first template of its group."""
    text = f"{before}{sentence}"
    page = chunk(document(title, text, "prose"))
    return [
        (
            question_templates()[fact.template_group][0].format(**fact.slots),
            collapse_whitespace(text[fact.start : fact.end]),
        )
        for fact in prose_facts(page, [(len(before), len(text))], f" in {title}")
    ]


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        (
            "The `ramp` command supports parcels of every size.",
            "What does the `ramp` command support in Parcelware?",
            "parcels of every size.",
        ),
        (
            "By default, Parcelware uses a pool of nine drivers.",
            "What does Parcelware use by default?",
            "a pool of nine drivers.",
        ),
        (
            "The library exposes two functions for sorting mail.",
            "What does Parcelware expose?",
            "two functions for sorting mail.",
        ),
        (
            "Most sorting machines require a steady supply of power.",
            "What do most sorting machines require in Parcelware?",
            "a steady supply of power.",
        ),
        (
            "The `width` field must be a whole number of metres.",
            "What must the `width` field be in Parcelware?",
            "a whole number of metres.",
        ),
        (
            "Parcel lists can be printed using the `print_all` function.",
            "How can parcel lists be printed in Parcelware?",
            "using the `print_all` function.",
        ),
        (
            "You can change your delivery route by editing the map file.",
            "How do I change my delivery route in Parcelware?",
            "by editing the map file.",
        ),
        (
            "Use the `--night` option to send parcels after sunset.",
            "How do I send parcels after sunset in Parcelware?",
            "Use the `--night` option",
        ),
        (
            "If you want to open a second depot, set `depots` to two.",
            "How do I open a second depot in Parcelware?",
            "set `depots` to two.",
        ),
        (
            "If you lose your badge, the gate stays locked for a day.",
            "What happens if I lose my badge in Parcelware?",
            "the gate stays locked for a day.",
        ),
        (
            "If your van breaks down, call the nearest depot.",
            "What should I do if my van breaks down in Parcelware?",
            "call the nearest depot.",
        ),
        (
            "The scales are calibrated when the depot opens.",
            "When are the scales calibrated in Parcelware?",
            "when the depot opens.",
        ),
        (
            "Delivery reports are stored in the `reports` folder.",
            "Where are delivery reports stored in Parcelware?",
            "in the `reports` folder.",
        ),
        (
            "The night shift is not suited for glass because drivers overlook cracks.",
            "Why is the night shift not suited for glass in Parcelware?",
            "because drivers overlook cracks.",
        ),
        (
            "For heavy parcels, a second driver is required.",
            "What is required for heavy parcels in Parcelware?",
            "a second driver",
        ),
        (
            "The scanner is designed to read labels in the dark.",
            "What is the scanner designed for in Parcelware?",
            "to read labels in the dark.",
        ),
    ],
)
def test_the_question_uses_up_the_rest_of_the_sentence(sentence, question, answer):
    assert questions(sentence) == [(question, answer)]


@pytest.mark.parametrize(
    "sentence",
    [
        "This command supports parcels of every size.",
        "The `ramp` command supports them in all its depots.",
        "Subsequent calls to `ramp` replace the first one.",
        "Parcelware monitors every depot, detects fires, and calls for help.",
        "Keep the defaults unless the depot is larger.",
        "If you have any questions, call the nearest depot.",
        "If you need help, please read the guide of the depot.",
        "The `ramp` command supports the same option.",
        "The scanner relies on `labels`_, a list of words.",
        "Use it to deliver parcels after sunset.",
        "Pallets Pallets hold four parcels of every size.",
        "Loading heavy goods Sometimes goods contain parcels of every size.",
        "Builds schedule execution context using the provided parameters.",
        "Automatically supports parcels of every size.",
        "Constructor builds a van, using provided wheels and doors.",
        "`ParcelVan` is an example of a vehicle with wheels that delivers parcels.",
        "ParcelVan is a parcel van.",
        "Define a delivery field requiring the user to select one gate.",
        "You can take short ways when sorting with the map of the town.",
        "Once the large depot is closed the drivers should go home by train.",
        "- **Gate**: for parcels of every size and weight.",
        "You can sort large parcels using the provided helpers.",
        "If you instead send letters by hand, the gate stays locked for a day.",
        "The scales are calibrated when the depot opens, as explained later in the docs.",
        "Parcelware uses a backoff between two tries to avoid jams.",
        "The latest releases with wheels of rubber are sold at every depot.",
        "When both values are present, the depot counts the larger one of them.",
        "ParcelVan is a van that carries that data to the depots of the town.",
        "ParcelVan saves every parcel somewhere in the town.",
        "Any deliveries require a steady supply of power.",
        "The delivery list is stored in a binary format for ease of sorting.",
    ],
)
def test_a_sentence_that_needs_others_or_says_two_things_gives_no_question(sentence):
    assert questions(sentence) == []


def test_a_text_about_its_own_subject_is_named_once():
    assert questions("Parcelware supports parcels of every size.", title="mail.Parcelware in post") == [
        ("What does mail.Parcelware in post support?", "parcels of every size.")
    ]


def test_a_task_says_where_it_is_done_unless_it_names_it():
    assert questions(
        "To print labels of a large HTML page, add a style mapping for them.", title="Mail to HTML converter"
    ) == [("How do I print labels of a large HTML page in Mail to HTML converter?", "add a style mapping for them.")]


def test_a_capital_stays_only_on_a_name():
    assert questions("Mode supports four kinds of parcels.")[0][0] == "What does mode support in Parcelware?"
    as_name = questions("Mode supports four kinds of parcels.", before="Ask for Mode when in doubt. ")
    assert as_name[0][0] == "What does Mode support in Parcelware?"


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        (
            "The lamp supports the driver’s “night” labels of every size.",
            "What does the lamp support in Parcelware?",
            "the driver’s “night” labels of every size.",
        ),
        (
            "Écran panels require a steady supply of power.",
            "What do écran panels require in Parcelware?",
            "a steady supply of power.",
        ),
        (
            "The Café ramp supports loads of 40 °C and 3 µm – never more.",
            "What does the Café ramp support in Parcelware?",
            "loads of 40 °C and 3 µm – never more.",
        ),
    ],
)
def test_no_sentence_is_lost_because_of_a_letter_or_a_quote_that_is_not_ascii(sentence, question, answer):
    assert questions(sentence) == [(question, answer)]


def test_a_sentence_with_arrows_or_pictures_gives_no_question():
    assert questions("The ramp supports parcels → pallets of every size.") == []
