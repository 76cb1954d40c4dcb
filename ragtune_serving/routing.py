"""Sends a prompt to an engine through LiteLLM's router, and returns the generated text piece by piece.

LiteLLM does the retries, timeouts, fallbacks and cool-downs, and knows the formats of providers.
docs/howto/reliability.md says what a client sees in each case.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ragtune.errors import EngineError, SettingsError
from ragtune.gateway_settings import GatewaySettings
from ragtune.ports import RunningEngine
from ragtune.records import Completion
from ragtune_serving.engine import EngineAddress

_PUBLISH_SECONDS = 30
"""How long an engine's thread waits for the event loop to change the router; chosen by hand, not sensitive."""
_WRONG_REQUEST = (400, 413, 422)
"""Statuses with which an engine says that the request is wrong, so that asking again is of no use."""
_TRY_AGAIN = "try again in a few seconds; an engine that died is restarted (`ragtune status` shows its state)"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of the generated text.

    `finish_reason` is "" until the last part of the text; the token counts are 0 until the engine sends them.
    `fallback` is the name of the configured fallback that wrote it, or "" for the engine itself.
    """

    text: str
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fallback: str = ""


@dataclass(slots=True)
class Generation:
    """The text of one answer as it comes, and when: `started` is a time of `perf_counter`."""

    started: float
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fallback: str = ""
    first_token: float = 0.0

    def add(self, piece: Piece) -> None:
        """Add the next piece."""
        if piece.text:
            self.first_token = self.first_token or time.perf_counter()
            self.text += piece.text
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.fallback = piece.fallback or self.fallback
        if piece.prompt_tokens:
            self.prompt_tokens, self.completion_tokens = piece.prompt_tokens, piece.completion_tokens

    def completion(self) -> Completion:
        """Return what was generated; call it at the end."""
        finished = time.perf_counter()
        return Completion(
            text=self.text,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            first_token_seconds=(self.first_token or finished) - self.started,
            total_seconds=finished - self.started,
            finish_reason=self.finish_reason or "stop",
        )


class EngineRouter:
    """The engines that answer now, each under a route name, and the configured fallbacks after them."""

    def __init__(self, settings: GatewaySettings) -> None:
        import litellm

        litellm.suppress_debug_info = True
        litellm.drop_params = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fallbacks = {f"fallback-{n}": server.model for n, server in enumerate(settings.fallbacks, 1)}
        self._router = litellm.Router(
            model_list=[
                {
                    "model_name": route,
                    "litellm_params": {
                        "model": server.model,
                        "api_base": server.url or None,
                        "api_key": server.api_key.get_secret_value() or None,
                    },
                    "model_info": {"id": route},
                }
                for route, server in zip(self._fallbacks, settings.fallbacks, strict=True)
            ],
            default_fallbacks=list(self._fallbacks),
            num_retries=settings.retries,
            timeout=settings.timeout_seconds,
            stream_timeout=settings.stream_timeout_seconds,
            cooldown_time=settings.cooldown_seconds,
            disable_cooldowns=settings.cooldown_seconds == 0,
        )

    @property
    def first_fallback(self) -> str:
        """Return the route of the first fallback, or "" if none is configured."""
        return next(iter(self._fallbacks), "")

    def start(self) -> None:
        """Take changes from other threads from now on; call it in the event loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Close the connections to engines. LiteLLM keeps its HTTP clients by event loop, in one cache per process."""
        import litellm

        of_this_loop = f"-{id(asyncio.get_running_loop())}"
        clients = litellm.in_memory_llm_clients_cache.cache_dict
        for name in [name for name in clients if str(name).endswith(of_this_loop)]:
            await clients.pop(name).close()

    def publish(self, route: str, running: RunningEngine | EngineAddress | None) -> None:
        """Send requests for this route to this engine; remove the route if it is None. Returns when that is done."""
        if self._loop is None or self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._apply(route, running), self._loop).result(_PUBLISH_SECONDS)

    async def _apply(self, route: str, running: RunningEngine | EngineAddress | None) -> None:
        from litellm.types.router import Deployment, LiteLLM_Params, ModelInfo

        if running is None:
            self._router.delete_deployment(id=route)
            return
        params = LiteLLM_Params(
            model=f"openai/{running.model_name}", api_base=running.url, api_key=running.api_key or "none"
        )
        self._router.upsert_deployment(
            Deployment(model_name=route, litellm_params=params, model_info=ModelInfo(id=route))
        )

    async def generate(
        self, route: str, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any], stream: bool
    ) -> AsyncGenerator[Piece, None]:
        """Yield the generated text: in one piece, or as it comes if `stream` is set.

        Closing the iterator ends the generation. `parameters` are fields of OpenAI's chat request.

        Raises:
            SettingsError: the engine refuses the request as wrong.
            EngineError: neither the engine nor a fallback answered completely.
        """
        import openai

        body: dict[str, Any] = {**parameters, "messages": [dict(message) for message in messages]}
        try:
            if not stream:
                response = await self._router.acompletion(model=route, **body)
                yield self._piece(response, response, response.choices[0].message.content)
                return
            # To LiteLLM a stream of nothing is a success, so the fallbacks after it are asked here.
            for server in [route, *(name for name in self._fallbacks if name != route)]:
                answered = False
                async with aclosing(self._stream(server, body)) as pieces:
                    async for piece in pieces:
                        answered = True
                        yield piece
                if answered:
                    return
            raise EngineError("The engine sent an empty answer.", fix=_TRY_AGAIN)
        # LiteLLM's errors are subclasses of the openai client's; an engine that sends garbage causes the others.
        except (openai.OpenAIError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Only the classes: the messages may quote what somebody asked.
            names = dict.fromkeys(type(cause).__name__ for cause in _causes(error))
            logger.warning("%s gave no complete answer: %s", route, " from ".join(names))
            raise _explain(error) from error

    async def _stream(self, route: str, body: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of a streamed answer; nothing at all if neither text nor a token comes."""
        # Tokens cannot be counted from the chunks: with speculative decoding one chunk holds several.
        options = {"include_usage": True}
        response = await self._router.acompletion(model=route, **body, stream=True, stream_options=options)
        held_back: list[Piece] = []
        answered = False
        async with aclosing(response):
            async for chunk in response:
                piece = self._piece(response, chunk, chunk.choices[0].delta.content if chunk.choices else "")
                answered = answered or bool(piece.text or piece.completion_tokens)
                held_back.append(piece)
                if answered:
                    for waiting in held_back:
                        yield waiting
                    held_back.clear()

    def _piece(self, response: Any, part: Any, text: str | None) -> Piece:
        usage = getattr(part, "usage", None)
        hidden = getattr(response, "_hidden_params", None) or {}
        return Piece(
            text=text or "",
            finish_reason=(part.choices[0].finish_reason or "") if part.choices else "",
            prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
            completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
            fallback=self._fallbacks.get(str(hidden.get("model_id", "")), ""),
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, the newest first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _explain(error: Exception) -> SettingsError | EngineError:
    """Return our error for one of LiteLLM's, without internal names and URLs."""
    import httpx
    import openai

    for cause in _causes(error):
        # LiteLLM's own errors have a status too, but not always the one that the engine sent.
        if isinstance(cause, openai.APIStatusError) and type(cause).__module__.startswith("openai"):
            words = cause.body.get("message") if isinstance(cause.body, dict) else ""
            if cause.status_code in _WRONG_REQUEST:
                return SettingsError(f"The engine refused the request: {words or 'it does not say why'}")
        elif isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code in _WRONG_REQUEST:
            return SettingsError("The engine refused the request.")
    return EngineError(f"The engine did not answer completely ({type(error).__name__}).", fix=_TRY_AGAIN)
