from dataclasses import replace

import numpy as np
import pytest

from ragtune.answer.answering import Answerer
from ragtune.errors import DatasetError, EngineError
from ragtune.evaluation.resampling import mean_interval
from ragtune.evaluation.scoring import ScoreIdentity, question_parts, score_model, summarise
from ragtune.records import QAPair, ScoredAnswer, SplitItem
from ragtune.settings import AnswerSettings
from tests.support.answering_fakes import ListRetriever, ScriptedChat, chunk
from tests.support.scored_answers import scored_answer

PAIRS = [
    QAPair(
        id=f"p{i}",
        question=f"What is item{i} ?",
        answer=f"value {i}",
        kind="k",
        document_id=f"doc-c{i}",
        chunk_id=f"c{i}",
    )
    for i in range(12)
]
RETRIEVER = ListRetriever([chunk(f"c{i}", f"The item{i} has value {i} today.") for i in range(12)])


def scored(values: list[float], documents: int = 0, metric: str = "token_f1") -> list[ScoredAnswer]:
    names = [f"d{i % documents}" if documents else f"d{i}" for i in range(len(values))]
    return [scored_answer(i, values[i], names[i], metric) for i, value in enumerate(values)]


IDENTITY = ScoreIdentity(model="m", precision="bf16", split="test", dataset_sha256="d", model_version="3", seed=17)


def summary(answers: list[ScoredAnswer], seed: int = 17):
    return summarise(answers, replace(IDENTITY, seed=seed))


def test_answers_come_back_in_the_order_of_the_questions_with_their_citations():
    chat = ScriptedChat(lambda messages: "It has value " + messages[1].content.rsplit("item", 1)[1][:-2] + ". [1]")
    done: list[int] = []
    answers = score_model(
        PAIRS, Answerer(RETRIEVER, AnswerSettings()), chat, 4, 5, lambda what, count, total: done.append(count)
    )
    assert [answer.pair_id for answer in answers] == [pair.id for pair in PAIRS]
    assert [answer.cited for answer in answers] == [(pair.chunk_id,) for pair in PAIRS]
    assert all(answer.retrieved and answer.metrics["citation"] == 1.0 for answer in answers)
    assert all(answer.latency_ms >= 50 for answer in answers)
    assert done == list(range(1, 13))
    assert {(call["seed"], call["temperature"]) for call in chat.calls} == {(5, 0.0)}


def test_no_more_requests_run_at_once_than_the_concurrency():
    import time

    chat = ScriptedChat(lambda messages: time.sleep(0.02) or "x")
    score_model(PAIRS, Answerer(None, AnswerSettings()), chat, concurrency=3)
    assert chat.most_at_once == 3


def test_one_failed_answer_ends_the_run_instead_of_shrinking_the_test():
    def fails_once(messages):
        if "item3" in messages[1].content:
            raise EngineError("The engine died.")
        return "x"

    with pytest.raises(EngineError, match="died"):
        score_model(PAIRS, Answerer(None, AnswerSettings()), ScriptedChat(fails_once))


def test_nothing_to_score_is_an_error_and_not_a_score_of_zero():
    with pytest.raises(DatasetError, match="no question to score"):
        score_model([], Answerer(None, AnswerSettings()), ScriptedChat(lambda messages: "x"))


def test_a_score_carries_its_interval_and_everything_that_identifies_it():
    values = [0.0, 1.0] * 50
    score, of_writers = summary(scored(values))
    assert (score.value, score.n, score.model_version, score.seed, score.split) == (0.5, 100, "3", 17, "test")
    # By the normal approximation: 0.5 -+ 1.96 * sqrt(0.25 / 100).
    assert score.low == pytest.approx(0.402, abs=0.02)
    assert score.high == pytest.approx(0.598, abs=0.02)
    assert score.signature.startswith("token_f1|v1|")
    assert "bootstrap" in score.signature
    assert of_writers == replace(score, origin="writer")


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = list(np.random.default_rng(3).random(40))
    assert summary(scored(values)) == summary(scored(values))
    assert summary(scored(values))[0].low != summary(scored(values), seed=18)[0].low


def test_questions_about_the_same_few_documents_give_a_wider_interval():
    values = [float(i % 10 < 5) for i in range(100)]
    alone, together = summary(scored(values))[0], summary(scored(values, documents=10))[0]
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_perfect_score_over_few_items_is_not_certain():
    mean, low, high = mean_interval([1.0] * 20, [str(i) for i in range(20)], 2000, 0)
    assert (mean, high) == (1.0, 1.0)
    assert low == pytest.approx(0.839, abs=0.001)  # Wilson: 1 / (1 + 1.96^2 / 20)


def test_the_questions_of_writers_people_and_feedback_are_reported_apart_and_together():
    answers = [
        replace(answer, origin=origin)
        for answer, origin in zip(scored([1.0, 0.0, 0.5]), ("people", "writer", "feedback"), strict=True)
    ]
    values = {(score.origin, score.value, score.n) for score in summary(answers)}
    assert values == {("", 0.5, 3), ("people", 1.0, 1), ("writer", 0.0, 1), ("feedback", 0.5, 1)}


def test_accuracy_is_reported_by_kind_topic_and_language_with_small_parts_together():
    answers = [
        replace(answer, kind="what" if number < 6 else "why")
        for number, answer in enumerate(scored([1.0] * 6 + [0.0] * 6))
    ]
    parts = {f"p{number}": {"topic": f"t{number}", "language": "en"} for number in range(12)}
    by_part = {score.part: (score.value, score.n) for score in summarise(answers, IDENTITY, 100, parts) if score.part}
    assert by_part == {"kind=what": (1.0, 6), "kind=why": (0.0, 6), "topic=other": (0.5, 12)}


def test_a_question_has_the_topic_and_source_of_its_passage_and_its_own_language():
    pair = replace(PAIRS[0], question="Wann schließt die Tür und wie lange ist das Büro offen?")
    passage = replace(chunk("c0", "The door closes."), topic="doors")
    parts = question_parts([SplitItem(pair, "test", "c"), SplitItem(PAIRS[1], "test", "c")], [passage])
    assert parts["p0"] == {"topic": "doors", "source": "folder:docs", "language": "de"}
    assert parts["p1"] == {"topic": "", "source": "", "language": "en"}


def test_a_metric_counts_only_the_items_it_applies_to():
    answers = scored([1.0, 0.0]) + scored([1.0], metric="refusal_recall")
    assert {(score.metric, score.n) for score in summary(answers)} == {("token_f1", 2), ("refusal_recall", 1)}
