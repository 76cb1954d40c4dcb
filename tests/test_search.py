"""The search over settings: it begins with the present ones, gives up bad ones early, and goes on where it stopped."""

import time
from pathlib import Path

import pytest

from ragtune.errors import EngineError
from ragtune_serving.benchmarking.search import STARTUP_TRIALS, Search

SPACE = {"engine.eager": ["true", "false"], "engine.threads": ["1", "2", "3"]}
PRESENT = {"engine.eager": "true", "engine.threads": "1"}


def worth(chosen):
    return float(chosen["engine.threads"]) + (10.0 if chosen["engine.eager"] == "false" else 0.0)


def search(folder: Path, name: str = "goal") -> Search:
    return Search(folder / "speed" / "tuning.db", name, SPACE, seed=1)


def test_it_begins_with_the_present_settings_tries_every_combination_once_and_finds_the_best(tmp_path):
    measured = []

    def measure(chosen, report):
        measured.append(chosen)
        return worth(chosen)

    found = search(tmp_path)
    found.run(measure, minutes=5)
    assert measured[0] == PRESENT
    assert len(measured) == len({tuple(one.items()) for one in measured}) == 6
    assert found.better()[0] == {"engine.eager": "false", "engine.threads": "3"}
    assert {} not in found.better()
    assert [trial.value for trial in found.trials()] == sorted((trial.value for trial in found.trials()), reverse=True)


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path):
    measured = []

    def measure(chosen, report):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(chosen)
        return worth(chosen)

    first = search(tmp_path)
    first.remember("saturation", 2.5)
    with pytest.raises(KeyboardInterrupt):
        first.run(measure, minutes=5)
    assert len(measured) == 3
    again = []
    second = search(tmp_path)
    assert second.facts == {"saturation": 2.5}
    second.run(lambda chosen, report: again.append(chosen) or worth(chosen), minutes=5)
    assert not [one for one in again if one in measured], "nothing is measured twice"
    assert len(again) + len(measured) == 6
    assert second.better()[0] == {"engine.eager": "false", "engine.threads": "3"}


def test_another_goal_is_another_search(tmp_path):
    search(tmp_path).run(lambda chosen, report: worth(chosen), minutes=5)
    assert search(tmp_path, "other goal").trials() == []


def test_settings_that_do_not_start_are_failed_trials_and_the_others_go_on(tmp_path):
    def measure(chosen, report):
        if chosen["engine.eager"] == "false":
            raise EngineError("it does not start")
        return worth(chosen)

    found = search(tmp_path)
    found.run(measure, minutes=5)
    assert {trial.state for trial in found.trials() if trial.settings["engine.eager"] == "false"} == {"fail"}
    assert found.better() == [{"engine.threads": "3"}, {"engine.threads": "2"}]


def test_what_is_worse_than_most_at_an_early_step_is_given_up(tmp_path):
    steps = []

    def measure(chosen, report):
        for step in range(3):
            steps.append(step)
            report(step, 100.0 - 10 * len(steps) if step == 0 else 0.0)
        return 1.0

    found = search(tmp_path)
    found.run(measure, minutes=5)
    pruned = [trial for trial in found.trials() if trial.state == "pruned"]
    assert len(pruned) == 6 - STARTUP_TRIALS
    assert {} not in found.better()


def test_a_search_ends_with_the_trial_in_which_its_time_is_over(tmp_path):
    found = search(tmp_path)
    found.run(lambda chosen, report: time.sleep(1.5) or worth(chosen), minutes=1 / 60)
    assert [trial.settings for trial in found.trials()] == [PRESENT]
