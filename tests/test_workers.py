"""Several workers over engines that run once: what they know of the engines, and a whole gateway with two of them."""

import contextlib
import json
import signal
import stat
import threading
from dataclasses import replace
from types import SimpleNamespace

import httpx
import psutil
import pytest

from ragtune.errors import EngineError
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.engine import EngineAddress, ServedModel, ServingEngine, SupervisedEngine
from ragtune_serving.shared_engines import Announcer, FollowedDeployment, SharedEngines
from tests.support.fake_engine import FakeEngine
from tests.support.gateway_process import Gateway
from tests.support.scripted_upstream import WORDS, ScriptedUpstream
from tests.support.served_gateway import QUESTION, index_documents
from tests.test_deployment import PACE, Routes, until


def engine(name: str, folder) -> ServingEngine:
    found = ServingEngine(ServedModel(name, name, folder, "w8a8"), f"{name}#1")
    found.state = "ready"
    return found


@pytest.fixture
def sides(tmp_path):
    """Return the process with the engines (its deployment and announcer) and a worker with its routes."""
    files = SharedEngines(tmp_path)
    deployment = SimpleNamespace(
        live=None, coming=None, comparison=None, champion=None, error="", asked=[], arms=[], arm_errors={}, idle=True
    )
    deployment.engine_for = lambda model: deployment.asked.append(model) or deployment.comparison
    announcer, routes = Announcer(files), Routes()
    worker = FollowedDeployment(files, routes)
    yield deployment, announcer, worker, routes, files
    for followed in worker._engines.values():
        followed.close()


def go_live(deployment, announcer, found: ServingEngine) -> None:
    announcer.publish(found.route, EngineAddress(f"http://{found.model.name}", "key", found.model.name))
    deployment.live = found
    announcer.announce(deployment)


def test_a_worker_knows_the_live_engine_at_its_next_request(sides, tmp_path):
    deployment, announcer, worker, routes, files = sides
    with pytest.raises(EngineError, match="starting"):
        worker.engine_for("ragtune")
    go_live(deployment, announcer, engine("v1", tmp_path))
    first = worker.engine_for("ragtune")
    assert (first.model.version, first.ready, routes.now) == ("v1", True, {"v1#1": "http://v1"})
    deployment.champion = "2"
    go_live(deployment, announcer, engine("v2", tmp_path))
    second = worker.engine_for("ragtune")
    assert (second.model.version, worker.status()["champion"]) == ("v2", "2")
    assert set(routes.now) == {"v1#1", "v2#1"}, "requests that chose the old engine still reach it"
    assert stat.S_IMODE(files.state.stat().st_mode) == 0o600, "it holds the key of the engine"


def test_an_engine_that_restarts_is_not_ready_and_then_has_its_new_address(sides, tmp_path):
    deployment, announcer, worker, routes, _ = sides
    live = engine("v1", tmp_path)
    go_live(deployment, announcer, live)
    followed = worker.engine_for("ragtune")
    announcer.publish(live.route, None)
    live.state, live.error = "restarting", "it died"
    announcer.announce(deployment)
    assert worker.engine_for("ragtune") is followed
    assert "it died" in str(followed.unavailable())
    live.state = "ready"
    announcer.publish(live.route, EngineAddress("http://again", "key", "v1"))
    announcer.announce(deployment)
    assert worker.engine_for("ragtune").ready
    assert routes.now["v1#1"] == "http://again"


def test_a_worker_knows_that_requests_wait_for_an_engine_that_takes_the_place_of_another(sides, tmp_path):
    deployment, announcer, worker, _, _ = sides
    coming = engine("v2", tmp_path)
    coming.state, coming.awaited = "starting", True
    deployment.coming = coming
    announcer.announce(deployment)
    assert worker.engine_for("ragtune").awaited
    deployment.coming, coming.state, coming.awaited = None, "ready", False
    go_live(deployment, announcer, coming)
    assert not worker.engine_for("ragtune").awaited


def test_an_engine_in_use_by_a_worker_is_held_until_its_last_request_ends(sides, tmp_path):
    deployment, announcer, worker, _, files = sides
    go_live(deployment, announcer, engine("v1", tmp_path))
    followed = worker.engine_for("ragtune")
    assert not files.held("v1#1")
    followed.hold()
    followed.hold()
    followed.release()
    assert files.held("v1#1")
    followed.release()
    assert not files.held("v1#1")


def test_a_swap_waits_for_the_requests_of_workers(tmp_path):
    files = SharedEngines(tmp_path)
    launcher = FakeEngine(tmp_path)
    model = ServedModel("m", "1", tmp_path, "")
    pace = replace(PACE, handover=0.1)
    supervised = SupervisedEngine(launcher, model, "m#1", Announcer(files).publish, pace, files.held)
    supervised.start()
    until(lambda: supervised.ready)
    worker = FollowedDeployment(files, Routes())
    followed = worker._engine(
        {"route": "m#1", "name": "m", "version": "1", "folder": "", "precision": "", "address": None,
         "state": "ready", "error": "", "restarts": 0, "since": 0.0, "awaited": False}
    )  # fmt: skip
    followed.hold()
    assert supervised.in_flight == 1
    draining = threading.Thread(target=supervised.drain, args=(60.0,))
    draining.start()
    draining.join(0.5)
    assert launcher.launched[0].process.poll() is None
    followed.release()
    draining.join(20)
    assert launcher.launched[0].process.poll() is not None
    followed.close()


def test_the_comparison_engine_is_started_when_a_worker_wants_it(sides, tmp_path, monkeypatch):
    deployment, announcer, worker, _, _ = sides
    monkeypatch.setattr("ragtune_serving.shared_engines._WAIT_SECONDS", 0.3)
    go_live(deployment, announcer, engine("v1", tmp_path))
    deployment.comparison = engine("base", tmp_path)
    with pytest.raises(EngineError, match="comparison engine"):
        worker.engine_for("ragtune-base")
    announcer.announce(deployment)
    assert deployment.asked == ["ragtune-base"]
    assert worker.engine_for("ragtune-base").model.version == "base"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    index_documents(home)
    upstream = ScriptedUpstream()
    gateway = Gateway(
        home,
        background=True,
        RAGTUNE_GATEWAY__WORKERS="2",
        RAGTUNE_ENGINE__BACKEND="openai",
        RAGTUNE_ENGINE__URL=upstream.url,
        RAGTUNE_ENGINE__MODEL="fake",
        RAGTUNE_ANSWER__QUOTATIONS="false",
        RAGTUNE_ANSWER__REFUSED_SHARE="0",
    )
    gateway.upstream = upstream
    try:
        yield gateway.wait()
    finally:
        gateway.kill()
        upstream.close()


def workers(gateway) -> list[psutil.Process]:
    running = []
    for child in psutil.Process(gateway.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a killed one has no command line until somebody waits for it
            if "ragtune_serving.worker" in child.cmdline():
                running.append(child)
    return running


def ask(gateway, key: str = "") -> httpx.Response:
    """Ask on a connection of its own, so that either worker may take it."""
    body = {"model": "ragtune", "messages": [{"role": "user", "content": QUESTION}]}
    headers = {"Authorization": f"Bearer {key or gateway.key}"}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def answered(gateway) -> float:
    name = 'ragtune_requests_total{model="ragtune",outcome="answered"}'
    lines = gateway.request("GET", "/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), 0.0)


def ready_connections(gateway) -> None:
    """Wait until twenty connections in a row meet a worker that is ready."""
    until(lambda: all(httpx.get(f"{gateway.url}/health/readiness", timeout=60).json()["status"] == "ready"
                      and httpx.get(f"{gateway.url}/health/readiness", timeout=60).json()["retrieval"]
                      for _ in range(20)), 300)  # fmt: skip


def test_two_workers_answer_count_together_and_follow_revoked_keys(gateway):
    ready_connections(gateway)
    assert len(workers(gateway)) == 2
    before = answered(gateway)
    assert [ask(gateway).status_code for _ in range(12)] == [200] * 12
    assert {answered(gateway) for _ in range(6)} == {before + 12}
    key = gateway.cli("keys", "add", "soon gone").stdout.strip()
    assert ask(gateway, key).status_code == 200
    assert gateway.cli("keys", "revoke", "soon gone").returncode == 0
    assert [ask(gateway, key).status_code for _ in range(8)] == [401] * 8


def test_a_worker_that_is_killed_is_started_again(gateway):
    killed, other = workers(gateway)
    killed.kill()
    until(lambda: len(workers(gateway)) == 2 and killed.pid not in {worker.pid for worker in workers(gateway)}, 120)
    ready_connections(gateway)
    assert other.pid in {worker.pid for worker in workers(gateway)}
    assert [ask(gateway).status_code for _ in range(6)] == [200] * 6


def test_a_stop_finishes_open_answers_and_leaves_no_process_and_no_lost_response(gateway):
    gateway.upstream.behaviour = "slow"
    gateway.upstream.words = [*WORDS, "More", "text", "follows", "word", "by", "word."]
    body = {"model": "ragtune", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    headers = {"Authorization": f"Bearer {gateway.key}"}
    left = workers(gateway)
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=60) as answer:
        lines = (line for line in answer.iter_lines() if line)
        first = next(lines)
        gateway.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert rest[-1] == "data: [DONE]"
    assert gateway.process.wait(60) == 0, gateway.log.read_text()
    until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in left))
    log = FeedbackLog(f"sqlite:///{gateway.home / 'feedback' / 'feedback.db'}")
    assert log.response(json.loads(first.removeprefix("data: "))["id"]) is not None
    log.close()
