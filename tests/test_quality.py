from dataclasses import replace

import pytest

from ragtune.dataset.checks.quality import check_pairs, rejection_reason
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.settings import DatasetSettings
from tests.support.api_pages import articles, chunk, shop

PAGE = chunk(shop()[0])
PAIR = next(pair for seed in range(9) for pair in ExtractiveWriter(seed, 9).write([PAGE]) if pair.kind == "parameter")


@pytest.fixture(scope="module")
def dataset():
    chunks = [chunk(page) for page in [*shop(), *articles(40)]]
    return ExtractiveWriter(2).write(chunks), chunks


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chunk_id": "gone"}, "its chunk is gone"),
        ({"question": "What does this function do?"}, "points at text"),
        ({"question": "Hm"}, "too short"),
        ({"question": "I like the shop and its cart"}, "asks nothing"),
        ({"question": "What is `limit in Cart.fetch?"}, "broken markup"),
        ({"question": "Who reads mail at joe.doe@example.org for Cart.fetch?"}, "personal data"),
        ({"question": "Что делает функция Cart.fetch и зачем она нужна?"}, "neither in English"),
        ({"question": "Wofür wird der Parameter limit in Cart.fetch verwendet und was ist er?"}, "neither in English"),
        ({"answer": ""}, "the answer is empty"),
        ({"answer": "something else"}, "not the text of its span"),
        ({"answerable": False}, "unanswerable pair has an answer"),
        ({"question": f"Is it so that {PAIR.answer} in Cart.fetch?"}, "gives the answer away"),
    ],
)
def test_a_bad_pair_is_rejected_with_its_reason(change, reason):
    chunks = {PAGE.id: PAGE}
    assert rejection_reason(PAIR, PAGE) == ""
    bad = replace(PAIR, **change)
    assert reason in rejection_reason(bad, chunks.get(bad.chunk_id))


def test_a_pair_may_be_in_the_language_of_its_passage():
    text = "Der Korb ist der Ort, an dem die Ware bis zum Kauf liegt. Er wird nach einer Stunde leer."
    german = replace(PAGE, text=text, title="Korb", heading_path=("Korb",))
    question_pair = replace(PAIR, question="Was ist der Korb in dem Laden?", answer=text[:58], span=(0, 58))
    assert rejection_reason(question_pair, german) == ""
    assert "neither in English" in rejection_reason(
        replace(question_pair, question="Que fait la fonction et pour qui est-elle ?"), german
    )


def test_a_pair_in_a_script_without_spaces_has_words_and_edges_anywhere():
    text = "この食堂は午後二時に閉まります。犬は外で待ちます。"
    page = replace(PAGE, text=text, title="食堂", heading_path=("食堂",), language="ja")
    pair = replace(PAIR, question="この食堂はいつ閉まりますか？", answer="午後二時に", span=(5, 10))
    assert rejection_reason(pair, page) == ""
    assert rejection_reason(replace(pair, answer=text * 20, writer="llm"), page) == "the answer is longer than 60 words"


def test_an_answer_cut_inside_a_word_is_rejected():
    start, end = PAIR.span
    short = replace(PAIR, span=(start, end - 3), answer=" ".join(PAGE.text[start : end - 3].split()))
    assert "inside a word" in rejection_reason(short, PAGE)


def test_good_pairs_pass_in_their_order_with_scores_and_data_docs(dataset, tmp_path):
    pairs, chunks = dataset
    report = check_pairs(pairs, chunks, DatasetSettings(min_pairs=10), docs=tmp_path)
    assert report.passed
    assert [pair.id for pair in report.pairs] == [pair.id for pair in pairs if pair.id in {p.id for p in report.pairs}]
    assert all(pair.scores["grounded"] >= 0.5 for pair in report.pairs)
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert (tmp_path / "index.html").is_file()
    assert any("question_words" in page and "Great Expectations" in page for page in pages)


def test_a_pair_that_the_judge_finds_poor_is_dropped_unless_people_decided(dataset):
    pairs, chunks = dataset
    poor, reviewed, fine = [pair for pair in pairs if pair.answerable][:3]
    reviewed = replace(reviewed, scores={"reviewed": 1.0})

    def judge(candidates):
        marks = {poor.id: 0.2, reviewed.id: 0.2, fine.id: 0.9}
        return [replace(p, scores={**p.scores, "judge_clear": marks[p.id]}) if p.id in marks else p for p in candidates]

    report = check_pairs([poor, reviewed, fine, *pairs[5:]], chunks, DatasetSettings(min_pairs=1), judge)
    kept = {pair.id for pair in report.pairs}
    assert (poor.id in kept, reviewed.id in kept, fine.id in kept) == (False, True, True)
    assert (poor.id, "the judge gave it too little") in [(pair.id, why) for pair, why in report.rejected]


def test_too_few_pairs_fail_a_critical_expectation(dataset):
    pairs, chunks = dataset
    report = check_pairs(pairs, chunks, DatasetSettings(min_pairs=5000))
    failed = [result for result in report.results if not result.success]
    assert not report.passed
    assert [result.name for result in failed if result.severity == "critical"] == ["enough pairs"]
    assert failed[0].observed == str(len(report.pairs))


def test_a_wording_that_is_used_too_often_gives_a_warning(dataset):
    pairs, chunks = dataset
    flooded = [replace(pair, template="purpose.0") for pair in pairs]
    report = check_pairs(flooded, chunks, DatasetSettings(min_pairs=10))
    assert report.passed
    assert "no wording floods" in {result.name for result in report.results if not result.success}


def test_many_broken_pairs_fail_the_whole_dataset(dataset):
    pairs, chunks = dataset
    broken = [replace(pair, question="What does this function do?") if i % 2 else pair for i, pair in enumerate(pairs)]
    report = check_pairs(broken, chunks, DatasetSettings(min_pairs=10))
    assert not report.passed


def test_a_question_asked_twice_is_kept_once_and_a_correction_wins(dataset):
    pairs, chunks = dataset
    pair = next(pair for pair in pairs if pair.answerable and pair.kind == "purpose")
    correction = replace(pair, id="c" * 16, feedback_id="f1", answer=pair.answer + " Really.", span=(0, 0))
    report = check_pairs([*pairs, correction], chunks, DatasetSettings(min_pairs=10))
    same = [kept for kept in report.pairs if kept.question == pair.question]
    assert [kept.feedback_id for kept in same] == ["f1"]


def test_more_than_max_pairs_keeps_corrections(dataset):
    pairs, chunks = dataset
    pair = next(pair for pair in pairs if pair.answerable)
    correction = replace(pair, id="f" * 16, question="Why is a correction kept in the shop dataset?", feedback_id="f1")
    report = check_pairs([*pairs, correction], chunks, DatasetSettings(min_pairs=1, max_pairs=12))
    assert len(report.pairs) == 12
    assert any(kept.feedback_id for kept in report.pairs)


def test_more_than_max_pairs_drops_pairs_of_the_large_source_first(dataset):
    pairs, chunks = dataset
    small = {chunk.document_id for chunk in chunks[-3:]}
    mixed = [replace(chunk, source="small") if chunk.document_id in small else chunk for chunk in chunks]
    everything = check_pairs(pairs, mixed, DatasetSettings(min_pairs=1)).pairs
    of_small = {pair.id for pair in everything if pair.document_id in small}
    kept = check_pairs(pairs, mixed, DatasetSettings(min_pairs=1, max_pairs=2 * len(of_small) + 1)).pairs
    assert of_small
    assert of_small <= {pair.id for pair in kept}
    assert len(kept) == 2 * len(of_small) + 1 < len(everything)
