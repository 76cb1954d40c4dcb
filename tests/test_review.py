import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ragtune.dataset.extraction import ExtractiveWriter
from ragtune.dataset.quality import check_pairs
from ragtune.dataset.review import ReviewStore, apply_reviews, pair_key
from ragtune.dataset.review_files import export_pairs, import_decisions
from ragtune.errors import DatasetError
from ragtune.settings import DatasetSettings
from tests.api_pages import articles, chunk, shop

CHUNKS = [chunk(each) for each in [*shop(), *articles(10)]]
PAIRS = ExtractiveWriter(2).write(CHUNKS)
ANSWERABLE = [pair for pair in PAIRS if pair.answerable]


@pytest.fixture
def store(tmp_path):
    opened = ReviewStore(f"sqlite:///{tmp_path}/review.db")
    yield opened
    opened.close()


def test_a_decision_has_who_and_when_and_the_newest_of_a_reviewer_counts(store):
    first = store.decide(PAIRS[0], "ada", "accept")
    store.decide(PAIRS[0], "ada", "comment", comment="Looks odd.")
    second = store.decide(PAIRS[0], "ada", "reject", comment="Too short.")
    assert first.reviewer == "ada"
    assert first.created_at.startswith("20")
    assert store.standing()[pair_key(PAIRS[0])]["ada"].id == second.id
    assert len(store.decisions()) == 3


def test_reviews_change_the_dataset(store):
    a, b, c = ANSWERABLE[:3]
    store.decide(a, "ada", "accept")
    store.decide(b, "ada", "reject", comment="Nobody asks that.")
    store.decide(c, "ada", "correct", answer="A better answer.")
    reviewed = apply_reviews(PAIRS, store, CHUNKS)
    assert reviewed.accepted == 1
    assert reviewed.rejected == [(b, "Nobody asks that.")]
    assert [(pair.question, pair.answer, pair.writer) for pair in reviewed.corrected] == [
        (c.question, "A better answer.", "review")
    ]
    assert len(reviewed.pairs) == len(PAIRS) - 1
    assert c not in reviewed.pairs
    assert len(reviewed.undecided) == len(PAIRS) - 3


def test_a_correction_survives_a_regeneration_of_the_dataset(store):
    pair = ANSWERABLE[0]
    store.decide(pair, "ada", "correct", question="Which better question is there about Cart.fetch?")
    regenerated = replace(pair, id="new", chunk_id="other", span=(0, 0))
    reviewed = apply_reviews([regenerated], store)
    assert reviewed.pairs[0].question == "Which better question is there about Cart.fetch?"
    assert reviewed.orphans == []


def test_a_decision_whose_pair_is_gone_is_listed(store):
    store.decide(ANSWERABLE[0], "ada", "reject")
    reviewed = apply_reviews(ANSWERABLE[1:], store)
    assert [each.pair["question"] for each in reviewed.orphans] == [ANSWERABLE[0].question]
    assert len(reviewed.pairs) == len(ANSWERABLE) - 1


def test_two_reviewers_who_differ_are_a_conflict_until_a_third_decides(store):
    pair = ANSWERABLE[0]
    store.decide(pair, "ada", "accept")
    assert apply_reviews([pair], store, wanted=2).undecided == [pair]
    store.decide(pair, "bob", "reject")
    conflict = apply_reviews([pair], store, wanted=2)
    assert conflict.pairs == [pair]
    assert [each.reviewer for each in conflict.conflicts[0][1]] == ["ada", "bob"]
    store.decide(pair, "cleo", "reject")
    assert apply_reviews([pair], store, wanted=2).pairs == []


def test_corrections_pass_the_same_checks(store):
    good, bad = ANSWERABLE[0], ANSWERABLE[1]
    store.decide(good, "ada", "correct", question=f"Please tell me: {good.question}")
    store.decide(bad, "ada", "correct", answer="Zebras dance under purple moonlight.")
    reviewed = apply_reviews(PAIRS, store, CHUNKS)
    report = check_pairs(reviewed.pairs, CHUNKS, DatasetSettings(min_pairs=1))
    assert [reason for pair, reason in report.rejected if pair.writer == "review"] == [
        "the answer does not stand in its chunk"
    ]
    assert any(pair.question.startswith("Please tell me") for pair in report.kept)


def test_assignment_shares_the_work_and_shows_progress(store):
    given = store.assign(PAIRS[:9], ["ada", "bob", "cleo"], per_pair=2)
    assert given == {"ada": 6, "bob": 6, "cleo": 6}
    assert store.assign(PAIRS[:9], ["ada", "bob", "cleo"], per_pair=2) == {"ada": 0, "bob": 0, "cleo": 0}
    mine = store.assigned("ada", PAIRS)
    store.decide(mine[0], "ada", "accept")
    assert store.assigned("ada", PAIRS) == mine[1:]
    assert store.progress(PAIRS)["ada"] == (1, 6)
    with pytest.raises(DatasetError, match="reviewers per pair"):
        store.assign(PAIRS, ["ada"], per_pair=2)


def test_no_decision_is_lost_when_many_review_at_once(store):
    def work(name):
        for pair in PAIRS[:15]:
            store.decide(pair, name, "accept")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [f"r{i}" for i in range(6)]))
    assert len(store.decisions()) == 90
    assert all(len(verdicts) == 6 for verdicts in store.standing().values())


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_decisions_come_back_from_a_file_and_importing_twice_changes_nothing(store, tmp_path, ending):
    path = tmp_path / f"review.{ending}"
    assert export_pairs(PAIRS, CHUNKS, path) == len(PAIRS)
    edit(path, 0, verdict="accept", reviewer="ada")
    edit(path, 1, verdict="Correct", corrected_answer="=1+1 is no formula here", reviewer="ada")
    assert [each.verdict for each in import_decisions(path, PAIRS, store)] == ["accept", "correct"]
    assert store.standing()[pair_key(PAIRS[1])]["ada"].answer == "=1+1 is no formula here"
    assert import_decisions(path, PAIRS, store) == []


def test_a_file_with_a_bad_line_is_refused_whole(store, tmp_path):
    path = tmp_path / "review.jsonl"
    export_pairs(PAIRS, CHUNKS, path)
    edit(path, 0, verdict="accept", reviewer="ada")
    edit(path, 2, verdict="perhaps", reviewer="ada")
    edit(path, 3, verdict="reject", reviewer="")
    with pytest.raises(DatasetError, match=r"line 3: The verdict is 'perhaps'") as error:
        import_decisions(path, PAIRS, store)
    assert "line 4: The decision names no reviewer" in str(error.value)
    assert store.decisions() == []


def test_a_cell_that_a_spreadsheet_would_run_is_made_harmless(store, tmp_path):
    path = tmp_path / "review.csv"
    evil = replace(PAIRS[0], answer="=HYPERLINK(1)")
    export_pairs([evil], CHUNKS, path)
    with path.open(newline="") as stream:
        assert next(csv.DictReader(stream))["answer"] == "'=HYPERLINK(1)"


def test_only_the_reviewers_own_pairs_are_exported(store, tmp_path):
    store.assign(PAIRS[:8], ["ada", "bob"])
    path = tmp_path / "ada.jsonl"
    assert export_pairs(PAIRS, CHUNKS, path, "ada", store) == 4
    assert {json.loads(line)["reviewer"] for line in path.read_text().splitlines()} == {"ada"}


def edit(path, number, **values):
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[number].update(values)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[number].update({name: f"'{v}" if v.startswith("=") else v for name, v in values.items()})
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
