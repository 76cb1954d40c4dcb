"""API keys: the server keeps hashes, the command line reads one file of mode 600.

A key has 256 random bits, so a plain SHA-256 is enough: there is nothing to guess.
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
from ragtune.store.feedback import now


class KeyStore:
    """Hashes of the accepted keys in `folder`/keys.json, and the local client's own key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes_file = folder / "keys.json"
        self._client_file = folder / "client.key"
        self._seen: tuple[tuple[int, int], dict[str, str]] = ((-1, -1), {})

    def ensure(self) -> str:
        """Make the local client's key when there is none; return it when it is new, else ''."""
        with self._changing():
            if self._client_file.is_file() and self.user(self._client_file.read_text().strip()):
                return ""
            return self._created("client")

    def create(self, name: str) -> str:
        """Make and accept a new key under a name; the name `client` also writes the local key file."""
        with self._changing():
            return self._created(name)

    def _created(self, name: str) -> str:
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
    def _changing(self) -> Iterator[None]:
        """Hold the folder's lock, so that of keys made in the same moment none is lost."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / ".write.lock"):
            yield

    def user(self, key: str) -> str:
        """Return the name that the key belongs to, or '' for a key that is not accepted."""
        found = ""
        for digest, name in self._accepted().items():
            if hmac.compare_digest(digest, _sha256(key)):
                found = name
        return found

    def client_key(self) -> str:
        """Return the local client's key; raise ResourceError when the gateway never made one."""
        if not self._client_file.is_file():
            raise ResourceError(
                f"There is no key at {self._client_file}.",
                expected="the file that the gateway writes when it first starts",
                fix="run `ragtune serve` once with the same RAGTUNE_HOME, or set RAGTUNE_API_KEY",
            )
        return self._client_file.read_text().strip()

    def _accepted(self) -> dict[str, str]:
        """Return {hash: name}, read again when the file changed: keys of another process count too."""
        # Every change is a new file; two of the same moment share a time stamp.
        told = self._hashes_file.stat() if self._hashes_file.is_file() else None
        changed = (told.st_mtime_ns, told.st_ino) if told else (0, 0)
        if changed != self._seen[0]:
            self._seen = (changed, {entry["sha256"]: entry["name"] for entry in self._entries()})
        return self._seen[1]

    def _entries(self) -> list[dict[str, str]]:
        if not self._hashes_file.is_file():
            return []
        entries: list[dict[str, str]] = json.loads(self._hashes_file.read_text())
        return entries


def bearer(header: str) -> str:
    """Return the token of an `Authorization: Bearer` header, or ''."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
