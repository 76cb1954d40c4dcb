"""Mirrors live requests to further versions after their users have the answer, and stores both answers as pairs.

A request that is offered costs its user a hash and a lock. A worker takes waiting ones when no engine has had a request
for a moment, and gives way when one comes: the mirror goes back to the queue and is asked again later.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ragtune.answer.answering import Answerer, Prepared
from ragtune.errors import EngineError, RagTuneError
from ragtune.experiments.shadow import Mirror, MirrorLimits, MirrorQueue
from ragtune.records import Answer, Completion
from ragtune.store.shadows import Shadow, ShadowPair, ShadowStore, Side
from ragtune_serving.deployment import Engines
from ragtune_serving.engine import ServingEngine
from ragtune_serving.routing import EngineRouter

_CALM_SECONDS = 0.2
"""How long the engines must have been idle. Chosen by hand: users pause for longer between two questions."""
_POLL_SECONDS = 0.05
"""Between two looks at the queues and the engines; chosen by hand, not sensitive."""
_COUNT_SECONDS = 30.0
"""Between two records of the counts; a crash loses what was counted since. Chosen by hand."""
_STOP_SECONDS = 5.0
"""How long `stop` waits for the thread, which sleeps no longer than one poll."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRequest:
    """What a mirror needs of a request that its user has the answer to; `live` is that answer."""

    user: str
    answerer: Answerer
    prepared: Prepared
    messages: Sequence[Mapping[str, str]]
    parameters: Mapping[str, Any]
    live: Side


def side(answer: Answer, version: str) -> Side:
    """Return an answer as one side of a pair."""
    completion = answer.completion
    return Side(
        version=version,
        answer=answer.text,
        refused=answer.refused,
        cited_chunk_ids=tuple(citation.chunk_id for citation in answer.citations),
        failures=tuple(failure.reason for failures in (*answer.tries, answer.failures) for failure in failures),
        generation_ms=round(max(0.0, completion.total_seconds * 1000 - answer.retrieval_ms), 1),
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )


async def answer_again(router: EngineRouter, mirror: Mirror, engine: ServingEngine) -> ShadowPair:
    """Let an engine answer a mirrored request, and return both answers; raise EngineError if it does not answer."""
    request: AnsweredRequest = mirror.request
    started, text, reason, usage = time.perf_counter(), "", "stop", (0, 0)
    async with aclosing(router.generate(engine.route, request.messages, request.parameters, stream=False)) as pieces:
        async for piece in pieces:
            if piece.fallback:
                raise EngineError(f"The fallback {piece.fallback} answered a mirrored request.")
            text += piece.text
            reason = piece.finish_reason or reason
            usage = (piece.prompt_tokens, piece.completion_tokens) if piece.prompt_tokens else usage
    seconds = time.perf_counter() - started
    completion = Completion(
        text=text,
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
        first_token_seconds=seconds,
        # An answer's time includes the search, which the mirror shares with the live answer.
        total_seconds=seconds + request.prepared.retrieval_ms / 1000,
        finish_reason=reason,
    )
    answer = await asyncio.to_thread(request.answerer.finish, request.prepared, completion)
    return ShadowPair(
        response_id=mirror.response_id,
        user=request.user,
        question=request.prepared.question,
        chunk_ids=tuple(hit.chunk.id for hit in answer.passages),
        live=request.live,
        mirrored=side(answer, engine.model.version),
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A version that requests are mirrored to, its queue, and an id under which the queue's counts are recorded."""

    version: str
    queue: MirrorQueue
    id: str


class Shadowing:
    """The queues of the running shadow deployment, and the worker that empties them."""

    def __init__(self, store: ShadowStore, poll_seconds: float, processes: int = 1) -> None:
        """Follow the log; with several `processes` each mirrors an equal part of what the limits allow."""
        self.store, self._processes = store, processes
        self.shadow: Shadow | None = None
        self._candidates: tuple[_Candidate, ...] = ()
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-shadows", daemon=True)

    def start(self) -> None:
        """Read which shadow deployment runs, then follow the log in the background."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop mirroring, and record the counts."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        self._replace_queues(None)

    def versions(self) -> tuple[str, ...]:
        """Return the versions whose engines are needed."""
        return self.shadow.design.versions if self.shadow else ()

    def offer(self, version: str, mirror: Mirror) -> None:
        """Offer an answered request to every version other than the one that answered it."""
        for candidate in self._candidates:
            if candidate.version != version:
                candidate.queue.offer(mirror)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what became of the sampled requests of this process, by version."""
        return {candidate.version: candidate.queue.counts().plain() for candidate in self._candidates}

    def refresh(self) -> None:
        """Read which shadow deployment runs now."""
        running = self.store.running()
        if (running.id if running else "") != (self.shadow.id if self.shadow else ""):
            self._replace_queues(running)

    async def work(self, deployment: Engines, router: EngineRouter) -> None:
        """Mirror what waits, one request at a time, until it is cancelled."""
        idle_since = time.monotonic()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            shadow, candidates = self.shadow, self._candidates
            if shadow is None or not deployment.idle:
                idle_since = time.monotonic()
            if shadow is None or (shadow.design.when_idle and time.monotonic() - idle_since < _CALM_SECONDS):
                continue
            for candidate in candidates:
                engine = deployment.engine_of(candidate.version)
                if engine is None or not engine.ready:
                    continue
                if (mirror := candidate.queue.take()) is not None:
                    await self._mirror(shadow, candidate, mirror, answer_again(router, mirror, engine), deployment)
                    break

    async def _mirror(
        self,
        shadow: Shadow,
        candidate: _Candidate,
        mirror: Mirror,
        answering: Awaitable[ShadowPair],
        deployment: Engines,
    ) -> None:
        """Store one pair; give way as soon as an engine has a request of a user."""
        task = asyncio.ensure_future(answering)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_POLL_SECONDS)
                if not task.done() and shadow.design.when_idle and not deployment.idle:
                    task.cancel()
                    await asyncio.wait([task])
                    candidate.queue.put_back(mirror)
                    return
            pair = task.result()
            await asyncio.to_thread(self.store.add, shadow, pair)
        except asyncio.CancelledError:
            task.cancel()
            candidate.queue.put_back(mirror)
            raise
        except (RagTuneError, sa.exc.SQLAlchemyError) as error:
            logger.warning("a request was not mirrored to version %s: %s", candidate.version, type(error).__name__)
            candidate.queue.finish(mirror, succeeded=False)
        except Exception:
            logger.exception("mirroring to version %s failed", candidate.version)
            candidate.queue.finish(mirror, succeeded=False)
        else:
            candidate.queue.finish(mirror, succeeded=True)
        if candidate not in self._candidates:  # it was stopped meanwhile, and its counts were recorded before the end
            await asyncio.to_thread(self._record, shadow, (candidate,))

    def _replace_queues(self, shadow: Shadow | None) -> None:
        """Stop the queues, record their counts, and make those of another shadow deployment."""
        with self._lock:
            before, old = self.shadow, self._candidates
            self._candidates = ()
            for candidate in old:
                candidate.queue.stop()
            if before is not None:
                self._record(before, old)
            self.shadow = shadow
            versions = shadow.design.versions if shadow else ()
            self._candidates = tuple(self._candidate(shadow, version) for version in versions if shadow)

    def _candidate(self, shadow: Shadow, version: str) -> _Candidate:
        """Return a queue for what the limits of a shadow deployment leave after earlier processes."""
        design, pairs = shadow.design, self.store.pairs(shadow, version)
        tokens = sum(pair.mirrored.prompt_tokens + pair.mirrored.completion_tokens for pair in pairs)
        limits = MirrorLimits(
            share=design.share,
            requests=max(0, design.requests - len(pairs)) // self._processes,
            tokens=max(0, design.tokens - tokens) // self._processes,
            queue=design.queue,
            shares_of_keys=design.shares_of_keys,
        )
        return _Candidate(version, MirrorQueue(limits, f"{shadow.id} {version}"), uuid.uuid4().hex)

    def _record(self, shadow: Shadow, candidates: tuple[_Candidate, ...]) -> None:
        for candidate in candidates:
            counts = candidate.queue.counts().plain()
            if counts["sampled"]:
                try:
                    self.store.record_counts(shadow, candidate.version, candidate.id, counts)
                except sa.exc.SQLAlchemyError as error:
                    logger.error("the counts of a shadow deployment are lost: %s", error)

    def _follow(self) -> None:
        recorded = time.monotonic()
        while not self._ending.wait(self._poll_seconds):
            try:
                self.refresh()
            except (RagTuneError, sa.exc.SQLAlchemyError) as error:
                logger.warning("the log of shadow deployments cannot be read: %s", error)
            if self.shadow and time.monotonic() - recorded > _COUNT_SECONDS:
                self._record(self.shadow, self._candidates)
                recorded = time.monotonic()
