"""One build at a time in a home, tested with real processes: another Python, and runs with Dagster's own executor."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragtune.errors import ResourceError
from ragtune.settings import child_environment
from ragtune.store.home_lock import HOLDER, exclusive

ROOT = Path(__file__).parent.parent


def test_the_second_process_in_a_home_learns_which_one_is_there(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ragtune.errors import ResourceError\n"
        "from ragtune.store.home_lock import exclusive\n"
        "try:\n  exclusive(Path(sys.argv[1])).__enter__()\n"
        "except ResourceError as error:\n  sys.exit(str(error))"
    )
    with exclusive(tmp_path):
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
        assert other.returncode == 1
        assert f"Process {os.getpid()} (`ragtune materialize`) is already building" in other.stderr
    with exclusive(tmp_path):
        assert (tmp_path / HOLDER).read_text().splitlines()[0] == str(os.getpid())
    assert not (tmp_path / HOLDER).exists()


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Return a function that starts a run of Dagster in the home `tmp_path`."""
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = child_environment(DAGSTER_HOME=str(tmp_path / "dagster"), PYTHONPATH=str(ROOT))
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        with (tmp_path / "log").open("w") as log:
            command = [sys.executable, "-m", "tests.support.dagster_run", str(tmp_path)]
            started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)


def wait_for(condition: Callable[[], bool], log: Path) -> None:
    # A run starts in some 5 s; on a machine that is busy with other tests it takes longer.
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def test_a_run_of_dagster_waits_for_the_process_that_holds_the_lock_and_names_it(
    tmp_path: Path, start_run: Callable[[], subprocess.Popen[str]]
) -> None:
    log = tmp_path / "log"
    (tmp_path / "go").touch()
    with exclusive(tmp_path):
        run = start_run()
        wait_for(lambda: "is already building" in log.read_text(), log)
        assert f"Process {os.getpid()} (`ragtune materialize`) is already building the graph" in log.read_text()
        assert not (tmp_path / "started").exists()
    assert run.wait(timeout=90) == 0, log.read_text()
    assert (tmp_path / "started").exists()


def test_materialising_during_a_run_of_dagster_fails_and_names_the_run(
    tmp_path: Path, start_run: Callable[[], subprocess.Popen[str]]
) -> None:
    log = tmp_path / "log"
    run = start_run()
    wait_for((tmp_path / "started").exists, log)
    with pytest.raises(ResourceError, match=rf"Process {run.pid} \(run \w{{8}} of Dagster\) is already building"):
        exclusive(tmp_path).__enter__()
    (tmp_path / "go").touch()
    assert run.wait(timeout=90) == 0, log.read_text()
    with exclusive(tmp_path):
        pass


def test_a_waiting_run_can_be_interrupted(tmp_path: Path, start_run: Callable[[], subprocess.Popen[str]]) -> None:
    log = tmp_path / "log"
    with exclusive(tmp_path):
        run = start_run()
        wait_for(lambda: "is already building" in log.read_text(), log)
        run.terminate()
        assert run.wait(timeout=30) != 0
    assert not (tmp_path / "started").exists()


def test_a_killed_run_leaves_the_lock_free_and_its_step_ends_too(
    tmp_path: Path, start_run: Callable[[], subprocess.Popen[str]]
) -> None:
    run = start_run()
    wait_for((tmp_path / "started").exists, tmp_path / "log")
    step = int((tmp_path / "started").read_text())
    assert step != run.pid
    run.kill()
    run.wait(timeout=30)
    wait_for(lambda: not Path(f"/proc/{step}").exists() or "Z" in state(step), tmp_path / "log")
    with exclusive(tmp_path):
        pass


def state(pid: int) -> str:
    """Return the state of a process as Linux names it; Z is an ended one that nobody collected."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
