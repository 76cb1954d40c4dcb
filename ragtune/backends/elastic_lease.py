"""Allows one writer at a time on an Elasticsearch index: a lease in the cluster, renewed while its holder lives.

The lease is a document. It is taken and renewed by compare-and-set on the document's sequence number. So a
successful renewal proves that nobody else held the lease in between.
"""

import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from ragtune.errors import SearchIndexError

# Chosen by hand: three renewals may fail before the lease ends, and a dead writer blocks others for a minute at most.
LEASE_SECONDS = 60.0
RENEW_EVERY = 15.0
LOOK_EVERY = 0.5
NOTICE_EVERY = 60.0
logger = logging.getLogger(__name__)


class WriterLease:
    """The right to write. The lease of a dead process ends after 60 seconds, or at once on the same machine."""

    def __init__(self, client: Any, index: str) -> None:
        self._client, self._index = client, index
        self._owner = self._holder = ""
        self._revision: dict[str, int] = {}
        self._lost = ""
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Wait until the lease is free, take it, and renew it in a thread until `release`."""
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        notice_at = time.monotonic() + LOOK_EVERY
        while not self._take():
            if time.monotonic() >= notice_at:
                notice_at = time.monotonic() + NOTICE_EVERY
                logger.warning("%s", self._notice())
            time.sleep(LOOK_EVERY)
        self._lost, self._stop = "", threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, args=(self._stop,), daemon=True)
        self._thread.start()

    def _notice(self) -> str:
        """Return who writes and how to stop waiting."""
        host, _, rest = self._holder.partition(":")
        writer = f"Process {rest.partition(':')[0]} on {host}" if host else "Another process"
        return (
            f"{writer} writes the index {self._index}. This one waits and goes on as soon as it is done, or "
            f"{LEASE_SECONDS:.0f} s after it died. Ctrl-C stops the waiting."
        )

    @property
    def held(self) -> bool:
        """Whether this process holds the lease, as far as it knows now."""
        return self._thread is not None and not self._lost

    def check(self) -> None:
        """Raise SearchIndexError if another writer took the lease. Do nothing if `acquire` was never called."""
        if self._lost:
            raise SearchIndexError(
                f"Another writer took over the index, because this one did not renew its lease: {self._lost}",
                expected=f"a renewal every {RENEW_EVERY:.0f} seconds",
                fix="run the same command again",
            )

    def release(self) -> None:
        """Give the lease back. Do nothing if another writer has it; let it expire if the cluster does not answer."""
        from elasticsearch import ApiError, TransportError

        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not self._lost:
            try:
                self._client.delete(index=self._index, id="writer", **self._revision)
            except ApiError as error:
                if error.status_code not in (404, 409):
                    raise
            except TransportError:
                self._lost = "the cluster did not answer when the lease was given back"

    def _take(self) -> bool:
        from elasticsearch import ConflictError, NotFoundError

        try:
            try:
                lease = self._client.get(index=self._index, id="writer")
            except NotFoundError:
                self._write(op_type="create")
                return True
            free = time.time() >= lease["_source"]["expires"] or not _alive(lease["_source"]["owner"])
            self._holder = lease["_source"]["owner"]
            if not free and self._holder != self._owner:
                return False
            self._write(if_seq_no=lease["_seq_no"], if_primary_term=lease["_primary_term"])
        except ConflictError:
            return False
        return True

    def _write(self, **condition: Any) -> None:
        document = {"owner": self._owner, "expires": time.time() + LEASE_SECONDS}
        reply = self._client.index(index=self._index, id="writer", document=document, **condition)
        self._revision = {"if_seq_no": reply["_seq_no"], "if_primary_term": reply["_primary_term"]}

    def confirm(self) -> None:
        """Renew the lease now; raise SearchIndexError if somebody else holds it."""
        from elasticsearch import ConflictError, NotFoundError

        with self._renewing:
            try:
                self._write(**self._revision)
            except (ConflictError, NotFoundError) as error:
                # Our last renewal may have reached the cluster although its reply did not reach us.
                lease = self._client.options(ignore_status=404).get(index=self._index, id="writer")
                if lease.get("_source", {}).get("owner") == self._owner:
                    self._revision = {"if_seq_no": lease["_seq_no"], "if_primary_term": lease["_primary_term"]}
                else:
                    self._lost = str(error)
        self.check()

    def _keep_renewing(self, stop: threading.Event) -> None:
        from elasticsearch import ApiError, TransportError

        while not self._lost and not stop.wait(RENEW_EVERY):
            try:
                self.confirm()
            except SearchIndexError:
                return
            except (ApiError, TransportError):
                # While the cluster is down nobody can take the lease. The next renewal shows who has it.
                continue


def _alive(owner: str) -> bool:
    """Return whether the holder may still be alive; a process on another machine always may."""
    import psutil

    host, pid, _ = owner.split(":")
    return host != socket.gethostname() or psutil.pid_exists(int(pid))
