"""`documents` and `sources`: list and change what is in the knowledge base."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from ragtune.knowledge.library import Library, RemovedDocument
from ragtune.knowledge.sources import without_password
from ragtune.records import Document, IndexUpdate
from ragtune.settings import Settings, load_settings
from ragtune_serving.commands.documents import bring_up_to_date
from ragtune_serving.terminal import out, print_json, progress_bar

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Names = Annotated[list[str], typer.Argument(help="ids, paths or titles, as `ragtune documents list` shows them")]
Spec = Annotated[str, typer.Argument(help="folder:PATH, package:NAME, jsonl:FILE or an fsspec URL")]

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
    """List the documents of the last read."""
    library = Library(load_settings())
    rows: list[Any] = list(library.decisions().removed) if removed else library.documents()
    rows = [row for row in rows if containing.lower() in f"{row.path}\n{row.title}".lower()]
    if json_:
        print_json([asdict(row) if removed else _facts(row) for row in rows])
        return
    for row in rows:
        origin = f"removed {row.removed_at}" if removed else row.source
        out.print(f"{row.id}  {row.path}  {row.title}  ({origin})")
    out.print(f"Documents: {len(rows)}", style="dim")


@documents.command()
def show(name: Annotated[str, typer.Argument(help="id, path or title")], json_: Json = False) -> None:
    """Show one document: its source, its text, and the number of its passages in the index."""
    from ragtune.backends.catalog import embedder_from, search_index_from

    settings = load_settings()
    library = Library(settings)
    document = library.find(name)
    index = search_index_from(settings, embedder_from(settings))
    facts = {
        **_facts(document),
        "passages": list(index.chunk_ids().values()).count(document.id),
        "removed": any(other.id == document.id for other in library.decisions().removed),
    }
    if json_:
        print_json({**facts, "text": document.text})
        return
    for field, value in facts.items():
        out.print(f"{field:<9} {value}")
    out.print(f"\n{document.text}")


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
    """List the documents that could not be read, with the reasons."""
    unreadable = Library(load_settings()).quarantine()
    if json_:
        print_json([asdict(document) for document in unreadable])
        return
    for document in unreadable:
        out.print(f"{document.path}  ({document.source})\n   {document.reason}")
    out.print(f"Not readable: {len(unreadable)}", style="dim")


@sources.command("list")
def list_sources(json_: Json = False) -> None:
    """List the sources, where each is configured, and the result of its last read."""
    library = Library(load_settings())
    rows = source_rows(library)
    if json_:
        print_json(rows)
        return
    for row in rows:
        counts = f"{row['documents']} documents, {row['quarantined']} not readable, read {row['read_at']}"
        out.print(f"{row['source']}  ({row['named_in']})  {counts if row['read_at'] else 'never read'}")


@sources.command()
def add(spec: Spec, json_: Json = False) -> None:
    """Add a source permanently, read it, and index it."""
    settings = load_settings()
    library = Library(settings)
    with progress_bar() as progress:
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
    with progress_bar() as progress:
        corpus = Library(settings).refresh(specs, progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    _report(f"Read {', '.join(specs)} again", update, "", {"sources": specs}, json_)


@sources.command("remove")
def remove_source(spec: Spec, json_: Json = False) -> None:
    """Remove a source and its documents permanently, even if the settings name it."""
    settings = load_settings()
    library = Library(settings)
    name = library.drop(spec)
    with progress_bar() as progress:
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
                "quarantined": len(shelf.quarantine) if shelf else 0,
                "read_at": shelf.read_at if shelf else "",
            }
        )
    return rows


def _update_index(settings: Settings) -> IndexUpdate:
    """Update the index to the documents of the last read, without reading any source again."""
    with progress_bar() as progress:
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
    changes = f"{update.added} passages added, {update.updated} updated, {update.deleted} deleted"
    out.print(f"{action}: {changes}; the index now contains {update.documents} documents.")
    if undo:
        out.print(f"To undo this: {undo}")


def _facts(document: Document) -> dict[str, Any]:
    """Return all fields of a document except its text, plus its number of words."""
    facts = asdict(document)
    return {**{name: value for name, value in facts.items() if name != "text"}, "words": len(document.text.split())}
