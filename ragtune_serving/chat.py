"""One chat completion from the request to the record: retrieve, generate, correct, send, check, record, count.

Blocking work runs in threads, so the event loop never stops. A request holds its engine from before the search until
the answer is complete, so that a swap of models never cuts an answer off.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from ragtune.answer.answering import Answerer, Prepared, as_written
from ragtune.answer.controls import Controls, changed_controls, with_controls
from ragtune.errors import EngineError, RagTuneError, SettingsError
from ragtune.experiments.shadow import Mirror
from ragtune.records import Answer, Completion, ResponseRecord
from ragtune.settings import Settings
from ragtune.store.shadows import Side
from ragtune.store.timestamps import now
from ragtune.text.control_tokens import break_control_tokens
from ragtune_serving.conversation import (
    Conversation,
    CountTokens,
    Fitted,
    check_question,
    fit_history,
    read_conversation,
    token_counter,
)
from ragtune_serving.deployment import Deployment
from ragtune_serving.engine import SupervisedEngine
from ragtune_serving.experiment_traffic import ExperimentTraffic, Placement
from ragtune_serving.grounding import Grounding
from ragtune_serving.instructions import read_instructions
from ragtune_serving.keys import Key
from ragtune_serving.limits import Allowance, LimitError
from ragtune_serving.metrics import Metrics
from ragtune_serving.recorder import ResponseRecorder
from ragtune_serving.routing import EngineRouter, Piece
from ragtune_serving.schema import ChatRequest, CitedPassage, ClosestPassage, RagTuneField, Usage
from ragtune_serving.shadowing import AnsweredRequest, Shadowing, side

_THREADS = 16
"""Requests whose retrieval or checking may run at once; chosen by hand, not sensitive: each takes milliseconds."""
_POLL_SECONDS = 0.1
"""Between two looks at an engine that is starting, which takes tens of seconds; chosen by hand, not sensitive."""
_VERBOSITY = {"low": 0.2, "medium": 0.5, "high": 0.8}
"""`depth` for OpenAI's field `verbosity`. Chosen by hand: the prompt reacts below 0.3, above 0.7."""
_PASSED_ON = ("top_p", "stop", "presence_penalty", "frequency_penalty", "logit_bias")
"""Fields of the request that the engine gets as they are."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Delta:
    """The next part of the answer as it is sent."""

    text: str


@dataclass(frozen=True, slots=True)
class Closing:
    """The end of an answer: why it ended, its tokens, and the result of the checks."""

    finish_reason: str
    usage: Usage
    ragtune: RagTuneField


AnswerParts = AsyncGenerator[Delta | Closing, None]
"""The text of an answer in parts, and its closing last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request in progress.

    `notes` are warnings about the request itself; `started` is a time of `perf_counter`; `reserved_tokens` are those of
    the prompt and of the longest answer. `placement` is the arm of an experiment, None outside of one.
    """

    response_id: str
    model: str
    user: str
    key: str
    engine: SupervisedEngine
    route: str
    answerer: Answerer
    prepared: Prepared
    parameters: dict[str, Any]
    notes: tuple[str, ...]
    started: float
    reserved_tokens: int
    placement: Placement | None = None


def new_response_id() -> str:
    """Return an id in OpenAI's form that no other response has."""
    return f"chatcmpl-{uuid.uuid4().hex}"


class ChatService:
    """Answers chat requests."""

    def __init__(
        self,
        settings: Settings,
        deployment: Deployment,
        grounding: Grounding,
        router: EngineRouter,
        recorder: ResponseRecorder,
        metrics: Metrics,
        traffic: ExperimentTraffic,
        shadowing: Shadowing,
    ) -> None:
        self.settings, self.deployment, self.grounding = settings, deployment, grounding
        self.traffic, self.shadowing = traffic, shadowing
        self.router, self.recorder, self.metrics = router, recorder, metrics
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="answering")

    async def answer(self, request: ChatRequest, response_id: str, key: Key, allowance: Allowance) -> AnswerParts:
        """Yield the text of the answer as it may be sent, then its closing. Closing the iterator ends the generation.

        Raises:
            SettingsError: the request is wrong.
            LimitError: the key has used what it may.
            RagTuneError: it cannot be answered now.
        """
        used: int | None = None
        try:
            # Not in a thread: if the client left meanwhile, nobody would take back what the thread then counts.
            allowance.begin()
            exchange = await self._admit(request, response_id, key, allowance)
            async with aclosing(self._generated(exchange, request)) as parts:
                async for part in parts:
                    used = exchange.reserved_tokens
                    if isinstance(part, Closing):  # before it is sent: a client may ask again at once
                        allowance.settle(part.usage.total_tokens)
                    yield part
        except LimitError:
            self.metrics.requests.labels(request.model, "limited").inc()
            raise
        finally:
            allowance.settle(used)

    async def _generated(self, exchange: Exchange, request: ChatRequest) -> AnswerParts:
        """Yield the parts of an answer; release its engine, and count how it ended."""
        prepared = exchange.prepared
        messages = [{"role": turn.role, "content": break_control_tokens(turn.content)} for turn in prepared.messages]
        outcome = "broken"
        answered: Side | None = None
        try:
            delivery = exchange.answerer.delivery(prepared)
            text, finish_reason, usage, fallback, first_token = "", "", (0, 0), "", 0.0
            if prepared.known_text is not None:
                generated = _known(prepared.known_text)
            else:
                generated = self._pieces(exchange, messages, bool(request.stream))
            async with aclosing(generated):
                async for piece in generated:
                    if piece.text:
                        first_token = first_token or time.perf_counter()
                        text += piece.text
                        if sendable := delivery.feed(piece.text):
                            yield Delta(sendable)
                    finish_reason = piece.finish_reason or finish_reason
                    fallback = piece.fallback or fallback
                    if piece.prompt_tokens:
                        usage = piece.prompt_tokens, piece.completion_tokens
            if rest := delivery.end():
                yield Delta(rest)
            finished = time.perf_counter()
            completion = Completion(
                text=text,
                prompt_tokens=usage[0],
                completion_tokens=usage[1],
                first_token_seconds=(first_token or finished) - exchange.started,
                total_seconds=finished - exchange.started,
                finish_reason=finish_reason or "stop",
            )
            answer = await self._in_thread(lambda: exchange.answerer.finish(prepared, completion))
            version = _version(exchange, fallback)
            outcome, answered = "answered", side(answer, version)
            self._record(exchange, answer, version, bool(fallback))
            self._count(exchange, answer, streamed=bool(request.stream))
            yield _closing(exchange, answer, version)
        except SettingsError:
            outcome = "refused"
            raise
        except Exception:  # a client that goes away is not an Exception; it leaves `broken`
            outcome = "failed"
            raise
        finally:
            exchange.engine.release()
            self.metrics.requests.labels(exchange.model, outcome).inc()
            if exchange.placement and outcome in ("failed", "broken"):
                self._expose(exchange.placement, exchange.response_id, outcome)
            if answered and exchange.model == "ragtune" and prepared.known_text is None:
                self._offer_mirror(exchange, messages, answered)

    def _offer_mirror(self, exchange: Exchange, messages: Sequence[Mapping[str, str]], live: Side) -> None:
        """Offer a request that is answered to the versions of a shadow deployment."""
        request = AnsweredRequest(
            user=exchange.user,
            answerer=exchange.answerer,
            prepared=exchange.prepared,
            messages=messages,
            parameters=exchange.parameters,
            live=live,
        )
        mirror = Mirror(exchange.response_id, exchange.key, exchange.reserved_tokens, request)
        self.shadowing.offer(live.version, mirror)

    async def _pieces(
        self, exchange: Exchange, messages: Sequence[Mapping[str, str]], stream: bool
    ) -> AsyncGenerator[Piece, None]:
        """Yield the generated text; the control writes it if a candidate's engine fails before the first word."""
        place, begun = exchange.placement, False
        try:
            async with aclosing(self.router.generate(exchange.route, messages, exchange.parameters, stream)) as pieces:
                async for piece in pieces:
                    begun = begun or bool(piece.text)
                    yield piece
            return
        except EngineError:
            if begun or place is None or not place.can_replace():
                raise
            place.replaced = True
        place.control.hold()
        try:
            route = place.control.route
            async with aclosing(self.router.generate(route, messages, exchange.parameters, stream)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            place.control.release()

    def _expose(
        self,
        place: Placement,
        response_id: str,
        outcome: str,
        record: ResponseRecord | None = None,
        other: bool = False,
    ) -> None:
        """Record what became of a request of an experiment; `other` says that a fallback answered."""
        exposure = place.exposure(response_id, outcome, other)
        self.recorder.add(record, exposure)
        self.metrics.arms.labels(place.experiment.name, place.way.version, exposure.failure or "answered").inc()

    async def _admit(self, request: ChatRequest, response_id: str, key: Key, allowance: Allowance) -> Exchange:
        """Return the exchange, which holds its engine; count a request that cannot be answered."""
        try:
            conversation = read_conversation(request.messages)
            place = None
            if request.model == "ragtune":
                place = self.traffic.place(request.user or "", key.name, conversation, self.deployment.engine_of)
            engine = place.engine if place else await self._in_thread(lambda: self.deployment.engine_for(request.model))
            engine.hold()
            try:
                exchange = await self._prepare(request, conversation, engine, response_id, key)
                allowance.charge(exchange.reserved_tokens)
                return replace(exchange, placement=place)
            except BaseException as error:
                engine.release()
                if place and isinstance(error, EngineError):
                    self._expose(place, response_id, "failed")
                raise
        except SettingsError:
            self.metrics.requests.labels(request.model, "refused").inc()
            raise
        except LimitError:
            raise
        except RagTuneError:
            self.metrics.requests.labels(request.model, "unavailable").inc()
            raise

    async def _prepare(
        self, request: ChatRequest, conversation: Conversation, engine: SupervisedEngine, response_id: str, key: Key
    ) -> Exchange:
        started = time.perf_counter()
        route = await self._route(engine)
        where = _filter(key, request.ragtune.filter if request.ragtune else {})
        answerer = self.grounding.answerer(request.model, where)
        controls, instructions, notes = self._style(request, conversation.instructions, answerer.controls)
        max_tokens = request.max_completion_tokens or request.max_tokens
        folder = engine.model.folder
        fitted = await self._in_thread(
            lambda: self._fitted(answerer, conversation, controls, instructions, max_tokens, token_counter(folder))
        )
        prepared = fitted.prepared
        if fitted.left_out:
            notes += (f"The {fitted.left_out} oldest turns were left out: they do not fit into the context.",)
        if request.ignored:
            notes += (f"These fields change nothing: {', '.join(request.ignored)}.",)
        parameters = {name: value for name in _PASSED_ON if (value := getattr(request, name)) is not None}
        if request.response_format and request.response_format.type != "text":
            parameters["response_format"] = request.response_format.model_dump(exclude_none=True)
            prepared = as_written(prepared)
        parameters["max_tokens"] = max_tokens or prepared.max_tokens
        parameters["temperature"] = prepared.temperature if request.temperature is None else request.temperature
        parameters["seed"] = self.settings.seed if request.seed is None else request.seed
        return Exchange(
            response_id=response_id,
            model=request.model,
            user=request.user or key.name,
            key=key.name,
            reserved_tokens=fitted.prompt_tokens + parameters["max_tokens"],
            engine=engine,
            route=route,
            answerer=answerer,
            prepared=prepared,
            parameters=parameters,
            notes=notes,
            started=started,
        )

    def _fitted(
        self,
        answerer: Answerer,
        conversation: Conversation,
        controls: Controls,
        instructions: str,
        max_tokens: int | None,
        count: CountTokens,
    ) -> Fitted:
        """Return the prepared question with as much of the history as fits."""
        context = self.settings.engine.max_model_len
        limit = max_tokens or controls.max_tokens(self.settings.answer.max_tokens)
        check_question(conversation.question, instructions, limit, context, count)
        prepared = answerer.prepare(conversation.question, conversation.history, controls)
        if instructions:
            system, *turns = prepared.messages
            system = replace(system, content=f"{system.content}\n\n{instructions}")
            prepared = replace(prepared, messages=(system, *turns))
        return fit_history(prepared, limit, context, count)

    def _style(
        self, request: ChatRequest, instructions: str, defaults: Controls
    ) -> tuple[Controls, str, tuple[str, ...]]:
        """Return the controls, the instructions that the model gets, and warnings about those that it does not get."""
        controls = defaults
        if request.verbosity:
            controls = replace(controls, depth=_VERBOSITY[request.verbosity])
        own = request.ragtune
        if own:
            controls = with_controls(controls, own.dials, own.switches)
        if not instructions or self.settings.follows_instructions:
            return controls, instructions, ()
        fixed = frozenset([*own.dials, *own.switches] if own else ())
        reading = read_instructions(instructions, controls, fixed)
        notes: tuple[str, ...] = ("System messages are not sent to the model; dials and switches do what they can.",)
        if reading.unmet:
            notes += (f"Not followed: {' | '.join(reading.unmet)}",)
        return reading.controls, "", notes

    async def _route(self, engine: SupervisedEngine) -> str:
        """Wait for a comparison engine to start; return the engine's route, or the first fallback if it is not ready.

        Comparison engines start at the first request, so that request has to wait. The live engine is started
        with the gateway; if it is not ready and there is no fallback, the client gets a 503 at once.
        """
        while not engine.ready:
            if engine.state != "starting" or engine in (self.deployment.live, self.deployment.coming):
                if not self.router.first_fallback:
                    raise engine.unavailable()
                return self.router.first_fallback
            await asyncio.sleep(_POLL_SECONDS)
        return engine.route

    def _record(self, exchange: Exchange, answer: Answer, version: str, by_fallback: bool) -> None:
        record = ResponseRecord(
            id=exchange.response_id,
            created_at=now(),
            question=exchange.prepared.question,
            answer=answer.text,
            model=exchange.model,
            model_version=version,
            chunk_ids=tuple(hit.chunk.id for hit in answer.passages),
            cited_chunk_ids=tuple(citation.chunk_id for citation in answer.citations),
            refused=answer.refused,
            user=exchange.user,
            latency_ms=round(answer.completion.total_seconds * 1000, 1),
            key=exchange.key,
            warnings=answer.warnings,
            dials=changed_controls(exchange.prepared.controls),
            evidence=max((round(item.probability, 4) for item in exchange.prepared.evidence), default=None),
        )
        if exchange.placement:
            self._expose(exchange.placement, exchange.response_id, "answered", record, by_fallback)
        else:
            self.recorder.add(record)

    def _count(self, exchange: Exchange, answer: Answer, streamed: bool) -> None:
        metrics, model = self.metrics, exchange.model
        metrics.latency.labels(model).observe(answer.completion.total_seconds)
        if streamed:
            metrics.first_token.labels(model).observe(answer.completion.first_token_seconds)
        if exchange.prepared.passages is not None:
            metrics.retrieval.observe(answer.retrieval_ms)
        if answer.refused:
            metrics.refusals.labels(model).inc()
        if answer.warnings:
            metrics.warnings.inc()
        metrics.tokens.labels("prompt").inc(answer.completion.prompt_tokens)
        metrics.tokens.labels("completion").inc(answer.completion.completion_tokens)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _filter(key: Key, requested: Mapping[str, str]) -> dict[str, str]:
    """Return the filter of a request together with that of its key, which the request cannot widen."""
    for name, value in requested.items():
        if key.filter.get(name, value) != value:
            raise SettingsError(
                f"The filter asks for {name}={value}, but this key sees only {name}={key.filter[name]}.",
                fix=f"leave {name} out of ragtune.filter",
            )
    return {**requested, **key.filter}


def _version(exchange: Exchange, fallback: str) -> str:
    """Return the version that wrote an answer."""
    if fallback:
        return f"fallback:{fallback}"
    place = exchange.placement
    return (place.control if place and place.replaced else exchange.engine).model.version


async def _known(text: str) -> AsyncGenerator[Piece, None]:
    """Yield the text that stands for the model's, so that no engine is asked."""
    yield Piece(text=text)


def _closing(exchange: Exchange, answer: Answer, version: str) -> Closing:
    completion = answer.completion
    citations = [
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
    ]
    field = RagTuneField(
        response_id=exchange.response_id,
        model_version=version,
        citations=citations,
        refused=answer.refused,
        quoted=answer.quoted,
        quotation=answer.quotation,
        closest=[ClosestPassage(**asdict(passage)) for passage in answer.closest],
        language=answer.language,
        warnings=[*answer.warnings, *exchange.notes],
        retrieval_ms=round(answer.retrieval_ms, 2),
    )
    usage = Usage(
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        total_tokens=completion.prompt_tokens + completion.completion_tokens,
    )
    return Closing(completion.finish_reason, usage, field)
