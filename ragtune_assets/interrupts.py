"""Remembers Ctrl-C while a run of Dagster is on, which ignores it as long as the run starts.

Python writes every signal into a pipe, whoever handles it. The first one is sent again when the
run goes on regardless, and the caller learns of it at the latest when the run is over.
"""

import os
import signal
import threading
from types import TracebackType

AGAIN_AFTER = 3.0
"""Seconds after which an interrupt that had no effect is sent again."""


class Interrupts:
    """Listens inside a `with` block of the main thread; `seen` tells whether one came."""

    def __enter__(self) -> "Interrupts":
        """Begin to listen."""
        self.seen = False
        self._over = threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        signal.set_wakeup_fd(self._before)
        self._over.set()
        os.close(self._write)
        self._listener.join()
        os.close(self._read)

    def _listen(self) -> None:
        while heard := os.read(self._read, 1):
            if heard[0] in (signal.SIGINT, signal.SIGTERM) and not self.seen:
                self.seen = True
                if not self._over.wait(AGAIN_AFTER):
                    os.kill(os.getpid(), signal.SIGINT)
