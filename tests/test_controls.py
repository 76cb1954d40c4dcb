from typing import Any

import pytest

from ragtune.answer.controls import DIALS, NEUTRAL, SWITCHES, Controls, with_controls
from ragtune.errors import SettingsError


def test_a_request_overrides_only_what_it_names():
    base = Controls(depth=0.2, citations=False)
    changed = with_controls(base, {"creativity": 1}, {"examples": True})
    assert changed == Controls(depth=0.2, creativity=1.0, citations=False, examples=True)


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.5", None, True, float("nan")])
def test_a_dial_outside_its_range_is_refused_with_the_range(value: Any):
    with pytest.raises(SettingsError, match=r"'depth'[\s\S]*a number from 0 to 1"):
        with_controls(NEUTRAL, {"depth": value})


@pytest.mark.parametrize("value", [0, 1, "on", None])
def test_a_switch_is_true_or_false(value: Any):
    with pytest.raises(SettingsError, match=r"'citations'[\s\S]*true or false"):
        with_controls(NEUTRAL, None, {"citations": value})


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(SettingsError, match=", ".join(DIALS)):
        with_controls(NEUTRAL, {"wit": 0.5})
    with pytest.raises(SettingsError, match=", ".join(SWITCHES)):
        with_controls(NEUTRAL, None, {"wit": True})


def test_the_error_for_a_switch_sent_as_a_dial_says_where_it_belongs():
    with pytest.raises(SettingsError, match="'citations' is a switch"):
        with_controls(NEUTRAL, {"citations": 1.0})


def test_depth_changes_passages_and_length_and_creativity_changes_the_temperature():
    assert [Controls(depth=d).passages(3) for d in (0.0, 0.5, 1.0)] == [2, 3, 4]
    assert [Controls(depth=d).max_tokens(96) for d in (0.0, 0.5, 1.0)] == [48, 96, 288]
    assert Controls(examples=True).max_tokens(96) == 192
    assert (NEUTRAL.temperature, Controls(creativity=0.7).temperature) == (0.0, 0.7)
