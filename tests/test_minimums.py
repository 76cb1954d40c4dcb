"""What a small collection must yield, and what is said if it does not."""

from dataclasses import replace

import pytest

from ragtune.dataset.minimums import least_pairs, shortage, within_chance
from ragtune.records import QAPair
from ragtune.settings import DatasetSettings
from tests.support.answering_fakes import chunk

PAIR = QAPair(id="p", question="q", answer="a", kind="k", document_id="d", chunk_id="c")


@pytest.mark.parametrize(
    ("passages", "needed"), [(3, 6), (60, 6), (114, 11), (197, 20), (5000, 500), (10_000, 1000), (90_000, 1000)]
)
def test_the_minimum_grows_with_the_passages_between_six_and_a_thousand(passages: int, needed: int) -> None:
    assert least_pairs(DatasetSettings(), passages) == needed


def test_a_minimum_in_the_settings_wins() -> None:
    assert least_pairs(DatasetSettings(min_pairs=50), 5000) == 50


def test_a_share_of_few_pairs_may_be_larger_by_chance() -> None:
    # 0.2 + 1.645 * sqrt(0.2 * 0.8 / n)
    assert within_chance(0.2, 16) == pytest.approx(0.3645, abs=1e-4)
    assert within_chance(0.2, 10_000) == pytest.approx(0.2066, abs=1e-4)
    assert within_chance(0.2, 0) <= 1.0


def test_too_few_pairs_are_told_with_numbers_and_a_way_out() -> None:
    chunks = [chunk(f"c{number}", "The blue bin is for paper.") for number in range(3)]
    message = shortage([PAIR], chunks, DatasetSettings())
    assert message.startswith("The 3 passages gave 1 question and answer pairs (1 written, 0 by people)")
    assert "training needs 6." in message
    assert "ragtune sources add pairs:FILE" in message
    assert "min_pairs" not in message
    assert "lower `dataset.min_pairs`" in shortage([PAIR], chunks, DatasetSettings(min_pairs=100))
    assert shortage([PAIR] * 6, chunks, DatasetSettings()) == ""


def test_a_collection_in_another_language_hears_that_the_writer_writes_english_only() -> None:
    german = [replace(chunk(f"c{number}", "Der Kahn liegt am Steg."), language="de") for number in range(8)]
    message = shortage([PAIR], german, DatasetSettings())
    assert message.startswith(
        "The rule-based writer writes English only, and 8 of the 8 passages are in other languages"
    )
    assert "(de). Let a language model write pairs in their language (`dataset.writer.model`)" in message
    assert "ragtune sources add pairs:FILE" in message
    assert "Add documents" not in message
    with_model = DatasetSettings.model_validate({"writer": {"model": "openai/m"}})
    assert "English only" not in shortage([PAIR], german, with_model)
