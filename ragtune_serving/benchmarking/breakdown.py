"""Where the time of an answer goes, by the gateway's and the engine's own metrics before and after a load."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

STAGES = {
    "retrieval": "the search for passages",
    "own code": "evidence, prompt, checks and HTTP of the gateway",
    "engine queue": "the wait for a place in the engine's batch",
    "prompt": "reading the prompt",
    "tokens": "writing the answer",
    "between": "the way to the engine and back, and clients that read slowly",
}
"""The stages of an answer, and what happens in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """What the engine did in a load: steps of its loop, tokens that it computed and wrote, and its prefix cache.

    `cached` is the share of the prompts' tokens that the cache had, `accepted` that of guessed tokens that were right,
    both 0 if there were none.
    """

    steps: float
    computed_tokens: float
    written_tokens: float
    cached: float
    accepted: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The mean milliseconds of an answer in each stage, over a number of answers; `engine` is None without its metrics.

    Without the engine's metrics its stages are one, `engine`.
    """

    answers: int
    stages: Mapping[str, float]
    engine: EngineWork | None

    @property
    def total(self) -> float:
        """The mean milliseconds of an answer in the gateway."""
        return sum(self.stages.values())

    def share(self, stage: str) -> float:
        """Return the share of a stage, 0 if nothing was measured."""
        return self.stages.get(stage, 0.0) / self.total if self.total else 0.0


def breakdown(before: str, after: str) -> Breakdown:
    """Return where the time of the answers between two scrapes of `/metrics` went."""
    old, new = _totals(before), _totals(after)
    grown = defaultdict(float, {name: value - old.get(name, 0.0) for name, value in new.items()})
    answers = grown["ragtune_request_seconds_count"]
    if not answers:
        return Breakdown(0, {}, None)

    def mean_ms(name: str, unit: float = 1000.0) -> float:
        return grown[name] * unit / answers

    retrieval = mean_ms("ragtune_retrieval_milliseconds_sum", 1.0)
    own = max(0.0, mean_ms("ragtune_overhead_seconds_sum") - retrieval)
    rest = mean_ms("ragtune_request_seconds_sum") - retrieval - own
    if "vllm:request_queue_time_seconds_sum" not in new:
        return Breakdown(int(answers), {"retrieval": retrieval, "own code": own, "engine": max(0.0, rest)}, None)
    stages = {
        "retrieval": retrieval,
        "own code": own,
        "engine queue": mean_ms("vllm:request_queue_time_seconds_sum"),
        "prompt": mean_ms("vllm:request_prefill_time_seconds_sum"),
        "tokens": mean_ms("vllm:request_decode_time_seconds_sum"),
    }
    stages["between"] = max(0.0, rest - stages["engine queue"] - stages["prompt"] - stages["tokens"])
    return Breakdown(int(answers), stages, _work(grown))


def _work(grown: Mapping[str, float]) -> EngineWork:
    queried, guessed = grown["vllm:prefix_cache_queries_total"], grown["vllm:spec_decode_num_draft_tokens_total"]
    return EngineWork(
        steps=grown["vllm:iteration_tokens_total_count"],
        computed_tokens=grown["vllm:iteration_tokens_total_sum"],
        written_tokens=grown["vllm:generation_tokens_total"],
        cached=grown["vllm:prefix_cache_hits_total"] / queried if queried else 0.0,
        accepted=grown["vllm:spec_decode_num_accepted_tokens_total"] / guessed if guessed else 0.0,
    )


def _totals(metrics: str) -> dict[str, float]:
    """Return {name of a sample: its sum over all labels}; of engines only the live one counts."""
    totals: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.labels.get("role", "live") == "live":
                totals[sample.name] += sample.value
    return totals
