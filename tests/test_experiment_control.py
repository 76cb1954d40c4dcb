"""An experiment runs by itself: ramp, guardrails, pause, declaration, promotion, and the same again after a restart."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from ragtune.errors import ExperimentError
from ragtune.experiments.assignment import RAMP
from ragtune.experiments.control import replay_decision, run_once
from ragtune.experiments.ramp import next_ramp
from ragtune.experiments.routing import route
from ragtune.experiments.starting import GUARDRAILS
from ragtune.experiments.status import look_now, status_of
from ragtune.records import Exposure, ResponseRecord
from ragtune.store.experiments import ExperimentDesign, ExperimentStore
from ragtune.store.feedback import FeedbackLog
from tests.support.live_gateway import ListRegistry

DESIGN = ExperimentDesign(
    versions=("1", "2"),
    weights=(0.5, 0.5),
    metric="cited",
    smallest_difference=0.1,
    margin=0.02,
    alpha=0.05,
    budget=100_000,
    window_hours=1.0,
    salt="fixed",
    guardrails=GUARDRAILS,
    users_per_step=50,
)
GOOD = {"latency_ms": 1000.0, "refused": False, "cited_chunk_ids": ("c",)}


class World:
    """Both logs and a registry, with users who come one after the other, in the hours before the experiment's events.

    What happened before an event of the log is therefore over, and no test has to wait.
    """

    def __init__(self, home) -> None:
        self.store, self.log = (kind(f"sqlite:///{home / 'log.db'}") for kind in (ExperimentStore, FeedbackLog))
        self.registry = ListRegistry(home, 3)
        self.now = datetime.now(UTC) - timedelta(hours=12)
        self.users = 0

    def start(self, ramp: float = 0.5, **changes) -> None:
        self.store.start("live", replace(DESIGN, **changes), ramp)

    def come(
        self, count: int, candidate=None, failure: str = "", apart: float = 1.0, users=None, keep=None, control=dict
    ) -> None:
        """Let users ask once; the candidate's responses differ from good ones by `candidate`.

        `control` returns how those of the control differ. `users` are names to use again; `keep` says whether a
        user's exposure reaches the log.
        """
        experiment = self.store.get("live")
        exposures, responses = [], []
        for number in range(count):
            self.users += 1
            self.now += timedelta(seconds=apart)
            way = route(experiment, users[number % len(users)] if users else f"user {self.users}", "key", "")
            if keep and not keep(way.arm):
                continue
            at = self.now.isoformat()
            changes = (candidate or {}) if way.arm else control()
            exposures.append(
                Exposure(
                    sequence=0,
                    experiment=experiment.id,
                    response_id=f"r{self.users}",
                    unit=way.unit,
                    arm=way.arm,
                    shares=way.shares,
                    created_at=at,
                    failure=failure if way.arm else "",
                )
            )
            fields = {**GOOD, "model_version": way.version, **changes}
            responses.append(
                ResponseRecord(
                    id=f"r{self.users}",
                    created_at=at,
                    question="q",
                    answer="a",
                    model="ragtune",
                    chunk_ids=(),
                    **fields,
                )
            )
        self.log.record_responses(responses, exposures)

    def look(self, later: float = 2.0):
        """Look when every window has passed."""
        return run_once(self.store, self.log, self.registry, self.now + timedelta(hours=later))

    @property
    def experiment(self):
        return self.store.get("live")


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.store.close()
    world.log.close()


def test_the_ramp_takes_a_step_whenever_enough_users_have_come_and_stops_at_the_final_share(world):
    world.start(ramp=RAMP[0])
    steps = []
    for _ in range(2 * len(RAMP)):
        world.now = datetime.now(UTC)
        world.come(25, apart=0.00001)
        advice = run_once(world.store, world.log, world.registry, datetime.now(UTC))
        steps.append((advice.action, world.experiment.ramp))
    assert [ramp for action, ramp in steps if action == "advance"] == [0.05, 0.1, 0.25, 0.5]
    assert steps[0] == ("hold", 0.01)
    assert steps[-1] == ("hold", 0.5)


def test_the_next_step_is_at_most_the_final_share():
    assert [next_ramp(ramp, (0.8, 0.1, 0.1)) for ramp in (0.01, 0.1, 0.2)] == [0.05, 0.2, 0.2]


@pytest.mark.parametrize(
    ("bad", "failure", "name"),
    [
        ({}, "replaced", "delivered"),
        ({}, "left", "delivered"),
        ({"refused": True}, "", "answered"),
        ({"checks": {"failures": {"unsupported": "x"}}}, "", "sound"),
        ({"latency_ms": 9000.0}, "", "speed"),
    ],
)
def test_a_harmful_candidate_is_taken_back_by_itself(world, bad, failure, name):
    world.start(promote=True)
    world.come(60, bad, failure)
    advice = world.look()
    assert (advice.action, advice.winner) == ("stop", "")
    assert f"{name} (version 2)" in advice.reason
    assert world.experiment.stopped
    assert world.registry.aliases == {"champion": "1"}
    assert world.experiment.events[-1].content["decision"]["candidates"][0]["harm"] == [name]


def test_a_loss_within_the_tolerance_is_no_harm(world):
    world.start()
    # 0.5 seconds slower, with a tolerance of 1 second; a loss of 2 seconds would be found within these users.
    world.come(1000, {"latency_ms": 1500.0})
    status = status_of(look_now(world.experiment, world.store, world.log, world.now + timedelta(hours=2)))
    assert status.candidates[0].harm == ()


def test_an_engine_that_breaks_later_is_noticed_though_all_users_came_before(world):
    world.start(window_hours=1000.0)
    regulars = [f"regular {number}" for number in range(40)]
    world.come(200, users=regulars, apart=30)
    assert world.look().action == "hold"
    world.come(200, {}, "replaced", apart=30, users=regulars)
    assert "delivered" in world.look().reason


def test_a_sample_ratio_mismatch_pauses_until_a_person_resumes(world):
    world.start()
    rng = np.random.default_rng(5)
    world.come(1500, keep=lambda arm: not arm or rng.random() < 0.6)
    advice = world.look()
    assert advice.action == "pause"
    assert "do not have the users" in advice.reason
    assert world.experiment.paused
    assert world.look().action == "hold"
    world.store.resume("live", "the proxy was repaired")
    assert not world.experiment.paused
    assert world.look().action != "pause"


def better(world, **changes) -> None:
    """Start an experiment whose candidate cites more often, and let enough users come for a declaration."""
    world.start(**changes)
    rng = np.random.default_rng(7)
    world.come(600, control=lambda: {"cited_chunk_ids": ("c",) if rng.random() < 0.6 else ()})


def test_a_winner_is_declared_and_promoted_and_the_decision_is_replayed(world):
    better(world, promote=True)
    advice = world.look()
    assert (advice.action, advice.winner) == ("stop", "2")
    assert "version 2 is better by" in advice.reason
    assert world.registry.aliases == {"champion": "2", "previous": "1"}
    stopped = world.experiment
    recorded, again = replay_decision(stopped, world.store, world.log)
    assert recorded == again
    assert recorded["advice"]["winner"] == "2"
    assert "ragtune rollback" in stopped.events[-1].content["decision"]["promotion"]
    assert world.look() is None
    for again in (world.store.pause, world.store.resume):
        with pytest.raises(ExperimentError, match="stays stopped"):
            again("live", "no")
    assert world.experiment == stopped


def test_a_winner_is_not_promoted_unless_the_design_says_so(world):
    better(world)
    assert world.look().winner == "2"
    assert world.registry.aliases == {"champion": "1"}


def test_a_look_that_was_cut_off_after_promoting_is_finished_by_the_next_one(world):
    better(world, promote=True)
    world.registry.move("champion", "2")  # and then the process was killed
    assert world.look().winner == "2"
    assert world.experiment.stopped
    assert world.registry.aliases == {"champion": "2", "previous": "1"}


def test_a_champion_that_changed_meanwhile_is_not_replaced(world):
    better(world, promote=True)
    world.registry.move("champion", "3")
    world.look()
    assert world.registry.aliases["champion"] == "3"
    assert "version 3 became champion" in world.experiment.events[-1].content["decision"]["promotion"]


def test_at_the_budget_it_waits_for_the_last_windows_and_ends_undecided(world):
    world.start(budget=40)
    world.come(40)
    assert world.look(later=0.001).action == "hold"
    advice = world.look()
    assert (advice.action, advice.reason) == ("stop", "undecided at the budget")


def test_a_paused_experiment_is_left_to_the_person_who_paused_it(world):
    better(world, promote=True)
    world.store.pause("live", "a look at the answers")
    assert world.look().reason == "a person has to resume or stop it"
    assert world.registry.aliases == {"champion": "1"}
