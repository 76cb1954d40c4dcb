"""`index` and `search`: documents in, passages out, without the asset graph."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragtune.errors import SettingsError, SourceError
from ragtune.ports import Progress
from ragtune.records import Document, Hit, IndexUpdate
from ragtune.settings import Settings, load_settings
from ragtune_serving.terminal import err, out, print_json, progress_bar

if TYPE_CHECKING:
    from ragtune.knowledge.library import Library
    from ragtune.knowledge.retrieval import Mode, Retriever

MODES: "tuple[Mode, ...]" = ("hybrid", "text", "vector")
_CHUNKS_PER_DOCUMENT = 3


def index(
    source: Annotated[list[str], typer.Option(help="folder:PATH, package:NAME or jsonl:FILE; may be repeated")] = [],  # noqa: B006
    json_: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Build the search index, or update it: only what changed is embedded."""
    from ragtune.knowledge.library import Library

    settings = load_settings()
    started = time.monotonic()
    with progress_bar() as progress:
        corpus = Library(settings).read(source, progress=progress)
        update = bring_up_to_date(settings, corpus.documents, progress)
    for bad in corpus.quarantine:
        err.print(f"Left out {bad.path}: {bad.reason}")
    result = {
        **asdict(update),
        "documents": len(corpus.documents),
        "left_out": len(corpus.quarantine),
        "seconds": round(time.monotonic() - started, 3),
    }
    if json_:
        print_json(result)
        return
    out.print(
        f"{result['documents']} documents in {result['chunks']} chunks: {result['added']} added, "
        f"{result['updated']} updated, {result['deleted']} deleted in {result['seconds']} s."
    )


def bring_up_to_date(settings: Settings, documents: list[Document], progress: Progress) -> IndexUpdate:
    """Make the index hold exactly the passages of these documents; return what that changed."""
    from ragtune.backends.catalog import embedder_from, search_index_from
    from ragtune.knowledge.cuttings import chunk_changed
    from ragtune.knowledge.indexing import update_index

    embedder = embedder_from(settings)
    chunks = chunk_changed(documents, settings, embedder, progress)
    return update_index(search_index_from(settings, embedder), embedder, chunks, progress)


def search(
    text: Annotated[str, typer.Argument(help="what to look for")] = "",
    top_k: Annotated[int, typer.Option(min=1, help="how many results")] = 10,
    mode: Annotated[str, typer.Option(help="hybrid, text or vector")] = "hybrid",
    json_: Annotated[bool, typer.Option("--json", help="print the hits as JSON")] = False,
    queries: Annotated[Path | None, typer.Option(help='a batch: one {"id","text"} a line')] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run file to write for the batch")] = None,
    level: Annotated[
        str, typer.Option(help="document or chunk: what the run file ranks; JSONL documents by their own id")
    ] = "chunk",
    timings: Annotated[Path | None, typer.Option(help='file for {"id","latency_ms"} a query')] = None,
) -> None:
    """Find passages by words and by meaning."""
    from ragtune.backends.catalog import retriever_from
    from ragtune.knowledge.library import Library

    known = next((name for name in MODES if name == mode), None)
    if known is None or level not in ("document", "chunk"):
        raise SettingsError(f"--mode is {mode}, --level is {level}.", "hybrid, text or vector; document or chunk")
    if (queries is None) != (run is None) or bool(text) == (queries is not None):
        raise SettingsError(
            "It is not clear what to search for.", 'a "TEXT", or --queries FILE.jsonl together with --run OUT.trec'
        )
    settings = load_settings()
    retriever = retriever_from(settings)
    if not retriever.index.versions():
        raise SettingsError(
            f"There is no index in {settings.home}.", "an index", "run `ragtune index --source folder:PATH`"
        )
    if queries is not None and run is not None:
        names = record_ids(Library(settings)) if level == "document" else {}
        _batch(retriever, queries, run, timings, top_k, known, level, names)
        return
    hits = retriever.search(text, top_k, known)
    if json_:
        print_json([_plain(hit) for hit in hits])
        return
    for rank, hit in enumerate(hits, 1):
        out.print(f"[bold]{rank}. {hit.chunk.title}[/bold]  {hit.score:.4f}", markup=True)
        out.print(f"   {hit.chunk.document_id}  {hit.chunk.id}")
        out.print("   " + " ".join(hit.chunk.text.split())[:240])


def record_ids(library: "Library") -> dict[str, str]:
    """Return {document id: its own id in the file} of the JSONL sources: judgements of collections use the latter."""
    files = [shelf for shelf in library.shelves() if shelf.spec.startswith("jsonl:")]
    return {each.id: each.path for shelf in files for each in shelf.documents if len(each.path.split()) == 1}


def read_lines(file: Path, *names: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file that all have these string fields.

    Raises SourceError that names the line.
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
    retriever: "Retriever",
    queries: Path,
    run: Path,
    timings: Path | None,
    top_k: int,
    mode: "Mode",
    level: str,
    names: dict[str, str],
) -> None:
    asked = read_lines(queries, "id", "text")
    wanted = top_k * _CHUNKS_PER_DOCUMENT if level == "document" else top_k
    run.parent.mkdir(parents=True, exist_ok=True)
    lines, measured = [], []
    retriever.search("warm up", 1, mode)
    with progress_bar() as progress:
        for done, query in enumerate(asked, 1):
            began = time.perf_counter()
            hits = retriever.search(query["text"], wanted, mode)
            while len(_ranked(hits, level)) < top_k and len(hits) == wanted:
                wanted *= 2
                hits = retriever.search(query["text"], wanted, mode)
            measured.append({"id": query["id"], "latency_ms": round((time.perf_counter() - began) * 1000, 3)})
            lines += [
                f"{query['id']} Q0 {names.get(name, name)} {rank} {score:.9f} ragtune"
                for rank, (name, score) in enumerate(_ranked(hits, level)[:top_k], 1)
            ]
            progress("searching", done, len(asked))
    run.write_text("".join(line + "\n" for line in lines))
    if timings is not None:
        timings.write_text("".join(json.dumps(row) + "\n" for row in measured))
    sys.stderr.write(f"{len(asked)} queries, {len(lines)} results in {run}\n")


def _ranked(hits: list[Hit], level: str) -> list[tuple[str, float]]:
    """Return (id, score), best first, a document once with the score of its best chunk."""
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(hit.chunk.document_id if level == "document" else hit.chunk.id, hit.score)
    return list(best.items())


def _plain(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "document": chunk.document_id,
        "chunk": chunk.id,
        "score": hit.score,
        "title": chunk.title,
        "headings": list(chunk.heading_path),
        "source": chunk.source,
        "text": chunk.text,
    }
