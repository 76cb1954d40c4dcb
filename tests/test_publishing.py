import json
from dataclasses import replace

import pytest

from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.publishing import FIELDS, diff_items, items_sha256, publish, read_published
from ragtune.dataset.splits import split_pairs
from ragtune.errors import DatasetError
from ragtune.settings import DatasetSettings
from ragtune.store.artifacts import file_sha256
from tests.support.api_pages import articles, chunk, shop

SETTINGS = DatasetSettings(min_pairs=1)


def dataset(documents, previous=None):
    chunks = [chunk(each) for each in documents]
    report = check_pairs(ExtractiveWriter(1).write(chunks), chunks, SETTINGS)
    return split_pairs(report.pairs, documents, SETTINGS, 1, previous=previous), chunks, report


@pytest.fixture(scope="module")
def small():
    return [*shop(), *articles(40)]


def test_hugging_face_datasets_reads_the_folder(small, tmp_path):
    from datasets import load_dataset

    items, chunks, report = dataset(small)
    publish(tmp_path / "qa", items, chunks, small, report.results, seed=1)
    loaded = load_dataset(str(tmp_path / "qa"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: sum(item.split == split for item in items) for split in ("train", "validation", "gate", "test")
    }
    assert loaded["train"].column_names == [name for name, _ in FIELDS]
    for row in loaded["train"]:
        assert " ".join(row["context"][row["span_start"] : row["span_end"]].split()) == row["answer"]


def test_the_same_items_give_the_same_bytes_and_true_hashes(small, tmp_path):
    items, chunks, report = dataset(small)
    for name in ("a", "b"):
        assert publish(tmp_path / name, items, chunks, small, report.results, seed=1) == items_sha256(items)
    first, second = ((tmp_path / name / "dataset.json").read_bytes() for name in ("a", "b"))
    assert first == second
    manifest = json.loads(first)
    assert all(file_sha256(tmp_path / "a" / path) == sha256 for path, sha256 in manifest["files"].items())
    assert sum(manifest["splits"].values()) == len(items)


def test_a_published_dataset_reads_back_unchanged_and_a_damaged_one_is_refused(small, tmp_path):
    items, chunks, report = dataset(small)
    publish(tmp_path, items, chunks, small, report.results, seed=1)
    assert items_sha256(read_published(tmp_path)) == items_sha256(items)
    (tmp_path / "README.md").write_text("changed")
    with pytest.raises(DatasetError, match=r"README\.md is gone or was changed"):
        read_published(tmp_path)
    with pytest.raises(DatasetError, match="holds no published dataset"):
        read_published(tmp_path / "data")


def test_the_card_shows_counts_scores_and_quality(small, tmp_path):
    items, chunks, report = dataset(small)
    publish(tmp_path, items, chunks, small, report.results, seed=1)
    text = (tmp_path / "README.md").read_text()
    assert f"{len(items)} pairs" in text
    assert "| answers stand in their chunks | critical | yes |" in text
    assert f"| grounded | {len(items)} | 1.000 |" in text
    assert all(f"| {name} |" in text for name, _ in FIELDS)


def test_ten_more_documents_add_pairs_and_move_none(small):
    old, _, _ = dataset(small)
    previous = {item.pair.document_id: item.split for item in old}
    new, _, _ = dataset([*small, *articles(50)[40:]], previous)
    diff = diff_items(old, new)
    assert len(diff.added) >= 20
    assert diff.moved == []
    # An unanswerable question borrows its parameter from a neighbour, and a new document may be a nearer one.
    assert all(not item.pair.answerable for item in diff.removed)
    assert len(diff.removed) <= 0.1 * len(old)


def test_a_diff_lists_moved_changed_added_and_removed_pairs(small):
    items, _, _ = dataset(small)
    a, b, c = (item for item in items[:3])
    moved = replace(a, split="gate" if a.split != "gate" else "test")
    answered = replace(b, pair=replace(b.pair, id="new", answer="another answer"))
    extra = replace(c, pair=replace(c.pair, id="extra", question="What is quite new here?"))
    diff = diff_items([a, b, c], [moved, answered, extra])
    assert diff.moved == [(a, moved)]
    assert diff.changed == [(b, answered)]
    assert diff.added == [extra]
    assert diff.removed == [c]
    assert str(diff).startswith("1 added, 1 removed, 1 reworded")
