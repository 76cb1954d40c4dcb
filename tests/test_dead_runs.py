"""Runs whose process is gone, with locks and processes as they are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ragtune.settings import child_environment, load_settings
from ragtune.store.locks import held, is_held
from ragtune_assets.dagster_instance import open_instance
from ragtune_assets.dead_runs import alive, close_dead_runs, free_slots
from ragtune_assets.materialize import materialize
from ragtune_assets.resources import build_resources

pytestmark = pytest.mark.usefixtures("keep_environment")
ROOT = Path(__file__).parent.parent


@dg.asset(pool="gpu")
def trained() -> None:
    """Stand for an asset that needs the GPU."""


def job() -> dg.JobDefinition:
    return dg.Definitions([trained]).resolve_implicit_global_asset_job_def()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        yield instance


def start_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> str:
    """Return the id of a run that holds the only slot of the pool, and that no process executes."""
    run_id: str = instance.create_run_for_job(job(), status=status).run_id
    instance.event_log_storage.claim_concurrency_slot("gpu", run_id, "trained")
    return run_id


def slots_in_use(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info("gpu").active_slot_count


@pytest.mark.parametrize("status", ["STARTED", "STARTING", "CANCELING", "NOT_STARTED"])
def test_a_run_without_a_process_is_closed_as_failed_and_its_slot_is_free(instance, tmp_path, status):
    run_id = start_run(instance, dg.DagsterRunStatus[status])
    assert slots_in_use(instance) == 1
    assert close_dead_runs(instance, tmp_path, none_is_starting=True) == [run_id]
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE
    assert slots_in_use(instance) == 0


def test_a_run_with_a_process_and_a_run_that_is_just_starting_are_left_alone(instance, tmp_path):
    run_id = start_run(instance)
    assert close_dead_runs(instance, tmp_path) == [], "it is younger than the seconds in which a run takes its lock"
    with alive(tmp_path, run_id):
        assert close_dead_runs(instance, tmp_path, none_is_starting=True) == []
        assert slots_in_use(instance) == 1
    assert close_dead_runs(instance, tmp_path, none_is_starting=True) == [run_id]


def test_a_run_from_the_future_is_dead_because_the_clock_was_set_back(instance, tmp_path, monkeypatch):
    run_id = start_run(instance)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 7200)
    assert close_dead_runs(instance, tmp_path) == [run_id]


def test_a_slot_that_an_ended_run_left_is_freed(instance, tmp_path):
    run_id = start_run(instance)
    instance.report_run_failed(instance.get_run_by_id(run_id))
    assert slots_in_use(instance) == 1
    assert close_dead_runs(instance, tmp_path) == []
    assert slots_in_use(instance) == 0


def test_who_holds_the_home_frees_every_slot_but_its_own(instance):
    run_id = start_run(instance)
    free_slots(instance, but_of=run_id)
    assert slots_in_use(instance) == 1
    free_slots(instance)
    assert slots_in_use(instance) == 0


def test_a_materialisation_marks_its_runs_as_alive(tmp_path, instance):
    seen = []

    @dg.asset
    def looks(context: dg.AssetExecutionContext) -> None:
        seen.append(is_held(tmp_path / "dagster" / "running" / f"{context.run.run_id}.lock"))

    store = build_resources(load_settings({"home": tmp_path}))["store"]
    materialize(dg.Definitions([looks]), store, instance)
    assert seen == [True]
    assert list((tmp_path / "dagster" / "running").iterdir()) == []


def test_the_lock_of_a_killed_process_is_free_and_a_copy_of_a_held_one_is_too(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ragtune.store.locks import held\n"
        "with held(Path(sys.argv[1])):\n  print('held', flush=True); time.sleep(600)"
    )
    lock = tmp_path / "a.lock"
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    (tmp_path / "copy.lock").write_bytes(lock.read_bytes())
    assert is_held(lock)
    assert not is_held(tmp_path / "copy.lock")
    with pytest.raises(BlockingIOError):
        held(lock).__enter__()
    process.kill()
    process.wait()
    process.stdout.close()
    assert not is_held(lock)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_waits_for_a_pool_says_so_and_ends_at_a_signal_within_seconds(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.waiting_materialize", str(tmp_path)],
        env=child_environment(PYTHONPATH=str(ROOT)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # The tests may run in a background job, which ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    line = ""
    while "Waiting" not in line:
        line = process.stdout.readline()
        assert line, "it ended without waiting"
    assert "Waiting for the pool 'gpu': its limit is 0, held by nobody." in line
    os.kill(process.pid, number)
    # It takes a second. The rest is for a machine that is busy with other tests; Dagster alone waits without end.
    assert process.wait(timeout=60) == 130
    process.stdout.close()


def test_the_start_of_everything_closes_dead_runs(tmp_path):
    settings = load_settings({"home": tmp_path})
    environment = child_environment(RAGTUNE_HOME=str(tmp_path))
    with open_instance(settings) as instance:
        run_id = start_run(instance)
    command = [sys.executable, "-m", "ragtune_assets.dead_runs"]
    reply = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"Run {run_id[:8]} had no process any more and is closed as failed." in reply.stdout
    with open_instance(settings) as instance:
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE
        assert slots_in_use(instance) == 0
