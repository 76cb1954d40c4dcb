"""One request in progress: what it asks for, what was prepared, and the pieces that an engine generates for it."""

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

from ragtune.answer.answering import Answerer, Prepared
from ragtune.answer.controls import Controls, changed_controls
from ragtune.errors import EngineError, SettingsError
from ragtune.records import ResponseRecord
from ragtune.store.timestamps import now
from ragtune.text.control_tokens import break_control_tokens
from ragtune_serving.conversation import Conversation
from ragtune_serving.engine import ServingEngine
from ragtune_serving.experiment_traffic import Placement
from ragtune_serving.instructions import Style
from ragtune_serving.keys import Key
from ragtune_serving.limits import Use
from ragtune_serving.request_context import current_request
from ragtune_serving.routing import EngineRouter, Piece
from ragtune_serving.schema import ChatRequest, RagTuneField
from ragtune_serving.times import timed

PASSED_ON = ("top_p", "stop", "presence_penalty", "frequency_penalty", "logit_bias")
"""Fields of the request that the engine gets as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request asks for, before anything is searched for.

    `style` is how the answer should be. `cache_key` is "" if the answer must not come from the cache; `started` is a
    time of `perf_counter`. `placement` is the arm of an experiment, None outside of one.
    """

    request: ChatRequest
    response_id: str
    user: str
    key: str
    engine: ServingEngine
    answerer: Answerer
    conversation: Conversation
    style: Style
    index_state: str
    cache_key: str
    started: float
    placement: Placement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request in progress.

    `notes` are warnings about the request itself; `reserved` is what the prompt and the longest answer use.
    """

    plan: Plan
    route: str
    prepared: Prepared
    parameters: dict[str, Any]
    notes: tuple[str, ...]
    reserved: Use


def new_response_id() -> str:
    """Return an id in OpenAI's form that no other response has."""
    return f"chatcmpl-{uuid.uuid4().hex}"


async def generated_pieces(
    router: EngineRouter, exchange: Exchange, parameters: Mapping[str, Any], stream: bool
) -> AsyncGenerator[Piece, None]:
    """Yield the generated text; the control writes it if a candidate's engine fails before the first word.

    No engine is asked for a text that is known already, such as a certain refusal or small talk.
    """
    if exchange.prepared.known_text is not None:
        yield Piece(text=exchange.prepared.known_text)
        return
    messages, times = engine_messages(exchange.prepared), current_request().times
    place, begun = exchange.plan.placement, False
    if place is None or not place.replaced:
        try:
            generated = router.generate(exchange.route, messages, parameters, stream)
            async with aclosing(timed(generated, times)) as pieces:
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
        generated = router.generate(place.control.route, messages, parameters, stream)
        async with aclosing(timed(generated, times)) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        place.control.release()


def allowed_filter(key: Key, requested: Mapping[str, str]) -> dict[str, str]:
    """Return the filter of a request together with that of its key; raise SettingsError if it asks for more."""
    for name, value in requested.items():
        if key.filter.get(name, value) != value:
            raise SettingsError(
                f"The filter asks for {name}={value}, but this key sees only {name}={key.filter[name]}.",
                fix=f"leave {name} out of ragtune.filter",
            )
    return {**requested, **key.filter}


def asked_for(
    request: ChatRequest, conversation: Conversation, controls: Controls, where: Mapping[str, str]
) -> dict[str, Any]:
    """Return all of a request that shapes its answer, as JSON values."""
    names = ("max_completion_tokens", "max_tokens", "temperature", "seed", *PASSED_ON, "ignored")
    return {
        **{name: getattr(request, name) for name in names},
        "model": request.model,
        "conversation": asdict(conversation),
        "controls": asdict(controls),
        "filter": dict(where),
        "response_format": request.response_format.model_dump() if request.response_format else None,
    }


def engine_messages(prepared: Prepared) -> Sequence[Mapping[str, str]]:
    """Return the prompt as the engine gets it: no content becomes a control token."""
    return [{"role": turn.role, "content": break_control_tokens(turn.content)} for turn in prepared.messages]


def best_evidence(prepared: Prepared) -> float | None:
    """Return the largest probability that a passage answers the question, or None if none was ranked."""
    return max((round(item.probability, 4) for item in prepared.evidence), default=None)


def version_of(plan: Plan, fallback: str) -> str:
    """Return the version that wrote an answer."""
    if fallback:
        return f"fallback:{fallback}"
    place = plan.placement
    return (place.control if place and place.replaced else plan.engine).model.version


def record_of(
    plan: Plan,
    text: str,
    chunk_ids: tuple[str, ...],
    field: RagTuneField,
    seconds: float,
    evidence: float | None,
) -> ResponseRecord:
    """Return what the feedback log keeps of a response; `evidence` is the probability of the best unit, if known."""
    return ResponseRecord(
        id=plan.response_id,
        created_at=now(),
        question=plan.conversation.question,
        answer=text,
        model=plan.request.model,
        model_version=field.model_version,
        chunk_ids=chunk_ids,
        cited_chunk_ids=tuple(citation.chunk for citation in field.citations),
        refused=field.refused,
        user=plan.user,
        latency_ms=round(seconds * 1000, 1),
        key=plan.key,
        dials=changed_controls(plan.style.controls),
        evidence=evidence,
        checks={
            "support": field.support,
            "failures": {failure.reason: failure.detail for failure in field.failures},
            "replaced": field.replaced,
            "cached": field.cached,
            "delivered": field.delivered,
            "earlier_turns": len(plan.conversation.history),
            "instructed": bool(plan.conversation.instructions),
        },
    )
