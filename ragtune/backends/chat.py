"""A chat model behind any OpenAI-compatible URL, streamed so that the first token can be timed."""

import time
from collections.abc import Sequence
from typing import Any, Self

from ragtune.errors import EngineError
from ragtune.ports import ChatModel
from ragtune.records import Completion, Message

_TIMEOUT_SECONDS = 600.0


class OpenAIChat(ChatModel):
    """Talks to `url` (ending in /v1); one object may be used by several threads."""

    def __init__(self, url: str, api_key: str, model: str, timeout: float = _TIMEOUT_SECONDS) -> None:
        from openai import OpenAI

        self.name, self.url = model, url.rstrip("/")
        # A retry would hide the failures that a benchmark counts; whoever wants one asks again.
        self._client = OpenAI(base_url=self.url, api_key=api_key or "none", timeout=timeout, max_retries=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open for the next request."""
        self._client.close()

    def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> Completion:
        """Return the reply; raise EngineError with what was seen when there is none."""
        from openai import OpenAIError

        started = time.perf_counter()
        turns: list[Any] = [{"role": m.role, "content": m.content} for m in messages]
        first, finish, usage = 0.0, "", None
        text: list[str] = []
        try:
            stream = self._client.chat.completions.create(
                model=self.name,
                messages=turns,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
                stream=True,
                stream_options={"include_usage": True},
            )
            for part in stream:
                usage = part.usage or usage
                for choice in part.choices:
                    if choice.delta.content:
                        first = first or time.perf_counter() - started
                        text.append(choice.delta.content)
                    finish = choice.finish_reason or finish
        except OpenAIError as error:
            raise EngineError(
                f"The engine at {self.url} did not answer: {type(error).__name__}: {error}",
                fix="see the engine's log; a prompt longer than engine.max_model_len is refused",
            ) from error
        total = time.perf_counter() - started
        if usage is None or not finish:
            raise EngineError(
                f"The engine at {self.url} broke off after {len(text)} pieces.",
                "a finish reason and the token usage at the end of the stream",
                "see the engine's log",
            )
        return Completion(
            text="".join(text),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            first_token_seconds=first or total,
            total_seconds=total,
            finish_reason=finish,
        )


def list_models(url: str, api_key: str) -> list[str]:
    """Return the names of the models that a server offers; raise EngineError when it does not answer."""
    from openai import OpenAI, OpenAIError

    try:
        with OpenAI(base_url=url, api_key=api_key or "none", timeout=15, max_retries=1) as client:
            return sorted(model.id for model in client.models.list())
    except OpenAIError as error:
        raise EngineError(
            f"The server at {url or '(no URL)'} did not answer: {type(error).__name__}: {error}",
            "an OpenAI-compatible URL that ends in /v1",
            "check engine.url and engine.api_key",
        ) from error
