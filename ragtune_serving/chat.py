"""One chat completion from the request to the record: retrieve, generate, correct, send, check, record, count.

Blocking work runs in threads, so the event loop never stops. A request holds its engine from before the search until
the answer is complete, so that a swap of models never cuts an answer off.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from ragtune.answer.answering import acceptable, as_json, second_try
from ragtune.answer.controls import Controls, changed_controls, with_controls
from ragtune.errors import EngineError, RagTuneError, SettingsError
from ragtune.experiments.shadow import Mirror
from ragtune.records import Answer, ResponseRecord
from ragtune.settings import Settings
from ragtune.store.shadows import Side
from ragtune.store.timestamps import now
from ragtune_serving.admission import Admission
from ragtune_serving.answer_parts import AnswerParts, Closing, Delta, closing_of, facts_of
from ragtune_serving.conversation import (
    CountTokens,
    Fitted,
    check_question,
    fit_history,
    read_conversation,
    token_counter,
)
from ragtune_serving.deployment import Engines
from ragtune_serving.engine import ServingEngine
from ragtune_serving.exchange import (
    PASSED_ON,
    Exchange,
    Plan,
    allowed_filter,
    asked_for,
    best_evidence,
    engine_messages,
    generated_pieces,
    version_of,
)
from ragtune_serving.experiment_traffic import ExperimentTraffic, Placement
from ragtune_serving.grounding import Grounding
from ragtune_serving.instructions import read_instructions
from ragtune_serving.keys import Key
from ragtune_serving.ledgers import Allowance
from ragtune_serving.limits import LimitError
from ragtune_serving.metrics import Metrics
from ragtune_serving.recorder import ResponseRecorder
from ragtune_serving.request_context import current_request
from ragtune_serving.response_cache import AnswerKeys, ResponseCache, StoredAnswer
from ragtune_serving.routing import EngineRouter, Generation
from ragtune_serving.schema import ChatRequest, RagTuneField
from ragtune_serving.schema import Controls as RequestControls
from ragtune_serving.shadowing import AnsweredRequest, Shadowing, side

_THREADS = 16
"""Requests whose retrieval or checking may run at once; chosen by hand, not sensitive: each takes milliseconds."""
_POLL_SECONDS = 0.1
"""Between two looks at an engine that is starting, which takes tens of seconds; chosen by hand, not sensitive."""
_VERBOSITY = {"low": 0.2, "medium": 0.5, "high": 0.8}
"""`depth` for OpenAI's field `verbosity`. Chosen by hand: the prompt reacts below 0.3, above 0.7."""
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class ChatService:
    """Answers chat requests."""

    def __init__(
        self,
        settings: Settings,
        deployment: Engines,
        grounding: Grounding,
        router: EngineRouter,
        recorder: ResponseRecorder,
        metrics: Metrics,
        traffic: ExperimentTraffic,
        shadowing: Shadowing,
        cache: ResponseCache | None = None,
    ) -> None:
        self.settings, self.deployment, self.grounding = settings, deployment, grounding
        self.router, self.recorder, self.metrics, self.cache = router, recorder, metrics, cache
        self.traffic, self.shadowing = traffic, shadowing
        self._keys, self._admission = AnswerKeys(settings), Admission(settings)
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="answering")

    async def answer(self, request: ChatRequest, response_id: str, key: Key, allowance: Allowance) -> AnswerParts:
        """Yield the text of the answer as it may be sent, then its closing. Closing the iterator ends the generation.

        Raises:
            SettingsError: the request is wrong.
            LimitError: the key has used what it may, or too many requests are in progress.
            RagTuneError: it cannot be answered now.
        """
        used: int | None = None
        try:
            await allowance.begin()
            with self._counting_failures(request.model):
                plan = await self._plan(request, response_id, key)
            stored = await self._stored(plan)
            if stored is not None:
                used = 0  # the engine wrote nothing
                await allowance.settle(used)
                for part in self._replayed(stored, plan, request):
                    yield part
                return
            exchange = await self._admit(plan, request, allowance)
            async with aclosing(self._generated(exchange, request, allowance)) as parts:
                async for part in parts:
                    used = exchange.reserved_tokens
                    if isinstance(part, Closing):  # before it is sent: a client may ask again at once
                        await allowance.settle(part.usage.total_tokens)
                    sent = time.perf_counter()
                    yield part
                    current_request().times.client += time.perf_counter() - sent
        except LimitError:
            self._count_outcome(request.model, "limited")
            raise
        finally:
            await allowance.settle(used)

    async def _generated(self, exchange: Exchange, request: ChatRequest, allowance: Allowance) -> AnswerParts:
        """Yield the parts of an answer; release its engine, and count how it ended."""
        prepared, plan = exchange.prepared, exchange.plan
        outcome = "broken"
        answered: Side | None = None
        try:
            if request.stream:
                generation = Generation(plan.started)
                delivery = plan.answerer.delivery(prepared)
                async with aclosing(
                    generated_pieces(self.router, exchange, exchange.parameters, stream=True)
                ) as pieces:
                    async for piece in pieces:
                        generation.add(piece)
                        if sendable := delivery.feed(piece.text):
                            yield Delta(sendable)
                if rest := delivery.end():
                    yield Delta(rest)
                completion, fallback = generation.completion(), generation.fallback
                answer = await self._checked(lambda: plan.answerer.finish(prepared, completion))
            else:
                answer, fallback = await self._concluded(exchange, allowance)
                yield Delta(answer.text)
            version = version_of(plan, fallback)
            closing = closing_of(answer, plan.response_id, version, exchange.notes)
            chunk_ids = tuple(hit.chunk.id for hit in answer.passages)
            seconds = answer.completion.total_seconds
            outcome, answered = "answered", side(answer, version)
            self._record(plan, request.model, answer.text, chunk_ids, closing.ragtune, seconds, best_evidence(prepared))
            if prepared.passages is not None:
                self.metrics.retrieval.observe(answer.retrieval_ms)
            times, streamed = current_request().times, bool(request.stream)
            self.metrics.count_answer(request.model, version, answer, times, streamed=streamed)
            self._describe(closing, exchange.prepared.question, answer.text)
            if not fallback and acceptable(prepared, answer):
                await self._keep(exchange, answer.text, closing)
            yield closing
        except SettingsError:
            outcome = "refused"
            raise
        except Exception:  # a client that goes away is not an Exception; it leaves `broken`
            outcome = "failed"
            raise
        finally:
            plan.engine.release()
            self._count_outcome(exchange.model, outcome)
            if outcome != "answered":
                seconds = time.perf_counter() - plan.started
                self.metrics.count_failure(exchange.model, plan.engine.model.version, outcome, seconds)
            if plan.placement and outcome in ("failed", "broken"):
                self._expose(plan.placement, plan.response_id, outcome)
            if answered and exchange.model == "ragtune" and prepared.known_text is None:
                self._offer_mirror(exchange, answered)

    def _offer_mirror(self, exchange: Exchange, live: Side) -> None:
        """Offer a request that is answered to the versions of a shadow deployment."""
        plan = exchange.plan
        request = AnsweredRequest(
            user=plan.user,
            answerer=plan.answerer,
            prepared=exchange.prepared,
            messages=engine_messages(exchange.prepared),
            parameters=exchange.parameters,
            live=live,
        )
        self.shadowing.offer(live.version, Mirror(plan.response_id, plan.key, exchange.reserved_tokens, request))

    def _expose(self, place: Placement, response_id: str, outcome: str, record: ResponseRecord | None = None) -> None:
        """Record what became of a request of an experiment."""
        by_fallback = record is not None and record.model_version.startswith("fallback:")
        exposure = place.exposure(response_id, outcome, by_fallback)
        self.recorder.add(record, exposure)
        self.metrics.arms.labels(place.experiment.name, place.way.version, exposure.failure or "answered").inc()

    async def _concluded(self, exchange: Exchange, allowance: Allowance) -> tuple[Answer, str]:
        """Return the answer that people get, and the name of the fallback that wrote it or "".

        An answer that fails its checks is written once more with other settings, if the key's limits allow it.
        """
        prepared, answerer = exchange.prepared, exchange.plan.answerer
        first = await self._whole(exchange, exchange.parameters, exchange.plan.started)
        answer = await self._checked(lambda: answerer.finish(prepared, first.completion()))
        if acceptable(prepared, answer):
            return answer, first.fallback
        parameters = {
            **exchange.parameters,
            "temperature": max(exchange.parameters["temperature"], second_try(prepared).temperature),
            "seed": (exchange.parameters["seed"] + 1) % 2**63,
        }
        second, fallback = None, first.fallback
        try:
            await allowance.charge(2 * exchange.reserved_tokens)
            again = await self._whole(exchange, parameters, time.perf_counter())
            second = await self._checked(lambda: answerer.finish(prepared, again.completion()))
            fallback = again.fallback or fallback
        except RagTuneError as error:
            logger.warning("no second try for an answer that failed its checks: %s", error)
        return await self._checked(lambda: answerer.instead(prepared, answer, second)), fallback

    async def _whole(self, exchange: Exchange, parameters: Mapping[str, Any], started: float) -> Generation:
        """Return a whole generated text."""
        generation = Generation(started)
        async with aclosing(generated_pieces(self.router, exchange, parameters, stream=False)) as pieces:
            async for piece in pieces:
                generation.add(piece)
        return generation

    @contextmanager
    def _counting_failures(self, model: str) -> Iterator[None]:
        """Count a request that cannot be answered."""
        try:
            yield
        except SettingsError:
            self._count_outcome(model, "refused")
            raise
        except LimitError:
            raise
        except RagTuneError:
            self._count_outcome(model, "unavailable")
            raise

    async def _plan(self, request: ChatRequest, response_id: str, key: Key) -> Plan:
        """Return what the request asks for; nothing is searched for yet."""
        started = time.perf_counter()
        current_request().fields.update(model=request.model, stream=bool(request.stream), response_id=response_id)
        own = request.ragtune or RequestControls()
        conversation = read_conversation(request.messages)
        where = allowed_filter(key, own.filter)
        place = None
        if request.model == "ragtune":
            place = self.traffic.place(request.user or "", key.name, conversation, self.deployment.engine_of)
        engine = place.engine if place else await self._in_thread(lambda: self.deployment.engine_for(request.model))
        answerer = self.grounding.answerer(request.model, where)
        controls, instructions, notes = self._style(request, conversation.instructions, answerer.controls)
        index_state, cache_key = "", ""
        temperature = controls.temperature if request.temperature is None else request.temperature
        # Who asks for variety gets it, unless a seed says that the same answer is wanted again. An experiment compares
        # models: the control's answers have been in the cache for longer.
        repeatable = own.cache is None and (not temperature or request.seed is not None) and place is None
        if self.cache is not None and repeatable:
            index_state = await self._in_thread(lambda: self.grounding.state(request.model))
            asked = asked_for(request, conversation, controls, where)
            cache_key = self._keys.key(engine.model, index_state, asked)
        return Plan(
            response_id=response_id,
            user=request.user or key.name,
            key=key.name,
            engine=engine,
            answerer=answerer,
            conversation=conversation,
            controls=controls,
            instructions=instructions,
            notes=notes,
            index_state=index_state,
            cache_key=cache_key,
            started=started,
            placement=place,
        )

    async def _stored(self, plan: Plan) -> StoredAnswer | None:
        """Return the answer that the cache has, or None; count what came of it."""
        stored = await self.cache.get(plan.cache_key) if self.cache is not None and plan.cache_key else None
        result = "hit" if stored else "miss" if plan.cache_key else "bypassed"
        self.metrics.cache.labels(result).inc()
        return stored

    def _replayed(self, stored: StoredAnswer, plan: Plan, request: ChatRequest) -> Iterator[Delta | Closing]:
        """Yield a cached answer as a response of its own."""
        seconds = time.perf_counter() - plan.started
        field = stored.ragtune.model_copy(update={"response_id": plan.response_id, "cached": True})
        closing = Closing(stored.finish_reason, stored.usage, field)
        self._record(plan, request.model, stored.text, stored.chunk_ids, field, seconds)
        self._count_outcome(request.model, "answered")
        self.metrics.count_cached(request.model, field, seconds, streamed=bool(request.stream))
        self._describe(closing, plan.conversation.question, stored.text)
        yield from map(Delta, stored.pieces())
        yield closing

    def _describe(self, closing: Closing, question: str, text: str) -> None:
        """Say in the log and in the trace of this request what came of it."""
        fields = current_request().fields
        fields.update(facts_of(closing))
        if self.settings.gateway.log_content:
            fields.update(question=question, answer=text)

    def _count_outcome(self, model: str, outcome: str) -> None:
        self.metrics.requests.labels(model, outcome).inc()
        current_request().fields["outcome"] = outcome

    async def _keep(self, exchange: Exchange, text: str, closing: Closing) -> None:
        """Put an answer into the cache, unless the index changed while it was made."""
        plan = exchange.plan
        if self.cache is None or not plan.cache_key or not text:
            return
        if plan.index_state != await self._in_thread(lambda: self.grounding.state(exchange.model)):
            return
        chunk_ids = tuple(hit.chunk.id for hit in exchange.prepared.passages or ())
        answer = StoredAnswer(
            text=text,
            finish_reason=closing.finish_reason,
            usage=closing.usage,
            ragtune=closing.ragtune,
            chunk_ids=chunk_ids,
        )
        await self.cache.put(plan.cache_key, answer)

    async def _admit(self, plan: Plan, request: ChatRequest, allowance: Allowance) -> Exchange:
        """Return the exchange, which holds its engine."""
        with self._counting_failures(request.model):
            self._admission.hold(plan.engine)
            try:
                exchange = await self._prepare(plan, request)
                await allowance.charge(exchange.reserved_tokens)
                return exchange
            except BaseException as error:
                plan.engine.release()
                if plan.placement and isinstance(error, EngineError):
                    self._expose(plan.placement, plan.response_id, "failed")
                raise

    async def _prepare(self, plan: Plan, request: ChatRequest) -> Exchange:
        times, asked = current_request().times, time.perf_counter()
        route = await self._route(plan.engine)
        times.engine += time.perf_counter() - asked
        max_tokens = request.max_completion_tokens or request.max_tokens
        asked = time.perf_counter()
        fitted = await self._in_thread(lambda: self._fitted(plan, max_tokens, token_counter(plan.engine.model.folder)))
        prepared, notes = fitted.prepared, plan.notes
        times.add_preparation(asked, prepared.retrieval_ms / 1000)
        if fitted.left_out:
            notes += (f"The {fitted.left_out} oldest turns were left out: they do not fit into the context.",)
        if request.ignored:
            notes += (f"These fields change nothing: {', '.join(request.ignored)}.",)
        parameters = {name: value for name in PASSED_ON if (value := getattr(request, name)) is not None}
        if request.response_format and request.response_format.type != "text":
            parameters["response_format"] = request.response_format.model_dump(exclude_none=True)
            prepared = as_json(prepared)
        parameters["max_tokens"] = max_tokens or prepared.max_tokens
        parameters["temperature"] = prepared.temperature if request.temperature is None else request.temperature
        parameters["seed"] = self.settings.seed if request.seed is None else request.seed
        return Exchange(
            plan=plan,
            model=request.model,
            route=route,
            prepared=prepared,
            parameters=parameters,
            notes=notes,
            reserved_tokens=fitted.prompt_tokens + parameters["max_tokens"],
        )

    def _fitted(self, plan: Plan, max_tokens: int | None, count: CountTokens) -> Fitted:
        """Return the prepared question with as much of the history as fits."""
        context, conversation = self.settings.engine.max_model_len, plan.conversation
        limit = max_tokens or plan.controls.max_tokens(self.settings.answer.max_tokens)
        check_question(conversation.question, plan.instructions, limit, context, count)
        prepared = plan.answerer.prepare(conversation.question, conversation.history, plan.controls)
        if plan.instructions:
            system, *turns = prepared.messages
            system = replace(system, content=f"{system.content}\n\n{plan.instructions}")
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

    async def _route(self, engine: ServingEngine) -> str:
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

    def _record(
        self,
        plan: Plan,
        model: str,
        text: str,
        chunk_ids: tuple[str, ...],
        field: RagTuneField,
        seconds: float,
        evidence: float | None = None,
    ) -> None:
        record = ResponseRecord(
            id=plan.response_id,
            created_at=now(),
            question=plan.conversation.question,
            answer=text,
            model=model,
            model_version=field.model_version,
            chunk_ids=chunk_ids,
            cited_chunk_ids=tuple(citation.chunk for citation in field.citations),
            refused=field.refused,
            user=plan.user,
            latency_ms=round(seconds * 1000, 1),
            key=plan.key,
            dials=changed_controls(plan.controls),
            evidence=evidence,
            checks={
                "support": field.support,
                "failures": {failure.reason: failure.detail for failure in field.failures},
                "replaced": field.replaced,
                "cached": field.cached,
            },
        )
        if plan.placement:
            self._expose(plan.placement, plan.response_id, "answered", record)
        else:
            self.recorder.add(record)

    async def _checked(self, work: Callable[[], Result]) -> Result:
        """Return the result of a check, which runs in a thread; its time is a stage of the request."""
        began = time.perf_counter()
        result = await self._in_thread(work)
        current_request().times.add_stage("checks", began)
        return result

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
