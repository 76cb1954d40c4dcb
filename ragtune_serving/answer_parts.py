"""The parts of an answer on their way to a client: its text in pieces, then its closing."""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ragtune.records import Answer
from ragtune_serving.citation_places import cited_spans, place_url
from ragtune_serving.schema import CitedPassage, ClosestPassage, FailedCheck, RagTuneField, Usage


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


class Envelope:
    """Wraps an answer into a JSON object, piece by piece: `{"answer": "..."}`. `text` is what was returned so far."""

    def __init__(self) -> None:
        self.text = ""

    def wrap(self, piece: str) -> str:
        """Return the next piece of the answer as a part of the JSON text."""
        begin = "" if self.text else '{"answer": "'
        return self._add(begin + json.dumps(piece, ensure_ascii=False)[1:-1])

    def end(self) -> str:
        """Return the rest of the JSON text."""
        return self._add('"}' if self.text else '{"answer": ""}')

    def _add(self, piece: str) -> str:
        self.text += piece
        return piece


AnswerParts = AsyncGenerator[Delta | Closing, None]
"""The text of an answer in parts, and its closing last."""


def closing_of(answer: Answer, response_id: str, version: str, notes: Sequence[str]) -> Closing:
    """Return the end of an answer; `version` is that of the model, `notes` are warnings about the request."""
    completion = answer.completion
    spans = cited_spans(answer.text)
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
            spans=spans.get(citation.number, []),
            url=place_url(citation.source, citation.text, answer.quotation or answer.text),
        )
        for citation in answer.citations
    ]
    field = RagTuneField(
        response_id=response_id,
        model_version=version,
        citations=citations,
        delivered=answer.kind,
        refused=answer.refused,
        quoted=answer.quoted,
        quotation=answer.quotation,
        closest=[ClosestPassage(**asdict(passage)) for passage in answer.closest],
        language=answer.language,
        warnings=[*answer.warnings, *notes],
        support=round(answer.support, 4),
        failures=[FailedCheck(reason=failure.reason, detail=failure.detail) for failure in answer.failures],
        replaced=list(dict.fromkeys(failure.reason for failures in answer.tries for failure in failures)),
        retrieval_ms=round(answer.retrieval_ms, 2),
    )
    usage = Usage(
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        total_tokens=completion.prompt_tokens + completion.completion_tokens,
    )
    return Closing(completion.finish_reason, usage, field)


def facts_of(closing: Closing) -> dict[str, Any]:
    """Return what may be logged of an answer: none of its words."""
    field, usage = closing.ragtune, closing.usage
    return {
        "model_version": field.model_version,
        "delivered": field.delivered,
        "cached": field.cached,
        "failures": [failure.reason for failure in field.failures],
        "citations": len(field.citations),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
