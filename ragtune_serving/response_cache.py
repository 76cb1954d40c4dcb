"""Keeps answers and gives them again to exactly the same question, in memory or in Redis.

A key covers all that shapes an answer: the conversation, the style, the passages that may be seen, the files of the
model, the state of the index, and the settings. So a swap of the model or an update of the index empties nothing: it
changes the keys, and the old answers are never looked up again. docs/decisions/exact-response-cache.md says what is not
cached, and why.
"""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from cachetools import TTLCache
from pydantic import BaseModel

from ragtune.answer.prompt import prompt_sha256
from ragtune.extras import require
from ragtune.gateway_settings import CacheSettings
from ragtune.settings import Settings
from ragtune_serving.engine import ServedModel
from ragtune_serving.schema import FORMAT, RagTuneField, Usage

_OVERHEAD_BYTES = 400
"""What an entry needs in addition to its text: its key and its places in the tables. Chosen by hand."""
_SHAPING_SECTIONS = ("answer", "embedder", "engine", "index")
"""Sections of the settings that shape an answer. That of the gateway does not, except for `system_messages`."""
_PREFIX = "ragtune:answer:"
_REDIS_SECONDS = 0.5
"""How long Redis may take. Chosen by hand: it answers in a millisecond, and without it the engine answers."""
logger = logging.getLogger(__name__)


class StoredAnswer(BaseModel):
    """An answer as it was sent, with what the feedback log stores of it."""

    text: str
    finish_reason: str
    usage: Usage
    ragtune: RagTuneField
    chunk_ids: tuple[str, ...]

    def pieces(self) -> list[str]:
        """Return the text word by word, as a stream sends it."""
        first, *others = self.text.split(" ")
        return [piece for piece in (first, *(f" {word}" for word in others)) if piece]


class ResponseCache(ABC):
    """Answers by key. Losing one is no error: the question is then answered again."""

    @abstractmethod
    async def get(self, key: str) -> StoredAnswer | None:
        """Return the answer that is kept under a key, or None."""

    @abstractmethod
    async def put(self, key: str, answer: StoredAnswer) -> None:
        """Keep an answer for the time that the settings say."""

    @abstractmethod
    async def close(self) -> None:
        """Close what the cache holds open."""


class MemoryCache(ResponseCache):
    """Keeps answers in this process, within `entries` and `megabytes`; the least recently used go first."""

    def __init__(self, settings: CacheSettings) -> None:
        self._most = settings.entries
        self._answers: TTLCache[str, bytes] = TTLCache(
            settings.megabytes << 20, settings.seconds, getsizeof=lambda text: len(text) + _OVERHEAD_BYTES
        )

    async def get(self, key: str) -> StoredAnswer | None:
        """Return the answer that is kept under a key, or None."""
        text = self._answers.get(key)
        return None if text is None else StoredAnswer.model_validate_json(text)

    async def put(self, key: str, answer: StoredAnswer) -> None:
        """Keep an answer, unless it alone is larger than the cache may be."""
        text = answer.model_dump_json().encode()
        if len(text) + _OVERHEAD_BYTES > self._answers.maxsize:
            return
        while len(self._answers) >= self._most and key not in self._answers:
            self._answers.popitem()
        self._answers[key] = text

    async def close(self) -> None:
        """Drop all answers."""
        self._answers.clear()

    @property
    def bytes_used(self) -> int:
        """The size of all answers in bytes."""
        return int(self._answers.currsize)

    def __len__(self) -> int:
        return len(self._answers)


class RedisCache(ResponseCache):
    """Keeps answers in a Redis server, for several gateways; its `maxmemory` bounds them.

    A server that is away costs half a second once a request at most, and no answer: questions are answered without the
    cache. `error` says so, or is "".
    """

    def __init__(self, url: str, settings: CacheSettings) -> None:
        from redis.asyncio import Redis

        self.error = ""
        self._settings = settings
        self._redis = Redis.from_url(url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS)

    async def get(self, key: str) -> StoredAnswer | None:
        """Return the answer that is kept under a key, or None."""
        from redis.exceptions import RedisError

        try:
            text = await self._redis.get(_PREFIX + key)
        except (RedisError, OSError) as error:
            self._report(f"The response cache cannot be read: {error}")
            return None
        self._report("")
        return None if text is None else StoredAnswer.model_validate_json(text)

    async def put(self, key: str, answer: StoredAnswer) -> None:
        """Keep an answer, unless it is larger than `gateway.cache.megabytes`."""
        from redis.exceptions import RedisError

        text = answer.model_dump_json().encode()
        if len(text) > self._settings.megabytes << 20:
            return
        try:
            await self._redis.set(_PREFIX + key, text, px=int(self._settings.seconds * 1000))
        except (RedisError, OSError) as error:
            self._report(f"The response cache cannot be written: {error}")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _report(self, message: str) -> None:
        if message and not self.error:
            logger.warning(message)
        self.error = message


def cache_from(settings: Settings) -> ResponseCache | None:
    """Return the cache that the settings name, or None if it is switched off."""
    cache = settings.gateway.cache
    if not cache.entries:
        return None
    if settings.gateway.redis_url:
        require("redis")
        return RedisCache(settings.gateway.redis_url, cache)
    return MemoryCache(cache)


class AnswerKeys:
    """Makes the keys of answers: hashes of all that shapes them."""

    def __init__(self, settings: Settings) -> None:
        self._constant = [
            [FORMAT, version("ragtune"), prompt_sha256()],
            [settings.fingerprint(*_SHAPING_SECTIONS), settings.seed, settings.follows_instructions],
        ]

    def key(self, model: ServedModel, index_state: str, request: Mapping[str, Any]) -> str:
        """Return the key of one answer.

        Args:
            model: the model that answers. Its folder's inode and time of change count, because it may be rebuilt.
            index_state: see `SearchIndex.state`.
            request: what the request asks for, as JSON values.
        """
        identity = [model.name, model.version, str(model.folder)]
        if model.version != "provider":
            folder = model.folder.stat()
            identity += [str(folder.st_ino), str(folder.st_mtime_ns)]
        parts = [*self._constant, identity, index_state, request]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
