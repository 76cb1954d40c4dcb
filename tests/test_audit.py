"""Who changed what is written down: over HTTP, in the console and on the command line."""

import getpass
import json
import stat

import pytest
from typer.testing import CliRunner

from ragtune_serving.audit import AuditLog, record_command
from ragtune_serving.cli import app
from tests.support.served_gateway import QUESTION, scripted_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with scripted_gateway(tmp_path_factory.mktemp("home")) as served:
        yield served


def added(gateway, action) -> list[dict]:
    """Return the entries that an action adds, without their times and ids."""
    log = AuditLog(gateway.settings.home)
    before = len(list(log.entries()))
    action()
    fields = ("actor", "role", "via", "action", "target", "status")
    return [{name: getattr(entry, name) for name in fields} for entry in list(log.entries())[before:]]


def test_a_change_by_a_key_is_written_down_with_who_did_what(gateway):
    response_id = gateway.ask().json()["id"]
    body = {"response_id": response_id, "rating": "up"}
    (entry,) = added(gateway, lambda: gateway.request("POST", "/v1/feedback", json=body))
    assert entry == {
        "actor": "client",
        "role": "admin",
        "via": "http",
        "action": "POST /v1/feedback",
        "target": "",
        "status": 200,
    }
    last = list(AuditLog(gateway.settings.home).entries())[-1]
    assert last.request_id
    assert last.address == "127.0.0.1"


def test_the_name_of_what_is_started_is_the_target(gateway):
    body = {"name": "quick", "candidates": ["7"]}
    (entry,) = added(gateway, lambda: gateway.request("POST", "/v1/experiments", json=body))
    assert (entry["target"], entry["status"]) == ("quick", 409)


def test_what_a_role_may_not_do_is_written_down_and_questions_and_reading_are_not(gateway):
    key = gateway.keys.create("shop")
    headers = {"Authorization": f"Bearer {key}"}
    (entry,) = added(gateway, lambda: gateway.request("GET", "/status", headers=headers))
    assert (entry["actor"], entry["role"], entry["status"]) == ("shop", "application", 403)
    assert added(gateway, lambda: gateway.ask_with(key, QUESTION)) == []
    assert added(gateway, lambda: gateway.request("GET", "/v1/models")) == []
    wrong = {"Authorization": "Bearer rt-wrong"}
    assert added(gateway, lambda: gateway.request("POST", "/v1/feedback", json={}, headers=wrong)) == []


def test_whoever_signs_in_to_the_console_is_written_down(gateway):
    form = {"key": gateway.key, "to": "/console"}
    (entry,) = added(gateway, lambda: gateway.request("POST", "/console/sign-in", data=form))
    assert (entry["actor"], entry["via"], entry["action"]) == ("client", "console", "POST /console/sign-in")


def test_a_command_that_changes_something_is_written_down_by_the_user_and_shown(tmp_path):
    environment = {"RAGTUNE_HOME": str(tmp_path)}
    runner = CliRunner()
    key = runner.invoke(app, ["keys", "add", "bob", "--role", "reviewer"], env=environment).output.strip()
    runner.invoke(app, ["keys", "revoke", "bob"], env=environment)
    shown = json.loads(runner.invoke(app, ["audit", "--json"], env=environment).output)
    assert [(row["actor"], row["via"], row["action"], row["target"]) for row in shown] == [
        (getpass.getuser(), "command", "keys add", "bob, role reviewer"),
        (getpass.getuser(), "command", "keys revoke", "bob"),
    ]
    file = tmp_path / "audit" / "audit.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    assert "keys revoke (bob)" in runner.invoke(app, ["audit", "--last", "1"], env=environment).output
    assert "Nothing" in runner.invoke(app, ["audit", "--actor", "nobody"], env=environment).output


def test_a_disk_that_is_full_is_logged_and_fails_nothing_and_a_cut_line_is_left_out(tmp_path, caplog):
    record_command(tmp_path, "rollback", "version 1")
    file = tmp_path / "audit" / "audit.jsonl"
    with file.open("a") as stream:
        stream.write('{"at": "2026')
    record_command(tmp_path, "rollback", "version 0")
    assert [entry.target for entry in AuditLog(tmp_path).entries()] == ["version 1", "version 0"]
    (tmp_path / "file").write_text("")
    record_command(tmp_path / "file", "rollback", "version 2")
    assert "the audit log cannot be written" in caplog.text
    assert "version 2" in caplog.text
