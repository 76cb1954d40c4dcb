"""Remembers Ctrl-C during a run of Dagster, which ignores it while the run starts.

Python writes every signal into a pipe, no matter who handles it, so this module sees it. It sends the first one again
if the run does not stop. The caller finds it in `seen`, at the latest after the run.
"""

import os
import signal
import threading
from types import TracebackType

AGAIN_AFTER = 3.0
"""Seconds after which an interrupt that had no effect is sent again: a run starts in one or two. Chosen by hand."""


class Interrupts:
    """Listens inside a `with` block of the main thread; `seen` says whether an interrupt came."""

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
        while signals := os.read(self._read, 1):
            if signals[0] in (signal.SIGINT, signal.SIGTERM) and not self.seen:
                self.seen = True
                if not self._over.wait(AGAIN_AFTER):
                    os.kill(os.getpid(), signal.SIGINT)
