"""The settings of the gateway and of what measures it: address, limits, cache, prices, service level."""

from typing import Literal

from pydantic import Field, SecretStr

from ragtune.model_settings import Section


class LoadSettings(Section):
    """What `ragtune benchmark` and `ragtune tune` measure by: length of a load, service level, price."""

    seconds: float = Field(15.0, gt=0, description="length of one load")
    first_token_ms: float = Field(2000.0, gt=0, description="service level: longest wait for the first text")
    answer_ms: float = Field(8000.0, gt=0, description="service level: longest wait for the whole answer")
    price_per_hour: float = Field(0.0, ge=0, description="of the machine, in any currency; 0: no costs are shown")


class PriceSettings(Section):
    """What a million tokens cost, in the currency of the budgets of the keys."""

    prompt: float = Field(0.0, ge=0)
    completion: float = Field(0.0, ge=0)


class FallbackSettings(Section):
    """A server that answers if the engine does not: its LiteLLM name, such as `openai/NAME`."""

    model: str = Field(min_length=1)
    url: str = ""
    api_key: SecretStr = SecretStr("")
    price: PriceSettings = PriceSettings()


class LimitSettings(Section):
    """What each API key may use, unless the key has limits itself; 0: no limit."""

    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    concurrency: int = Field(0, ge=0)
    tokens_per_day: int = Field(0, ge=0)
    budget_per_day: float = Field(0.0, ge=0, description="money a day, by the prices of the tokens")


class CacheSettings(Section):
    """Answers that are kept for exactly the same question; `entries` and `megabytes` bound those in memory."""

    entries: int = Field(2000, ge=0, description="0: no cache")
    megabytes: int = Field(64, ge=1, description="size of all answers in memory, or of the largest one in Redis")
    seconds: float = Field(3600.0, gt=0, description="how long an answer is kept")


class GatewaySettings(Section):
    """Where the endpoint listens, how it reaches the engine, and what it allows. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64, description="processes that answer requests; the engines run once")
    max_requests: int | None = Field(
        None, ge=0, description="requests in progress above which others get a 429; None: 64 on a CPU, else 512"
    )
    poll_seconds: float = Field(2.0, gt=0)
    comparison_idle_seconds: float = Field(600.0, gt=0)
    swap: Literal["auto", "parallel", "in_place"] = Field(
        "auto",
        description="start a new engine while the old one runs, or after it; auto: after it only if memory is short",
    )
    swap_wait_seconds: float = Field(120.0, ge=0, description="longest wait of a request while no engine is there")
    retries: int = Field(1, ge=0, le=10, description="further attempts of a call that failed")
    timeout_seconds: float = Field(600.0, gt=0, description="longest wait for a whole answer")
    stream_timeout_seconds: float = Field(120.0, gt=0, description="longest wait for the next piece of a stream")
    cooldown_seconds: float = Field(30.0, ge=0, description="how long a fallback that failed is left out; 0: never")
    fallbacks: tuple[FallbackSettings, ...] = ()
    system_messages: bool | None = Field(
        None, description="whether the model gets an application's system messages; None: not the packaged model"
    )
    engine_metrics: bool | None = Field(
        None, description="whether /metrics has the metrics of the engine; None: of engines that the gateway started"
    )
    log_format: Literal["text", "json"] = Field("text", description="json: JSON lines, one more for every request")
    log_content: bool = Field(
        False,
        description="whether questions and answers go into logs and traces, searches into logs/retrieval.jsonl",
    )
    traces_url: str = Field("", description="collector that speaks OTLP over HTTP, for traces; empty: none")
    limits: LimitSettings = LimitSettings()
    price: PriceSettings = PriceSettings()
    cache: CacheSettings = CacheSettings()
    redis_url: str = Field("", description="a Redis server for cached answers and for limits; empty: this machine")
    cors_origins: tuple[str, ...] = Field((), description="origins of web pages that may call the gateway")
