"""A client of the gateway: the command line asks the same way everybody does, over HTTP."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ragtune.errors import EngineError, ResourceError, SettingsError
from ragtune.settings import Settings, environment_secret
from ragtune_serving.address import endpoint_url
from ragtune_serving.keys import KeyStore

_TIMEOUT = httpx.Timeout(600.0, connect=5.0)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as the gateway returned it; `fields` is its field `ragtune`."""

    text: str
    fields: Mapping[str, Any]
    latency_ms: float


class GatewayClient:
    """Talks to the gateway of this home, or to the one at RAGTUNE_GATEWAY_URL with RAGTUNE_API_KEY."""

    def __init__(self, settings: Settings) -> None:
        self.url = environment_secret("RAGTUNE_GATEWAY_URL").rstrip("/").removesuffix("/v1") or endpoint_url(settings)
        key = environment_secret("RAGTUNE_API_KEY") or KeyStore(settings.home / "keys").client_key()
        limits = httpx.Limits(max_connections=64)
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, limits=limits)

    def ask(self, question: str, model: str = "ragtune", controls: Mapping[str, Any] | None = None) -> Reply:
        """Return the answer to one question; raises with the gateway's own message when there is none."""
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

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.ConnectError as error:
            raise ResourceError(
                f"No gateway answers at {self.url}.", "a running gateway", "run `ragtune serve` in another terminal"
            ) from error
        except httpx.HTTPError as error:
            raise EngineError(f"The gateway at {self.url} broke off: {error}") from error
        if response.status_code == httpx.codes.OK:
            data: dict[str, Any] = response.json()
            return data
        message = _message(response)
        if response.status_code == httpx.codes.BAD_REQUEST:
            raise SettingsError(message)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise ResourceError(message, fix="use the key file of the home that is served, or set RAGTUNE_API_KEY")
        raise EngineError(message)


def _message(response: httpx.Response) -> str:
    if response.headers.get("content-type", "").startswith("application/json"):
        error = response.json().get("error", {})
        if isinstance(error, dict) and "message" in error:
            return str(error["message"])
    return f"The gateway answered {response.status_code}: {response.text[:300]}"
