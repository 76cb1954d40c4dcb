"""An HTTP client of the gateway: the command line asks questions the same way as every other client."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ragtune.errors import EngineError, ResourceError, SettingsError
from ragtune.ports import Progress, silent
from ragtune.settings import Settings
from ragtune_serving.address import endpoint_url
from ragtune_serving.keys import KeyStore

_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""Seconds. 600 is also the gateway's own limit for one engine call; a local gateway accepts within 5."""
_MAX_CONNECTIONS = 64
"""More than anybody asks for with `--concurrency` (default 8); chosen by hand, not sensitive."""
_LOOK_SECONDS = 1.0
"""Between two looks at a gateway that is starting, which takes tens of seconds; chosen by hand, not sensitive."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as the gateway returned it; `fields` is the response's field `ragtune`."""

    text: str
    fields: Mapping[str, Any]
    latency_ms: float


class GatewayClient:
    """Talks to the gateway at `gateway_url`, or to the gateway of this home if that setting is empty."""

    def __init__(self, settings: Settings) -> None:
        self.url = gateway_url(settings)
        key = settings.api_key.get_secret_value() or KeyStore(settings.home / "keys").client_key()
        limits = httpx.Limits(max_connections=_MAX_CONNECTIONS)
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, limits=limits)

    def ask(self, question: str, model: str = "ragtune", controls: Mapping[str, Any] | None = None) -> Reply:
        """Return the answer to one question; raise an error with the gateway's own message if it has none."""
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}]}
        if controls:
            body["ragtune"] = dict(controls)
        started = time.perf_counter()
        data = self._send("POST", "/v1/chat/completions", body)
        milliseconds = (time.perf_counter() - started) * 1000
        return Reply(data["choices"][0]["message"]["content"] or "", data["ragtune"], round(milliseconds, 1))

    def status(self) -> dict[str, Any]:
        """Return the gateway's /status."""
        return self._send("GET", "/status")

    def is_starting(self) -> bool:
        """Return whether the gateway still loads its index and models, and nothing went wrong with them so far."""
        try:
            ready = self._client.get("/health/readiness").json()["status"] == "ready"
        except (httpx.HTTPError, ValueError, KeyError):
            return False  # the question itself then says what is wrong
        if ready:
            return False
        try:
            status = self.status()
        except EngineError:
            return False  # an application's key may not read the status; the question itself says what is wrong
        engines = [engine for engine in (status["live"], status["next"]) if engine]
        return not status["error"] and all(
            engine["state"] in ("starting", "ready") and not engine["error"] for engine in engines
        )

    def wait_while_starting(self, seconds: float, progress: Progress = silent) -> None:
        """Wait until the gateway has started, an engine fails, or the seconds are over; do nothing if it is ready."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < seconds and self.is_starting():
            progress("waiting for the gateway, which loads its models (seconds)", int(waited), int(seconds))
            time.sleep(_LOOK_SECONDS)

    def give_feedback(self, response_id: str, rating: str | int, correction: str, comment: str) -> dict[str, Any]:
        """Say whether a response was right, as applications do; return the stored verdict."""
        body = {"response_id": response_id, "rating": rating, "correction": correction, "comment": comment}
        return self._send("POST", "/v1/feedback", body)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.ConnectError as error:
            raise ResourceError(
                f"No gateway answers at {self.url}.", "a running gateway", "run `ragtune serve` in another terminal"
            ) from error
        except httpx.HTTPError as error:
            raise EngineError(f"The connection to the gateway at {self.url} broke: {error}") from error
        if response.status_code == httpx.codes.OK:
            data: dict[str, Any] = response.json()
            return data
        message = _error_message(response)
        if response.status_code == httpx.codes.BAD_REQUEST:
            raise SettingsError(message)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise ResourceError(message, fix="set RAGTUNE_HOME to the home of that gateway, or set RAGTUNE_API_KEY")
        raise EngineError(message)


def gateway_url(settings: Settings) -> str:
    """Return the URL of the gateway that commands talk to, without `/v1`."""
    return settings.gateway_url.rstrip("/").removesuffix("/v1") or endpoint_url(settings)


def _error_message(response: httpx.Response) -> str:
    if response.headers.get("content-type", "").startswith("application/json"):
        error = response.json().get("error", {})
        if isinstance(error, dict) and "message" in error:
            return str(error["message"])
    return f"The gateway answered {response.status_code}: {response.text[:300]}"
