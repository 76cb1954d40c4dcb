"""API keys: the server stores hashes, the command line reads its own key from a file of mode 600.

A key has 256 random bits. Nobody can guess it, so a plain SHA-256 is enough and no salt or slow hash is needed.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from ragtune.errors import ResourceError, SettingsError
from ragtune.store.artifacts import write_json
from ragtune.store.timestamps import now
from ragtune_serving.limits import Limits

_RATING = ("/v1/feedback", "/api/public")
_ASKING = ("/v1/chat/completions", "/v1/models", "/v1/embeddings", *_RATING, "/console/ask", "/console/documents")
_REVIEWING = (
    *("/v1/models", "/console/reviews", "/console/evaluate", "/console/documents"),
    *("/v1/review/pairs", "/v1/review/assignments", "/v1/review/decisions"),
    *("/v1/studies/mine", "/v1/studies/tasks", "/v1/studies/ratings"),
)
ROLES: dict[str, tuple[str, ...]] = {
    "application": _ASKING,
    "annotator": _REVIEWING,
    "reviewer": (*_REVIEWING, *_RATING, "/v1/review", "/v1/studies", "/console/knowledge", "/console/feedback"),
    "operator": (
        *(*_ASKING, "/v1/experiments", "/v1/shadows", "/status", "/metrics"),
        *("/console/knowledge", "/console/candidates", "/console/experiments", "/console/feedback", "/console/health"),
    ),
    "admin": ("/",),
}
"""{role: the beginnings of the paths that it may call}."""
_ALL_DOCUMENTS = (
    *("/v1/review", "/v1/studies", "/v1/shadows", "/console/reviews", "/console/evaluate", "/console/feedback"),
    *("/console/candidates", "/console/experiments"),
)
"""Beginnings of paths that show questions, answers and passages whatever document they come from."""
_FINGERPRINT = 32
"""Hexadecimal digits of a key's hash in what is signed for it: 128 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is stored of a key: its hash, whose it is, and what it may do.

    `expires_at` is a UTC time in ISO format, or "" for never. `filter` restricts the passages that the key sees.
    """

    name: str
    sha256: str
    created_at: str
    role: str = "application"
    expires_at: str = ""
    limits: Limits = field(default_factory=Limits)
    filter: Mapping[str, str] = field(default_factory=dict)

    def may_call(self, path: str) -> bool:
        """Return whether the key's role includes a path, and the path does not show more than the key's filter."""
        return allows(ROLES[self.role], path) and not self.hides(path)

    def hides(self, path: str) -> bool:
        """Return whether a path shows texts of all documents, and the key sees only some."""
        return bool(self.filter) and allows(_ALL_DOCUMENTS, path)

    @property
    def fingerprint(self) -> str:
        """A part of the hash: enough to notice that a name got a new key."""
        return self.sha256[:_FINGERPRINT]

    @property
    def expired(self) -> bool:
        """Whether the key is past its `expires_at`; a key without one never expires."""
        return bool(self.expires_at) and datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)


class KeyStore:
    """The hashes of the accepted keys in `folder`/keys.json, and the local client's key in `folder`/client.key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes_file = folder / "keys.json"
        self.client_file = folder / "client.key"
        self._cache: tuple[tuple[int, int], list[Key]] = ((-1, -1), [])

    def ensure(self) -> str:
        """Create the local client's key if there is none; return a new key, or "" if there was one already."""
        with self._locked():
            if self.client_file.is_file():
                key = self.find(self.client_file.read_text().strip())
                if key is not None and key.role == "admin":
                    return ""
            return self._create("client", "admin", "", Limits(), {})

    def create(
        self,
        name: str,
        role: str = "application",
        expires_at: str = "",
        limits: Limits | None = None,
        filter_: Mapping[str, str] | None = None,
    ) -> str:
        """Create a key, accept it under this name and return it; an earlier key of the name no longer works.

        The key of the name `client` is also written to the local key file. Raises SettingsError for an unknown role.
        """
        if role not in ROLES:
            raise SettingsError(f"There is no role '{role}'.", f"one of {', '.join(ROLES)}")
        with self._locked():
            return self._create(name, role, expires_at, limits or Limits(), filter_ or {})

    def revoke(self, name: str) -> None:
        """Stop accepting the key of this name; raise SettingsError if there is none."""
        with self._locked():
            keys = self.all()
            if name not in {key.name for key in keys}:
                known = ", ".join(sorted(key.name for key in keys)) or "(none)"
                raise SettingsError(f"There is no key of '{name}'.", f"one of {known}")
            self._write([key for key in keys if key.name != name])

    def all(self) -> list[Key]:
        """Return every key; read the file again if another process changed it."""
        stat = self._hashes_file.stat() if self._hashes_file.is_file() else None
        # Two changes at the same moment share a time stamp, but every change writes a new file, with its own inode.
        state = (stat.st_mtime_ns, stat.st_ino) if stat else (0, 0)
        if state != self._cache[0]:
            entries = json.loads(self._hashes_file.read_text()) if stat else []
            self._cache = (state, [Key(**{**entry, "limits": Limits(**entry.get("limits", {}))}) for entry in entries])
        return self._cache[1]

    def find(self, key: str) -> Key | None:
        """Return what is stored of a key, or None if it is not accepted."""
        digest = _sha256(key)
        match = None
        # Every hash is compared, so the time does not depend on which one matches.
        for candidate in self.all():
            if hmac.compare_digest(candidate.sha256, digest):
                match = candidate
        return None if match is None or match.expired else match

    def named(self, name: str, fingerprint: str) -> Key | None:
        """Return the key of a name, or None if it is not accepted or has another fingerprint."""
        key = next((key for key in self.all() if key.name == name), None)
        return key if key and not key.expired and hmac.compare_digest(key.fingerprint, fingerprint) else None

    def user(self, key: str) -> str:
        """Return the name that the key belongs to, or "" if it is not accepted."""
        match = self.find(key)
        return match.name if match else ""

    def _create(self, name: str, role: str, expires_at: str, limits: Limits, filter_: Mapping[str, str]) -> str:
        key = f"rt-{secrets.token_urlsafe(32)}"
        if name == "client":
            descriptor = os.open(self.client_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(key + "\n")
        stored = Key(
            name=name,
            sha256=_sha256(key),
            created_at=now(),
            role=role,
            expires_at=expires_at,
            limits=limits,
            filter=dict(filter_),
        )
        self._write([*(other for other in self.all() if other.name != name), stored])
        return key

    def _write(self, keys: list[Key]) -> None:
        write_json(self._hashes_file, [asdict(key) for key in keys])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, so that no key is lost if several processes create keys at the same moment."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / ".write.lock"):
            yield

    def client_key(self) -> str:
        """Return the local client's key; raise ResourceError if the gateway has not created one yet."""
        if not self.client_file.is_file():
            raise ResourceError(
                f"There is no key at {self.client_file}.",
                expected="the file that the gateway writes when it first starts",
                fix="run this in the folder of ragtune.yaml, run `ragtune serve` there once, or set RAGTUNE_API_KEY",
            )
        return self.client_file.read_text().strip()


def allows(starts: Iterable[str], path: str) -> bool:
    """Return whether a path is one of `starts` or below it."""
    return any(path == start or path.startswith(start.rstrip("/") + "/") for start in starts)


def bearer(header: str) -> str:
    """Return the token of an `Authorization: Bearer` header, or "" if it has another scheme."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def basic(header: str) -> str:
    """Return the password of an `Authorization: Basic` header, or "" if it has another scheme or is garbled."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(token.strip(), validate=True).decode().partition(":")[2]
    except ValueError:  # not base64, or not UTF-8
        return ""


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def signing_secret(path: Path) -> bytes:
    """Return the secret in a file of mode 600; create it if it is missing or empty."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+") as stream:
        os.fchmod(stream.fileno(), 0o600)
        secret = stream.read().strip()
        if not secret:
            secret = secrets.token_hex(32)
            stream.write(secret + "\n")
    return secret.encode()
