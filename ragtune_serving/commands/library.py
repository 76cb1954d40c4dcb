"""`documents` and `sources`: list and change what is in the knowledge base."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal
from unicodedata import normalize

import typer

from ragtune.knowledge.audit import Account, account_all
from ragtune.knowledge.duplicates import same_under_other_titles
from ragtune.knowledge.library import Library, RemovedDocument
from ragtune.knowledge.sources import describe_ignored, without_password
from ragtune.records import Chunk, Document, IndexUpdate
from ragtune.settings import SOURCE_FORMS, Settings, load_settings
from ragtune.text.counts import counted
from ragtune.text.whitespace import collapse_whitespace
from ragtune_serving.commands.documents import INDEX_KEPT, bring_up_to_date
from ragtune_serving.terminal import out, print_json, progress_bar, stoppable

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Names = Annotated[list[str], typer.Argument(help="ids, paths or titles, as `ragtune documents list` shows them")]
Spec = Annotated[str, typer.Argument(help=f"{SOURCE_FORMS} or an fsspec URL")]
# Characters of a sample and names of lost words that `show` prints, chosen by hand: about a line each.
_SAMPLE_CHARACTERS, _LOST_NAMED = 120, 12

documents = typer.Typer(
    no_args_is_help=True, help="List, show, remove and restore documents, and see which could not be read."
)
sources = typer.Typer(no_args_is_help=True, help="List, add, refresh and remove sources.")


@documents.command("list")
def list_documents(
    containing: Annotated[str, typer.Argument(help="only those with this text in their path or title")] = "",
    removed: Annotated[bool, typer.Option("--removed", help="list the removed documents instead")] = False,
    json_: Json = False,
) -> None:
    """List the documents of the last read, each with the share of its words that is in passages."""
    settings = load_settings()
    library = Library(settings)
    rows: list[Any] = list(library.decisions().removed) if removed else library.documents()
    wanted = normalize("NFC", containing).lower()
    rows = [row for row in rows if wanted in normalize("NFC", f"{row.path}\n{row.title}").lower()]
    if removed:
        lines = [f"{row.id}  {row.path}  {row.title}  (removed {row.removed_at})" for row in rows]
        facts = [asdict(row) for row in rows]
    else:
        accounts = account_all(rows, _passages(library.documents(), settings))
        lines = [
            f"{row.id}  {_percent(account.share_in_passages)}  {row.path}  {row.title}  ({row.source})"
            for row, account in zip(rows, accounts, strict=True)
        ]
        facts = [_facts(row, account) for row, account in zip(rows, accounts, strict=True)]
    if json_:
        print_json(facts)
        return
    for line in lines:
        out.print(line)
    out.print(f"Documents: {len(rows)}", style="dim")
    existing = sum(len(shelf.pairs) for shelf in library.shelves())
    if existing and not removed:
        out.print(f"Existing questions and answers, which are no documents: {existing}", style="dim")


@documents.command()
def show(name: Annotated[str, typer.Argument(help="id, path or title")], json_: Json = False) -> None:
    """Show one document: what became of its words, its passages, and its text."""
    settings = load_settings()
    library = Library(settings)
    document = library.find(name)
    removed = any(other.id == document.id for other in library.decisions().removed)
    passages = _passages([*library.documents(), *([document] if removed else [])], settings)
    account = account_all([document], passages)[0]
    document_passages = [passage for passage in passages if passage.document_id == document.id]
    origins = {passage.id: passage.origin for passage in passages}
    same = same_under_other_titles(document_passages, passages)
    facts = {
        **_facts(document, account),
        "passages": [_passage_facts(passage, origins, same.get(passage.id, ())) for passage in document_passages],
        "removed": removed,
        "text": document.text,
    }
    if json_:
        print_json(facts)
    else:
        _print_document(facts)


def _passages(documents: Sequence[Document], settings: Settings) -> list[Chunk]:
    """Return the passages of the documents, those that repeat others included; only new documents are cut."""
    from ragtune.backends.catalog import embedder_from
    from ragtune.knowledge.chunk_updates import chunk_changed

    return chunk_changed(documents, settings, embedder_from(settings))


def _passage_facts(passage: Chunk, origins: dict[str, str], same: Sequence[Chunk]) -> dict[str, Any]:
    """Return what `documents show` prints of a passage.

    `origins` maps a passage's id to its document's path. `same` are the passages with this text under another title.
    """
    copy_of = {"chunk": passage.duplicate_of, "source": origins.get(passage.duplicate_of, "")}
    return {
        "chunk": passage.id,
        "headings": passage.headings,
        "page": passage.page,
        "start": passage.start,
        "copy_of": copy_of if passage.duplicate_of else None,
        "same_text_as": [{"chunk": one.id, "source": one.origin, "title": one.title} for one in same],
        "text": passage.text,
    }


def _print_document(facts: dict[str, Any]) -> None:
    for field in ("id", "source", "path", "title", "topic", "language", "modified", "kind", "words", "removed"):
        out.print(f"{field:<13} {facts[field]}")
    out.print(f"{'in passages':<13} {_percent(facts['in_passages'])} of the words")
    for reason, part in facts["left_out"].items():
        sample = f": {part['sample']}" if part["sample"] else ""
        out.print(f"{'left out':<13} {counted(part['words'], 'word')}, {reason}{sample}")
    names = ", ".join(facts["lost"][:_LOST_NAMED])
    out.print(f"{'lost':<13} {counted(facts['lost_words'], 'word')}{f': {names}' if names else ''}")
    out.print(f"\nPassages: {len(facts['passages'])}")
    for number, passage in enumerate(facts["passages"], 1):
        page = f"page {passage['page']}, " if passage["page"] else ""
        place = f"{page}character {passage['start']}" if passage["start"] >= 0 else page.rstrip(", ")
        out.print(f"{number:>4}  {passage['chunk']}  {' > '.join([*passage['headings'], place])}")
        if passage["copy_of"]:
            out.print(f"      a copy of {passage['copy_of']['chunk']} in {passage['copy_of']['source']}, not indexed")
        for other in passage["same_text_as"]:
            out.print(
                f"      the same text as in {other['source']}, under the title {other['title']}; both are indexed"
            )
        out.print(f"      {collapse_whitespace(passage['text'])[:_SAMPLE_CHARACTERS]}")
    out.print(f"\n{facts['text']}")


@documents.command()
def remove(names: Names, json_: Json = False) -> None:
    """Remove documents from the index; they stay out when their source is read again."""
    settings = load_settings()
    documents = Library(settings).remove(names)
    _report_documents("Removed", documents, _update_index(settings), json_)


@documents.command()
def restore(names: Names, json_: Json = False) -> None:
    """Put removed documents back into the index."""
    settings = load_settings()
    documents = Library(settings).restore(names)
    _report_documents("Restored", documents, _update_index(settings), json_)


@documents.command()
def quarantine(json_: Json = False) -> None:
    """List the documents that could not be read, with the reasons, and the kinds of files that have no reader."""
    library = Library(load_settings())
    unreadable = library.quarantine()
    if json_:
        print_json([asdict(document) for document in unreadable])
        return
    for document in unreadable:
        out.print(f"{document.path}  ({document.source})\n   {document.reason}")
    out.print(f"Not readable: {len(unreadable)}", style="dim")
    if ignored := describe_ignored(library.ignored(), library.ignored_names()):
        out.print(f"No reader for: {ignored}", style="dim")


@sources.command("list")
def list_sources(json_: Json = False) -> None:
    """List the sources, where each is configured, and the result of its last read."""
    library = Library(load_settings())
    rows = source_rows(library)
    if json_:
        print_json(rows)
        return
    for row in rows:
        contents = counted(row["documents"], "document")
        if row["pairs"]:
            contents = counted(row["pairs"], "existing pair")
        no_reader = f", {row['ignored']} without a reader" if row["ignored"] else ""
        counts = f"{contents}, {row['quarantined']} not readable{no_reader}, read {row['read_at']}"
        out.print(f"{row['source']}  ({row['named_in']})  {counts if row['read_at'] else 'never read'}")


@sources.command()
def add(spec: Spec, json_: Json = False) -> None:
    """Add a source permanently, read it, and index it."""
    settings = load_settings()
    library = Library(settings)
    with stoppable(INDEX_KEPT), progress_bar() as progress:
        name = library.add(spec, progress)
        corpus = library.read(reread=[], progress=progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    _report(f"Added {name}", update, f"ragtune sources remove {name}", {"source": name}, json_)


@sources.command()
def refresh(
    specs: Annotated[list[str], typer.Argument(help="sources, as `ragtune sources list` shows them")],
    json_: Json = False,
) -> None:
    """Read these sources again; the others stay as they were last read."""
    settings = load_settings()
    with stoppable(INDEX_KEPT), progress_bar() as progress:
        corpus = Library(settings).refresh(specs, progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    _report(f"Read {', '.join(specs)} again", update, "", {"sources": specs}, json_)


@sources.command("remove")
def remove_source(spec: Spec, json_: Json = False) -> None:
    """Remove a source and its documents permanently, even if the settings name it."""
    settings = load_settings()
    library = Library(settings)
    name = library.drop(spec)
    with stoppable(INDEX_KEPT), progress_bar() as progress:
        corpus = library.read(reread=[], progress=progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    _report(f"Removed {name}", update, f"ragtune sources add {name}", {"source": name}, json_)


def source_rows(library: Library) -> list[dict[str, Any]]:
    """Return one row per source: first the configured ones, then those that only the last `ragtune index` named."""
    added = library.decisions().added
    shelves = {shelf.spec: shelf for shelf in library.shelves()}
    names = [without_password(spec) for spec in library.sources()]
    rows = []
    for name in dict.fromkeys([*names, *shelves]):
        shelf = shelves.get(name)
        named_in = "the home" if name in added else "the settings" if name in names else "the last `ragtune index`"
        rows.append(
            {
                "source": name,
                "named_in": named_in,
                "documents": len(shelf.documents) if shelf else 0,
                "pairs": len(shelf.pairs) if shelf else 0,
                "quarantined": len(shelf.quarantine) if shelf else 0,
                "ignored": sum(shelf.ignored.values()) if shelf else 0,
                "read_at": shelf.read_at if shelf else "",
            }
        )
    return rows


def _update_index(settings: Settings) -> IndexUpdate:
    """Update the index to the documents of the last read, without reading any source again."""
    with stoppable(INDEX_KEPT), progress_bar() as progress:
        corpus = Library(settings).refresh([], progress)
        return bring_up_to_date(settings, corpus.documents, progress)


def _report_documents(
    action: Literal["Removed", "Restored"], documents: list[RemovedDocument], update: IndexUpdate, json_: bool
) -> None:
    ids = [document.id for document in documents]
    undo = f"ragtune documents {'restore' if action == 'Removed' else 'remove'} {' '.join(ids)}"
    paths = ", ".join(document.path for document in documents)
    _report(f"{action} {paths}", update, undo, {"documents": [asdict(document) for document in documents]}, json_)


def _report(action: str, update: IndexUpdate, undo: str, facts: dict[str, Any], json_: bool) -> None:
    if json_:
        print_json({**facts, "undo": undo, "index": asdict(update)})
        return
    changes = f"{counted(update.added, 'passage')} added, {update.updated} updated, {update.deleted} deleted"
    out.print(f"{action}: {changes}; the index now contains {counted(update.documents, 'document')}.")
    if undo:
        out.print(f"To undo this: {undo}")


def _facts(document: Document, account: Account) -> dict[str, Any]:
    """Return the fields of a document that describe it, and what became of its words."""
    names = ("id", "source", "path", "title", "sha256", "topic", "language", "modified", "kind")
    samples: dict[str, str] = {}
    for part in document.left_out:
        samples.setdefault(part.reason, collapse_whitespace(part.text)[:_SAMPLE_CHARACTERS])
    left_out = {
        reason: {"words": words, "sample": samples.get(reason, "")} for reason, words in account.left_out.items()
    }
    return {
        **{name: getattr(document, name) for name in names},
        "words": account.words,
        "in_passages": round(account.share_in_passages, 4),
        "accounted_for": round(account.share_accounted_for, 4),
        "left_out": left_out,
        "lost_words": account.lost_words,
        "lost": list(account.lost),
    }


def _percent(share: float) -> str:
    """Return a share as a percentage; only a whole document shows as 100%."""
    return "100%" if share == 1.0 else f"{min(share, 0.999):.1%}"
