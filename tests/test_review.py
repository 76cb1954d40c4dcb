"""Reviews of pairs: one suite for SQLite and PostgreSQL."""

import csv
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.reviews.decisions import newest_verdicts, pair_key
from ragtune.dataset.reviews.files import export_pairs, import_decisions
from ragtune.dataset.reviews.outcome import apply_reviews
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.errors import DatasetError
from ragtune.evaluation.review_agreement import ReviewAgreement, review_agreement
from ragtune.settings import DatasetSettings
from tests.support.api_pages import articles, chunk, shop

CHUNKS = [chunk(item) for item in [*shop(), *articles(10)]]
PAIRS = ExtractiveWriter(2).write(CHUNKS)
ANSWERABLE = [pair for pair in PAIRS if pair.answerable]


@pytest.fixture
def store(database_url):
    opened = ReviewStore(database_url)
    yield opened
    opened.close()


def test_a_decision_has_a_reviewer_and_a_time_and_a_reviewers_newest_one_counts(store):
    first = store.decide(PAIRS[0], "ada", "accept")
    store.decide(PAIRS[0], "ada", "comment", comment="Looks odd.")
    second = store.decide(PAIRS[0], "ada", "reject", comment="Too short.")
    assert first.reviewer == "ada"
    assert first.created_at.startswith("20")
    assert newest_verdicts(store.decisions())[pair_key(PAIRS[0])]["ada"].id == second.id
    assert len(store.decisions()) == 3


def test_reviews_change_the_dataset(store):
    a, b, c = ANSWERABLE[:3]
    store.decide(a, "ada", "accept")
    store.decide(b, "ada", "reject", comment="Nobody asks that.")
    store.decide(c, "ada", "correct", answer="A better answer.")
    reviewed = apply_reviews(PAIRS, store.decisions(), CHUNKS)
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
    reviewed = apply_reviews([regenerated], store.decisions())
    assert reviewed.pairs[0].question == "Which better question is there about Cart.fetch?"
    assert reviewed.orphans == []


def test_a_corrected_pair_can_be_reviewed_again(store):
    pair = ANSWERABLE[0]
    store.decide(pair, "ada", "correct", answer="A better answer.")
    better = apply_reviews([pair], store.decisions()).pairs[0]
    store.decide(better, "bob", "correct", question="What is the better question about Cart.fetch?")
    best = apply_reviews([pair], store.decisions())
    assert [(item.question, item.answer) for item in best.pairs] == [
        ("What is the better question about Cart.fetch?", "A better answer.")
    ]
    store.decide(best.pairs[0], "ada", "reject")
    assert apply_reviews([pair], store.decisions()).pairs == []
    assert apply_reviews([pair], store.decisions()).orphans == []


def test_a_correction_back_to_the_first_text_ends(store):
    pair = ANSWERABLE[0]
    store.decide(pair, "ada", "correct", answer="Second.")
    second = apply_reviews([pair], store.decisions()).pairs[0]
    store.decide(second, "ada", "correct", answer=pair.answer)
    assert len(apply_reviews([pair], store.decisions()).pairs) == 1


def test_a_decision_whose_pair_is_gone_is_listed(store):
    store.decide(ANSWERABLE[0], "ada", "reject")
    reviewed = apply_reviews(ANSWERABLE[1:], store.decisions())
    assert [item.pair["question"] for item in reviewed.orphans] == [ANSWERABLE[0].question]
    assert len(reviewed.pairs) == len(ANSWERABLE) - 1


def test_two_reviewers_who_differ_are_a_conflict_until_a_third_decides(store):
    pair = ANSWERABLE[0]
    store.decide(pair, "ada", "accept")
    assert apply_reviews([pair], store.decisions(), verdicts_needed=2).undecided == [pair]
    store.decide(pair, "bob", "reject")
    conflict = apply_reviews([pair], store.decisions(), verdicts_needed=2)
    assert conflict.pairs == [pair]
    assert conflict.undecided == []
    assert [item.reviewer for item in conflict.conflicts[0][1]] == ["ada", "bob"]
    store.decide(pair, "cleo", "reject")
    assert apply_reviews([pair], store.decisions(), verdicts_needed=2).pairs == []


def test_the_agreement_of_reviewers_counts_their_newest_verdicts_and_no_comments(store):
    a, b, c, d = ANSWERABLE[:4]
    for name, verdicts in (
        ("ada", {"a": "accept", "b": "reject", "c": "accept", "d": "accept"}),
        ("bob", {"a": "accept", "b": "reject", "c": "correct", "d": "reject"}),
    ):
        for pair, verdict in zip((a, b, c, d), verdicts.values(), strict=True):
            store.decide(pair, name, verdict, answer="Better." if verdict == "correct" else "")
    store.decide(d, "bob", "accept")
    store.decide(d, "bob", "comment", comment="I changed my mind.")
    store.decide(ANSWERABLE[4], "ada", "reject")
    result = review_agreement(store.decisions())
    assert result.pairs == 4, "one reviewer alone agrees with nobody"
    verdict, kept = result.overall
    assert (verdict.question, verdict.percent, kept.question, kept.percent) == ("verdict", 0.75, "kept", 1.0)
    # Cohen 1960 by hand: they agree on 3 of 4; chance agrees on 3/4 x 2/4 (accept) + 1/4 x 1/4 (reject) = 7/16.
    assert verdict.kappa.value == pytest.approx((0.75 - 7 / 16) / (1 - 7 / 16))
    assert [(pair.question, dict(pair.verdicts)) for pair in result.disputed] == [
        (c.question, {"ada": "accept", "bob": "correct"})
    ]


def test_the_agreement_of_three_reviewers_is_shown_for_all_and_for_every_two(store):
    for pair in ANSWERABLE[:6]:
        for name in ("ada", "bob", "cleo"):
            store.decide(pair, name, "reject" if name == "cleo" and pair is ANSWERABLE[0] else "accept")
    result = review_agreement(store.decisions())
    assert {one.annotators for one in result.overall} == {("ada", "bob", "cleo")}
    assert {one.annotators for one in result.between} == {("ada", "bob"), ("ada", "cleo"), ("bob", "cleo")}
    only = review_agreement(store.decisions(), ["ada", "bob"])
    assert [one.percent for one in only.overall] == [1.0, 1.0]
    assert only.disputed == ()
    assert review_agreement([]) == ReviewAgreement(pairs=0)


def test_corrections_pass_the_same_checks(store):
    good, bad = ANSWERABLE[0], ANSWERABLE[1]
    store.decide(good, "ada", "correct", question=f"Please tell me: {good.question}")
    store.decide(bad, "ada", "correct", answer="Zebras dance under purple moonlight.")
    reviewed = apply_reviews(PAIRS, store.decisions(), CHUNKS)
    report = check_pairs(reviewed.pairs, CHUNKS, DatasetSettings(min_pairs=1))
    assert [reason for pair, reason in report.rejected if pair.writer == "review"] == [
        "the answer does not stand in its chunk"
    ]
    assert any(pair.question.startswith("Please tell me") for pair in report.pairs)


def test_assignment_shares_the_work_and_shows_progress(store):
    given = store.assign(PAIRS[:9], ["ada", "bob", "cleo"], per_pair=2)
    assert given == {"ada": 6, "bob": 6, "cleo": 6}
    assert store.assign(PAIRS[:9], ["ada", "bob", "cleo"], per_pair=2) == {"ada": 0, "bob": 0, "cleo": 0}
    mine = store.pairs_to_review("ada", PAIRS)
    store.decide(mine[0], "ada", "accept")
    assert store.pairs_to_review("ada", PAIRS) == mine[1:]
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
    assert all(len(verdicts) == 6 for verdicts in newest_verdicts(store.decisions()).values())


REVIEWER = """
import sys
from ragtune.dataset.reviews.store import ReviewStore
from tests.test_review import PAIRS
url, name = sys.argv[1:]
store = ReviewStore(url)
for _ in range(5):
    store.claim(PAIRS, name, 3, per_pair=2)
for pair in PAIRS[:10]:
    store.decide(pair, name, "accept")
"""


def test_processes_that_review_at_once_lose_no_decision_and_assign_no_pair_too_often(database_url):
    names = ["ada", "bob", "cleo", "dan"]
    processes = [subprocess.Popen([sys.executable, "-c", REVIEWER, database_url, name]) for name in names]
    assert [process.wait(120) for process in processes] == [0] * 4
    with closing(ReviewStore(database_url)) as store:
        assert len(store.decisions()) == 40
        assignments = store.assignments()
    assert max(len(reviewers) for reviewers in assignments.values()) == 2
    assert sum(len(reviewers) for reviewers in assignments.values()) == min(
        60, 2 * len({pair_key(item) for item in PAIRS})
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_decisions_come_back_from_a_file_and_importing_twice_changes_nothing(store, tmp_path, ending):
    path = tmp_path / f"review.{ending}"
    assert export_pairs(PAIRS, CHUNKS, path) == len(PAIRS)
    edit(path, 0, verdict="accept", reviewer="ada")
    edit(path, 1, verdict="Correct", corrected_answer="=1+1 is no formula here", reviewer="ada")
    assert [item.verdict for item in import_decisions(path, store)] == ["accept", "correct"]
    assert newest_verdicts(store.decisions())[pair_key(PAIRS[1])]["ada"].answer == "=1+1 is no formula here"
    assert import_decisions(path, store) == []


def test_a_name_too_long_for_the_database_is_refused_and_nothing_is_stored(store):
    long = "a" * 201
    for attempt in (
        lambda: store.decide(PAIRS[0], long, "accept"),
        lambda: store.assign(PAIRS[:2], [long]),
        lambda: store.claim(PAIRS[:2], long, 1),
    ):
        with pytest.raises(DatasetError, match=r"has 201 characters\.\nExpected: at most 200"):
            attempt()
    assert store.decisions() == []
    assert store.assignments() == {}
    store.decide(PAIRS[0], f" {'a' * 200} ", "accept")


def test_a_file_with_a_bad_line_imports_nothing(store, tmp_path):
    path = tmp_path / "review.jsonl"
    export_pairs(PAIRS, CHUNKS, path)
    edit(path, 0, verdict="accept", reviewer="ada")
    edit(path, 2, verdict="perhaps", reviewer="ada")
    edit(path, 3, verdict="reject", reviewer="")
    with pytest.raises(DatasetError, match=r"line 3: The verdict is 'perhaps'") as error:
        import_decisions(path, store)
    assert "line 4: The decision names no reviewer" in str(error.value)
    assert store.decisions() == []


SPREADSHEET = {"delimiter": ";", "lineterminator": "\r\n", "quoting": csv.QUOTE_ALL}
ANSWERS = ["0.10", "3-4", "True", "007", "1e5", "'utf-8'", "=1+1", "-1", "“é” ∑", "a;b,c\td", 'say "so"', "two\nlines"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_round_trip_through_a_spreadsheet_changes_nothing(store, tmp_path, ending):
    path = tmp_path / f"review.{ending}"
    pairs = [replace(ANSWERABLE[0], answer=answer) for answer in ANSWERS]
    export_pairs(pairs, CHUNKS, path)
    for number, answer in enumerate(ANSWERS):
        edit(path, number, verdict="correct", corrected_answer=answer[::-1], comment=answer, reviewer="ada 1")
    if ending == "csv":
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
        assert not [cell for row in rows for cell in row[:10] if as_a_spreadsheet_reads(cell) != cell]
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, **SPREADSHEET).writerows(rows)
    imported = import_decisions(path, store)
    assert [item.pair["answer"] for item in imported] == ANSWERS
    assert [item.pair_key for item in imported] == [pair_key(pair) for pair in pairs]
    assert [item.answer for item in imported] == [" ".join(answer[::-1].split()) for answer in ANSWERS]
    assert [item.comment for item in imported] == ANSWERS
    assert import_decisions(path, store) == []


def as_a_spreadsheet_reads(cell):
    """Return what a spreadsheet makes of a cell that it reads as a number, a truth value or a formula."""
    if cell.lower() in ("true", "false"):
        return cell.upper()
    if cell[:1] in "=+-@" and cell:
        return "#NAME?"
    if re.fullmatch(r"[\d.,/:e-]+", cell):
        return f"{float(re.sub(r'[^0-9.e]', '', cell)):g}"
    return cell


def first_line_changed(path, old, new):
    path.write_text(path.read_text(encoding="utf-8-sig").replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: edit(path, 0, question="Is this another question?"), "is not what was exported under the key"),
        (lambda path: edit(path, 0, verdict="", comment="Hm."), "line 2: there is a correction or a comment, but no"),
        (lambda path: edit(path, 1, verdict="accept", reviewer="ada", **first(path)), "ada decides the same pair on"),
        (lambda path: first_line_changed(path, "verdict", "judgement"), "has no verdict"),
        (lambda path: path.write_text("key,verdict\nq1,accept,more"), "line 2: it has 3 cells and the header 2"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\x81"), "is not text in utf-8 or cp1252"),
        (lambda path: path.write_text('key,question,answer,verdict\nq1,"a"b,c,accept'), "line 2: "),
    ],
)
def test_a_wrong_file_is_refused_with_the_line_and_nothing_is_imported(store, tmp_path, change, message):
    path = tmp_path / "review.csv"
    export_pairs(PAIRS[:3], CHUNKS, path)
    edit(path, 0, verdict="accept", reviewer="ada")
    change(path)
    with pytest.raises(DatasetError, match=message) as refused:
        import_decisions(path, store)
    assert refused.value.expected
    assert refused.value.fix
    assert store.decisions() == []


@pytest.mark.parametrize("name", ["review.xlsx", "gone.csv"])
def test_a_file_that_cannot_hold_reviews_is_refused_with_what_to_do(store, tmp_path, name):
    with pytest.raises(DatasetError, match=name) as refused:
        import_decisions(tmp_path / name, store)
    assert "CSV" in refused.value.expected.upper()
    assert refused.value.fix


def first(path):
    with path.open(newline="", encoding="utf-8-sig") as stream:
        row = next(csv.DictReader(stream))
    return {name: row[name] for name in ("key", "question", "answer")}


def test_the_error_names_a_line_that_is_not_json(store, tmp_path):
    path = tmp_path / "review.jsonl"
    export_pairs(PAIRS[:2], CHUNKS, path)
    path.write_text(path.read_text() + "{nope\n")
    with pytest.raises(DatasetError, match="line 3: "):
        import_decisions(path, store)


def test_a_comment_in_a_file_is_imported_once(store, tmp_path):
    path = tmp_path / "review.jsonl"
    export_pairs(PAIRS, CHUNKS, path)
    edit(path, 0, verdict="comment", comment="Is that so?", reviewer="ada")
    assert len(import_decisions(path, store)) == 1
    assert import_decisions(path, store) == []
    edit(path, 0, comment="It is.")
    assert len(import_decisions(path, store)) == 1


def test_a_cell_that_a_spreadsheet_would_run_as_a_formula_gets_an_apostrophe(store, tmp_path):
    path = tmp_path / "review.csv"
    evil = replace(PAIRS[0], answer="=HYPERLINK(1)")
    export_pairs([evil], CHUNKS, path)
    with path.open(newline="", encoding="utf-8-sig") as stream:
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
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    rows[number].update(values)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
