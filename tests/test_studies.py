"""Human evaluation: what annotators are shown, what is stored, and what the results say."""

import csv
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ragtune.errors import DatasetError
from ragtune.evaluation.judges import RUBRIC, answer_key
from ragtune.evaluation.studies.approved import Approved, approved_pairs, write_approved
from ragtune.evaluation.studies.files import export_tasks, import_ratings, task_row
from ragtune.evaluation.studies.items import answers_of, pairwise_items, rating_items, read_answers, traffic_items
from ragtune.evaluation.studies.results import people_labels, rated_answers, study_results
from ragtune.evaluation.studies.store import StudyStore
from ragtune.evaluation.studies.study import (
    CANNOT,
    GUIDELINES,
    UNANSWERABLE,
    ShownAnswer,
    Study,
    new_rating,
    shown,
    side,
    tasks_of,
)
from ragtune.knowledge.pair_files import read_pairs
from ragtune.records import AnswerSet, ResponseRecord, ScoredAnswer
from tests.support.answering_fakes import chunk
from tests.support.scored_answers import scored_answer

YES = dict.fromkeys(RUBRIC, "yes")
NO = dict.fromkeys(RUBRIC, "no")
REFUSAL = "I could not find this in the documents."
MODELS = ("base bf16", "fine-tuned w8a8")


def answers(model: str, count: int = 20) -> list[ScoredAnswer]:
    return [
        replace(
            scored_answer(number, 1.0),
            question=f"q{number}?",
            expected=f"e{number}",
            answer=f"{model} says {number}",
            cited_texts=(f"source {number}",),
        )
        for number in range(count)
    ]


RATING_ITEMS = rating_items({"base bf16": answers("old")}, 20, seed=1)
PAIRS = pairwise_items(answers("old"), answers("new"), MODELS, 20, seed=1)


def study(mode="rating") -> Study:
    return Study(name=f"{mode} study", mode=mode, guideline=GUIDELINES[mode], source="tests", seed=3)


@pytest.fixture
def store(tmp_path):
    opened = StudyStore(f"sqlite:///{tmp_path / 'studies.db'}")
    yield opened
    opened.close()


def rate_all(store, name, annotator, choose) -> None:
    items = store.items(name)
    for task in store.open_tasks(name, annotator):
        store.rate(task.id, annotator, choose(items[task.item_id], task), seconds=2.0)


def test_half_of_an_annotators_comparisons_show_the_first_answer_on_the_left():
    for annotator in ("ada", "bob"):
        tasks = [task for task in tasks_of(study("pairwise"), annotator, PAIRS) if not task.repeat]
        assert sum(task.swapped for task in tasks) == len(PAIRS) / 2
    sides = {
        name: {task.item_id: task.swapped for task in tasks_of(study("pairwise"), name, PAIRS) if not task.repeat}
        for name in ("ada", "bob")
    }
    assert sides["ada"] != sides["bob"]


def test_one_task_in_twenty_comes_back_hidden_later_and_with_its_sides_swapped():
    tasks = tasks_of(study("pairwise"), "ada", PAIRS)
    assert [task.position for task in tasks] == list(range(21))
    (repeat,) = [task for task in tasks if task.repeat]
    (original,) = [task for task in tasks if task.item_id == repeat.item_id and not task.repeat]
    assert repeat.position - original.position >= 10
    assert repeat.swapped != original.swapped
    assert repeat.id != original.id
    assert not any(task.repeat for task in tasks_of(study(), "ada", PAIRS[:4]))


def test_an_annotator_sees_no_model_and_no_sign_of_a_repeat():
    item, task = PAIRS[0], tasks_of(study("pairwise"), "ada", PAIRS)[0]
    row = task_row(item, task, ("better",))
    assert list(row) == [
        "task",
        "question",
        "expected",
        "left",
        "left sources",
        "right",
        "right sources",
        "better",
        "comment",
    ]
    assert not any(model in json.dumps(row) for model in MODELS)


def test_a_choice_of_a_side_is_stored_as_the_answer_that_stood_there():
    tasks = tasks_of(study("pairwise"), "ada", PAIRS)
    for task in tasks:
        item = next(item for item in PAIRS if item.id == task.item_id)
        rating = new_rating(study("pairwise"), task, "ada", {"better": "left"})
        winner = item.answers[0] if rating.choices["better"] == "first" else item.answers[1]
        assert winner == shown(item, task)[0]
        assert side(rating.choices["better"], task.swapped) == "left"


def test_items_are_shared_out_evenly_and_each_has_as_many_annotators_as_asked_for(store):
    store.create(study(), RATING_ITEMS)
    assert store.assign("rating study", ["ada", "bob", "cleo"], 2) == {"ada": 14, "bob": 13, "cleo": 13}
    originals = [task for task in store.tasks("rating study") if not task.repeat]
    assert set(Counter(task.item_id for task in originals).values()) == {2}
    assert store.assign("rating study", ["ada", "bob", "cleo"], 2) == {"ada": 0, "bob": 0, "cleo": 0}
    assert store.assign("rating study", ["ada", "bob", "cleo"], 3) == {"ada": 6, "bob": 7, "cleo": 7}
    with pytest.raises(DatasetError, match="There are 1 annotators"):
        store.assign("rating study", ["ada"], 2)


def test_a_skipped_task_comes_back_last_and_a_rated_one_does_not(store):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada"], 1)
    first, second, *_ = store.open_tasks("rating study", "ada")
    store.rate(first.id, "ada", {})
    store.rate(second.id, "ada", YES, comment=" fine ", seconds=4.0)
    still_open = store.open_tasks("rating study", "ada")
    assert still_open[-1] == first
    assert second not in still_open
    (progress,) = store.progress("rating study")
    assert (progress.rated, progress.skipped, progress.tasks, progress.seconds) == (1, 1, 21, 4.0)
    assert store.newest_ratings("rating study")[second.id].comment == "fine"


@pytest.mark.parametrize(
    ("annotator", "choices", "message"),
    [
        ("bob", YES, "not assigned to bob"),
        ("ada", {"correct": "yes"}, "exactly correct, supported, complete, clear"),
        ("ada", {**YES, "clear": "left"}, "one of no, partly, yes, cannot judge"),
    ],
)
def test_a_wrong_rating_is_refused_with_what_is_valid(store, annotator, choices, message):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada", "bob"], 1)
    task = store.open_tasks("rating study", "ada")[0]
    with pytest.raises(DatasetError, match=message):
        store.rate(task.id, annotator, choices)
    assert store.newest_ratings("rating study") == {}


def test_a_rating_that_is_sent_twice_is_stored_once_and_a_changed_one_counts(store):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada"], 1)
    task = store.open_tasks("rating study", "ada")[0]
    first, again = store.rate(task.id, "ada", YES), store.rate(task.id, "ada", YES)
    assert first == again
    changed = store.rate(task.id, "ada", NO)
    assert changed.sequence > first.sequence
    assert store.newest_ratings("rating study")[task.id] == changed


def test_annotators_who_work_at_once_lose_nothing(store):
    store.create(study(), RATING_ITEMS)
    names = [f"a{number}" for number in range(4)]
    store.assign("rating study", names, 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: rate_all(store, "rating study", name, lambda item, task: YES), names))
    assert {(row.annotator, row.rated) for row in store.progress("rating study")} == {(name, 21) for name in names}


def test_results_say_how_far_annotators_agree_with_each_other_and_with_themselves(store):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada", "bob", "cleo"], 3)
    odd = {item.id for item in RATING_ITEMS[::2]}
    rate_all(store, "rating study", "ada", lambda item, task: YES if item.id in odd else NO)
    rate_all(store, "rating study", "bob", lambda item, task: YES if item.id in odd else NO)
    # Cleo differs from the others on one item, and from herself on her repeat.
    strange = RATING_ITEMS[0].id

    def cleo(item, task):
        says_yes = item.id in odd and item.id != strange
        return YES if says_yes != task.repeat else NO

    rate_all(store, "rating study", "cleo", cleo)
    results = study_results(store, "rating study")
    assert (results.items, results.ratings, results.annotators) == (20, 60, ("ada", "bob", "cleo"))
    by_question = {row.question: row for row in results.overall}
    assert set(by_question) == set(RUBRIC)
    assert by_question["correct"].percent == pytest.approx(1 - 2 / 3 / 20)
    assert {pair.annotators for pair in results.pairs} == {("ada", "bob"), ("ada", "cleo"), ("bob", "cleo")}
    assert results.repeats == 3
    assert results.consistency == dict.fromkeys(RUBRIC, pytest.approx(2 / 3))
    assert [one.item.id for one in results.disagreements] == [strange] * 4
    (row,) = [row for row in results.models if row.question == "correct"]
    assert (row.model, row.n, row.value) == ("base bf16", 20, pytest.approx(0.5 - 1 / 3 / 20))


def test_a_comparison_says_which_model_wins_whatever_side_it_was_on(store):
    store.create(study("pairwise"), PAIRS)
    store.assign("pairwise study", ["ada", "bob"], 2)

    def prefers_new(item, task):
        return {"better": "left" if shown(item, task)[0].model == MODELS[1] else "right"}

    for name in ("ada", "bob"):
        rate_all(store, "pairwise study", name, prefers_new)
    results = study_results(store, "pairwise study")
    (row,) = results.models
    assert (row.model, row.value, row.n) == ("fine-tuned w8a8 over base bf16", 1.0, 20)
    assert results.consistency == {"better": 1.0}
    assert results.overall[0].percent == 1.0


def test_answers_that_models_share_come_once_and_others_take_their_places():
    shared = answers("old")[:10]
    items = rating_items({"base bf16": answers("old"), "fine-tuned w8a8": [*shared, *answers("new")[10:]]}, 24, seed=1)
    assert len(items) == 24
    assert len({(item.question, item.answers[0].text) for item in items}) == 24
    assert {item.answers[0].model for item in items} == {"base bf16", "fine-tuned w8a8"}


def test_judges_get_the_rated_answers_with_what_they_need_and_refusals_as_such(store):
    item = replace(RATING_ITEMS[0], id="i1", answers=(ShownAnswer("Four hours. [1]", ("It is four hours.",), "m"),))
    refused = replace(
        RATING_ITEMS[1],
        id="i2",
        expected=UNANSWERABLE,
        answers=(ShownAnswer("I could not find this in the documents.", (), "m"),),
    )
    unknown, unsettled = replace(RATING_ITEMS[2], id="i3", expected=""), replace(RATING_ITEMS[3], id="i4")
    store.create(study(), [item, refused, unknown, unsettled])
    store.assign("rating study", ["ada", "bob"], 2)
    rate_all(store, "rating study", "ada", lambda item, task: YES)
    rate_all(store, "rating study", "bob", lambda item, task: NO if item.id == "i4" else YES)
    rated = {answer.pair_id: answer for answer in rated_answers(store)}
    assert set(rated) == {"i1", "i2", "i3"}, "people disagree about the fourth"
    assert rated["i1"].scored_text == "Four hours."
    assert rated["i1"].cited_texts == ("It is four hours.",)
    assert (rated["i1"].answerable, rated["i2"].answerable, rated["i3"].answerable) == (True, False, False)
    assert (rated["i1"].refused, rated["i2"].refused) == (False, True)
    assert len(people_labels(store)) == 3 * len(RUBRIC)


def test_cannot_judge_counts_neither_for_nor_against_agreement(store):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada", "bob"], 2)
    rate_all(store, "rating study", "ada", lambda item, task: YES)
    unsure = RATING_ITEMS[0].id
    rate_all(
        store, "rating study", "bob", lambda item, task: {**YES, "correct": CANNOT if item.id == unsure else "yes"}
    )
    results = study_results(store, "rating study")
    assert {row.question: row.items for row in results.overall}["correct"] == 19
    assert results.cannot_judge == 1
    assert results.disagreements == ()


def test_an_adjudication_settles_an_item_for_models_and_for_judges(store):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada", "bob"], 2)
    disputed = RATING_ITEMS[0]
    rate_all(store, "rating study", "ada", lambda item, task: YES)
    rate_all(store, "rating study", "bob", lambda item, task: NO if item.id == disputed.id else YES)
    key = answer_key(disputed.question, disputed.answers[0].text)
    labels = people_labels(store)
    assert len(labels) == 19 * 4
    assert (key, "correct") not in labels
    store.adjudicate("rating study", disputed.id, "correct", "partly", "cleo", "half of it")
    assert people_labels(store)[key, "correct"] is False
    results = study_results(store, "rating study")
    assert results.disagreements[-1].adjudicated == "partly"
    (row,) = [row for row in results.models if row.question == "correct"]
    assert row.value == pytest.approx((19 + 0.5) / 20)
    with pytest.raises(DatasetError, match="no, partly, yes"):
        store.adjudicate("rating study", disputed.id, "correct", "left", "cleo")


def test_a_study_needs_a_new_name_and_an_item(store):
    store.create(study(), RATING_ITEMS)
    with pytest.raises(DatasetError, match="already"):
        store.create(study(), RATING_ITEMS)
    with pytest.raises(DatasetError, match="no item"):
        store.create(replace(study(), name="empty"), [])
    with pytest.raises(DatasetError, match=r"no study 'x'[\s\S]*rating study"):
        store.study("x")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_tasks_are_exported_filled_in_and_imported_once(store, tmp_path, ending):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada"], 1)
    file = tmp_path / f"ada.{ending}"
    assert export_tasks(store, "rating study", "ada", file) == 21
    rows = read(file)
    rows[0] |= dict.fromkeys(RUBRIC, "Yes")
    rows[1] |= dict.fromkeys(RUBRIC, CANNOT)
    write(file, rows)
    assert len(import_ratings(store, "rating study", "ada", file)) == 2
    assert export_tasks(store, "rating study", "ada", tmp_path / f"rest.{ending}") == 19
    ratings = store.newest_ratings("rating study")
    import_ratings(store, "rating study", "ada", file)
    assert store.newest_ratings("rating study") == ratings


def test_a_bad_line_stops_the_import_of_a_file_and_is_named(store, tmp_path):
    store.create(study(), RATING_ITEMS)
    store.assign("rating study", ["ada"], 1)
    file = tmp_path / "ada.csv"
    export_tasks(store, "rating study", "ada", file)
    rows = read(file)
    rows[0] |= YES
    rows[1] |= {**YES, "clear": "perhaps"}
    write(file, rows)
    with pytest.raises(DatasetError, match=r"1 lines[\s\S]*'clear' is 'perhaps'"):
        import_ratings(store, "rating study", "ada", file)
    assert store.newest_ratings("rating study") == {}


def test_an_answer_that_looks_like_a_formula_is_protected_in_a_spreadsheet(store, tmp_path):
    evil = rating_items({"m": [replace(answers("x", 1)[0], answer="=HYPERLINK(1)")]}, 1, seed=1)
    store.create(study(), evil)
    store.assign("rating study", ["ada"], 1)
    export_tasks(store, "rating study", "ada", tmp_path / "ada.csv")
    assert read(tmp_path / "ada.csv")[0]["answer"] == "'=HYPERLINK(1)"


def test_equal_answers_are_not_compared():
    with pytest.raises(DatasetError, match="no different answers"):
        pairwise_items(answers("old"), answers("old"), MODELS, 5, seed=1)


def test_answers_come_from_models_files_and_live_traffic(tmp_path):
    sets = [AnswerSet("base", "bf16", "base", "test", tuple(answers("old")))]
    assert len(answers_of(sets, "base bf16", "test")) == 20
    with pytest.raises(DatasetError, match="one of base bf16"):
        answers_of(sets, "base w8a8", "test")
    file = tmp_path / "answers.jsonl"
    file.write_text('{"question": "Who?", "answer": "Ada.", "sources": ["Ada is in charge."]}\n')
    assert (read_answers(file)[0].answer, read_answers(file)[0].cited_texts) == ("Ada.", ("Ada is in charge.",))
    file.write_text('{"question": "Who?"}\n')
    with pytest.raises(DatasetError, match="line 1: KeyError"):
        read_answers(file)
    response = ResponseRecord(
        id="r", created_at="", question="Who?", answer="Ada. [1]", model="ragtune", model_version="3",
        chunk_ids=("c1", "c2"), cited_chunk_ids=("c2", "gone"), refused=False,
    )  # fmt: skip
    (item,) = traffic_items([response], [chunk("c2", "Ada is in charge.")], 5, seed=1)
    assert (item.answers[0].sources, item.answers[0].model) == (("Ada is in charge.",), "ragtune 3")


def read(file):
    with file.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream)) if file.suffix == ".csv" else [json.loads(line) for line in stream]


def write(file, rows):
    with file.open("w", newline="", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, fieldnames=rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)


def answered(item, text: str, expected: str = "It is four hours.", sources=("The note is valid for four hours.",)):
    return replace(item, expected=expected, answers=(ShownAnswer(text, sources, "ragtune 3"),))


def test_a_held_out_question_with_reordered_words_becomes_no_pair(store):
    reordered = answered(
        replace(RATING_ITEMS[0], id="i1", question="A note for the crane: how long valid?"), "4 h. [1]"
    )
    other = answered(
        replace(RATING_ITEMS[1], id="i2", question="How long is a note valid for the slipway?"), "A day. [1]"
    )
    store.create(study(), [reordered, other])
    store.assign("rating study", ["ada", "bob"], 2)
    for name in ("ada", "bob"):
        rate_all(store, "rating study", name, lambda item, task: YES)
    approved = approved_pairs(store, "rating study", ["How long is the note valid for the crane?"])
    assert [pair.question for pair in approved.pairs] == [other.question]
    assert approved.held_out == 1


def test_only_answers_that_people_call_correct_supported_and_complete_become_pairs(store, tmp_path):
    right = answered(replace(RATING_ITEMS[0], id="i1", question="How long?"), "Four hours. [1]")
    wrong = answered(replace(RATING_ITEMS[1], id="i2"), "A day. [1]")
    clumsy = answered(replace(RATING_ITEMS[2], id="i3", question="And then?"), "Then new note. [1]")
    refused = answered(replace(RATING_ITEMS[3], id="i4", question="Who?"), REFUSAL, UNANSWERABLE, ())
    lazy = answered(replace(RATING_ITEMS[4], id="i5", question="Why?"), REFUSAL, "Because.", ())
    tested = answered(replace(RATING_ITEMS[5], id="i6", question="What is  tested?"), "This. [1]")
    again = answered(replace(RATING_ITEMS[6], id="i7", question="how long"), "4 hours. [1]")
    store.create(study(), [right, wrong, clumsy, refused, lazy, tested, again])
    store.assign("rating study", ["ada", "bob"], 2)
    said = {"i2": YES | {"supported": "partly"}, "i3": YES | {"clear": "no"}}
    for name in ("ada", "bob"):
        rate_all(store, "rating study", name, lambda item, task: said.get(item.id, YES))
    approved = approved_pairs(store, "rating study", ["what is tested"])
    assert (approved.held_out, approved.others) == (1, 3)
    write_approved(approved, tmp_path / "approved.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "approved.jsonl").read_text().splitlines()]
    context = "The note is valid for four hours."
    assert rows == [
        {"question": "How long?", "answer": "Four hours.", "answerable": True, "context": context},
        {"question": "And then?", "answer": "Then new note.", "answerable": True, "context": context},
        {"question": "Who?", "answer": "", "answerable": False},
    ]
    file = tmp_path / "approved.jsonl"
    pairs = read_pairs(f"pairs:{file}", file, file.read_bytes()).pairs
    assert [(pair.question, pair.answer, pair.answerable) for pair in pairs] == [
        ("How long?", "Four hours.", True),
        ("And then?", "Then new note.", True),
        ("Who?", "", False),
    ]


def test_a_comparison_approves_no_answer_and_the_file_has_to_be_json_lines(store, tmp_path):
    store.create(study("pairwise"), PAIRS)
    with pytest.raises(DatasetError, match="does not say that an answer is right"):
        approved_pairs(store, "pairwise study")
    with pytest.raises(DatasetError, match=r"ends in '\.csv'"):
        write_approved(Approved(pairs=(), others=0, held_out=0), tmp_path / "approved.csv")
