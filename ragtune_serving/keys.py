"""API keys: the server stores hashes, the command line reads its own key from a file of mode 600.

A key has 256 random bits. Nobody can guess it, so a plain SHA-256 is enough and no salt or slow hash is needed.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ragtune.errors import ResourceError
from ragtune.store.artifacts import write_json
from ragtune.store.timestamps import now


class KeyStore:
    """The hashes of the accepted keys in `folder`/keys.json, and the local client's key in `folder`/client.key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes_file = folder / "keys.json"
        self._client_file = folder / "client.key"
        self._cache: tuple[tuple[int, int], dict[str, str]] = ((-1, -1), {})

    def ensure(self) -> str:
        """Create the local client's key if there is none; return a new key, or "" if there was one already."""
        with self._locked():
            if self._client_file.is_file() and self.user(self._client_file.read_text().strip()):
                return ""
            return self._create("client")

    def create(self, name: str) -> str:
        """Create a key, accept it under this name and return it; an earlier key of the name no longer works.

        The key of the name `client` is also written to the local key file.
        """
        with self._locked():
            return self._create(name)

    def _create(self, name: str) -> str:
        key = f"rt-{secrets.token_urlsafe(32)}"
        if name == "client":
            descriptor = os.open(self._client_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(key + "\n")
        entries = [entry for entry in self._entries() if entry["name"] != name]
        write_json(self._hashes_file, [*entries, {"name": name, "sha256": _sha256(key), "created_at": now()}])
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, so that no key is lost if several processes create keys at the same moment."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / ".write.lock"):
            yield

    def user(self, key: str) -> str:
        """Return the name that the key belongs to, or "" if it is not accepted."""
        user = ""
        # Every hash is compared, so the time does not depend on which one matches.
        for digest, name in self._accepted().items():
            if hmac.compare_digest(digest, _sha256(key)):
                user = name
        return user

    def client_key(self) -> str:
        """Return the local client's key; raise ResourceError if the gateway has not created one yet."""
        if not self._client_file.is_file():
            raise ResourceError(
                f"There is no key at {self._client_file}.",
                expected="the file that the gateway writes when it first starts",
                fix="run this in the folder of ragtune.yaml, run `ragtune serve` there once, or set RAGTUNE_API_KEY",
            )
        return self._client_file.read_text().strip()

    def _accepted(self) -> dict[str, str]:
        """Return {hash: name}; read the file again if another process changed it."""
        stat = self._hashes_file.stat() if self._hashes_file.is_file() else None
        # Two changes at the same moment share a time stamp, but every change writes a new file, with its own inode.
        state = (stat.st_mtime_ns, stat.st_ino) if stat else (0, 0)
        if state != self._cache[0]:
            self._cache = (state, {entry["sha256"]: entry["name"] for entry in self._entries()})
        return self._cache[1]

    def _entries(self) -> list[dict[str, str]]:
        if not self._hashes_file.is_file():
            return []
        entries: list[dict[str, str]] = json.loads(self._hashes_file.read_text())
        return entries


def bearer(header: str) -> str:
    """Return the token of an `Authorization: Bearer` header, or "" if it has another scheme."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
