"""Where the time of one request goes: to the engine, to the client that reads the answer, to our own code."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from ragtune_serving.routing import Piece


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a request; its times are in seconds, as `time.perf_counter` counts them."""

    name: str
    started: float
    ended: float


@dataclass(slots=True)
class Times:
    """The stages of a request, and the seconds that it spent waiting.

    `engine` is the wait for the engine: to start, and to generate. `client` is the wait for a client that reads a
    stream. `writing` is the time between the first and the last piece of text.
    """

    engine: float = 0.0
    client: float = 0.0
    writing: float = 0.0
    stages: list[Stage] = field(default_factory=list)

    def add_stage(self, name: str, started: float) -> None:
        """Add a stage that ends now."""
        self.stages.append(Stage(name, started, time.perf_counter()))

    def add_preparation(self, started: float, retrieval_seconds: float) -> None:
        """Add the search and the prompt as two stages; the prompt ends now."""
        searched = started + retrieval_seconds
        if retrieval_seconds:
            self.stages.append(Stage("retrieval", started, searched))
        self.add_stage("prompt", searched)


async def timed(pieces: AsyncGenerator[Piece, None], times: Times) -> AsyncGenerator[Piece, None]:
    """Yield the pieces; add the time until each of them came to `times`."""
    began = time.perf_counter()
    first_text = 0.0
    try:
        async with aclosing(pieces):
            while True:
                asked = time.perf_counter()
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                finally:
                    came = time.perf_counter()
                    times.engine += came - asked
                if piece.text:
                    first_text = first_text or came
                    times.writing = came - first_text
                yield piece
    finally:
        times.add_stage("upstream", began)
