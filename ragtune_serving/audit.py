"""The audit log: who changed what, over HTTP, in the console and on the command line.

Each entry is a line of JSON in `RAGTUNE_HOME/audit/audit.jsonl`, written in one step, so that several processes can
add to it. Questions are not here: the feedback log has them with the key that asked.
"""

import getpass
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragtune.store.timestamps import now

_ACTOR = "ragtune_actor"
"""Name of the ASGI scope's entry that says who sends a request."""
_READING = ("GET", "HEAD", "OPTIONS")
_ASKING = ("/v1/chat/completions", "/v1/embeddings", "/console/v1/chat/completions")
"""Paths that change nothing, although their method is POST."""
_FORBIDDEN = 403
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Actor:
    """Who sends a request: the name and role of the key; and what it is about, if the path does not say it."""

    name: str = ""
    role: str = ""
    target: str = ""


def actor_of(scope: Scope) -> Actor:
    """Return who sends a request, to be filled in; nobody reads it if the request passed no `Audited`."""
    actor: Actor = scope.get(_ACTOR) or Actor()
    return actor


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change, or an attempt that was refused.

    `actor` is the name of a key, or of the user of the operating system. `via` is `http`, `console` or `command`.
    `status` is that of HTTP, 0 for a command. `request_id` stands in the gateway's log, too.
    """

    at: str
    actor: str
    role: str
    via: str
    action: str
    target: str
    status: int = 0
    address: str = ""
    request_id: str = ""


class AuditLog:
    """The entries of a home."""

    def __init__(self, home: Path) -> None:
        self._file = home / "audit" / "audit.jsonl"

    def add(self, entry: Entry) -> None:
        """Append an entry; an error of the disk is logged, because what the entry is about has happened already."""
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # by a disk that was full
                os.write(descriptor, f"{chr(10) * is_cut}{line}".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.error("the audit log cannot be written: %s: %s", error, line.strip())

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, oldest first. A damaged line, such as one that a full disk cut off, is skipped."""
        if not self._file.is_file():
            return
        with self._file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    yield Entry(**json.loads(line))
                except (ValueError, TypeError):
                    logger.warning("a line of %s is damaged", self._file)


def record_command(home: Path, action: str, target: str) -> None:
    """Add an entry for a change that a command made; the actor is the user of this machine."""
    entry = Entry(at=now(), actor=getpass.getuser(), role="", via="command", action=action, target=target)
    AuditLog(home).add(entry)


class Audited:
    """Adds every change by a key, and every attempt that its role does not allow.

    The entry is written before the response starts, because a response without a body ends with its headers: who has
    the response finds the entry.
    """

    def __init__(self, app: ASGIApp, log: AuditLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; the apps that it reaches fill in who sends it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        actor, status, request_id, is_written = Actor(), 0, "", False

        def write() -> None:
            nonlocal is_written
            is_change = scope["method"] not in _READING and not scope["path"].rstrip("/").endswith(_ASKING)
            if is_written or not actor.name or not (is_change or status == _FORBIDDEN):
                return
            is_written = True
            self._log.add(
                Entry(
                    at=now(),
                    actor=actor.name,
                    role=actor.role,
                    via="console" if scope["path"].startswith("/console") else "http",
                    action=f"{scope['method']} {scope['path']}",
                    target=actor.target,
                    status=status,
                    address=(scope.get("client") or ("",))[0],
                    request_id=request_id,
                )
            )

        async def send_and_look(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.lower(): value for name, value in message.get("headers", [])}
                request_id = headers.get(b"x-request-id", b"").decode("latin-1")
                write()
            await send(message)

        try:
            await self._app({**scope, _ACTOR: actor}, receive, send_and_look)
        finally:
            write()
