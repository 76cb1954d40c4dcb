"""A chat model on any OpenAI-compatible server. Replies are streamed, so that the first token can be timed."""

import time
from collections.abc import Sequence
from typing import Any, Self

from ragtune.errors import EngineError
from ragtune.ports import ChatModel
from ragtune.records import Completion, Message
from ragtune.text.control_tokens import break_control_tokens

_TIMEOUT_SECONDS = 600.0
"""Longest wait for a reply. Chosen by hand: on a busy CPU, long answers wait for minutes in the engine's queue."""


class OpenAIChat(ChatModel):
    """Talks to the server at `url` (ending in /v1). Several threads may use one object."""

    def __init__(self, url: str, api_key: str, model: str, timeout: float = _TIMEOUT_SECONDS) -> None:
        from openai import OpenAI

        self.name, self.url = model, url.rstrip("/")
        # The client does not retry, because retries would hide failures that a benchmark has to count.
        self._client = OpenAI(base_url=self.url, api_key=api_key or "none", timeout=timeout, max_retries=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the open connections."""
        self._client.close()

    def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> Completion:
        """Return the reply; see ChatModel."""
        from openai import OpenAIError

        started = time.perf_counter()
        turns: list[Any] = [{"role": m.role, "content": break_control_tokens(m.content)} for m in messages]
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
                fix="read the engine's log; it refuses prompts that are longer than engine.max_model_len",
            ) from error
        total = time.perf_counter() - started
        if usage is None or not finish:
            raise EngineError(
                f"The engine at {self.url} ended the reply too early, after {len(text)} pieces.",
                "a finish reason and the token usage at the end of the stream",
                "read the engine's log",
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
    """Return the names of the models that a server offers; raise EngineError if it does not answer."""
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
