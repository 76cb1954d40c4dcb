"""Refuses requests that would only wait: with too many in progress, a further one gets a 429 at once.

Without a limit the queue in front of a saturated engine grows as long as the load lasts, and so does every latency.
See docs/decisions/requests-in-progress-are-limited.md.
"""

import math
from pathlib import Path

from ragtune.settings import Settings
from ragtune_serving.engine import ServingEngine
from ragtune_serving.limits import LimitError

ON_A_CPU, ELSEWHERE = 64, 512
"""Requests in progress that are taken by default. On a CPU the last of them waits for some 20 seconds with the packaged
model on two cores; vLLM computes at most 256 at once on a GPU. Chosen by hand."""
_RETRY_SECONDS = 1.0
"""When to ask again: with that many requests in progress, one ends in less."""


class Admission:
    """Decides whether an engine takes one more request; the engine counts those in progress."""

    def __init__(self, settings: Settings) -> None:
        """Several workers share the limit equally, because each counts its own requests."""
        self.limit = math.ceil(limit_of(settings) / settings.gateway.workers)

    def check(self, engine: ServingEngine) -> None:
        """Raise LimitError if the engine, which counts this request already, has more than it may have."""
        if self.limit and engine.in_flight > self.limit:
            raise LimitError(f"The gateway answers {self.limit} requests already.", _RETRY_SECONDS, {})


def limit_of(settings: Settings) -> int:
    """Return how many requests may be in progress, 0 for no limit."""
    if settings.gateway.max_requests is not None:
        return settings.gateway.max_requests
    on_cpu = settings.device == "cpu" or not Path("/dev/nvidia0").exists()
    return ON_A_CPU if settings.engine.backend == "vllm" and on_cpu else ELSEWHERE
