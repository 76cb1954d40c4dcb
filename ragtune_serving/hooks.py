"""The work around LiteLLM's call of the engine: retrieval before it, checking and recording after it.

Blocking work runs in threads, so the event loop never stops. A request holds its engine from before the
call until the answer is complete, so that a swap of models never cuts an answer off.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger  # noqa: TID253 - only the gateway imports this file
from pydantic import BaseModel, ConfigDict

from ragtune.answer.answering import Answerer, Prepared
from ragtune.answer.controls import Controls, with_controls
from ragtune.errors import EngineError, RagTuneError, SettingsError
from ragtune.records import Answer, Completion, Message, ResponseRecord
from ragtune.store.feedback import FeedbackLog
from ragtune.store.timestamps import now
from ragtune_serving.deployment import Deployment
from ragtune_serving.engine import SupervisedEngine
from ragtune_serving.grounding import Grounding
from ragtune_serving.metrics import Metrics
from ragtune_serving.problems import RETRY_SECONDS
from ragtune_serving.schema import ChatRequest, CitedPassage, ClosestPassage, RagTuneField

FORGET_SECONDS = 1800.0
"""Three times the longest engine call (`request_timeout` in gateway.py): no request is still running then."""
_THREADS = 16
"""Requests whose retrieval or checking may run at once; chosen by hand, not sensitive: each takes milliseconds."""
_POLL_SECONDS = 0.1
"""Between two looks at an engine that is starting, which takes tens of seconds; chosen by hand, not sensitive."""
Result = TypeVar("Result")


@dataclass(slots=True)
class Exchange:
    """One request in progress: its prompt, engine and times.

    `notes` are warnings about the request itself; `first_token` is a time of `perf_counter`, 0 until it comes.
    """

    response_id: str
    model: str
    user: str
    engine: SupervisedEngine
    answerer: Answerer
    prepared: Prepared
    notes: tuple[str, ...]
    wants_usage: bool = False
    started: float = field(default_factory=time.perf_counter)
    first_token: float = 0.0


class ClosingChunk(BaseModel):
    """A stream chunk with the field `ragtune`, which LiteLLM's own chunk type would drop."""

    model_config = ConfigDict(extra="allow")


class AnsweringHooks(CustomLogger):
    """The hooks that LiteLLM calls before and after every chat completion."""

    def __init__(
        self, deployment: Deployment, grounding: Grounding, log: FeedbackLog, metrics: Metrics, seed: int
    ) -> None:
        super().__init__()
        self.deployment, self.grounding, self.log, self.metrics, self.seed = deployment, grounding, log, metrics, seed
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="answering")
        self._exchanges: dict[str, Exchange] = {}

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,
        cache: Any,  # noqa: ARG002
        data: dict[str, Any],
        call_type: str,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Retrieve passages, build the prompt, choose the engine, and return the request for it."""
        # The route has refused unknown fields, so every other field in `data` was added by LiteLLM.
        request = ChatRequest.model_validate({name: data[name] for name in ChatRequest.model_fields if name in data})
        try:
            exchange = await self._prepare(request, user_api_key_dict.user_id or "")
        except SettingsError as error:
            self.metrics.requests.labels(request.model, "refused").inc()
            raise HTTPException(400, {"error": str(error)}) from error
        except RagTuneError as error:
            self.metrics.requests.labels(request.model, "unavailable").inc()
            raise HTTPException(503, {"error": str(error)}, {"Retry-After": RETRY_SECONDS}) from error
        self._remember(data["litellm_call_id"], exchange)
        prepared = exchange.prepared
        data.pop("ragtune", None)
        limit = request.max_completion_tokens or request.max_tokens or prepared.max_tokens
        data.pop("max_completion_tokens", None)
        data["model"] = exchange.engine.route
        data["messages"] = [{"role": turn.role, "content": turn.content} for turn in prepared.messages]
        data["max_tokens"] = limit
        data["temperature"] = prepared.temperature if request.temperature is None else request.temperature
        data["seed"] = self.seed if request.seed is None else request.seed
        if request.stream:
            # Tokens cannot be counted from the chunks: with speculative decoding one chunk holds several.
            data["stream_options"] = {"include_usage": True}
        return data

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:  # noqa: ARG002
        """Check and record an answer that is not streamed."""
        exchange = self._exchanges.pop(data["litellm_call_id"], None)
        if exchange is None or not getattr(response, "choices", None):
            return response
        choice, usage = response.choices[0], getattr(response, "usage", None)
        text = choice.message.content or ""
        delivery = exchange.answerer.delivery(exchange.prepared)
        choice.message.content = delivery.feed(text) + delivery.end()
        response.id = exchange.response_id
        tokens = getattr(usage, "prompt_tokens", 0), getattr(usage, "completion_tokens", 0)
        try:
            response.ragtune = await self._close(exchange, text, choice.finish_reason or "stop", *tokens)
        except BaseException:
            self._give_up(exchange, "failed")
            raise
        return response

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: Any,  # noqa: ARG002
        response: AsyncIterator[Any],
        request_data: dict[str, Any],
    ) -> AsyncIterator[Any]:
        """Pass chunks on as they arrive, with corrected citation marks.

        The chunk with the finish reason and those after it carry the result of the checks. They are held back until
        the engine has sent the token counts, which are recorded with the answer. The client gets the counts only
        if it asked for them.
        """
        exchange = self._exchanges.get(request_data["litellm_call_id"])
        if exchange is None:
            async for chunk in response:
                yield chunk
            return
        pieces: list[str] = []
        delivery = exchange.answerer.delivery(exchange.prepared)
        finish = ""
        closing_chunks: list[Any] = []
        counts: Any = None
        result: dict[str, Any] | None = None
        try:
            async for chunk in response:
                chunk.id = exchange.response_id
                for choice in chunk.choices or []:
                    if choice.delta and choice.delta.content:
                        exchange.first_token = exchange.first_token or time.perf_counter()
                        pieces.append(choice.delta.content)
                        choice.delta.content = delivery.feed(choice.delta.content)
                    finish = choice.finish_reason or finish
                    if finish and (rest := delivery.end()):
                        choice.delta.content = (choice.delta.content or "") + rest
                usage = getattr(chunk, "usage", None)
                counts = usage or counts
                if not finish:
                    yield chunk
                elif usage is None or exchange.wants_usage or any(choice.finish_reason for choice in chunk.choices):
                    closing_chunks.append(chunk)
            if finish:
                tokens = getattr(counts, "prompt_tokens", 0), getattr(counts, "completion_tokens", 0)
                result = await self._close(exchange, "".join(pieces), finish, *tokens)
            for chunk in closing_chunks:
                yield ClosingChunk(**chunk.model_dump(exclude_none=True), ragtune=result)
        finally:
            self._exchanges.pop(request_data["litellm_call_id"], None)
            if result is None:
                self._give_up(exchange, "broken")

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,  # noqa: ARG002
        traceback_str: str | None = None,  # noqa: ARG002
    ) -> HTTPException | None:
        """Return a 503 that names the engine instead of LiteLLM's 500, or a 400 if the request was wrong."""
        exchange = self._exchanges.pop(request_data.get("litellm_call_id", ""), None)
        if exchange is None:
            return None
        self._give_up(exchange, "failed")
        status = getattr(original_exception, "status_code", 500)
        if status in (400, 413, 422):
            return HTTPException(400, {"error": _engine_message(original_exception)})
        error = EngineError(
            f"The engine for model version {exchange.engine.model.version} did not answer.",
            fix="try again in a few seconds; an engine that died is restarted (`ragtune status` shows its state)",
        )
        return HTTPException(503, {"error": str(error)}, {"Retry-After": RETRY_SECONDS})

    async def _prepare(self, request: ChatRequest, key_name: str) -> Exchange:
        engine = await self._in_thread(lambda: self.deployment.engine_for(request.model))
        engine.hold()
        try:
            await self._until_ready(engine)
            answerer = self.grounding.answerer(request.model)
            controls = _controls(request, answerer.controls)
            question, history = _conversation(request)
            prepared = await self._in_thread(lambda: answerer.prepare(question, history, controls))
        except BaseException:
            engine.release()
            raise
        notes = tuple(
            "System messages are not sent to the model." for turn in request.messages[:1] if _is_system(turn.role)
        )
        return Exchange(
            f"chatcmpl-{uuid.uuid4().hex}",
            request.model,
            request.user or key_name,
            engine,
            answerer,
            prepared,
            notes,
            wants_usage=bool(request.stream_options and request.stream_options.include_usage),
        )

    async def _until_ready(self, engine: SupervisedEngine) -> None:
        """Wait for a comparison engine to start; raise EngineError if another engine is not ready.

        Comparison engines start at the first request, so that request has to wait. The live engine is started
        with the gateway; if it is not ready, the client gets a 503 at once.
        """
        while not engine.ready:
            if engine.state != "starting" or engine in (self.deployment.live, self.deployment.coming):
                raise engine.unavailable()
            await asyncio.sleep(_POLL_SECONDS)

    async def _close(
        self, exchange: Exchange, text: str, finish_reason: str, prompt_tokens: int, completion_tokens: int
    ) -> dict[str, Any]:
        """Check, record and count one answer; return its field `ragtune`."""
        seconds = time.perf_counter() - exchange.started
        first = (exchange.first_token or time.perf_counter()) - exchange.started
        completion = Completion(
            text=text,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            first_token_seconds=first,
            total_seconds=seconds,
            finish_reason=finish_reason,
        )
        answer = await self._in_thread(lambda: self._check_and_record(exchange, completion))
        exchange.engine.release()
        self._count(exchange, answer)
        return RagTuneField(
            response_id=exchange.response_id,
            model_version=exchange.engine.model.version,
            citations=[
                CitedPassage(
                    number=citation.number,
                    document=citation.document_id,
                    chunk=citation.chunk_id,
                    title=citation.title,
                    text=citation.text,
                    source=citation.source,
                    headings=list(citation.headings),
                    page=citation.page,
                    start=citation.start,
                )
                for citation in answer.citations
            ],
            refused=answer.refused,
            quoted=answer.quoted,
            quotation=answer.quotation,
            closest=[ClosestPassage(**asdict(passage)) for passage in answer.closest],
            warnings=[*answer.warnings, *exchange.notes],
            retrieval_ms=round(answer.retrieval_ms, 2),
        ).model_dump()

    def _check_and_record(self, exchange: Exchange, completion: Completion) -> Answer:
        answer = exchange.answerer.finish(exchange.prepared, completion)
        self.log.record_response(
            ResponseRecord(
                id=exchange.response_id,
                created_at=now(),
                question=exchange.prepared.question,
                answer=answer.text,
                model=exchange.model,
                model_version=exchange.engine.model.version,
                chunk_ids=tuple(hit.chunk.id for hit in answer.passages),
                cited_chunk_ids=tuple(citation.chunk_id for citation in answer.citations),
                refused=answer.refused,
                user=exchange.user,
                latency_ms=round(completion.total_seconds * 1000, 1),
            )
        )
        return answer

    def _count(self, exchange: Exchange, answer: Answer) -> None:
        metrics, model = self.metrics, exchange.model
        metrics.requests.labels(model, "answered").inc()
        metrics.latency.labels(model).observe(answer.completion.total_seconds)
        if exchange.first_token:
            metrics.first_token.labels(model).observe(answer.completion.first_token_seconds)
        if exchange.prepared.passages is not None:
            metrics.retrieval.observe(answer.retrieval_ms)
        if answer.refused:
            metrics.refusals.labels(model).inc()
        if answer.warnings:
            metrics.warnings.inc()
        metrics.tokens.labels("prompt").inc(answer.completion.prompt_tokens)
        metrics.tokens.labels("completion").inc(answer.completion.completion_tokens)

    def _give_up(self, exchange: Exchange, outcome: str) -> None:
        exchange.engine.release()
        self.metrics.requests.labels(exchange.model, outcome).inc()

    def _remember(self, call_id: str, exchange: Exchange) -> None:
        """Store the exchange until its answer comes, and drop exchanges whose end LiteLLM never reported."""
        oldest_start = time.perf_counter() - FORGET_SECONDS
        for old_id in [key for key, other in self._exchanges.items() if other.started < oldest_start]:
            self._give_up(self._exchanges.pop(old_id), "forgotten")
        self._exchanges[call_id] = exchange

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _engine_message(error: Exception) -> str:
    """Return the engine's own error message, without the text that LiteLLM puts around it."""
    message = str(error).split("\n\nLiteLLM:")[0]
    return message.rpartition("OpenAIException - ")[2]


def _is_system(role: str) -> bool:
    return role in ("system", "developer")


def _conversation(request: ChatRequest) -> tuple[str, tuple[Message, ...]]:
    turns = [turn for turn in request.messages if not _is_system(turn.role)]
    if not turns or turns[-1].role != "user":
        raise SettingsError("The last message is not from the user.", "a last message with the role user")
    history = tuple(Message("user" if turn.role == "user" else "assistant", turn.text) for turn in turns[:-1])
    return turns[-1].text, history


def _controls(request: ChatRequest, defaults: Controls) -> Controls:
    if request.ragtune is None:
        return defaults
    return with_controls(defaults, request.ragtune.dials, request.ragtune.switches)
