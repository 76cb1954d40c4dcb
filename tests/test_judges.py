import json
from dataclasses import replace

import pytest

from ragtune.evaluation.agreement import Estimate
from ragtune.evaluation.judges import (
    RUBRIC,
    EvidenceJudge,
    Preference,
    RubricJudge,
    answer_key,
    summarise_preferences,
)
from ragtune.records import ScoredAnswer
from ragtune.settings import AnswerJudgeSettings
from tests.support.answering_fakes import WordEvidence
from tests.support.model_server import ModelServer
from tests.support.scored_answers import scored_answer


def answer(number: int, text: str, expected: str = "four hours", sources: tuple[str, ...] = ()) -> ScoredAnswer:
    return replace(
        scored_answer(number, 1.0),
        question="How long is a hot work note good for?",
        expected=expected,
        answer=text,
        scored_text=text,
        cited_texts=sources,
    )


SOURCE = "A hot work note is valid for four hours. Hoses are blue."


@pytest.fixture
def served():
    servers = []

    def serve(reply) -> AnswerJudgeSettings:
        servers.append(ModelServer(reply))
        return servers[-1].settings(AnswerJudgeSettings)

    yield serve
    for server in servers:
        server.close()


def test_an_answer_that_stands_in_its_sources_is_supported_and_an_invented_one_is_not():
    judge = EvidenceJudge(WordEvidence())
    right, invented = (
        answer(0, "It is valid for four hours.", sources=(SOURCE,)),
        answer(1, "Ten days.", sources=(SOURCE,)),
    )
    assert judge.supported(right) > 0.7 > 0.3 > judge.supported(invented)
    assert judge.supported(replace(right, cited_texts=())) == 0.0


def test_an_answer_that_says_what_is_expected_is_more_correct_than_another():
    judge = EvidenceJudge(WordEvidence())
    assert judge.correct(answer(0, "A hot work note is good for four hours.")) > judge.correct(
        answer(1, "Hoses are blue.")
    )


def test_refusals_are_not_judged_and_unanswerable_questions_have_no_right_answer():
    refusal = replace(answer(0, ""), refused=True)
    unanswerable = replace(answer(1, "Elvis.", sources=(SOURCE,)), answerable=False)
    judgements = EvidenceJudge(WordEvidence()).judge([refusal, unanswerable])
    assert [judgement.question for judgement in judgements] == ["supported"]
    assert judgements[0].answer_key == answer_key(unanswerable.question, "Elvis.")


def test_a_language_model_judges_every_question_of_the_rubric(served, tmp_path):
    reply = {"reason": "ok", "correct": "yes", "supported": "partly", "complete": "no", "clear": "yes"}
    judge = RubricJudge(served(lambda _: json.dumps(reply)), tmp_path, seed=1)
    judgements = judge.judge([answer(0, "Four hours.", sources=(SOURCE,))])
    assert {j.question: j.score for j in judgements} == {
        "correct": 1.0,
        "supported": 0.5,
        "complete": 0.0,
        "clear": 1.0,
    }
    assert {j.judge for j in judgements} == {"openai/writer"}
    assert set(RUBRIC) == {"correct", "supported", "complete", "clear"}


def test_a_judge_that_always_prefers_the_first_answer_decides_nothing(served, tmp_path):
    judge = RubricJudge(served(lambda _: '{"better": "A"}'), tmp_path, seed=1)
    before, after = [answer(n, f"old {n}") for n in range(3)], [answer(n, f"new {n}") for n in range(3)]
    summary = summarise_preferences(judge.compare(before, after))
    assert summary is not None
    assert (summary.n, summary.share, summary.consistent, summary.first_side) == (3, Estimate(0.0, 0.0, 0.0), 0.0, 1.0)


def test_a_judge_that_prefers_what_is_better_says_so_with_both_sides_first(served, tmp_path):
    def prefers_new(body):
        text = body["messages"][1]["content"]
        return json.dumps({"better": "A" if text.index("new") < text.index("old") else "B"})

    before, after = [answer(n, f"old {n}") for n in range(4)], [answer(n, f"new {n}") for n in range(4)]
    summary = summarise_preferences(RubricJudge(served(prefers_new), tmp_path, seed=1).compare(before, after))
    assert summary is not None
    assert (summary.share, summary.consistent, summary.first_side) == (Estimate(1.0, 1.0, 1.0), 1.0, 0.5)


def test_equal_answers_are_not_sent_to_the_judge(served, tmp_path):
    judge = RubricJudge(served(lambda _: '{"better": "A"}'), tmp_path, seed=1)
    same = [answer(0, "same")]
    assert judge.compare(same, same) == []
    assert judge.comparisons.usage.requests == 0


def test_a_preference_for_long_answers_shows_as_a_slope():
    longer = [-1.0, -0.5, 0.5, 1.0] * 10
    preferences = [
        Preference(pair_id=str(n), score=1 if value > 0 else -1, consistent=True, first_side=1, decided=2, longer=value)
        for n, value in enumerate(longer)
    ]
    summary = summarise_preferences(preferences)
    assert summary is not None
    # By hand: sum of x * y is 0.5 * 2 + 1 * 2 = 3 and of x * x 2.5 for every four, so the slope is 1.2.
    assert summary.verbosity.value == pytest.approx(1.2)
    assert summary.verbosity.low > 0.5
    assert summarise_preferences([]) is None
