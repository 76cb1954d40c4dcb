"""Alerts: who gets which message, and how often, with a real HTTP server and one that speaks SMTP."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ragtune.errors import SettingsError
from ragtune.settings import load_settings
from ragtune.store.problems import Problem
from ragtune_serving.alerts import Alerts

FULL = Problem("full", "disk", "1 GiB is free", "run `ragtune prune`")
FAILED = Problem("failed", "qa_dataset", "a run failed", "run `ragtune materialize`")


class Hook:
    """A webhook that keeps what it gets; `status` is what it answers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []
        self.status = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever)
    thread.start()
    yield hook
    hook.server.shutdown()
    thread.join()
    hook.server.server_close()


def test_a_problem_is_told_once_when_it_begins_and_once_when_it_is_over(tmp_path, hook, caplog):
    settings = load_settings({"home": tmp_path, "alerts": {"webhook": hook.url}})
    now = [FULL]
    assert Alerts(settings, lambda: now).step().began == (FULL,)
    Alerts(settings, lambda: now).step()
    assert len(hook.bodies) == 1, "a restart tells nothing twice"
    assert hook.bodies[0]["text"] == "full: 1 GiB is free\n  how to fix: run `ragtune prune`"
    now.append(FAILED)
    now.remove(FULL)
    change = Alerts(settings, lambda: now).step()
    assert (change.began, change.ended) == ((FAILED,), (FULL,))
    assert "over: 1 GiB is free" in hook.bodies[1]["text"]
    assert "1 GiB is free" in caplog.text


def test_what_is_seen_while_the_platform_stops_is_not_told(tmp_path, hook):
    settings = load_settings({"home": tmp_path, "alerts": {"webhook": hook.url}})
    stopping = [False]

    def look() -> list[Problem]:
        stopping[0] = True  # a signal arrives in the middle of the look
        return [FULL]

    assert Alerts(settings, look, lambda: stopping[0]).step().began == ()
    assert hook.bodies == []
    assert Alerts(settings, lambda: [FULL]).step().began == (FULL,), "the next start tells it"


def test_a_webhook_that_fails_is_tried_again(tmp_path, hook, caplog):
    settings = load_settings({"home": tmp_path, "alerts": {"webhook": hook.url}})
    hook.status = 500
    alerts = Alerts(settings, lambda: [FULL])
    alerts.step()
    assert "the webhook failed and is tried again" in caplog.text
    hook.status = 200
    alerts.step()
    alerts.step()
    assert len(hook.bodies) == 2


class Mailbox(socketserver.StreamRequestHandler):
    """Speaks as much SMTP as one message needs, and keeps the text."""

    letters: list[str] = []  # noqa: RUF012

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self.wfile.write(b"354 go on\r\n")
                text = ""
                while (part := self.rfile.readline().decode()) != ".\r\n":
                    text += part
                self.letters.append(text)
            self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 ok\r\n")
            if line.upper() == "QUIT":
                return


def test_an_e_mail_names_the_problem_and_the_way_out(tmp_path):
    with socketserver.TCPServer(("127.0.0.1", 0), Mailbox) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        mail = {"email_to": ["ada@example.org"], "email_from": "ragtune@example.org", "smtp": address}
        Alerts(load_settings({"home": tmp_path, "alerts": mail}), lambda: [FULL]).step()
        server.shutdown()
        thread.join()
    (letter,) = Mailbox.letters
    assert "Subject: RagTune: 1 new problems, 0 over" in letter
    assert "To: ada@example.org" in letter
    assert "how to fix: run `ragtune prune`" in letter


def test_e_mail_without_a_server_is_refused_at_the_start(tmp_path):
    settings = load_settings({"home": tmp_path, "alerts": {"email_to": ["ada@example.org"]}})
    with pytest.raises(SettingsError, match="a mail server as HOST:PORT"):
        Alerts(settings, list)
