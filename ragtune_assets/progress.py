"""Logs the progress of long work, on the console of `ragtune materialize` and in Dagster."""

import logging
import time
from typing import TextIO

LOGGER = logging.getLogger("ragtune")


def log_to(stream: TextIO) -> None:
    """Write log lines with their time to a stream, and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


class LoggedProgress:
    """A `Progress` that logs at most one line per `interval` seconds and task, and the end of each task."""

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self._last: dict[str, float] = {}

    def __call__(self, task: str, done: int, total: int) -> None:
        """Log how far the task is; a total of 0 means that the total is unknown."""
        finished = total > 0 and done >= total
        now = time.monotonic()
        if not finished and now - self._last.get(task, -self.interval) < self.interval:
            return
        self._last[task] = now
        LOGGER.info("%s %d%s", task, done, f" of {total}" if total else "")
