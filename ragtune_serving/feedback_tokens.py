"""Tokens with which a web page rates one answer; a key does not belong into a page, whose script everybody can read."""

from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadData, URLSafeTimedSerializer

from ragtune_serving.keys import Key, KeyStore, signing_secret

HEADER = "X-RagTune-Feedback-Token"
"""The header of an answer that has its token."""
SECONDS = 7 * 24 * 3600
"""After this time a token is not accepted. Chosen by hand: people rate an answer while they still remember it."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What a token allows: to rate this response in the name of the key that got it."""

    response_id: str
    key: Key


class FeedbackTokens:
    """Signs tokens with a secret of the home, and reads them; nothing is stored.

    A token ends with its key: when the key is revoked, replaced or expired.
    """

    def __init__(self, keys: Path) -> None:
        """Take the folder of the keys, which holds the secret too."""
        secret = signing_secret(keys / "feedback.secret")
        self._keys = KeyStore(keys)
        self._serializer = URLSafeTimedSerializer(secret, salt="ragtune feedback on one response")

    def sign(self, response_id: str, key: Key) -> str:
        """Return the token for a response of a key."""
        return self._serializer.dumps([response_id, key.name, key.fingerprint])

    def read(self, token: str) -> Permission | None:
        """Return what a token allows, or None if it is forged, too old, or its key is no longer accepted."""
        try:
            response_id, name, fingerprint = self._serializer.loads(token, max_age=SECONDS)
        except BadData:
            return None
        key = self._keys.named(name, fingerprint)
        return Permission(response_id, key) if key else None
