import time

import pytest

from ragtune.errors import SearchIndexError
from ragtune.records import Chunk, Hit
from ragtune.settings import load_settings
from ragtune_serving.grounding import Grounding

HIT = Hit(
    Chunk(id="c", document_id="d", source="s", title="t", heading_path=(), text="The default is 5.", position=0), 1.0
)


class GrowingIndex:
    """An index that can be unreachable, empty or filled."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.index = self

    def versions(self):
        if self.state == "unreachable":
            raise SearchIndexError("The index does not answer.")
        return {"c": ("d", "v")} if self.state == "filled" else {}

    def search(self, text, limit):
        return [HIT][:limit]

    def search_many(self, texts, limit, where):
        return [self.search(text, limit) for text in texts]


@pytest.fixture
def start_grounding(tmp_path):
    groundings = []

    def start(state: str) -> tuple[Grounding, GrowingIndex]:
        settings = load_settings({"home": tmp_path, "gateway": {"poll_seconds": 0.02}})
        index = GrowingIndex(state)
        grounding = Grounding(settings, lambda: index)
        groundings.append(grounding)
        grounding.start()
        return grounding, index

    yield start
    for grounding in groundings:
        grounding.stop()


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_answers_become_grounded_as_soon_as_there_is_an_index(start_grounding):
    grounding, index = start_grounding("empty")
    until(lambda: grounding.settled)
    assert grounding.answerer("ragtune").prepare("What is the default?").passages is None
    index.state = "filled"
    until(lambda: grounding.present)
    passages = grounding.answerer("ragtune").prepare("What is the default?").passages
    assert [hit.chunk for hit in passages] == [HIT.chunk]
    assert grounding.answerer("ragtune-raw").prepare("What is the default?").passages is None


def test_an_unreachable_index_is_an_error_and_not_an_answer_without_retrieval(start_grounding):
    grounding, index = start_grounding("unreachable")
    until(lambda: grounding.error)
    with pytest.raises(SearchIndexError, match="does not answer"):
        grounding.answerer("ragtune")
    assert grounding.answerer("ragtune-raw").retriever is None
    index.state = "filled"
    until(lambda: grounding.present)
    assert grounding.error == ""
