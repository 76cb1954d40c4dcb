"""Sessions of the console: a signed cookie that stands for a key, for as long as that key is accepted."""

import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.signer import HMACAlgorithm

from ragtune_serving.keys import Key, KeyStore, signing_secret

SECONDS = 12 * 3600
"""After this time people sign in again. Chosen by hand: a working day."""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in: their key, and the token that every change they send has to carry."""

    key: Key
    csrf_token: str


class Sessions:
    """Signs cookies with a secret of the home, and reads them.

    Nothing is stored: a cookie has the name of a key and a part of its hash, so that a session ends at once when its
    key is revoked, replaced or expired.
    """

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._secret = signing_secret(keys.folder / "console.secret")
        self._serializer = URLSafeTimedSerializer(self._secret, salt="ragtune console session")
        # Browsers send a cookie to every port of a host, so two gateways of one machine need two names.
        digest = hmac.digest(self._secret, b"ragtune console cookie name", "sha256").hex()
        self.cookie_name = f"__Host-ragtune-{digest[:8]}"

    @property
    def key_file(self) -> Path:
        """Where the key of this machine is."""
        return self._keys.client_file

    def sign_in(self, key_text: str) -> str | None:
        """Return the value of the cookie for a key, or None if the key is not accepted."""
        key = self._keys.find(key_text.strip())
        if key is None:
            return None
        return self._serializer.dumps([key.name, key.fingerprint, secrets.token_hex(16)])

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie, or None if it is forged, too old, or its key is no longer accepted."""
        try:
            name, fingerprint, nonce = self._serializer.loads(cookie, max_age=SECONDS)
        except BadData:
            return None
        key = self._keys.named(name, fingerprint)
        if key is None:
            return None
        token = HMACAlgorithm().get_signature(self._secret, f"ragtune console form {nonce}".encode())
        return Session(key, token.hex())
