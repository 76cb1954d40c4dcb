"""Requests structured replies from a language model, with a cache, retries, usage counts and a budget.

Any LiteLLM model name works, hosted or local. Each valid reply is cached on disk under the hash of its request, so
that a run that was stopped resumes there and pays for no request twice.
"""

import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ragtune.errors import DatasetError
from ragtune.ports import Progress, silent
from ragtune.records import Message
from ragtune.settings import ModelSettings
from ragtune.store.artifacts import write_json

Reply = TypeVar("Reply", bound=BaseModel)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the requests of a run used. `stopped` names the limit that ended the run; it is empty if none did."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    stopped: str = ""
    last_error: str = ""

    def labelled(self, model: str) -> dict[str, int | float | str]:
        """Return the figures with labels such as `writer prompt tokens`. Empty texts are left out."""
        figures = {f"{model} {name.replace('_', ' ')}": value for name, value in asdict(self).items()}
        return {label: value for label, value in figures.items() if value != ""}


class _Limit(Exception):  # noqa: N818 - it ends a run as planned
    """The budget is spent."""


class _Unusable(Exception):  # noqa: N818 - the caller tries again
    """The model's text is not JSON of the requested shape."""


class LanguageModel(Generic[Reply]):
    """A model whose replies have the shape of one pydantic class."""

    def __init__(self, settings: ModelSettings, shape: type[Reply], cache: Path, seed: int) -> None:
        if not settings.model:
            raise DatasetError(
                "No language model is configured.",
                expected="a LiteLLM model name such as openai/NAME or ollama/NAME",
                fix="set dataset.writer.model, dataset.judge.model or evaluation.judge.model",
            )
        self.settings, self.shape, self.cache, self.seed = settings, shape, cache, seed
        self.usage = Usage()
        self._lock = threading.Lock()
        self._running = 0

    def ask_all(
        self, conversations: Sequence[Sequence[Message]], what: str, progress: Progress = silent
    ) -> list[Reply | None]:
        """Return a reply per conversation, or None if the model failed or the budget was spent before.

        Raises:
            DatasetError: every request failed.
        """
        self.usage, self._running = Usage(), 0
        done = 0

        def one(messages: Sequence[Message]) -> Reply | None:
            nonlocal done
            reply = self._ask(messages)
            with self._lock:
                done += 1
                progress(what, done, len(conversations))
            return reply

        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            replies = list(pool.map(one, conversations))
        if self.usage.failed and not any(replies):
            raise DatasetError(
                f"All {self.usage.failed} requests to {self.settings.model} failed: {self.usage.last_error}",
                expected="a model that answers with JSON",
                fix="check model, url and api_key of dataset.writer, dataset.judge or evaluation.judge",
            )
        return replies

    def _ask(self, messages: Sequence[Message]) -> Reply | None:
        request = self._request(messages)
        cached = self._cached(request)
        if cached is not None:
            self._count(cached=1)
            return cached
        try:
            return self._attempts(request)
        except _Limit as limit:
            with self._lock:
                self.usage = replace(self.usage, stopped=str(limit))
            return None

    def _request(self, messages: Sequence[Message]) -> dict[str, Any]:
        schema = {"name": self.shape.__name__, "schema": self.shape.model_json_schema()}
        return {
            "model": self.settings.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": self.seed,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def _attempts(self, request: dict[str, Any]) -> Reply | None:
        """Try until a reply has the requested shape. Wait longer after each error of the server."""
        import openai

        error = ""
        for attempt in range(self.settings.attempts):
            if attempt:
                self._count(retries=1)
            try:
                text = self._complete(request, error)
                reply = self._parsed(text)
            except _Unusable as problem:
                error = str(problem)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as refusal:
                error = f"{type(refusal).__name__}: {refusal}"
                break
            except openai.OpenAIError as problem:
                error = f"{type(problem).__name__}: {problem}"
                if attempt + 1 < self.settings.attempts:
                    time.sleep(min(2.0**attempt, 30.0) * (0.5 + random.random()) * 0.2)
                continue
            else:
                write_json(self._file(request), {"request": request, "reply": reply.model_dump(mode="json")})
                return reply
        _log.warning("%s gave no usable reply: %s", self.settings.model, error)
        with self._lock:
            self.usage = replace(self.usage, failed=self.usage.failed + 1, last_error=error[:500])
        return None

    def _complete(self, request: dict[str, Any], error: str) -> str:
        import litellm

        messages = list(request["messages"])
        if error:
            messages.append({"role": "user", "content": f"Your last reply was refused: {error}. Reply with JSON only."})
        self._enter()
        try:
            response: Any = litellm.completion(
                **{**request, "messages": messages},
                base_url=self.settings.url or None,
                api_key=self.settings.api_key.get_secret_value() or None,
                timeout=self.settings.timeout,
                num_retries=0,
                drop_params=True,
            )
        finally:
            with self._lock:
                self._running -= 1
        self._count(
            requests=1,
            prompt_tokens=int(response.usage.prompt_tokens),
            completion_tokens=int(response.usage.completion_tokens),
            cost_usd=self._cost(response),
        )
        return str(response.choices[0].message.content or "")

    def _enter(self) -> None:
        """Count a request as running, or raise _Limit if the budget does not allow it.

        Running requests are assumed to cost as much as the mean of the finished ones.
        """
        with self._lock:
            settings, usage = self.settings, self.usage
            growth = (usage.requests + self._running + 1) / max(usage.requests, 1)
            tokens = usage.prompt_tokens + usage.completion_tokens
            if usage.requests + self._running >= settings.max_calls:
                raise _Limit(f"max_calls = {settings.max_calls}")
            if usage.requests and tokens * growth > settings.budget_tokens:
                raise _Limit(f"budget_tokens = {settings.budget_tokens}")
            if usage.requests and usage.cost_usd * growth > settings.budget_usd:
                raise _Limit(f"budget_usd = {settings.budget_usd}")
            self._running += 1

    def _cost(self, response: Any) -> float:
        prices = self.settings.price_in, self.settings.price_out
        if any(prices):
            usage = response.usage
            return float(usage.prompt_tokens * prices[0] + usage.completion_tokens * prices[1]) / 1e6
        return float(response._hidden_params.get("response_cost") or 0.0)

    def _parsed(self, text: str) -> Reply:
        start, end = text.find("{"), text.rfind("}")
        if start < 0:
            raise _Unusable("no JSON object in it")
        try:
            return self.shape.model_validate_json(text[start : end + 1])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _Unusable(f"{where or 'the JSON'}: {first['msg']}") from error

    def _file(self, request: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self.cache / digest[:2] / f"{digest}.json"

    def _cached(self, request: dict[str, Any]) -> Reply | None:
        path = self._file(request)
        if not path.is_file():
            return None
        return self.shape.model_validate(json.loads(path.read_text())["reply"])

    def _count(self, **amounts: float) -> None:
        with self._lock:
            sums = {name: getattr(self.usage, name) + amount for name, amount in amounts.items()}
            self.usage = replace(self.usage, **sums)
