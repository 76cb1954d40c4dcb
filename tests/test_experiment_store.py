"""The log of experiments over SQLite and PostgreSQL, the status read from it, and `ragtune experiment`."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from ragtune.errors import ExperimentError, SettingsError
from ragtune.experiments.assignment import arm_of
from ragtune.experiments.control import replay_decision, run_once
from ragtune.experiments.routing import route
from ragtune.experiments.status import status_now
from ragtune.records import ResponseRecord
from ragtune.settings import load_settings
from ragtune.store.experiments import ExperimentDesign, ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune_serving.cli import app
from tests.support.releases import released

DESIGN = ExperimentDesign(
    versions=("1", "2"),
    weights=(0.5, 0.5),
    metric="thumbs",
    smallest_difference=0.1,
    margin=0.02,
    alpha=0.05,
    budget=1000,
    window_hours=0.0,
    salt="fixed",
)


@pytest.fixture
def store(database_url):
    store = ExperimentStore(database_url)
    yield store
    store.close()


@pytest.fixture
def log(database_url):
    log = FeedbackLog(database_url)
    yield log
    log.close()


def serve(store, log, count: int, likes: dict[str, bool], first: int = 0) -> None:
    """Let users ask once each; they like what `likes` says of the version that answered."""
    experiment = store.running()
    for number in range(first, first + count):
        way = route(experiment, f"user {number}", "key", "")
        record = ResponseRecord(
            id=f"r{number}",
            created_at=datetime.now(UTC).isoformat(),
            question="q",
            answer="a",
            model="ragtune",
            model_version=way.version,
            chunk_ids=(),
            cited_chunk_ids=(),
            refused=False,
            user=way.unit,
        )
        log.record_response(record)
        store.expose(experiment, record.id, way.unit, way.arm, way.shares)
        log.add(record.id, "up" if likes[way.version] else "down")


WINDOW_HOURS = 0.1
"""Six minutes: longer than a busy machine takes between a response and its verdict."""


def later() -> datetime:
    """Return a time at which the window of every user has passed."""
    return datetime.now(UTC) + timedelta(hours=2 * WINDOW_HOURS)


def test_an_experiment_is_read_back_as_it_was_started(store):
    started = store.start("first", DESIGN, 0.1)
    assert store.get("first") == store.running() == started
    assert (started.design, started.ramp, started.stopped) == (DESIGN, 0.1, False)
    assert store.list() == [started]


def test_a_salt_is_drawn_for_every_experiment(store):
    first = store.start("first", replace(DESIGN, salt=""), 1.0)
    store.stop("first", "done", {})
    second = store.start("second", replace(DESIGN, salt=""), 1.0)
    assert first.design.salt != second.design.salt
    assert min(len(first.design.salt), len(second.design.salt)) == 16


def test_a_stopped_experiment_stays_stopped(store):
    store.start("first", DESIGN, 1.0)
    stopped = store.stop("first", "enough", {"declaration": "better"})
    assert stopped.stopped
    assert stopped.events[-1].content == {"reason": "enough", "decision": {"declaration": "better"}}
    for again in (
        lambda: store.start("first", DESIGN, 1.0),
        lambda: store.set_ramp("first", 0.5, "more"),
        lambda: store.stop("first", "again", {}),
    ):
        with pytest.raises(ExperimentError, match="stays stopped"):
            again()
    assert store.get("first") == stopped
    assert store.running() is None


def test_two_experiments_do_not_run_at_once(store):
    store.start("first", DESIGN, 1.0)
    with pytest.raises(ExperimentError, match="'first' is running"):
        store.start("second", DESIGN, 1.0)


def test_an_unknown_experiment_lists_the_known_ones(store):
    store.start("first", DESIGN, 1.0)
    with pytest.raises(ExperimentError, match="one of: first"):
        store.get("frist")


def test_the_ramp_of_the_last_event_decides_who_gets_the_candidate(store):
    store.start("first", DESIGN, 0.1)
    grown = store.set_ramp("first", 0.5, "100 users came")
    assert (grown.ramp, [event.kind for event in grown.events]) == (0.5, ["start", "ramp"])
    for user in map(str, range(200)):
        way = route(grown, user, "key", "c")
        assert way.arm == arm_of(user, "fixed", (0.5, 0.5), 0.5)
        assert (way.version, way.shares) == (DESIGN.versions[way.arm], (0.5, 0.5))


def test_a_response_belongs_to_one_arm_only(store):
    import sqlalchemy as sa

    experiment = store.start("first", DESIGN, 1.0)
    store.expose(experiment, "r1", "ann", 0, (0.5, 0.5))
    with pytest.raises(sa.exc.IntegrityError):
        store.expose(experiment, "r1", "ann", 1, (0.5, 0.5))
    assert [(e.response_id, e.arm, e.shares) for e in store.exposures(experiment)] == [("r1", 0, (0.5, 0.5))]


def test_verdicts_on_responses_decide_and_the_decision_is_replayed_from_the_log(store, log):
    experiment = store.start("first", replace(DESIGN, window_hours=WINDOW_HOURS), 1.0)
    serve(store, log, 60, {"1": False, "2": True})
    status = status_now(experiment, store, log, later())
    (candidate,) = status.candidates
    assert candidate.comparison.declaration == "better"
    assert candidate.words[0].startswith("version 2 is better by ")
    assert sum(candidate.users.assigned) == sum(candidate.users.rated) == status.responses == 60
    assert status.is_balanced
    stopped = store.stop("first", "better", status.decision())
    recorded, again = replay_decision(stopped, store, log)
    assert recorded == again

    # A verdict that comes after the decision does not change the replay.
    for number in range(60):
        log.add(f"r{number}", "down")
    assert replay_decision(stopped, store, log) == (recorded, again)


def test_responses_beyond_the_budget_change_nothing(store, log):
    experiment = store.start("first", replace(DESIGN, budget=20, window_hours=WINDOW_HOURS), 1.0)
    serve(store, log, 20, {"1": True, "2": True})
    before = status_now(experiment, store, log, later()).candidates[0].comparison
    serve(store, log, 20, {"1": False, "2": True}, first=20)
    after = status_now(experiment, store, log, later())
    assert after.candidates[0].comparison == before
    assert after.budget_spent
    assert "budget is spent" in after.candidates[0].words[0]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    registry = ModelRegistry(settings)
    for weights in (b"one", b"two"):
        registry.register(released(settings.home, weights))
    registry.move("champion", "1")
    return settings


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["experiment", *arguments])
    if result.exception:
        raise result.exception
    return result.stdout


def test_the_commands_start_show_stop_list_and_replay(home):
    assert "version 2 against version 1" in invoke(
        "start", "b", "--candidate", "2", "--ramp", "0.5", "--smallest", "10"
    )
    store, log = ExperimentStore(home.feedback_url), FeedbackLog(home.feedback_url)
    assert store.get("b").design.smallest_difference == pytest.approx(0.1)
    serve(store, log, 10, {"1": True, "2": True})
    shown = invoke("status", "b")
    assert "10 of 10000 responses" in shown
    assert "still waiting 10" in shown
    assert json.loads(invoke("status", "b", "--json"))["responses"] == 10
    with pytest.raises(ExperimentError, match="is running"):
        invoke("replay", "b")
    assert "Stopped 'b'" in invoke("stop", "b", "--reason", "a test")
    assert "a test" in invoke("status", "b")
    assert "stopped" in invoke("list")
    assert json.loads(invoke("list", "--json"))[0]["versions"] == ["1", "2"]
    assert "recorded decision of 'b' again" in invoke("replay", "b")


def test_a_version_of_a_running_experiment_is_neither_removed_nor_pruned(home):
    from ragtune.errors import RegistryError

    invoke("start", "b", "--candidate", "2")
    command = CliRunner().invoke(app, ["models", "remove", "2"])
    assert isinstance(command.exception, RegistryError)
    assert "running experiment" in str(command.exception)
    assert "Nothing to delete" in CliRunner().invoke(app, ["models", "prune", "--keep", "0"]).stdout
    invoke("stop", "b")
    assert "deleted version 2" in CliRunner().invoke(app, ["models", "prune", "--keep", "0"]).stdout


def test_a_winner_becomes_champion_in_the_registry_and_rollback_takes_it_back(home):
    invoke("start", "b", "--candidate", "2", "--ramp", "0.5", "--smallest", "10", "--promote")
    store, log, registry = ExperimentStore(home.feedback_url), FeedbackLog(home.feedback_url), ModelRegistry(home)
    assert dict(store.get("b").design.guardrails)["delivered"] == pytest.approx(0.02)
    serve(store, log, 120, {"1": False, "2": True})
    advice = run_once(store, log, registry, datetime.now(UTC) + timedelta(hours=48))
    assert (advice.action, advice.winner) == ("stop", "2")
    assert (registry.alias_version("champion"), registry.alias_version("previous")) == ("2", "1")
    assert "ragtune rollback" in invoke("status", "b")
    assert registry.rollback().version == "1"
    assert "No experiment runs" in invoke("look")
    assert "recorded decision of 'b' again" in invoke("replay", "b")


def test_a_start_with_what_does_not_exist_is_refused(home):
    with pytest.raises(SettingsError, match="one of thumbs, uncorrected, answered"):
        invoke("start", "b", "--candidate", "2", "--metric", "joy")
    with pytest.raises(SettingsError, match="different versions"):
        invoke("start", "b", "--candidate", "1")
    from ragtune.errors import RegistryError

    with pytest.raises(RegistryError, match="9"):
        invoke("start", "b", "--candidate", "9")
    assert invoke("list").startswith("No experiment yet.")
