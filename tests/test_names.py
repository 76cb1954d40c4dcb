import pytest

from ragtune.knowledge.names import about_what_is_named
from ragtune.records import Chunk, Hit

TEXTS = {
    "rich.panel.Panel.fit": "`Panel.fit(text)` (class method)\n\nMakes a panel that fits.",
    "rich.panel.Panel": "Draws a border. `Panel.fit` makes one that fits.",
    "rich.table.Table.fit": "Fits a table.\n\n- `render` (Renderable): What is shown.",
    "rich.status.StatusBar": "Shows a line.",
    "A guide": "Call `StatusBar` where a line is enough.",
}
HITS = [
    Hit(
        Chunk(id=title, document_id=title, source="package:rich", title=title, heading_path=(), text=text, position=0),
        1.0,
    )
    for title, text in TEXTS.items()
]


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("How is `render` typed in Panel.fit?", ["rich.panel.Panel.fit", "rich.panel.Panel"]),
        ("What is a rich.status.StatusBar?", ["rich.status.StatusBar", "A guide"]),
        ("What should I pass as style to StatusBar?", ["rich.status.StatusBar", "A guide"]),
        ("What is StatusBar for?", ["rich.status.StatusBar", "A guide"]),
    ],
)
def test_only_passages_that_speak_of_the_named_object_are_shown(question: str, kept: list[str]) -> None:
    assert [hit.chunk.title for hit in about_what_is_named(question, HITS)] == kept


@pytest.mark.parametrize(
    "question",
    [
        "What draws a border?",
        "What does UnknownThing do?",
        "How do I show a line with a StatusBar?",
        "I'm trying to show a line with a StatusBar.",
        "what's the best way to show a line with a StatusBar",
        "Which class lets me show a StatusBar?",
        "What is the rich class method to show a StatusBar?",
        "i'd like to show a StatusBar with rich, what do i use",
    ],
)
def test_every_passage_is_shown_where_nothing_known_is_named_or_a_way_is_sought(question: str) -> None:
    assert about_what_is_named(question, HITS) == HITS


def test_passages_of_two_named_objects_are_both_shown() -> None:
    titles = [hit.chunk.title for hit in about_what_is_named("Is Panel.fit or StatusBar quicker?", HITS)]
    assert titles == ["rich.panel.Panel.fit", "rich.panel.Panel", "rich.status.StatusBar", "A guide"]
