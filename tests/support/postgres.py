"""A real PostgreSQL for tests: the one that RAGTUNE_TEST_POSTGRES_URL names, else a private one, else a skip."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ragtune.backends.engines import free_port

VARIABLE = "RAGTUNE_TEST_POSTGRES_URL"
START_SECONDS = 60.0


@contextmanager
def postgres_url() -> Iterator[str]:
    """Yield the URL of a server that is up, or skip the test with the reason."""
    if url := os.environ.get(VARIABLE, ""):
        yield url
        return
    programs = [_program(name) for name in ("initdb", "postgres")]
    if not all(programs):
        pytest.skip(f"{VARIABLE} is not set and there are no `initdb` and `postgres`: no PostgreSQL to test against")
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        yield from _private_server(Path(folder), *programs)


@contextmanager
def schema_of_its_own(server: str) -> Iterator[str]:
    """Yield a URL that leads into a new schema, which is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        inside = sa.make_url(server).update_query_dict({"options": f"-csearch_path={name}"})
        yield inside.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")


def _program(name: str) -> str:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else "")


def _private_server(folder: Path, initdb: str, postgres: str) -> Iterator[str]:
    """Yield the URL of a server whose files and sockets are in the folder, and end it afterwards."""
    data, password, log = folder / "data", folder / "password", folder / "log"
    secret, port = secrets.token_urlsafe(16), free_port()
    password.write_text(secret)
    account = _unprivileged(folder)
    access = ["--username=tests", f"--pwfile={password}", "--auth=scram-sha-256"]
    with log.open("wb") as output:
        place: dict[str, Any] = {**account, "cwd": folder, "stdout": output, "stderr": output}
        made = subprocess.run([initdb, f"--pgdata={data}", "--no-sync", "--encoding=UTF8", *access], **place)
        assert made.returncode == 0, log.read_text()
        listening = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
        process = subprocess.Popen([postgres, "-D", str(data), "-F", *listening], **place)
    try:
        url = f"postgresql://tests:{secret}@127.0.0.1:{port}/postgres"
        _wait(url, process, log)
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        process.wait(START_SECONDS)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Return how to run a program as somebody else where we are root, which PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return {}
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    chosen = accounts.get("postgres") or accounts["nobody"]
    for path in (folder, *folder.iterdir()):
        os.chown(path, chosen.pw_uid, chosen.pw_gid)
    return {"user": chosen.pw_uid, "group": chosen.pw_gid, "extra_groups": []}


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        else:
            return
