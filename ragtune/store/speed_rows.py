"""The rows of load tests and of speed comparisons, as artefacts and the warehouse keep them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """What a gateway did under one load.

    `scenario` says why the load was put on it (`alone`, `curve`, `stress`, ...), `part` which part of the scenario it
    is, such as `before` and `during`. Latencies are in milliseconds from the moment at which a request should have been
    sent, so that waiting counts; `between` is the time per token after the first. They are those of the answered
    requests, 0 if there is none. `offered` is the number of requests that should have been sent per second, `answered`
    and `good` the answers per second, of all and of those within the service level. `limited` counts 429s, and
    `unhelpful` those among them without `Retry-After`; `failed` counts everything else that is no answer.
    `generator_ms` is the 99th percentile of the delay with which the load generator itself sent. `settings` is a hash
    of the engine's and gateway's settings. Memory is in bytes, `cost` in the currency of `load.price_per_hour` for
    1,000 good answers, 0 without a price.
    """

    run_id: str
    measured_at: str
    workload: str
    scenario: str
    part: str
    model_version: str
    precision: str
    settings: str
    offered: float
    seconds: float
    requests: int
    answered: float
    good: float
    limited: int
    unhelpful: int
    failed: int
    first_p50_ms: float
    first_p95_ms: float
    first_p99_ms: float
    between_p50_ms: float
    between_p95_ms: float
    between_p99_ms: float
    total_p50_ms: float
    total_p95_ms: float
    total_p99_ms: float
    tokens_per_second: float
    generator_ms: float
    memory_bytes: int
    gpu_bytes: int
    cost: float
    hardware: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRow:
    """How the speed or the size of `after` differs from that of `before`, by one metric under one work load.

    `change` is relative: 0.2 means 20% more; `low` and `high` are its 95% interval over the `rounds`, in which both
    were measured in turn. `floor` is the noise floor: the difference that the same thing showed against itself.
    `verdict` is `better`, `worse` or `no difference`. `settings` and `former` are JSON objects: settings of `after`
    that differ, and what they were in `before`; empty for models. `predicted` is the JSON list [change, low, high] of
    an earlier measurement that this one repeats after the settings were changed, or "".
    """

    run_id: str
    measured_at: str
    before: str
    after: str
    workload: str
    metric: str
    unit: str
    before_value: float
    after_value: float
    change: float
    low: float
    high: float
    floor: float
    rounds: int
    verdict: str
    settings: str
    former: str
    predicted: str
    model_version: str
    hardware: str
