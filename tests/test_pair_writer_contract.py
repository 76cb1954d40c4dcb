"""The promises of every writer of pairs, checked for the extractive writer and the one with a language model."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.llm.writer import LLMWriter
from ragtune.ports import PairWriter
from ragtune.records import QAPair
from ragtune.text.whitespace import collapse_whitespace
from tests.support.api_pages import FETCH, articles, chunk, document, shop
from tests.support.model_server import ModelServer, quoting

CHUNKS = [chunk(page) for page in [*shop(), *articles(4)]]
Open = Callable[[int], PairWriter]


@pytest.fixture(scope="module", params=["extractive", "llm"])
def open_writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Return a function from a seed to a new writer, which remembers nothing of those before it."""
    if request.param == "extractive":
        yield lambda seed: ExtractiveWriter(seed, limit_per_chunk=50, unanswerable_share=0.4)
        return
    server = ModelServer(quoting)
    yield lambda seed: LLMWriter(server.settings(), tmp_path_factory.mktemp("replies"), seed, unanswerable_share=0.2)
    server.close()


@pytest.fixture(scope="module")
def pairs(open_writer: Open) -> list[list[QAPair]]:
    """The pairs that each of twelve seeds writes."""
    return [open_writer(seed).write(CHUNKS) for seed in range(12)]


def test_every_answer_stands_at_its_span_in_its_chunk(pairs: list[list[QAPair]]) -> None:
    texts = {chunk.id: chunk.text for chunk in CHUNKS}
    for pair in (pair for written in pairs for pair in written if pair.answerable):
        start, end = pair.span
        assert 0 <= start < end <= len(texts[pair.chunk_id])
        assert collapse_whitespace(texts[pair.chunk_id][start:end]).rstrip(".") == pair.answer.rstrip(".")


def test_an_unanswerable_pair_has_neither_answer_nor_span(pairs: list[list[QAPair]]) -> None:
    unanswerable = [pair for written in pairs for pair in written if not pair.answerable]
    assert unanswerable
    assert {(pair.answer, pair.span) for pair in unanswerable} == {("", (0, 0))}


def test_no_two_pairs_of_a_dataset_have_the_same_id(pairs: list[list[QAPair]]) -> None:
    for written in pairs:
        assert len({pair.id for pair in written}) == len(written) > len(CHUNKS)


def test_a_pair_names_its_chunk_and_its_writer(open_writer: Open, pairs: list[list[QAPair]]) -> None:
    origins = {(chunk.id, chunk.document_id, chunk.topic) for chunk in CHUNKS}
    name = open_writer(0).name
    for pair in (pair for written in pairs for pair in written):
        assert (pair.chunk_id, pair.document_id, pair.topic) in origins
        assert pair.writer == name
        assert pair.question == collapse_whitespace(pair.question) != ""


def test_the_same_chunks_and_seed_give_the_same_pairs_and_another_seed_others(
    open_writer: Open, pairs: list[list[QAPair]]
) -> None:
    assert open_writer(3).write(CHUNKS) == pairs[3]
    assert pairs[3] != pairs[4]


def test_a_writer_can_be_used_again(open_writer: Open, pairs: list[list[QAPair]]) -> None:
    writer = open_writer(5)
    assert writer.write(CHUNKS) == writer.write(CHUNKS) == pairs[5]


def test_no_question_is_asked_about_a_duplicate_chunk(open_writer: Open) -> None:
    first, second = chunk(document("shop.a", FETCH)), chunk(document("shop.b", FETCH))
    written = open_writer(1).write([first, replace(second, duplicate_of=first.id)])
    assert {pair.chunk_id for pair in written} == {first.id}


def test_no_chunks_give_no_pairs(open_writer: Open) -> None:
    assert open_writer(1).write([]) == []


def test_progress_ends_at_the_total(open_writer: Open) -> None:
    steps: list[tuple[int, int]] = []
    open_writer(1).write(CHUNKS, lambda what, done, total: steps.append((done, total)))
    assert steps[-1] == (len(CHUNKS), len(CHUNKS))


def test_the_rules_read_english_only_and_count_what_they_leave_out() -> None:
    german = [replace(chunk, language="de") for chunk in CHUNKS[:3]]
    writer = ExtractiveWriter(3)
    assert {pair.chunk_id for pair in writer.write([*german, *CHUNKS[3:]])} <= {chunk.id for chunk in CHUNKS[3:]}
    assert writer.unread == {"de": 3}
    assert writer.write(german) == []
