"""A document with its passages, and with the words marked that an answer rests on."""

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response

from ragtune.knowledge.audit import account
from ragtune.knowledge.catalogue import Catalogue, CatalogueEntry, matches
from ragtune.ports import IndexQuery
from ragtune.records import Chunk, Document
from ragtune_serving.console.marking import Segment, literal_span, marked
from ragtune_serving.console.pages import render, session_of
from ragtune_serving.routes import Services

_MOST_PASSAGES = 2000
"""Passages of one document that are listed. Chosen by hand: a book of a thousand pages has some 4,000."""
_AROUND = 6000
"""Characters of a document before and after a passage that are shown with it; chosen by hand, not sensitive."""
_MOST_CHARACTERS = 200_000
"""Characters of a document that one page shows. Chosen by hand: browsers show that at once."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of a document around a passage: what is before it, the passage with its marks, and what follows.

    `cut` says whether there is more text than is shown.
    """

    before: str
    passage: list[Segment]
    after: str
    cut: bool


def add_document_pages(app: FastAPI, services: Services, catalogue: Catalogue) -> None:
    """Add the pages of single documents; a key sees only documents that its filter lets it search."""

    @app.get("/console/documents")
    def by_origin(request: Request, origin: str = "", words: str = "") -> Response:
        entry = catalogue.by_origin(origin)
        return _page(request, services, catalogue, entry, "", words)

    @app.get("/console/documents/{document_id}")
    def document(request: Request, document_id: str, chunk: str = "", words: str = "") -> Response:
        return _page(request, services, catalogue, catalogue.entry(document_id), chunk, words)


def _page(
    request: Request, services: Services, catalogue: Catalogue, entry: CatalogueEntry | None, chunk_id: str, words: str
) -> Response:
    is_part = bool(request.headers.get("hx-request"))
    if entry is None or not matches(entry, session_of(request).key.filter):
        message = "There is no such document, or your key may not see it. It may have been removed since."
        template = "document_missing.html" if is_part else "message.html"
        fix = "Ask again, or look for it on the page Knowledge."
        return render(request, template, 404, title="No such document", message=message, fix=fix)
    document = catalogue.document(entry)
    chunks = passages_of(services, document)
    chunk = next((chunk for chunk in chunks if chunk.id == chunk_id), None)
    values: dict[str, Any] = {
        "entry": entry,
        "document": document,
        "excerpt": excerpt(document, chunk, words),
        "chunk": chunk,
    }
    if is_part:
        return render(request, "document_part.html", **values)
    return render(request, "document.html", chunks=chunks, account=account(document, chunks), **values)


def passages_of(services: Services, document: Document) -> list[Chunk]:
    """Return the passages of a document in its order; empty if there is no index."""
    if not services.grounding.present:
        return []
    retriever = services.grounding.retriever()
    # A search by vector returns every passage that the condition allows, however far away it is.
    vector = retriever.embedder.embed([document.title or document.path])[0]
    query = IndexQuery(vector=vector, limit=_MOST_PASSAGES, where={"document_id": document.id})
    return sorted((hit.chunk for hit in retriever.index.search([query])[0]), key=lambda chunk: chunk.position)


def excerpt(document: Document, chunk: Chunk | None, words: str) -> Excerpt:
    """Return the document's text around a passage, or around the words if no passage is named."""
    text = document.text
    span = _span(text, chunk) if chunk else literal_span(text, words)
    if chunk and span is None:  # the text of an API page differs from what its passages say
        return Excerpt("", marked(chunk.text, words), "", cut=True)
    if span is None:
        return Excerpt("", marked(text[:_MOST_CHARACTERS], words), "", cut=len(text) > _MOST_CHARACTERS)
    start, end = span
    first, last = max(0, start - _AROUND), min(len(text), end + _AROUND)
    return Excerpt(text[first:start], marked(text[start:end], words), text[end:last], cut=first > 0 or last < len(text))


def _span(text: str, chunk: Chunk) -> tuple[int, int] | None:
    """Return where the passage stands in the document's text, or None if its words differ from the document's."""
    if chunk.start >= 0 and text.startswith(chunk.text, chunk.start):
        return chunk.start, chunk.start + len(chunk.text)
    start = text.find(chunk.text)
    return (start, start + len(chunk.text)) if start >= 0 else literal_span(text, chunk.text)
