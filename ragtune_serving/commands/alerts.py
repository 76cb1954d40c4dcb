"""`alerts`: looks for problems of the home again and again, and tells people about them."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import Annotated

import typer

from ragtune.settings import Settings, load_settings
from ragtune.store.problems import Problem
from ragtune_serving.alerts import Alerts
from ragtune_serving.attention import gateway_away, gateway_status, problems
from ragtune_serving.terminal import err, out

_START_SECONDS = 120.0
"""How long a gateway may be away before people are told: `ragtune up` restarts a killed one, which takes up to a minute
on a busy machine. Chosen by hand."""
_ASK_SECONDS = 2.0
"""Between two tries in that time; chosen by hand, not sensitive."""
logger = logging.getLogger(__name__)


def look(settings: Settings, patience: float, ending: threading.Event) -> list[Problem]:
    """Return everything that needs a person; a gateway that answers within `patience` seconds is not away."""
    end = time.monotonic() + patience
    gateway = gateway_status(settings)
    while not gateway["answers"] and time.monotonic() < end and not ending.wait(_ASK_SECONDS):
        gateway = gateway_status(settings)
    return [*gateway_away(gateway), *problems(settings, gateway)]


def alerts(
    once: Annotated[bool, typer.Option("--once", help="look once, tell what changed, and end")] = False,
) -> None:
    """Look for problems every few minutes and tell people (settings: alerts); `ragtune up` runs this too."""
    settings = load_settings()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    ending = threading.Event()
    watcher = Alerts(settings, lambda: look(settings, 0 if once else _START_SECONDS, ending), ending.is_set)
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
