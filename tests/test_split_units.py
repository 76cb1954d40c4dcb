"""Small collections are divided by section, without a leak, without an empty split, and for good."""

from collections import Counter
from dataclasses import replace

import pytest

from ragtune.dataset.split_units import SplitUnits, choose_units
from ragtune.dataset.splits import leaks, split_pairs
from ragtune.records import Chunk, Document, QAPair, Split, SplitItem
from ragtune.settings import DatasetSettings
from tests.support.answering_fakes import chunk

SETTINGS = DatasetSettings()
Collection = tuple[list[QAPair], list[Document], list[Chunk]]


def collection(documents: int, sections: int = 3) -> Collection:
    """Return a collection whose sections have a pair each and no word in common but a few."""
    pairs, pages, chunks = [], [], []
    for page in range(documents):
        texts = []
        for number in range(sections):
            name = f"{page}x{number}"
            text = " ".join(f"word{name}y{place}" for place in range(12))
            section = chunk(f"c{name}", text, f"Page {page}", (f"Page {page}", f"Part {number}"), document=f"d{page}")
            chunks.append(section)
            texts.append(text)
            pairs.append(
                QAPair(
                    id=f"p{name}",
                    question=f"What is word{name}y1?",
                    answer=f"word{name}y2",
                    kind="k",
                    document_id=f"d{page}",
                    chunk_id=section.id,
                )
            )
        pages.append(
            Document(
                id=f"d{page}",
                source="s",
                path=f"{page}.md",
                title=f"Page {page}",
                text=" ".join(texts),
                sha256=f"{page}",
            )
        )
    return pairs, pages, chunks


def divide(
    pairs: list[QAPair], documents: list[Document], chunks: list[Chunk], earlier: dict[str, Split] | None = None
) -> tuple[SplitUnits, list[SplitItem]]:
    units = choose_units(pairs, documents, chunks, SETTINGS)
    items = split_pairs(
        units.as_units(pairs), units.documents, SETTINGS, 5, previous=units.earlier(earlier or {}, chunks)
    )
    assert leaks(items, units.documents) == []
    return units, units.as_documents(items, pairs)


@pytest.mark.parametrize(("documents", "by_section"), [(41, True), (42, False)])
def test_documents_are_shared_out_if_the_gate_gets_five(documents: int, by_section: bool) -> None:
    units, items = divide(*collection(documents))
    assert units.by_section is by_section
    splits_of_document: dict[str, set[str]] = {}
    for item in items:
        splits_of_document.setdefault(item.pair.document_id, set()).add(item.split)
    assert any(len(splits) > 1 for splits in splits_of_document.values()) is by_section


@pytest.mark.parametrize(("documents", "sections"), [(1, 4), (1, 7), (2, 3), (3, 2), (16, 2), (45, 1)])
def test_no_split_is_empty_from_four_sections_on(documents: int, sections: int) -> None:
    _, items = divide(*collection(documents, sections))
    counts = Counter(item.split for item in items)
    assert set(counts) == {"train", "test", "gate", "validation"}
    assert len(items) == documents * sections
    assert counts["train"] >= counts["test"]


def test_with_two_sections_one_is_trained_on_and_one_tests() -> None:
    _, items = divide(*collection(1, 2))
    assert sorted(item.split for item in items) == ["test", "train"]


def test_near_duplicate_sections_of_two_pages_stay_together() -> None:
    pairs, documents, chunks = collection(6)
    copied = [replace(chunks[0], id="copy", document_id="d5", heading_path=("Page 5", "Copy"), title="Page 5")]
    extra = replace(pairs[0], id="pcopy", question="What is the copy?", document_id="d5", chunk_id="copy")
    _, items = divide([*pairs, extra], documents, [*chunks, *copied])
    split_of = {item.pair.id: item.split for item in items}
    assert split_of["pcopy"] == split_of[pairs[0].id]


def test_sections_keep_their_split_when_a_page_is_added() -> None:
    pairs, documents, chunks = collection(8)
    units, before = divide(pairs[:21], documents[:7], chunks[:21])
    _, after = divide(pairs, documents, chunks, units.used(before))
    split_of = {item.pair.id: item.split for item in after}
    assert {item.pair.id: item.split for item in before}.items() <= split_of.items()
    assert len(after) == 24


def test_a_new_section_of_a_page_that_was_trained_on_is_trained_on() -> None:
    pairs, documents, chunks = collection(1, 8)
    units, before = divide(pairs[:7], documents, chunks[:7])
    _, after = divide(pairs, documents, chunks, units.used(before))
    assert next(item.split for item in after if item.pair.id == pairs[7].id) == "train"


def test_a_collection_that_grows_beyond_the_limit_keeps_what_was_trained_on_in_train() -> None:
    pairs, documents, chunks = collection(60)
    units, before = divide(pairs[:30], documents[:10], chunks[:30])
    grown, after = divide(pairs, documents, chunks, units.used(before))
    assert not grown.by_section
    trained = {item.pair.document_id for item in before if item.split == "train"}
    assert trained
    assert {item.split for item in after if item.pair.document_id in trained} == {"train"}
    assert {item.split for item in after} == {"train", "test", "gate", "validation"}


def test_a_collection_that_shrinks_below_the_limit_keeps_the_splits_of_its_documents() -> None:
    pairs, documents, chunks = collection(50)
    units, before = divide(pairs, documents, chunks)
    _, after = divide(pairs[:30], documents[:10], chunks[:30], units.used(before))
    split_of = {item.pair.id: item.split for item in before}
    assert all(item.split == split_of[item.pair.id] for item in after)
