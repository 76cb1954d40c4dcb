"""A real gateway with engines of its own: who gets which model, what is recorded, and what happens if one dies."""

from collections import Counter
from dataclasses import replace

import httpx
import pytest

from ragtune.experiments.routing import route
from ragtune.store.experiments import ExperimentDesign, ExperimentStore
from ragtune_serving.conversation import Conversation
from tests.support.live_gateway import ListRegistry, LiveGateway, ThreadEngine, until

DESIGN = ExperimentDesign(
    versions=("1", "2"),
    weights=(0.5, 0.5),
    metric="thumbs",
    smallest_difference=0.1,
    margin=0.02,
    alpha=0.05,
    budget=1000,
    window_hours=1.0,
    salt="fixed",
)
USERS = [f"user {number}" for number in range(12)]


@pytest.fixture
def gateway(tmp_path):
    gateway = LiveGateway(tmp_path, ListRegistry(tmp_path, 3), ThreadEngine())
    yield gateway
    gateway.close()


def start(gateway, **changes) -> ExperimentStore:
    """Start an experiment and wait until requests are assigned."""
    traffic = gateway.services.chat.traffic
    traffic.store.start("live", replace(DESIGN, **changes), 1.0)
    question = Conversation("Hello?", (), "")
    until(lambda: traffic.place("somebody", "key", question, gateway.services.deployment.engine_of))
    return traffic.store


def version_of(answer: httpx.Response) -> str:
    """Return the version that an answer names, whole or streamed."""
    assert answer.status_code == 200, answer.text
    return answer.text.partition('"model_version":')[2].split('"')[1]


def exposures(gateway, store, count: int):
    experiment = store.get("live")
    return until(lambda: len(rows := store.exposures(experiment)) >= count and rows)


def test_each_user_keeps_an_arm_and_every_response_is_recorded_once_with_it(gateway):
    store = start(gateway)
    experiment = store.get("live")
    expected = {user: route(experiment, user, "client", "").version for user in USERS}
    assert set(expected.values()) == {"1", "2"}
    first = {user: gateway.ask(user=user) for user in USERS}
    assert {user: version_of(answer) for user, answer in first.items()} == expected
    assert all(f"-v{expected[user]}-" in answer.text for user, answer in first.items())
    assert {user: version_of(gateway.ask("And now?", user=user, stream=True)) for user in USERS} == expected
    rows = exposures(gateway, store, 2 * len(USERS))
    assert len({row.response_id for row in rows}) == len(rows) == 2 * len(USERS)
    for row in rows:
        response = gateway.services.log.response(row.response_id)
        assert (response.model_version, row.unit, row.failure) == (expected[row.unit], response.user, "")
        assert experiment.design.versions[row.arm] == response.model_version
        assert (row.shares, response.key) == ((0.5, 0.5), "client")
    count = sum(row.arm for row in rows)
    series = 'ragtune_experiment_requests_total{experiment="live",outcome="answered",version="2"}'
    assert f"{series} {count}.0" in gateway.request("GET", "/metrics").text


def test_a_request_without_a_user_keeps_the_arm_of_its_conversation(gateway):
    start(gateway)
    versions: Counter[str] = Counter()
    for number in range(8):
        question = f"What is number {number}?"
        turn = gateway.ask(question)
        reply = turn.json()["choices"][0]["message"]["content"]
        history = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        again = gateway.ask([*history, {"role": "user", "content": "And why?"}])
        assert version_of(again) == version_of(turn)
        versions[version_of(turn)] += 1
    assert len(versions) == 2


def test_other_model_names_and_a_paused_experiment_are_not_routed(gateway):
    store = start(gateway)
    candidate = next(user for user in USERS if route(store.get("live"), user, "client", "").arm)
    assert version_of(gateway.ask(user=candidate)) == "2"
    store.pause("live", "a test")
    until(lambda: gateway.services.chat.traffic.running.paused)
    assert version_of(gateway.ask(user=candidate)) == "1"
    store.resume("live", "a test")
    until(lambda: not gateway.services.chat.traffic.running.paused)
    assert version_of(gateway.ask(user=candidate)) == "2"
    assert len(exposures(gateway, store, 2)) == 2
    store.stop("live", "a test", {})
    until(lambda: gateway.services.deployment.engine_of("2") is None)
    assert version_of(gateway.ask(user=candidate)) == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_users_of_a_candidate_whose_engine_dies_get_the_control_and_it_is_counted(gateway, stream):
    store = start(gateway)
    candidate = next(user for user in USERS if route(store.get("live"), user, "client", "").arm)
    gateway.engine.broken.add("2")
    gateway.engine.of("2").kill()
    assert [version_of(gateway.ask(user=candidate, stream=stream)) for _ in range(3)] == ["1"] * 3
    rows = exposures(gateway, store, 3)
    assert [(row.arm, row.failure) for row in rows] == [(1, "replaced")] * 3
    assert gateway.services.log.response(rows[0].response_id).model_version == "1"
    # It is started again, and its users come back to it.
    gateway.engine.broken.clear()
    gateway.wait_for("2")
    assert version_of(gateway.ask(user=candidate, stream=stream)) == "2"


def test_an_engine_that_fails_before_the_first_word_is_replaced_and_one_that_fails_later_is_not(gateway):
    store = start(gateway)
    candidate = next(user for user in USERS if route(store.get("live"), user, "client", "").arm)
    upstream = gateway.engine.of("2").upstream
    upstream.behaviour = "broken"
    assert version_of(gateway.ask(user=candidate)) == "1"
    assert version_of(gateway.ask(user=candidate, stream=True)) == "1"
    upstream.behaviour = "hangs_up_in_the_middle"
    broken = gateway.ask(user=candidate, stream=True).text
    assert '"error"' in broken
    assert "model_version" not in broken
    rows = exposures(gateway, store, 3)
    assert [row.failure for row in rows] == ["replaced", "replaced", "failed"]


def test_a_request_that_nobody_can_answer_is_an_exposure_without_a_response(gateway):
    store = start(gateway)
    control = next(user for user in USERS if not route(store.get("live"), user, "client", "").arm)
    gateway.engine.broken.add("1")
    gateway.engine.of("1").kill()
    assert gateway.ask(user=control).status_code == 503
    (row,) = exposures(gateway, store, 1)
    assert (row.arm, row.failure) == (0, "failed")
    assert gateway.services.log.response(row.response_id) is None


def test_a_candidate_that_cannot_be_served_gets_no_user_and_the_status_says_why(gateway):
    (gateway.registry.folders["3"] / "w8a8" / "config.json").write_text('{"changed": true}')
    store = gateway.services.chat.traffic.store
    store.start("live", replace(DESIGN, versions=("1", "3")), 1.0)
    errors = until(lambda: gateway.request("GET", "/status").json()["arm_errors"])
    assert "Version 3 of the experiment is not served" in errors[0]
    assert {version_of(gateway.ask(user=user)) for user in USERS[:4]} == {"1"}
    assert store.exposures(store.get("live")) == []


def test_a_candidate_for_which_memory_is_short_says_so(gateway):
    store = gateway.services.chat.traffic.store
    gateway.engine.broken.add("2")
    store.start("live", DESIGN, 1.0)
    arms = until(lambda: [arm for arm in gateway.request("GET", "/status").json()["arms"] if arm["error"]])
    assert (arms[0]["version"], arms[0]["error"]) == ("2", "This engine does not start.")
    assert {version_of(gateway.ask(user=user)) for user in USERS[:4]} == {"1"}
    assert store.exposures(store.get("live")) == []


def test_a_restart_of_the_gateway_changes_no_arm(gateway):
    store = start(gateway)
    before = {user: version_of(gateway.ask(user=user)) for user in USERS}
    exposures(gateway, store, len(USERS))
    gateway.close()
    again = LiveGateway(gateway.settings.home, gateway.registry, ThreadEngine())
    try:
        again.wait_for("2")
        assert {user: version_of(again.ask(user=user)) for user in USERS} == before
        rows = exposures(again, again.services.chat.traffic.store, 2 * len(USERS))
        assert Counter(row.unit for row in rows) == dict.fromkeys(USERS, 2)
    finally:
        again.close()


def test_a_champion_that_was_a_candidate_keeps_its_engine_and_the_old_one_stays_as_control(gateway):
    store = start(gateway)
    gateway.registry.move("champion", "2")
    until(lambda: gateway.services.deployment.live.model.version == "2")
    gateway.wait_for("1", "2")
    assert len(gateway.engine.launched) == 2
    store.stop("live", "a test", {})
    until(lambda: gateway.services.deployment.engine_of("1") is None)
    assert version_of(gateway.ask()) == "2"
