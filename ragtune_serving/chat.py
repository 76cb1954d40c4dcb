"""One chat completion from the request to the record: retrieve, generate, correct, send, check, record, count.

Blocking work runs in threads, so the event loop never stops. A request holds its engine from before the search until
the answer is complete, so that a swap of models never cuts an answer off.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from ragtune.answer.answering import acceptable, as_json, second_try
from ragtune.answer.controls import Controls, with_controls
from ragtune.errors import EngineError, RagTuneError, SettingsError
from ragtune.experiments.shadow import Mirror
from ragtune.records import Answer, ResponseRecord
from ragtune.settings import Settings
from ragtune.store.shadows import Side
from ragtune_serving.admission import Admission
from ragtune_serving.answer_parts import AnswerParts, Closing, Delta, Envelope, closing_of, facts_of
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
    record_of,
    version_of,
)
from ragtune_serving.experiment_traffic import ExperimentTraffic, Placement
from ragtune_serving.grounding import Grounding
from ragtune_serving.instructions import Style, style_for
from ragtune_serving.keys import Key
from ragtune_serving.ledgers import Allowance
from ragtune_serving.limits import NOTHING, LimitError, Prices, Use
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
        self._keys, self._prices = AnswerKeys(settings), Prices(settings.gateway)
        self._admission = Admission(settings)
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="answering")

    async def answer(self, request: ChatRequest, response_id: str, key: Key, allowance: Allowance) -> AnswerParts:
        """Yield the text of the answer as it may be sent, then its closing. Closing the iterator ends the generation.

        Raises:
            SettingsError: the request is wrong.
            LimitError: the key has used what it may, or too many requests are in progress.
            RagTuneError: it cannot be answered now.
        """
        plan: Plan | None = None
        exchange: Exchange | None = None
        failure: Exception | None = None
        outcome, begun = "broken", False  # a client that goes away raises no Exception
        try:
            await allowance.begin()
            plan = await self._plan(request, response_id, key)
            if (stored := await self._stored(plan)) is not None:
                parts = self._replayed(stored, plan)
            else:
                prepared = await self._prepared(plan)
                await allowance.charge(prepared.reserved)
                exchange = prepared
                parts = self._generated(exchange, allowance)
            async with aclosing(parts):
                async for part in parts:
                    begun = True
                    if isinstance(part, Closing):
                        outcome = "answered"
                        # Before it is sent, because a client may ask again at once. A cached answer costs no tokens.
                        await allowance.settle(self._used(part) if exchange else NOTHING)
                    sent = time.perf_counter()
                    yield part
                    current_request().times.client += time.perf_counter() - sent
        except Exception as error:
            failure, outcome = error, _outcome_of(error, generating=exchange is not None)
            raise
        finally:
            self._end(request.model, plan, exchange, outcome, failure)
            # A client that went away, or got a part of an answer, may have used all that was reserved.
            used_all = outcome == "broken" or begun
            await allowance.settle(allowance.reserved if used_all else None)

    def _used(self, closing: Closing) -> Use:
        usage = closing.usage
        return self._prices.of(closing.ragtune.model_version, usage.prompt_tokens, usage.completion_tokens)

    def _end(
        self, model: str, plan: Plan | None, exchange: Exchange | None, outcome: str, failure: Exception | None
    ) -> None:
        """Release the engine of a request, and count how it ended."""
        self.metrics.requests.labels(model, outcome).inc()
        current_request().fields["outcome"] = outcome
        if plan is None:
            return
        plan.engine.release()
        if outcome == "answered":
            return
        if exchange is not None:
            seconds = time.perf_counter() - plan.started
            self.metrics.count_failure(model, plan.engine.model.version, outcome, seconds)
        if plan.placement and (outcome in ("failed", "broken") or isinstance(failure, EngineError)):
            self._expose(plan.placement, plan.response_id, "broken" if outcome == "broken" else "failed")

    async def _generated(self, exchange: Exchange, allowance: Allowance) -> AnswerParts:
        """Yield the parts of an answer that an engine writes."""
        prepared, plan, request = exchange.prepared, exchange.plan, exchange.plan.request
        generation = Generation(plan.started)
        delivery = plan.answerer.delivery(prepared) if request.stream else None
        envelope = Envelope() if plan.style.in_envelope else None
        generated = generated_pieces(self.router, exchange, exchange.parameters, stream=bool(request.stream))
        async with aclosing(generated) as pieces:
            async for piece in pieces:
                generation.add(piece)
                if delivery and (sendable := delivery.feed(piece.text)):
                    yield Delta(envelope.wrap(sendable) if envelope else sendable)
        if delivery and (rest := delivery.end()):
            yield Delta(envelope.wrap(rest) if envelope else rest)
        completion, fallback = generation.completion(), generation.fallback
        if prepared.passages is None and prepared.schema is None:
            # There is nothing to compare with, so it is over at once.
            answer = plan.answerer.finish(prepared, completion)
        else:
            answer = await self._checked(lambda: plan.answerer.finish(prepared, completion))
        if not delivery or delivery.suspect:  # nothing was sent yet
            answer, fallback = await self._concluded(exchange, answer, fallback, allowance)
            if answer.text:
                yield Delta(envelope.wrap(answer.text) if envelope else answer.text)
        if envelope:
            yield Delta(envelope.end())
            answer = replace(answer, text=envelope.text)
        version = version_of(plan, fallback)
        closing = closing_of(answer, plan.response_id, version, exchange.notes)
        self._finish(exchange, answer, closing)
        if not fallback and acceptable(prepared, answer):
            await self._keep(exchange, answer.text, closing)
        try:
            yield closing
        finally:  # now its user has the answer
            if request.model == "ragtune" and not fallback and prepared.known_text is None:
                self._offer_mirror(exchange, side(answer, version))

    def _finish(self, exchange: Exchange, answer: Answer, closing: Closing) -> None:
        """Record a complete answer, count it, and say in the log and in the trace what came of it."""
        plan, field, times = exchange.plan, closing.ragtune, current_request().times
        chunk_ids = tuple(hit.chunk.id for hit in answer.passages)
        seconds = answer.completion.total_seconds
        self._record(plan, answer.text, chunk_ids, field, seconds, best_evidence(exchange.prepared))
        if exchange.prepared.passages is not None:
            self.metrics.retrieval.observe(answer.retrieval_ms)
        streamed = bool(plan.request.stream)
        self.metrics.count_answer(plan.request.model, field.model_version, answer, times, streamed=streamed)
        self._describe(closing, exchange.prepared.question, answer.text)

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
        self.shadowing.offer(live.version, Mirror(plan.response_id, plan.key, exchange.reserved.tokens, request))

    def _expose(self, place: Placement, response_id: str, outcome: str, record: ResponseRecord | None = None) -> None:
        """Record what became of a request of an experiment."""
        by_fallback = record is not None and record.model_version.startswith("fallback:")
        exposure = place.exposure(response_id, outcome, by_fallback)
        self.recorder.add(record, exposure)
        self.metrics.arms.labels(place.experiment.name, place.way.version, exposure.failure or "answered").inc()

    async def _concluded(
        self, exchange: Exchange, answer: Answer, fallback: str, allowance: Allowance
    ) -> tuple[Answer, str]:
        """Return the answer that people get, and the name of the fallback that wrote it or "".

        An answer that fails its checks is written once more with other settings, if the key's limits allow it.
        """
        prepared, answerer = exchange.prepared, exchange.plan.answerer
        if acceptable(prepared, answer):
            return answer, fallback
        parameters = {
            **exchange.parameters,
            "temperature": max(exchange.parameters["temperature"], second_try(prepared).temperature),
            "seed": (exchange.parameters["seed"] + 1) % 2**63,
        }
        second: Answer | None = None
        try:
            await allowance.charge(exchange.reserved * 2)
            again = await self._whole(exchange, parameters)
            second = await self._checked(lambda: answerer.finish(prepared, again.completion()))
            fallback = again.fallback or fallback
        except RagTuneError as error:
            logger.warning("no second try for an answer that failed its checks: %s", error)
        return await self._checked(lambda: answerer.instead(prepared, answer, second)), fallback

    async def _whole(self, exchange: Exchange, parameters: Mapping[str, Any]) -> Generation:
        """Return a whole generated text."""
        generation = Generation(time.perf_counter())
        async with aclosing(generated_pieces(self.router, exchange, parameters, stream=False)) as pieces:
            async for piece in pieces:
                generation.add(piece)
        return generation

    async def _plan(self, request: ChatRequest, response_id: str, key: Key) -> Plan:
        """Return what the request asks for; nothing is searched for yet. The plan holds its engine."""
        started = time.perf_counter()
        current_request().fields.update(model=request.model, stream=bool(request.stream), response_id=response_id)
        own = request.ragtune or RequestControls()
        conversation = read_conversation(request.messages)
        where = allowed_filter(key, own.filter)
        answerer = self.grounding.answerer(request.model, where)
        style = self._style(request, conversation.instructions, answerer.controls)
        place = None
        if request.model == "ragtune":
            place = self.traffic.place(request.user or "", key.name, conversation, self.deployment.engine_of)
        engine = place.engine if place else await self._engine_for(request.model)
        # From here on a swap waits for this request. Not in the thread, which would hold it if the client leaves.
        engine.hold()
        try:
            temperature = style.controls.temperature if request.temperature is None else request.temperature
            # Who asks for variety gets it, unless a seed says that the same answer is wanted again. An experiment
            # compares models: the control's answers have been in the cache for longer.
            repeatable = own.cache is None and (not temperature or request.seed is not None) and place is None
            index_state, cache_key = "", ""
            if self.cache is not None and repeatable:
                index_state = await self._in_thread(lambda: self.grounding.state(request.model))
                asked = asked_for(request, conversation, style.controls, where)
                cache_key = self._keys.key(engine.model, index_state, asked)
        except BaseException:
            engine.release()
            raise
        return Plan(
            request=request,
            response_id=response_id,
            user=request.user or key.name,
            key=key.name,
            engine=engine,
            answerer=answerer,
            conversation=conversation,
            style=style,
            index_state=index_state,
            cache_key=cache_key,
            started=started,
            placement=place,
        )

    async def _engine_for(self, model: str) -> ServingEngine:
        # Looking costs less than a thread, which would compete with the event loop for the interpreter.
        if (known := self.deployment.known_engine_for(model)) is not None:
            return known
        return await self._in_thread(lambda: self.deployment.engine_for(model))

    async def _stored(self, plan: Plan) -> StoredAnswer | None:
        """Return the answer that the cache has, or None; count what came of it."""
        stored = await self.cache.get(plan.cache_key) if self.cache is not None and plan.cache_key else None
        result = "hit" if stored else "miss" if plan.cache_key else "bypassed"
        self.metrics.cache.labels(result).inc()
        return stored

    async def _replayed(self, stored: StoredAnswer, plan: Plan) -> AnswerParts:
        """Yield a cached answer as a response of its own."""
        seconds, model = time.perf_counter() - plan.started, plan.request.model
        field = stored.ragtune.model_copy(update={"response_id": plan.response_id, "cached": True})
        closing = Closing(stored.finish_reason, stored.usage, field)
        self._record(plan, stored.text, stored.chunk_ids, field, seconds)
        self.metrics.count_cached(model, field, seconds, streamed=bool(plan.request.stream))
        self._describe(closing, plan.conversation.question, stored.text)
        for piece in stored.pieces():
            yield Delta(piece)
        yield closing

    def _describe(self, closing: Closing, question: str, text: str) -> None:
        """Say in the log and in the trace of this request what came of it."""
        fields = current_request().fields
        fields.update(facts_of(closing))
        if self.settings.gateway.log_content:
            fields.update(question=question, answer=text)

    async def _keep(self, exchange: Exchange, text: str, closing: Closing) -> None:
        """Put an answer into the cache, unless the index changed while it was made."""
        plan = exchange.plan
        if self.cache is None or not plan.cache_key or not text:
            return
        if plan.index_state != await self._in_thread(lambda: self.grounding.state(plan.request.model)):
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

    async def _prepared(self, plan: Plan) -> Exchange:
        """Search for the question and return the exchange, ready for its engine."""
        self._admission.check(plan.engine)
        times, asked, request, style = current_request().times, time.perf_counter(), plan.request, plan.style
        route = await self._route(plan.engine)
        times.engine += time.perf_counter() - asked
        max_tokens = request.max_completion_tokens or request.max_tokens
        asked = time.perf_counter()
        fitted = await self._in_thread(lambda: self._fitted(plan, max_tokens, token_counter(plan.engine.model.folder)))
        prepared, notes = fitted.prepared, style.notes
        times.add_preparation(asked, prepared.retrieval_ms / 1000)
        if request.model != "ragtune-raw" and not self.grounding.present:
            notes += ("There is no index, so this answer is not from your documents. How to fix: run `ragtune index`.",)
        if fitted.left_out:
            notes += (f"The {fitted.left_out} oldest turns were left out: they do not fit into the context.",)
        if request.ignored:
            notes += (f"These fields change nothing: {', '.join(request.ignored)}.",)
        parameters = {name: value for name in PASSED_ON if (value := getattr(request, name)) is not None}
        if style.format is not None:
            parameters["response_format"] = style.format.model_dump(exclude_none=True)
            prepared = as_json(prepared, style.format.schema_of_answer)
        parameters["max_tokens"] = max_tokens or prepared.max_tokens
        parameters["temperature"] = prepared.temperature if request.temperature is None else request.temperature
        parameters["seed"] = self.settings.seed if request.seed is None else request.seed
        return Exchange(
            plan=plan,
            route=route,
            prepared=prepared,
            parameters=parameters,
            notes=notes,
            reserved=self._prices.most(fitted.prompt_tokens, parameters["max_tokens"]),
        )

    def _fitted(self, plan: Plan, max_tokens: int | None, count: CountTokens) -> Fitted:
        """Return the prepared question with as much of the history as fits."""
        context, conversation, style = self.settings.engine.max_model_len, plan.conversation, plan.style
        limit = max_tokens or style.controls.max_tokens(self.settings.answer.max_tokens)
        check_question(conversation.question, style.instructions, limit, context, count)
        prepared = plan.answerer.prepare(conversation.question, conversation.history, style.controls, style.language)
        if style.instructions:
            system, *turns = prepared.messages
            system = replace(system, content=f"{system.content}\n\n{style.instructions}")
            prepared = replace(prepared, messages=(system, *turns))
        return fit_history(prepared, limit, context, count)

    def _style(self, request: ChatRequest, instructions: str, defaults: Controls) -> Style:
        """Return how the answer should be, by the fields of the request and the application's instructions."""
        controls = defaults
        if request.verbosity:
            controls = replace(controls, depth=_VERBOSITY[request.verbosity])
        own = request.ragtune
        if own:
            controls = with_controls(controls, own.dials, own.switches)
        fixed = frozenset([*own.dials, *own.switches] if own else ())
        return style_for(instructions, request.response_format, controls, fixed, self.settings)

    async def _route(self, engine: ServingEngine) -> str:
        """Return the engine's route, or the first fallback if the engine is not ready.

        Comparison engines start at the first request, so that request waits. The live engine is started with the
        gateway; if it is not ready and there is no fallback, the client gets a 503 at once, unless it starts in place
        of another one: that is over soon.
        """
        end = time.monotonic() + self.settings.gateway.swap_wait_seconds
        while not engine.ready:
            if engine in (self.deployment.live, self.deployment.coming):
                waits = engine.awaited and time.monotonic() < end and not self.router.first_fallback
            else:
                waits = engine.state == "starting"
            if not waits:
                if not self.router.first_fallback:
                    raise engine.unavailable()
                return self.router.first_fallback
            await asyncio.sleep(_POLL_SECONDS)
        return engine.route

    def _record(
        self,
        plan: Plan,
        text: str,
        chunk_ids: tuple[str, ...],
        field: RagTuneField,
        seconds: float,
        evidence: float | None = None,
    ) -> None:
        record = record_of(plan, text, chunk_ids, field, seconds, evidence)
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


def _outcome_of(error: Exception, *, generating: bool) -> str:
    """Return how a request ended, as the metrics name it."""
    if isinstance(error, LimitError):
        return "limited"
    if isinstance(error, SettingsError):
        return "refused"
    return "unavailable" if isinstance(error, RagTuneError) and not generating else "failed"
