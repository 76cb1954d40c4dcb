"""What `ragtune status` and `ragtune doctor` say about a home in trouble."""

import json
import sys
import threading
import time
from dataclasses import replace

import dagster as dg
import pytest
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from typer.testing import CliRunner

from ragtune.errors import ResourceError
from ragtune.records import Chunk, ResponseRecord, RetrievalRow
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.home_lock import exclusive
from ragtune.store.problems import problems_on_disk
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse
from ragtune_assets.dead_runs import alive
from ragtune_assets.health import problems
from ragtune_serving.attention import problems_of_gateway, problems_of_graph
from ragtune_serving.cli import app
from ragtune_serving.commands.alerts import look
from ragtune_serving.keys import KeyStore
from tests.support.releases import released

PLENTY = 1 << 50


@pytest.fixture
def settings(tmp_path, give_mlflow) -> Settings:
    give_mlflow(tmp_path / "home")
    return load_settings({"home": tmp_path / "home"})


def definitions(breaks: bool, version: str = "1") -> dg.Definitions:
    @dg.asset(code_version="1")
    def root() -> None: ...

    @dg.asset(deps=[root], code_version=version)
    def leaf() -> None:
        if breaks:
            raise ResourceError("The disk is full.", fix="free some space")

    return dg.Definitions([root, leaf])


def build(instance: dg.DagsterInstance, defs: dg.Definitions) -> str:
    job = defs.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey("root"), dg.AssetKey("leaf")]
    return job.execute_in_process(instance=instance, asset_selection=keys, raise_on_error=False).run_id


def test_a_failed_asset_is_named_with_its_reason_until_it_is_built(settings):
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = build(instance, definitions(breaks=True))
        (problem,) = problems(instance, settings, definitions(breaks=True))
        assert (problem.kind, problem.subject) == ("failed", "leaf")
        assert run_id[:8] in problem.what
        assert "The disk is full." in problem.what
        assert "it asks again in 1 min" in problem.fix
        build(instance, definitions(breaks=True))
        assert "2 runs of leaf failed" in problems(instance, settings, definitions(breaks=True))[0].what
        build(instance, definitions(breaks=False))
        assert [found.kind for found in problems(instance, settings, definitions(breaks=False))] == ["stale"]


def test_a_step_whose_process_was_killed_is_explained(settings):
    @dg.asset(code_version="1")
    def big() -> None:
        raise ChildProcessCrashException(pid=1, exit_code=-9)

    defs = dg.Definitions([big])
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance, asset_selection=[big.key], raise_on_error=False)
        (problem,) = problems(instance, settings, defs)
    assert problem.what.endswith("the process of the step was killed; usually memory ran out")


def test_a_run_without_a_process_is_stuck_and_one_with_a_process_is_not(settings, monkeypatch):
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions(breaks=False).resolve_implicit_global_asset_job_def()
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 24 * 3600)
        with alive(settings.home, run.run_id):
            assert problems(instance, settings, definitions(breaks=False)) == []
        (problem,) = problems(instance, settings, definitions(breaks=False))
        assert problem.what == f"run {run.run_id[:8]} has no process any more"


def test_corrections_that_no_run_takes_are_a_problem_after_an_hour(settings, monkeypatch):
    feedback = {"retrain_after": 2, "approval": False}
    settings = load_settings({"home": settings.home, "feedback": feedback})
    store = ArtifactStore(settings.home / "artifacts")
    text = "The letter x stands for a sum."
    chunk = Chunk(id="c", document_id="d", source="s", title="Letters", heading_path=(), text=text, position=0)
    store.set_current(store.write_records("chunks", [chunk]))
    log = FeedbackLog(settings.feedback_url)
    for name, question in (("r1", "What is x?"), ("r2", "Which letter stands here?")):
        log.record_response(replace(RESPONSE, id=name, question=question, chunk_ids=("c",)))
    log.add("r1", "down", correction="It stands for a sum.")
    started = time.time()
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(time, "time", lambda: started + 24 * 3600)
        log.add("r2", "up")
        assert problems(instance, settings, definitions(breaks=False)) == [], "one correction is not enough"
        log.add("r2", "down", correction="The letter x stands for it.")
        (problem,) = problems(instance, settings, definitions(breaks=False))
        assert problem.what.startswith("2 new corrections wait since 20")
        monkeypatch.setattr(time, "time", lambda: started)
        assert problems(instance, settings, definitions(breaks=False)) == [], "the sensor had no hour yet"
    log.close()


RESPONSE = ResponseRecord(
    id="r1",
    created_at="2026-01-01",
    question="What is x?",
    answer="y",
    model="ragtune",
    model_version="1",
    chunk_ids=(),
    cited_chunk_ids=(),
    refused=False,
)
ROW = RetrievalRow(
    run_id="r",
    measured_at="2026-01-01",
    index_sha256="i",
    dataset_sha256="d",
    embedder="minilm",
    chunks=10,
    n=100,
    recall_1=0.8,
    recall_5=0.9,
    recall_10=0.95,
    mrr_10=0.85,
    ndcg_10=0.85,
    p50_ms=10.0,
    p95_ms=20.0,
    index_bytes=1000,
)


def test_a_search_that_got_worse_and_a_full_disk_are_problems(settings):
    warehouse = Warehouse(settings.home / "warehouse.duckdb")
    warehouse.append([ROW])
    assert problems_on_disk(settings, PLENTY) == []
    warehouse.append([replace(ROW, recall_10=0.85, p95_ms=50.0)])
    found = problems_on_disk(settings, 1 << 30)
    assert [problem.kind for problem in found] == ["full", "worse", "worse"]
    assert "1.0 GiB are free" in found[0].what
    assert "recall@10 fell from 0.950 to 0.850" in found[1].what
    assert "up to 50 ms instead of 20 ms" in found[2].what


def test_a_gateway_with_an_engine_that_restarts_and_a_champion_that_it_refuses_is_a_problem():
    engine = {"version": "3", "restarts": 0, "error": ""}
    assert problems_of_gateway({"live": engine, "champion": "3", "error": ""}) == []
    assert problems_of_gateway({"live": None, "error": "no gateway"}) == []
    (problem,) = problems_of_gateway({"live": engine, "champion": "3", "error": "", "retrieval": False})
    assert (problem.subject, problem.fix) == ("index", "run `ragtune index`")
    restarting = {**engine, "restarts": 5, "error": "out of memory"}
    (problem,) = problems_of_gateway({"live": restarting, "champion": "3", "error": ""})
    assert "the engine of version 3 restarted 5 times: out of memory" in problem.what
    (problem,) = problems_of_gateway({"live": engine, "champion": "4", "error": "a file is missing"})
    assert "version 4 is the champion, but 3 is served: a file is missing" in problem.what
    failing = {"version": "4", "restarts": 7, "error": "no CUDA device"}
    (problem,) = problems_of_gateway({"live": engine, "next": failing, "champion": "4", "error": ""})
    assert "version 4 is the champion, but 3 is served: Its engine does not start: no CUDA device" in problem.what


def test_an_asset_graph_that_cannot_be_read_is_a_problem_itself(settings, monkeypatch):
    assert problems_of_graph(settings) == []
    (settings.home / "dagster").mkdir()
    monkeypatch.setenv("RAGTUNE_SEED", "many")
    (problem,) = problems_of_graph(settings)
    assert problem.what.startswith("the asset graph cannot be read: ")


def test_a_look_at_the_asset_graph_that_is_killed_says_so(settings, monkeypatch, tmp_path):
    (settings.home / "dagster").mkdir()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    (problem,) = problems_of_graph(settings)
    assert problem.what == "the look at the asset graph was ended by signal 9"


def test_status_shows_a_broken_version_who_builds_and_what_uses_the_disk(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("RAGTUNE_HOME", str(settings.home))
    monkeypatch.chdir(tmp_path)
    registry = ModelRegistry(settings)
    folder = released(settings.home)
    registry.move("champion", registry.register(folder))
    (folder / "w8a8" / "model.safetensors").unlink()
    with exclusive(settings.home, "a test"):
        report = json.loads(CliRunner().invoke(app, ["status", "--json"], catch_exceptions=False).stdout)
        text = CliRunner().invoke(app, ["status"], catch_exceptions=False).stdout
    assert report["aliases"]["champion"] == "1"
    assert report["building"].endswith("(a test)")
    assert report["disk"]["used"]["models"] > 0
    assert [problem["subject"] for problem in report["problems"]] == ["version 1"]
    assert "version 1 (champion) cannot be served: w8a8/model.safetensors" in text
    assert "how to fix: run `ragtune rollback`" in text


def test_a_gateway_that_does_not_answer_is_said_and_nothing_is_called_healthy(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("RAGTUNE_HOME", str(settings.home))
    monkeypatch.setenv("RAGTUNE_GATEWAY__PORT", "9")  # discard: nothing listens there
    monkeypatch.chdir(tmp_path)
    assert "There is no key at" in run_cli("status").stdout, "no gateway has ever served this home"
    KeyStore(settings.home / "keys").ensure()
    text = " ".join(run_cli("status").stdout.split())
    assert "No answers are given now" in text
    assert "No gateway answers at http://127.0.0.1:9. (GET http://127.0.0.1:9/status)" in text
    assert "how to fix: run `ragtune serve`" in text
    assert "Nothing that is on the disk needs your attention." in text
    assert "Nothing needs your attention" not in text
    gateway = json.loads(run_cli("status", "--json").stdout)["gateway"]
    assert (gateway["answers"], gateway["url"]) == (False, "http://127.0.0.1:9")
    assert "No answers are given now" in " ".join(run_cli("doctor").stdout.split())
    told = run_cli("alerts", "--once").stdout
    assert "No gateway answers at http://127.0.0.1:9" in told
    monkeypatch.setenv("RAGTUNE_GATEWAY_URL", "http://127.0.0.1:9/v1")
    assert "correct RAGTUNE_GATEWAY_URL" in run_cli("status").stdout


def test_alerts_give_a_gateway_time_to_start_again(settings):
    KeyStore(settings.home / "keys").ensure()
    settings = load_settings({"home": settings.home, "gateway_url": "http://127.0.0.1:9"})
    ending = threading.Event()
    stopped = threading.Timer(0.5, ending.set)
    stopped.start()
    started = time.monotonic()
    assert [problem.subject for problem in look(settings, 60.0, ending)] == ["no gateway"]
    assert 0.4 < time.monotonic() - started < 50, "it asks again until the end of its patience or of the program"
    stopped.join()


def run_cli(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_status_goes_on_if_mlflow_and_the_feedback_log_are_away(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("RAGTUNE_HOME", str(settings.home))
    monkeypatch.setenv("RAGTUNE_TRACKING__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("RAGTUNE_FEEDBACK__URL", "sqlite:////sys/nowhere/feedback.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    report = json.loads(CliRunner().invoke(app, ["status", "--json"], catch_exceptions=False).stdout)
    assert report["aliases"]["champion"] is None
    assert report["feedback"]["responses"] is None
    assert {problem["subject"] for problem in report["problems"]} == {"registry", "feedback log"}
