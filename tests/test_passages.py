import time
from collections.abc import Mapping, Sequence

import pytest

from ragtune.answer.answering import RememberingAnswerer
from ragtune.answer.passages import about_what_is_named, find_passages, hits_needed, search_text, select_passages
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.evaluation.scoring import score_model
from ragtune.model.examples.builder import ExampleBuilder
from ragtune.model.examples.mixture import Mixture
from ragtune.records import Chunk, Hit, Message, SplitItem
from ragtune.settings import load_settings
from ragtune_serving.grounding import Grounding
from tests.support.answering_fakes import ScriptedChat, WordEvidence
from tests.support.api_pages import articles, chunk, shop

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
    ("question", "titles"),
    [
        ("How is `render` typed in Panel.fit?", ["rich.panel.Panel.fit", "rich.panel.Panel"]),
        ("What is a rich.status.StatusBar?", ["rich.status.StatusBar", "A guide"]),
        ("What should I pass as style to StatusBar?", ["rich.status.StatusBar", "A guide"]),
        ("What is StatusBar for?", ["rich.status.StatusBar", "A guide"]),
    ],
)
def test_only_passages_about_the_named_object_are_shown(question: str, titles: list[str]) -> None:
    assert [hit.chunk.title for hit in about_what_is_named(question, HITS)] == titles


@pytest.mark.parametrize("question", ["What draws a border?", "What does UnknownThing do?"])
def test_every_passage_is_shown_if_no_page_is_named(question: str) -> None:
    assert about_what_is_named(question, HITS) == HITS


@pytest.mark.parametrize(("place", "shown"), [(0, 5), (1, 5), (3, 2), (4, 2)])
def test_every_passage_is_shown_if_the_most_similar_line_is_about_something_else(place: int, shown: int) -> None:
    def similarity(text: str, chunks: Sequence[Chunk]) -> list[list[float]]:
        return [[0.9 if number == place else 0.1] for number, _ in enumerate(chunks)]

    assert len(about_what_is_named("How do I show a line with a StatusBar?", HITS, similarity)) == shown


def test_passages_of_both_named_objects_are_shown() -> None:
    titles = [hit.chunk.title for hit in about_what_is_named("Is Panel.fit or StatusBar quicker?", HITS)]
    assert titles == ["rich.panel.Panel.fit", "rich.panel.Panel", "rich.status.StatusBar", "A guide"]


def test_a_short_follow_up_is_searched_together_with_the_question_before_it():
    history = (Message("user", "How does dagster.asset work?"), Message("assistant", "Like this."))
    assert search_text("And its default?", history) == "How does dagster.asset work? And its default?"
    short = "And if I leave out max_concurrent_runs_of_it?"
    assert search_text(short, history) == f"How does dagster.asset work? {short}"
    for standalone in (
        "Which arguments does the function dagster.job accept today?",
        "What does dagster.define_asset_job return?",
        "How do I configure the multiprocess executor so that it runs three steps at once?",
    ):
        assert search_text(standalone, history) == standalone


def test_the_passages_shown_are_cut_after_those_about_something_else_are_dropped() -> None:
    titles = [hit.chunk.title for hit in select_passages("What is StatusBar for?", HITS, 1)]
    assert titles == ["rich.status.StatusBar"]


def test_a_search_asks_for_more_hits_than_are_shown() -> None:
    limits = []

    def search(text: str, limit: int) -> list[Hit]:
        limits.append(limit)
        return HITS[:limit]

    passages = find_passages(search, "What is StatusBar for?", 2, 600)
    assert [hit.chunk.title for hit in passages] == ["rich.status.StatusBar", "A guide"]
    assert limits == [hits_needed(2)]
    assert hits_needed(2) > 2


class FoundIndex:
    """A retriever whose first hits are the chunks that answer the questions in a search text."""

    def __init__(self, chunks: list[Chunk], items: list[SplitItem]) -> None:
        self.index = self
        self.chunks = chunks
        self.answering = {item.pair.question: item.pair.chunk_id for item in items}

    def versions(self) -> dict[str, tuple[str, str]]:
        return {chunk.id: (chunk.document_id, "v") for chunk in self.chunks}

    def search_many(self, texts: Sequence[str], limit: int, where: Mapping[str, str] | None = None) -> list[list[Hit]]:
        assert where is None
        return [self.search(text, limit) for text in texts]

    def search(self, text: str, limit: int) -> list[Hit]:
        ids = {chunk_id for question, chunk_id in self.answering.items() if question in text}
        ranked = sorted(self.chunks, key=lambda chunk: chunk.id not in ids)
        return [Hit(chunk, 1.0 / (1 + place)) for place, chunk in enumerate(ranked[:limit])]


def test_training_evaluation_and_serving_show_the_same_prompt_for_the_same_hits(tmp_path) -> None:
    settings = load_settings({"home": tmp_path, "gateway": {"poll_seconds": 0.02}, "answer": {"shown_words": 600}})
    chunks = [chunk(document) for document in [*shop(), *articles(12)]]
    items = [SplitItem(pair, "train", "c") for pair in ExtractiveWriter(4).write(chunks)]
    retriever = FoundIndex(chunks, items)
    # Switch off what training varies on purpose: removed and shuffled passages, styles and small talk.
    mixture = Mixture(
        removed=0.0, removed_how_to=0.0, styled=0.0, shuffled=0.0, follow_up=0.5, shortened=1.0, small_talk=0.0
    )
    evidence = WordEvidence(least=0.0)
    builder = ExampleBuilder(chunks, retriever.search, settings.answer, 1, mixture, evidence=evidence)
    prompts = [example.messages[:-1] for example in builder.build(items)]
    assert all("\nClosest sentences:\n- " in prompt[-1].content for prompt in prompts)
    assert any(len(prompt) == 2 for prompt in prompts)
    assert any(search_text(question_in(prompt), prompt[1:-1]) != question_in(prompt) for prompt in prompts)

    grounding = Grounding(settings, lambda: retriever, evidence=evidence)
    grounding.start()
    while not grounding.present:
        time.sleep(0.01)
    grounding.stop()
    served = grounding.answerer("ragtune")
    assert [served.prepare(question_in(prompt), prompt[1:-1]).messages for prompt in prompts] == prompts

    chat = ScriptedChat(lambda messages: "Yes. [1]")
    score_model([item.pair for item in items], RememberingAnswerer(retriever, settings.answer, evidence=evidence), chat)
    evaluated = {call["messages"] for call in chat.calls}
    assert {prompt for prompt in prompts if len(prompt) == 2} <= evaluated


def question_in(prompt: tuple[Message, ...]) -> str:
    return prompt[-1].content.rpartition("Question: ")[2].partition("\n")[0]
