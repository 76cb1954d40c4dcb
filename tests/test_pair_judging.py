"""What a judge and people say of the two answers of mirrored requests."""

import json
from contextlib import closing

import pytest
from typer.testing import CliRunner

from ragtune.errors import ExperimentError, SettingsError
from ragtune.evaluation.judges import Preference
from ragtune.experiments.pair_judging import judge_pairs, judged, preferences_in_words, vote_items, votes_on
from ragtune.experiments.shadow_report import report
from ragtune.settings import load_settings
from ragtune.store.shadows import ShadowDesign, ShadowPair, ShadowStore, Side
from ragtune_serving.cli import app
from ragtune_serving.studies import StudyDesk, StudyPlan


def side(version: str, answer: str) -> Side:
    return Side(
        version=version,
        answer=answer,
        refused=False,
        cited_chunk_ids=("c1",),
        failures=(),
        generation_ms=100.0,
        prompt_tokens=10,
        completion_tokens=5,
    )


def pair(number: int, live: str = "It is red.", mirrored: str = "It is blue.") -> ShadowPair:
    return ShadowPair(
        response_id=f"r{number}",
        user=f"user {number}",
        question=f"What is number {number}?",
        chunk_ids=("c1",),
        live=side("1", live),
        mirrored=side("2", mirrored),
    )


@pytest.fixture
def settings(tmp_path):
    return load_settings({"home": tmp_path})


@pytest.fixture
def store(settings):
    with closing(ShadowStore(settings.feedback_url)) as store:
        yield store


def mirrored(store: ShadowStore, *pairs: ShadowPair, versions: tuple[str, ...] = ("2",)):
    """Start a shadow deployment with these pairs."""
    shadow = store.start("next", ShadowDesign(versions=versions, share=1.0))
    for one in pairs:
        store.add(shadow, one)
    return shadow


class Bluish:
    """A judge that prefers blue answers, and counts what it is asked."""

    name = "bluish"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def compare(self, before, after, progress=None):
        self.asked += [answer.question for answer in before]
        return [
            Preference(
                pair_id=old.pair_id,
                score=("blue" in new.answer) - ("blue" in old.answer),
                consistent=True,
                first_side=1,
                decided=2,
                longer=0.0,
            )
            for old, new in zip(before, after, strict=True)
        ]


def test_a_judge_compares_each_pair_of_different_answers_once(store):
    shadow = mirrored(store, pair(1), pair(2, mirrored="It is red."), pair(3))
    judge = Bluish()
    assert judge_pairs(judge, shadow, store, [], most=1) == 1
    assert judge_pairs(judge, shadow, store, [], most=10) == 1
    assert judge_pairs(judge, shadow, store, [], most=10) == 0
    assert sorted(judge.asked) == ["What is number 1?", "What is number 3?"], "equal answers are not sent"
    summary = judged(store, shadow, "2")["bluish"]
    assert (summary.n, summary.share.value, summary.consistent) == (2, 1.0, 1.0)
    [one] = report(shadow, store)
    assert one.words == (
        "The judge bluish prefers version 2: version 2 has wins minus losses +100% [+100, +100] in 2 pairs "
        "(100% of its verdicts stay if the sides are swapped).",
    )


def test_people_vote_on_the_pairs_without_seeing_versions_and_the_report_counts_their_votes(settings, store):
    shadow = mirrored(store, *(pair(number) for number in range(8)), pair(9, mirrored="It is red."))
    desk = StudyDesk(settings)
    with closing(desk):
        study, count = desk.create(StudyPlan(name="votes", mode="pairwise", shadow="next"))
        assert (count, study.source) == (8, "shadow deployment next, version 2")
        [before] = votes_on(desk.store, shadow, "2")
        assert (before.votes, before.preference) == (0, None)
        desk.store.assign("votes", ["ann", "bea"], 2)
        items = desk.store.items("votes")
        for who in ("ann", "bea"):
            for task in desk.store.open_tasks("votes", who):
                texts = [answer.text for answer in items[task.item_id].answers][:: -1 if task.swapped else 1]
                # bea is not sure of one item, where ann prefers blue.
                sure = who == "ann" or task.item_id != sorted(items)[0]
                choice = ("left" if "blue" in texts[0] else "right") if sure else "neither"
                desk.store.rate(task.id, who, {"better": choice})
        [votes] = votes_on(desk.store, shadow, "2")
        assert (votes.votes, votes.annotators, votes.preference.n) == (16, 2, 8)
        assert votes.preference.value == pytest.approx(7.5 / 8)
        assert votes.preference.model == "version 2 over version 1"
        assert votes.agreeing == pytest.approx(7 / 8)
        [one] = report(shadow, store, desk.store)
        assert one.words[0].startswith("People prefer version 2: version 2 has wins minus losses +94%")


def test_pairs_with_equal_answers_and_unknown_versions_make_no_study(settings, store):
    shadow = mirrored(store, pair(1, mirrored="It is red."), versions=("2", "3"))
    with closing(StudyDesk(settings)) as desk:
        with pytest.raises(SettingsError, match="one of 2, 3"):
            desk.create(StudyPlan(name="votes", mode="pairwise", shadow="next"))
        with pytest.raises(ExperimentError, match="no pair with two different answers"):
            desk.create(StudyPlan(name="votes", mode="pairwise", shadow="next", version="2"))
        with pytest.raises(ExperimentError, match="no shadow deployment 'other'"):
            desk.create(StudyPlan(name="votes", mode="pairwise", shadow="other"))
    assert vote_items([pair(1), pair(2)], [], 1, seed=3)[0].answers[0].model == "version 1"
    assert votes_on(desk.store, shadow, "3") == []
    assert preferences_in_words("3", {}, []) == ()


def test_the_commands_make_a_study_show_votes_and_say_if_no_judge_is_configured(settings, store):
    mirrored(store, pair(1), pair(2))
    environment = {"RAGTUNE_HOME": str(settings.home)}

    def ragtune(*arguments: str):
        return CliRunner().invoke(app, list(arguments), env=environment)

    assert (
        "2 items of shadow deployment next, version 2" in ragtune("evaluate", "create", "v", "--shadow", "next").output
    )
    assert "Nobody has voted in the study v yet." in ragtune("shadow", "status", "next").output
    [row] = json.loads(ragtune("shadow", "status", "next", "--json").output)
    assert row["votes"][0]["study"] == "v"
    refused = ragtune("shadow", "judge", "next")
    assert "evaluation.judge.model" in str(refused.exception or refused.output)
