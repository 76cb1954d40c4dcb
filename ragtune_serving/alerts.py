"""Tells people about problems of a home, when one begins and when it is over: in a log, by webhook, by e-mail.

`ragtune up` runs `ragtune alerts` next to the gateway. What was told is kept in a file, so a restart repeats nothing.
"""

import json
import logging
import smtplib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx

from ragtune.errors import SettingsError
from ragtune.settings import AlertSettings, Settings
from ragtune.store.artifacts import write_json
from ragtune.store.problems import Problem

logger = logging.getLogger(__name__)
_SECONDS = 20.0
"""How long a webhook or a mail server may take. Chosen by hand; the next look tries again."""


@dataclass(frozen=True, slots=True)
class Change:
    """Problems that began and problems that ended since the last look."""

    began: tuple[Problem, ...]
    ended: tuple[Problem, ...]

    @property
    def text(self) -> str:
        """The change for people, one line a problem, with its way out."""
        began = [f"{problem.kind}: {problem.what}\n  how to fix: {problem.fix}" for problem in self.began]
        return "\n".join([*began, *(f"over: {problem.what}" for problem in self.ended)])


class Alerts:
    """Compares the problems of now with those that people know about, and tells them the difference."""

    def __init__(
        self, settings: Settings, look: Callable[[], Sequence[Problem]], stopping: Callable[[], bool] = lambda: False
    ) -> None:
        check(settings.alerts)
        self.settings, self._look, self._stopping = settings.alerts, look, stopping
        self._file = settings.home / "alerts" / "known.json"
        self._home = settings.home

    def step(self) -> Change:
        """Look once. If a webhook or the mail server fails, the log says so and the next step tells it again.

        What is seen while the platform stops is not told: half of it is ending, and would look broken.
        """
        known = self._known()
        now = {(problem.kind, problem.subject): problem for problem in self._look()}
        if self._stopping():
            return Change((), ())
        change = Change(
            tuple(problem for key, problem in now.items() if key not in known),
            tuple(problem for key, problem in known.items() if key not in now),
        )
        if (change.began or change.ended) and self._tell(change):
            write_json(self._file, [asdict(problem) for problem in now.values()])
        return change

    def _known(self) -> dict[tuple[str, str], Problem]:
        rows = json.loads(self._file.read_text()) if self._file.is_file() else []
        return {(row["kind"], row["subject"]): Problem(**row) for row in rows}

    def _tell(self, change: Change) -> bool:
        """Send the change everywhere, and return whether everybody got it."""
        logger.warning("%s", change.text)
        reached = True
        for name, send in (("webhook", self._post), ("e-mail", self._mail)):
            try:
                send(change)
            except (httpx.HTTPError, OSError, smtplib.SMTPException) as error:
                logger.error("the %s failed and is tried again: %s", name, error)
                reached = False
        return reached

    def _post(self, change: Change) -> None:
        if self.settings.webhook:
            body: dict[str, Any] = {"home": str(self._home), "text": change.text, **asdict(change)}
            httpx.post(self.settings.webhook, json=body, timeout=_SECONDS).raise_for_status()

    def _mail(self, change: Change) -> None:
        if not self.settings.email_to:
            return
        message = EmailMessage()
        message["Subject"] = f"RagTune: {len(change.began)} new problems, {len(change.ended)} over"
        message["From"], message["To"] = self.settings.email_from, ", ".join(self.settings.email_to)
        message.set_content(f"{change.text}\n\nHome: {self._home}\n")
        host, _, port = self.settings.smtp.rpartition(":")
        with smtplib.SMTP(host, int(port), timeout=_SECONDS) as server:
            server.send_message(message)


def check(settings: AlertSettings) -> None:
    """Raise SettingsError if e-mail is asked for and the sender or the mail server is missing."""
    host, _, port = settings.smtp.rpartition(":")
    if settings.email_to and not (settings.email_from and host and port.isdigit()):
        raise SettingsError(
            f"alerts.email_to names {', '.join(settings.email_to)}, but alerts.email_from is "
            f"{settings.email_from!r} and alerts.smtp is {settings.smtp!r}.",
            expected="a sender, and a mail server as HOST:PORT",
            fix="set both, or leave alerts.email_to empty",
        )


def log_file(home: Path) -> Path:
    """Return the log of the alerts."""
    return home / "logs" / "alerts.log"
