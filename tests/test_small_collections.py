"""The graph up to the published dataset on collections of a few pages, and what is said if a page is too few."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragtune.dataset.publishing import read_published
from ragtune.dataset.split_units import choose_units
from ragtune.dataset.splits import leaks
from ragtune.errors import RagTuneError
from ragtune.records import Chunk, Document
from ragtune_assets.dataset import gate_note
from ragtune_serving.cli import app
from tests.support.dataset_home import Home

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of the 27 pages of the manual and some questions about them that people wrote."""
    folder = tmp_path_factory.mktemp("manual")
    pairs = folder / "desk.jsonl"
    rows = [
        {"question": "whos in charge of the yard", "answer": "Ines Corvane"},
        {"question": "kiln temprature large one", "answer": "The moon is made of green cheese, said the baker."},
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    home = Home(folder / "home", [f"folder:{EXAMPLES / 'manual'}", f"pairs:{pairs}"])
    home.run()
    yield home
    home.close()


def test_the_manual_is_divided_by_section_without_a_leak_and_without_an_empty_split(manual: Home) -> None:
    items = manual.items()
    counts = Counter(item.split for item in items)
    assert set(counts) == {"train", "test", "gate", "validation"}
    assert counts["train"] > len(items) / 2
    assert manual.metadata("qa_splits")["split by"].startswith("section")
    splits_of_chunk: dict[str, set[str]] = {}
    for item in items:
        splits_of_chunk.setdefault(item.pair.chunk_id, set()).add(item.split)
    assert all(len(splits) == 1 for splits in splits_of_chunk.values())
    published = read_published(manual.store.folder(manual.store.current("published_dataset")))
    assert Counter(item.split for item in published) == counts


def test_questions_of_people_reach_the_dataset_and_the_others_are_listed_with_the_reason(manual: Home) -> None:
    (pair,) = [pair for pair in manual.pairs() if pair.origin == "people"]
    assert (pair.question, pair.answer) == ("whos in charge of the yard", "Ines Corvane")
    page = manual.metadata("matched_pairs")
    assert (page["existing pairs"], page["matched"]) == (2, 1)
    assert "no passage holds the answer" in page["not matched"]
    assert "| people | 1 |" in manual.metadata("qa_dataset")["origins"]
    published = read_published(manual.store.folder(manual.store.current("published_dataset")))
    assert [item.pair.imported_from for item in published if item.pair.origin == "people"] == [pair.imported_from]


def test_the_command_line_lists_what_became_of_each_question(manual: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGTUNE_HOME", str(manual.settings.home))
    result = CliRunner().invoke(app, ["dataset", "existing", "--json"], catch_exceptions=False)
    used, unused = json.loads(result.stdout)
    assert used["became"] in ("train", "test", "gate", "validation")
    assert used["place"].endswith("desk.jsonl, line 1")
    assert "no passage holds the answer" in unused["became"]
    text = CliRunner().invoke(app, ["dataset", "existing", "--unmatched"], catch_exceptions=False).stdout
    assert "whos in charge" not in text
    assert "Existing pairs: 2, of which 1 found their passage" in text


def test_before_a_training_the_product_says_which_gain_the_gate_could_show(manual: Home) -> None:
    note = gate_note(manual.settings, manual.store)
    gate = sum(item.split == "gate" for item in manual.items())
    assert note.startswith(f"The gate's questions: {gate}, about ")
    assert re.search(r"A gain of 0\.05 takes about \d+ questions", note)


def test_a_faq_of_one_page_with_its_own_questions_fills_every_split(tmp_path: Path) -> None:
    page = EXAMPLES / "faq" / "parcel-lockers.md"
    home = Home(tmp_path / "home", [f"folder:{page}", f"pairs:{page}"])
    try:
        home.run()
        items, page_of_matches = home.items(), home.metadata("matched_pairs")
        units = choose_units(
            home.pairs(),
            home.store.read_records(home.store.current("raw_documents"), Document),
            home.store.read_records(home.store.current("chunks"), Chunk),
            home.settings.dataset,
        )
        pairs = units.as_units(item.pair for item in items)
    finally:
        home.close()
    assert page_of_matches["matched"] == page_of_matches["existing pairs"] > 20
    origins = Counter((item.split, item.pair.origin) for item in items)
    assert all(origins[split, "people"] for split in ("train", "test", "gate"))
    divided = [type(item)(pair, item.split, item.cluster) for item, pair in zip(items, pairs, strict=True)]
    assert leaks(divided, units.documents) == []


def test_three_notes_end_before_any_training_with_numbers_and_a_way_out(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "oven.md").write_text("# Oven\n\nThe oven in the kitchen is a gas oven from 1998.\n")
    (notes / "bins.md").write_text("# Bins\n\nThe blue bin is for paper. It is emptied every second Tuesday.\n")
    (notes / "wifi.md").write_text("# Wifi\n\nThe wireless network is called Larch.\n")
    home = Home(tmp_path / "home", [f"folder:{notes}"])
    try:
        with pytest.raises(RagTuneError, match="The 3 passages gave 0 question and answer pairs") as error:
            home.run()
    finally:
        home.close()
    assert "training needs 6." in str(error.value)
    assert "ragtune sources add pairs:FILE" in str(error.value)


def test_the_german_manual_hears_that_the_writer_writes_english_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", [f"folder:{EXAMPLES / 'manual-de'}"])
    try:
        with pytest.raises(RagTuneError, match="The rule-based writer writes English only"):
            home.run()
    finally:
        home.close()
