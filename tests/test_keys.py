import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ragtune.errors import ResourceError, SettingsError
from ragtune_serving.cli import app
from ragtune_serving.keys import KeyStore, bearer
from ragtune_serving.limits import Limits


def test_the_first_key_is_returned_once_and_stored_for_the_client(tmp_path):
    store = KeyStore(tmp_path / "keys")
    key = store.ensure()
    assert key.startswith("rt-")
    assert store.ensure() == ""
    assert store.client_key() == key
    assert store.user(key) == "client"


def test_only_its_owner_can_read_the_client_file_and_the_server_stores_only_a_hash(tmp_path):
    store = KeyStore(tmp_path / "keys")
    key = store.ensure()
    assert (tmp_path / "keys" / "client.key").stat().st_mode & 0o777 == 0o600
    assert key not in (tmp_path / "keys" / "keys.json").read_text()


def test_a_wrong_key_belongs_to_nobody(tmp_path):
    store = KeyStore(tmp_path / "keys")
    key = store.ensure()
    assert [store.user(k) for k in ("", "rt-", key[:-1], key + "x")] == [""] * 4


def test_a_key_of_another_process_is_accepted_without_a_restart(tmp_path):
    server = KeyStore(tmp_path / "keys")
    first = server.ensure()
    assert server.user(first) == "client"
    second = KeyStore(tmp_path / "keys").create("laptop")
    assert server.user(second) == "laptop"
    assert server.user(first) == "client"


MAKER = """
import sys
from pathlib import Path
from ragtune_serving.keys import KeyStore
store = KeyStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    print(store.create(f"{sys.argv[2]}{number}"))
print(store.ensure())
"""


def test_keys_that_several_processes_make_in_the_same_moment_are_all_accepted(tmp_path):
    command = [sys.executable, "-c", MAKER, str(tmp_path / "keys")]
    running = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "abcd"
    ]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 4
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0].split() for process in running]
    store = KeyStore(tmp_path / "keys")
    for name, keys in zip("abcd", outputs, strict=True):
        assert [store.user(key) for key in keys[:10]] == [f"{name}{number}" for number in range(10)]
    clients = [key for keys in outputs for key in keys[10:]]
    assert [store.user(key) for key in clients] == ["client"]
    assert store.client_key() == clients[0]


def test_a_lost_client_file_gets_a_new_key_and_the_old_one_no_longer_works(tmp_path):
    store = KeyStore(tmp_path / "keys")
    old = store.ensure()
    (tmp_path / "keys" / "client.key").unlink()
    new = store.ensure()
    assert new
    assert new != old
    assert store.user(old) == ""


def test_a_missing_key_says_how_to_get_one(tmp_path):
    with pytest.raises(ResourceError, match="ragtune serve"):
        KeyStore(tmp_path).client_key()


def test_only_a_bearer_header_carries_a_key():
    assert bearer("Bearer abc") == "abc"
    assert bearer("bearer  abc ") == "abc"
    assert bearer("Basic abc") == ""
    assert bearer("") == ""


def test_a_key_has_the_role_that_it_was_made_with_and_the_local_client_may_do_everything(tmp_path):
    store = KeyStore(tmp_path / "keys")
    store.ensure()
    assert store.find(store.client_key()).role == "admin"
    key = store.find(store.create("app"))
    assert (key.name, key.role) == ("app", "application")
    with pytest.raises(SettingsError, match="one of application, annotator, reviewer, operator, admin"):
        store.create("x", "boss")


@pytest.mark.parametrize(
    ("role", "allowed", "refused"),
    [
        (
            "application",
            ["/v1/chat/completions", "/v1/models/ragtune", "/v1/feedback"],
            ["/status", "/v1/review/pairs"],
        ),
        ("annotator", ["/v1/review/decisions"], ["/v1/review/progress", "/v1/chat/completions", "/v1/feedback"]),
        ("reviewer", ["/v1/review/progress", "/v1/feedback"], ["/v1/chat/completions", "/metrics"]),
        ("operator", ["/status", "/metrics", "/v1/chat/completions"], ["/v1/review/pairs"]),
        ("admin", ["/status", "/v1/review/pairs", "/v1/chat/completions"], []),
    ],
)
def test_a_role_includes_its_routes_and_no_others(tmp_path, role, allowed, refused):
    store = KeyStore(tmp_path / "keys")
    key = store.find(store.create("ann", role))
    assert all(key.may_call(path) for path in allowed)
    assert not any(key.may_call(path) for path in refused)
    assert not KeyStore(tmp_path / "keys").find(store.create("bob")).may_call("/v1/modelsandmore")


def test_a_key_with_a_filter_is_kept_from_what_shows_texts_of_all_documents(tmp_path):
    store = KeyStore(tmp_path / "keys")
    for role in ("reviewer", "operator", "admin"):
        key = store.find(store.create(f"{role} of hr", role=role, filter_={"topic": "hr"}))
        for path in ("/v1/review/pairs", "/v1/studies", "/console/reviews/x", "/console/feedback", "/v1/shadows"):
            assert not key.may_call(path), (role, path)
        assert key.may_call("/console/knowledge")
    assert store.find(store.create("all", role="reviewer")).may_call("/v1/review/pairs")


def test_a_revoked_key_and_an_expired_one_work_no_longer_in_any_process(tmp_path):
    server, operator = KeyStore(tmp_path / "keys"), KeyStore(tmp_path / "keys")
    lasting, short = operator.create("ann"), operator.create("bob", expires_at="2001-01-01T00:00:00+00:00")
    assert server.user(lasting) == "ann"
    assert server.user(short) == ""
    operator.revoke("ann")
    assert server.user(lasting) == ""
    with pytest.raises(SettingsError, match="no key of 'ann'"):
        operator.revoke("ann")


def test_the_commands_add_list_and_revoke_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    key = run("add", "shop", "--days", "30", "--requests-per-minute", "5", "--filter", "topic=shop").strip()
    stored = KeyStore(tmp_path / "keys").find(key)
    assert (stored.role, stored.limits, stored.filter) == ("application", Limits(5), {"topic": "shop"})
    (listed,) = json.loads(run("list", "--json"))
    assert (listed["name"], listed["expired"], listed["requests_per_minute"]) == ("shop", False, 5)
    assert key not in run("list") + run("list", "--json")
    with pytest.raises(SettingsError, match="another name"):
        run("add", "client")
    assert "shop" in run("list")
    run("revoke", "shop")
    assert json.loads(run("list", "--json")) == []
