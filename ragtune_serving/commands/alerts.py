"""`alerts`: looks for problems of the home again and again, and tells people about them."""

import logging
import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from ragtune.settings import load_settings
from ragtune_serving.alerts import Alerts
from ragtune_serving.attention import gateway_status, problems
from ragtune_serving.terminal import err, out

logger = logging.getLogger(__name__)


def alerts(
    once: Annotated[bool, typer.Option("--once", help="look once, tell what changed, and end")] = False,
) -> None:
    """Look for problems every few minutes and tell people (settings: alerts); `ragtune up` runs this too."""
    settings = load_settings()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    ending = threading.Event()
    watcher = Alerts(settings, lambda: problems(settings, gateway_status(settings)), ending.is_set)
    if once:
        out.print(watcher.step().text or "Nothing changed.")
        return

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        ending.set()

    signal.signal(signal.SIGTERM, end)
    err.print(f"Looking for problems; minutes between two looks: {settings.alerts.every_minutes:g}.")
    while not ending.is_set():
        try:
            watcher.step()
        except Exception:
            # The log says what went wrong, and the next look may work: a database that is locked is free again soon.
            logger.exception("a look for problems failed; the next one tries again")
        ending.wait(settings.alerts.every_minutes * 60)
