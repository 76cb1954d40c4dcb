"""Writes responses to the feedback log in a background thread, so that no answer waits for a slow or full disk."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

import sqlalchemy as sa

from ragtune.records import Exposure, ResponseRecord
from ragtune.store.feedback import FeedbackLog

MOST_PENDING = 10_000
"""Responses that wait in memory; of more, the oldest are dropped. Chosen by hand: some 30 MB."""
_BATCH = 256
"""Responses in one transaction; chosen by hand, not sensitive."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
"""Seconds between attempts to write after an error; each pause is twice the one before. Chosen by hand."""
_CLOSE_SECONDS = 5.0
"""How long `close` waits for the last responses; chosen by hand: less than the gateway's time to stop."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written of a request: its response, its exposure to an experiment, or both."""

    record: ResponseRecord | None
    exposure: Exposure | None

    @property
    def id(self) -> str:
        """The id of the response."""
        return self.record.id if self.record else self.exposure.response_id if self.exposure else ""


class ResponseRecorder:
    """Takes responses at once and writes them in a thread.

    `error` is the problem that keeps the log from being written, or ""; `dropped` counts the responses that were lost.
    """

    def __init__(self, log: FeedbackLog, most_pending: int = MOST_PENDING) -> None:
        self.error, self.dropped = "", 0
        self._log, self._most_pending = log, most_pending
        self._pending: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._write, name="record-responses", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """The number of responses that are not written yet."""
        return len(self._pending)

    def add(self, record: ResponseRecord | None, exposure: Exposure | None = None) -> None:
        """Take a response with its exposure to an experiment; without a response only the exposure is written.

        It never waits for the disk and never fails.
        """
        with self._changed:
            if len(self._pending) >= self._most_pending:
                self._pending.popleft()
                self.dropped += 1
            self._pending.append(Entry(record, exposure))
            self._changed.notify_all()

    def holds(self, response_id: str, wait: float) -> bool:
        """Wait up to `wait` seconds until a response is written; return whether this recorder still holds it."""
        with self._changed:
            return not self._changed.wait_for(lambda: all(entry.id != response_id for entry in self._pending), wait)

    def counts(self) -> tuple[int, int] | None:
        """Return the numbers of recorded responses and verdicts, or None if the log cannot be read."""
        try:
            return self._log.count_responses(), self._log.count_since(0)
        except sa.exc.OperationalError as error:
            self._report(f"The feedback log cannot be read: {error.orig}")
            return None

    def close(self) -> None:
        """Write what is pending, if that is possible within seconds, and end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_SECONDS)
        if self._pending:
            logger.error("%d responses were not written to the feedback log: %s", len(self._pending), self.error)

    def _write(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._ending)
                batch = list(self._pending)[:_BATCH]
            if not batch:
                return
            try:
                self._store(batch)
            except sa.exc.OperationalError as error:  # a full or read-only disk, a lock, a server that is away
                self._report(f"The feedback log cannot be written: {error.orig}")
                if self._ending:
                    return
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._report("")
            pause = _FIRST_PAUSE
            stored = {entry.id for entry in batch}
            with self._changed:
                while self._pending and self._pending[0].id in stored:
                    self._pending.popleft()
                self._changed.notify_all()

    def _store(self, batch: list[Entry]) -> None:
        """Write a batch; a response that the database refuses for what it contains is dropped and logged."""
        try:
            records = [entry.record for entry in batch if entry.record]
            self._log.record_responses(records, [entry.exposure for entry in batch if entry.exposure])
        except sa.exc.OperationalError:
            raise
        except (sa.exc.SQLAlchemyError, ValueError) as error:
            if len(batch) > 1:
                for entry in batch:
                    self._store([entry])
                return
            self.dropped += 1
            logger.error("response %s cannot be recorded: %s", batch[0].id, type(error).__name__)

    def _report(self, message: str) -> None:
        if message and not self.error:
            logger.error(message)
        if self.error and not message:
            logger.info("the feedback log is written again")
        self.error = message
