import subprocess
import sys

import pytest

from ragtune.errors import ResourceError
from ragtune_serving.keys import KeyStore, bearer


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
