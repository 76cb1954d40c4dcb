"""`index` and `search`: put documents into the search index and find passages, without the asset graph."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragtune.errors import SettingsError, SourceError
from ragtune.ports import Progress
from ragtune.records import Document, Hit, IndexUpdate
from ragtune.settings import SOURCE_FORMS, Settings, load_settings
from ragtune.text.counts import counted
from ragtune.text.whitespace import collapse_whitespace
from ragtune_serving.schema import FILTERS
from ragtune_serving.terminal import err, out, print_json, progress_bar, stoppable

if TYPE_CHECKING:
    from ragtune.knowledge.library import Library
    from ragtune.knowledge.retrieval import Mode

MODES: "tuple[Mode, ...]" = ("hybrid", "text", "vector")
_CHUNKS_PER_DOCUMENT = 3
"""Hits per wanted document in a first search for a ranking of documents; chosen by hand, not sensitive: if it brings
too few documents, the number of hits is doubled."""
INDEX_KEPT = (
    "Searches still see the index as it was. Passages that were already embedded are kept, and the same command goes "
    "on with the others."
)
"""What a Ctrl-C during an update of the index leaves."""
_SNIPPET_CHARACTERS = 240
"""Characters of a hit's text that are printed. Chosen by hand: two or three lines of a terminal."""


def index(
    source: Annotated[list[str], typer.Option(help=f"{SOURCE_FORMS} or a URL; may be repeated")] = [],  # noqa: B006
    json_: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Build or update the search index; only passages that changed are embedded."""
    from ragtune.knowledge.library import Library
    from ragtune.knowledge.sources import describe_ignored

    settings = load_settings()
    started = time.monotonic()
    with stoppable(INDEX_KEPT), progress_bar() as progress:
        corpus = Library(settings).read(source, progress=progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    for document in corpus.quarantine:
        err.print(f"Left out {document.path}: {document.reason}")
    if corpus.ignored:
        err.print(f"No reader for: {describe_ignored(corpus.ignored, corpus.ignored_names)}")
    counts = {
        **asdict(update),
        "documents": len(corpus.documents),
        "existing_pairs": len(corpus.pairs),
        "left_out": len(corpus.quarantine),
        "ignored": dict(corpus.ignored),
        "seconds": round(time.monotonic() - started, 3),
    }
    if json_:
        print_json(counts)
        return
    out.print(
        f"{counted(len(corpus.documents), 'document')} in {counted(update.chunks, 'chunk')}: {counts['added']} added, "
        f"{counts['updated']} updated, {counts['deleted']} deleted in {counts['seconds']} s."
    )
    if corpus.pairs:
        questions = counted(len(corpus.pairs), "existing question")
        out.print(f"Read {questions} with answers; `ragtune materialize` finds the passages.")


def bring_up_to_date(settings: Settings, documents: list[Document], progress: Progress) -> IndexUpdate:
    """Update the index so that it contains exactly the passages of these documents; return what changed."""
    from ragtune.backends.catalog import embedder_from, search_index_from
    from ragtune.knowledge.chunk_updates import chunk_changed
    from ragtune.knowledge.indexing import update_index

    embedder = embedder_from(settings)
    chunks = chunk_changed(documents, settings, embedder, progress)
    return update_index(search_index_from(settings, embedder), embedder, chunks, progress)


def search(
    text: Annotated[str, typer.Argument(help="what to search for")] = "",
    top_k: Annotated[int, typer.Option(min=1, help="number of results")] = 10,
    mode: Annotated[str, typer.Option(help="text finds words, vector finds meaning, hybrid combines both")] = "hybrid",
    json_: Annotated[bool, typer.Option("--json", help="print the hits as JSON")] = False,
    queries: Annotated[
        Path | None, typer.Option(help='a JSON lines file with a batch of queries: one {"id","text"} per line')
    ] = None,
    run: Annotated[Path | None, typer.Option(help="the TREC run file to write for the batch")] = None,
    level: Annotated[
        str, typer.Option(help="what the run file ranks: document or chunk; a JSONL document has the id of its line")
    ] = "chunk",
    timings: Annotated[
        Path | None, typer.Option(help='a JSON lines file to write: one {"id","latency_ms"} per query')
    ] = None,
    filter_: Annotated[
        list[str],
        typer.Option("--filter", help=f"FIELD=VALUE, with {', '.join(FILTERS)}; may be repeated"),
    ] = [],  # noqa: B006
) -> None:
    """Search for passages by words and by meaning."""
    from ragtune.backends.catalog import retriever_from
    from ragtune.knowledge.library import Library

    valid_mode = next((name for name in MODES if name == mode), None)
    if valid_mode is None:
        raise SettingsError(f"--mode is {mode}.", "hybrid, text or vector")
    if level not in ("document", "chunk"):
        raise SettingsError(f"--level is {level}.", "document or chunk")
    if (queries is None) != (run is None) or bool(text) == (queries is not None):
        raise SettingsError(
            "It is not clear what to search for.",
            'either a "TEXT", or --queries FILE.jsonl together with --run OUT.trec',
        )
    settings = load_settings()
    retriever = retriever_from(settings)
    if not retriever.index.versions():
        raise SettingsError(
            f"There is no index in {settings.home}.",
            "an index",
            "run `ragtune index`",
        )
    library = Library(settings)
    where = parse_filters(filter_, library)
    if queries is not None and run is not None:
        names = record_ids(library) if level == "document" else {}
        _batch(partial(retriever.search, mode=valid_mode, where=where), queries, run, timings, top_k, level, names)
        return
    hits = retriever.search(text, top_k, valid_mode, where)
    if json_:
        print_json([_as_json(hit) for hit in hits])
        return
    for rank, hit in enumerate(hits, 1):
        heading = " > ".join([hit.chunk.title, *hit.chunk.headings])
        page = f", page {hit.chunk.page}" if hit.chunk.page else ""
        out.print(out.render_str(f"{rank}. {heading}", style="bold"), f" {hit.score:.4f}")
        out.print(f"   {hit.chunk.origin}{page}  {hit.chunk.document_id}  {hit.chunk.id}")
        out.print("   " + collapse_whitespace(hit.chunk.text)[:_SNIPPET_CHARACTERS])


def parse_filters(filters: Sequence[str], library: "Library") -> dict[str, str]:
    """Return the filters as {field of the index: value}.

    `source` is a source of `ragtune sources list`, or the path, URL or JSONL id of one document.

    Raises:
        SettingsError: if a filter has no value, or names a field twice or an unknown one; it lists the fields.
        SourceError: if there is no such source or document; it lists close names.
    """
    where: dict[str, str] = {}
    for entry in filters:
        field, equals, value = entry.partition("=")
        field = field.strip()
        if field not in FILTERS or not equals or not value:
            raise SettingsError(f"--filter is {entry}.", f"FIELD=VALUE, with one of these fields: {', '.join(FILTERS)}")
        if field == "source" and value not in {shelf.spec for shelf in library.shelves()}:
            field, value = "document_id", library.find(_path_of(value, library)).id
        if where.setdefault(field, value) != value:
            raise SettingsError(
                f"--filter names {field} twice, {where[field]} and {value}.", "one value for each field"
            )
    return where


def _path_of(origin: str, library: "Library") -> str:
    """Return the path of a document in its source, given its URL; any other name as it is."""
    specs = [shelf.spec for shelf in library.shelves() if origin.startswith(f"{shelf.spec}/")]
    return origin.removeprefix(f"{specs[0]}/") if specs else origin


def record_ids(library: "Library") -> dict[str, str]:
    """Return {document id: id of its line} for the documents of JSONL sources.

    A run file uses the ids of the lines, because the relevance judgements of a test collection use them too. Ids with
    white space are left out: they would break the columns of the run file.
    """
    shelves = [shelf for shelf in library.shelves() if shelf.spec.startswith("jsonl:")]
    documents = [document for shelf in shelves for document in shelf.documents]
    return {document.id: document.path for document in documents if len(document.path.split()) == 1}


def read_lines(file: Path, *names: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file; the first of the required fields is an id, returned as a string.

    Raises SourceError with the number of the line if one is not valid.
    """
    if not file.is_file():
        raise SourceError(f"There is no file {file}.", "a JSON lines file")
    rows = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SourceError(f"Line {number} of {file} is not JSON: {error}") from error
        if not isinstance(row, dict) or not all(name in row for name in names):
            raise SourceError(f"Line {number} of {file} is {line[:80]}.", f"an object with {', '.join(names)}")
        rows.append({**row, names[0]: str(row[names[0]])})
    return rows


def _batch(
    find: Callable[[str, int], list[Hit]],
    queries: Path,
    run: Path,
    timings: Path | None,
    top_k: int,
    level: str,
    names: dict[str, str],
) -> None:
    rows = read_lines(queries, "id", "text")
    limit = top_k * _CHUNKS_PER_DOCUMENT if level == "document" else top_k
    run.parent.mkdir(parents=True, exist_ok=True)
    lines, latencies = [], []
    find("warm up", 1)
    with stoppable("Nothing was written. The same command begins again."), progress_bar() as progress:
        for done, query in enumerate(rows, 1):
            started = time.perf_counter()
            hits = find(query["text"], limit)
            while len(_ranking(hits, level)) < top_k and len(hits) == limit:
                limit *= 2
                hits = find(query["text"], limit)
            latencies.append({"id": query["id"], "latency_ms": round((time.perf_counter() - started) * 1000, 3)})
            lines += [
                f"{query['id']} Q0 {names.get(name, name)} {rank} {score:.9f} ragtune"
                for rank, (name, score) in enumerate(_ranking(hits, level)[:top_k], 1)
            ]
            progress("searching", done, len(rows))
    run.write_text("".join(line + "\n" for line in lines))
    if timings is not None:
        timings.write_text("".join(json.dumps(row) + "\n" for row in latencies))
    sys.stderr.write(f"{counted(len(rows), 'query', 'queries')}, {counted(len(lines), 'result')} in {run}\n")


def _ranking(hits: list[Hit], level: str) -> list[tuple[str, float]]:
    """Return (id, score) pairs, best first; a document appears once, with the score of its best chunk."""
    scores: dict[str, float] = {}
    for hit in hits:
        scores.setdefault(hit.chunk.document_id if level == "document" else hit.chunk.id, hit.score)
    return list(scores.items())


def _as_json(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "document": chunk.document_id,
        "chunk": chunk.id,
        "score": hit.score,
        "title": chunk.title,
        "headings": chunk.headings,
        "source": chunk.origin,
        "page": chunk.page,
        "start": chunk.start,
        "text": chunk.text,
    }
