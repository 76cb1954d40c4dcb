"""Decides which live requests a second model answers as well, and keeps account of every one of them.

A gateway offers each request after its user has the answer, and a worker takes waiting ones when the engine is idle.
Nothing here waits: a full queue drops the request and counts it.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ragtune.draws import draw
from ragtune.errors import SettingsError

DropReason = Literal["queue is full", "requests are used up", "tokens are used up", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class MirrorLimits:
    """How much is mirrored. `share` of all requests is sampled, or the share that `shares_of_keys` gives a key.

    `requests` and `tokens` are totals after which nothing is mirrored any more; `queue` requests may wait at a time.
    """

    share: float
    requests: int
    tokens: int
    queue: int
    shares_of_keys: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for share in (self.share, *self.shares_of_keys.values()):
            if not 0 <= share <= 1:
                raise SettingsError(f"The share of mirrored requests is {share}.", "a number from 0 to 1")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A request to answer again: the id of its response, its key, the most tokens it can cost, and what to send."""

    response_id: str
    key: str
    tokens: int
    request: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorCounts:
    """What became of the sampled requests: sampled = waiting + running + mirrored + all of `dropped`, at any time."""

    sampled: int
    waiting: int
    running: int
    mirrored: int
    dropped: Mapping[DropReason, int]

    def plain(self) -> dict[str, int]:
        """Return the counts as one mapping; the reasons for dropping are prefixed with `dropped: `."""
        numbers = {"sampled": self.sampled, "waiting": self.waiting, "running": self.running, "mirrored": self.mirrored}
        return {**numbers, **{f"dropped: {reason}": count for reason, count in sorted(self.dropped.items()) if count}}


class MirrorQueue:
    """Sampled requests of one candidate in the order in which they came. All methods may be called by any thread."""

    def __init__(self, limits: MirrorLimits, salt: str) -> None:
        self.limits, self.salt = limits, salt
        self._lock = threading.Lock()
        self._waiting: deque[Mirror] = deque()
        self._running: set[str] = set()
        self._dropped: Counter[DropReason] = Counter()
        self._sampled = self._mirrored = self._requests = self._tokens = 0
        self._stopped = False

    def offer(self, mirror: Mirror) -> bool:
        """Return whether the request waits to be mirrored; it may not be sampled, or be dropped."""
        share = self.limits.shares_of_keys.get(mirror.key, self.limits.share)
        if draw(0, self.salt, mirror.response_id) >= share:
            return False
        with self._lock:
            self._sampled += 1
            if reason := self._reason_to_drop(mirror):
                self._dropped[reason] += 1
                return False
            self._requests += 1
            self._tokens += mirror.tokens
            self._waiting.append(mirror)
            return True

    def take(self) -> Mirror | None:
        """Return the request that waits longest, or None; call `finish` when it was answered."""
        with self._lock:
            if not self._waiting:
                return None
            mirror = self._waiting.popleft()
            self._running.add(mirror.response_id)
            return mirror

    def put_back(self, mirror: Mirror) -> None:
        """Let a taken request wait again, before all others; it is dropped if the queue was stopped meanwhile."""
        with self._lock:
            self._running.remove(mirror.response_id)
            if self._stopped:
                self._dropped["stopped"] += 1
            else:
                self._waiting.appendleft(mirror)

    def finish(self, mirror: Mirror, succeeded: bool) -> None:
        """Count a taken request as mirrored or as failed; raise KeyError if it was not taken or is finished."""
        with self._lock:
            self._running.remove(mirror.response_id)
            if succeeded:
                self._mirrored += 1
            else:
                self._dropped["failed"] += 1

    def stop(self) -> None:
        """Drop what waits, and everything that is offered later."""
        with self._lock:
            self._stopped = True
            self._dropped["stopped"] += len(self._waiting)
            self._waiting.clear()

    def counts(self) -> MirrorCounts:
        """Return what became of the sampled requests so far."""
        with self._lock:
            return MirrorCounts(
                sampled=self._sampled,
                waiting=len(self._waiting),
                running=len(self._running),
                mirrored=self._mirrored,
                dropped=dict(self._dropped),
            )

    def _reason_to_drop(self, mirror: Mirror) -> DropReason | None:
        if self._stopped:
            return "stopped"
        if self._requests >= self.limits.requests:
            return "requests are used up"
        if self._tokens + mirror.tokens > self.limits.tokens:
            return "tokens are used up"
        return "queue is full" if len(self._waiting) >= self.limits.queue else None
