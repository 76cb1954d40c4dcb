"""One writer at a time, tested with a real second process."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragtune.backends.elastic_lease import WriterLease
from ragtune.store.write_lock import write_lock

HOLD = (
    "import sys, time; from pathlib import Path; from ragtune.store.write_lock import write_lock\n"
    "with write_lock(Path(sys.argv[1]), 'x'):\n  print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def other_writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process


class Release(logging.Handler):
    """Ends the other writer as soon as somebody reports that it waits."""

    def __init__(self, writer: subprocess.Popen[str]) -> None:
        super().__init__()
        self.writer, self.notices = writer, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.notices.append(record.getMessage())
        assert self.writer.stdin
        self.writer.stdin.close()


def test_a_second_writer_says_who_writes_since_when_and_how_to_leave_and_then_goes_on(
    tmp_path: Path, other_writer: subprocess.Popen[str]
) -> None:
    release = Release(other_writer)
    logging.getLogger("ragtune.store.write_lock").addHandler(release)
    try:
        with write_lock(tmp_path / ".lock", "the search index"):
            other_writer.wait(30)
    finally:
        logging.getLogger("ragtune.store.write_lock").removeHandler(release)
    (notice,) = release.notices
    assert notice.startswith(f"Process {other_writer.pid} has been writing the search index ({tmp_path}) since 20")
    assert "Ctrl-C stops the waiting" in notice
    assert f"`kill {other_writer.pid}`" in notice


def test_a_lock_is_free_after_its_process_was_killed(tmp_path: Path, other_writer: subprocess.Popen[str]) -> None:
    other_writer.kill()
    other_writer.wait(30)
    with write_lock(tmp_path / ".lock", "the search index"):
        assert (tmp_path / ".lock.holder").is_file()
    assert not (tmp_path / ".lock.holder").exists()


class BusyCluster:
    """A cluster in which another machine holds the lease for the first looks."""

    def __init__(self) -> None:
        self.looks = 0

    def get(self, **_: object) -> dict[str, object]:
        self.looks += 1
        expires = 0.0 if self.looks > 3 else 1e12
        return {"_source": {"owner": "mars:17:f00", "expires": expires}, "_seq_no": 1, "_primary_term": 1}

    def index(self, **_: object) -> dict[str, int]:
        return {"_seq_no": 2, "_primary_term": 1}

    def delete(self, **_: object) -> None:
        pass


def test_a_second_writer_of_elasticsearch_says_which_machine_writes(caplog: pytest.LogCaptureFixture) -> None:
    lease = WriterLease(BusyCluster(), "ragtune-writer")
    lease.acquire()
    lease.release()
    (notice,) = [record.getMessage() for record in caplog.records]
    assert notice.startswith("Process 17 on mars writes the index ragtune-writer.")
