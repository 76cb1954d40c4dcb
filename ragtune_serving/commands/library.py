"""`documents` and `sources`: what the knowledge base holds, and how a person changes it."""

from dataclasses import asdict
from typing import Annotated, Any

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

documents = typer.Typer(no_args_is_help=True, help="See the documents, remove one, see what could not be read.")
sources = typer.Typer(no_args_is_help=True, help="See the sources, add one, read one again, remove one.")


@documents.command("list")
def list_documents(
    containing: Annotated[str, typer.Argument(help="only those with this text in their path or title")] = "",
    removed: Annotated[bool, typer.Option("--removed", help="those that were removed instead")] = False,
    json_: Json = False,
) -> None:
    """List the documents as they were last read."""
    library = Library(load_settings())
    found: list[Any] = list(library.decisions().removed) if removed else library.documents()
    found = [each for each in found if containing.lower() in f"{each.path}\n{each.title}".lower()]
    if json_:
        print_json([asdict(each) if removed else _facts(each) for each in found])
        return
    for each in found:
        origin = f"removed {each.removed_at}" if removed else each.source
        out.print(f"{each.id}  {each.path}  {each.title}  ({origin})")
    out.print(f"Documents: {len(found)}", style="dim")


@documents.command()
def show(name: Annotated[str, typer.Argument(help="id, path or title")], json_: Json = False) -> None:
    """Show one document: where it is from, what was read, and how many of its passages are in the index."""
    from ragtune.backends.catalog import embedder_from, search_index_from

    settings = load_settings()
    library = Library(settings)
    document = library.find(name)
    index = search_index_from(settings, embedder_from(settings))
    facts = {
        **_facts(document),
        "passages": list(index.chunk_ids().values()).count(document.id),
        "removed": any(each.id == document.id for each in library.decisions().removed),
    }
    if json_:
        print_json({**facts, "text": document.text})
        return
    for field, value in facts.items():
        out.print(f"{field:<9} {value}")
    out.print(f"\n{document.text}")


@documents.command()
def remove(names: Names, json_: Json = False) -> None:
    """Take documents out of the index; later reads leave them out as well."""
    settings = load_settings()
    changed = Library(settings).remove(names)
    _report("Removed", changed, _follow(settings), json_)


@documents.command()
def restore(names: Names, json_: Json = False) -> None:
    """Let removed documents come back."""
    settings = load_settings()
    changed = Library(settings).restore(names)
    _report("Restored", changed, _follow(settings), json_)


@documents.command()
def quarantine(json_: Json = False) -> None:
    """List what could not be read at the last read, and why."""
    bad = Library(load_settings()).quarantine()
    if json_:
        print_json([asdict(each) for each in bad])
        return
    for each in bad:
        out.print(f"{each.path}  ({each.source})\n   {each.reason}")
    out.print(f"Not readable: {len(bad)}", style="dim")


@sources.command("list")
def list_sources(json_: Json = False) -> None:
    """List the sources, where each was named, and what its last read found."""
    library = Library(load_settings())
    rows = source_rows(library)
    if json_:
        print_json(rows)
        return
    for row in rows:
        found = f"{row['documents']} documents, {row['quarantined']} not readable, read {row['read_at']}"
        out.print(f"{row['source']}  ({row['named_in']})  {found if row['read_at'] else 'never read'}")


@sources.command()
def add(spec: Spec, json_: Json = False) -> None:
    """Add a source for good, read it, and index it."""
    settings = load_settings()
    library = Library(settings)
    with progress_bar() as progress:
        name = library.add(spec, progress)
        corpus = library.read(fresh=[], progress=progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    _say(f"Added {name}", update, f"ragtune sources remove {name}", {"source": name}, json_)


@sources.command()
def refresh(
    specs: Annotated[list[str], typer.Argument(help="sources, as `ragtune sources list` shows them")],
    json_: Json = False,
) -> None:
    """Read sources again, and only them; the others stay as they were last read."""
    settings = load_settings()
    with progress_bar() as progress:
        corpus = Library(settings).refresh(specs, progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    _say(f"Read {', '.join(specs)} again", update, "", {"sources": specs}, json_)


@sources.command("remove")
def remove_source(spec: Spec, json_: Json = False) -> None:
    """Take a source and its documents out for good, wherever it was named."""
    settings = load_settings()
    library = Library(settings)
    name = library.drop(spec)
    with progress_bar() as progress:
        corpus = library.read(fresh=[], progress=progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    _say(f"Removed {name}", update, f"ragtune sources add {name}", {"source": name}, json_)


def source_rows(library: Library) -> list[dict[str, Any]]:
    """Return one row per source: those of the home, then those that only the last read had."""
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


def _follow(settings: Settings) -> IndexUpdate:
    """Bring the index up to date with what was last read, reading nothing anew."""
    with progress_bar() as progress:
        corpus = Library(settings).refresh([], progress)
        return bring_up_to_date(settings, corpus.documents, progress)


def _report(did: str, changed: list[RemovedDocument], update: IndexUpdate, json_: bool) -> None:
    ids = [each.id for each in changed]
    undo = f"ragtune documents {'restore' if did == 'Removed' else 'remove'} {' '.join(ids)}"
    listed = ", ".join(each.path for each in changed)
    _say(f"{did} {listed}", update, undo, {"documents": [asdict(each) for each in changed]}, json_)


def _say(did: str, update: IndexUpdate, undo: str, facts: dict[str, Any], json_: bool) -> None:
    if json_:
        print_json({**facts, "undo": undo, "index": asdict(update)})
        return
    changes = f"{update.added} passages added, {update.updated} updated, {update.deleted} deleted"
    out.print(f"{did}: {changes}; the index holds {update.documents} documents.")
    if undo:
        out.print(f"To undo it: {undo}")


def _facts(document: Document) -> dict[str, Any]:
    """Return everything about a document but its text."""
    facts = asdict(document)
    return {**{name: value for name, value in facts.items() if name != "text"}, "words": len(document.text.split())}
