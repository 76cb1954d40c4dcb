"""The knowledge base of a home: its sources, what was last read from each, and the documents that people removed.

Everything is in the folder `library/` of the home. `decisions.json` holds what people decided. `shelf.json` lists the
sources that were read, and a JSON lines file for each of them has its documents or existing pairs.
"""

import difflib
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import normalize

from pydantic import TypeAdapter

from ragtune.errors import SettingsError, SourceError
from ragtune.knowledge.sources import Corpus, join_corpora, read_source, source_state, without_password
from ragtune.ports import Progress, silent
from ragtune.records import Document, ExistingPair, QuarantinedDocument, content_id
from ragtune.settings import LOCAL_SOURCES, SOURCE_FORMS, Settings, config_file
from ragtune.store.artifacts import write_atomically, write_json
from ragtune.store.timestamps import now
from ragtune.store.write_lock import write_lock


@dataclass(frozen=True, slots=True)
class RemovedDocument:
    """A document that a person removed; no read brings it back until a person restores it."""

    id: str
    spec: str
    path: str
    title: str
    removed_at: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """What people changed in a home.

    `added` are sources in addition to those of the settings, `dropped` are sources of the settings that nobody reads
    any more, `removed` are documents.
    """

    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    removed: tuple[RemovedDocument, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelf:
    """The documents or existing pairs last read from one source, including documents that a person removed.

    `read_at` is in UTC. `state` is the fingerprint that the source's files had when the read began. `ignored` is
    {ending: files that no reader reads}, and `ignored_names` has the first of their paths.
    """

    spec: str
    read_at: str
    state: str
    documents: tuple[Document, ...]
    quarantine: tuple[QuarantinedDocument, ...]
    pairs: tuple[ExistingPair, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    ignored_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


Named = TypeVar("Named", Document, RemovedDocument)
_DOCUMENT = TypeAdapter(Document)


class Library:
    """The sources of the settings and of the home, and their documents."""

    def __init__(self, settings: Settings) -> None:
        self.folder, self._configured = settings.home / "library", settings.sources
        self._languages = {_canonical(spec): language for spec, language in settings.languages.items()}

    def sources(self) -> list[str]:
        """Return the sources to read: those of the settings that nobody dropped, then those that people added."""
        decisions = self.decisions()
        dropped = {_canonical(spec) for spec in decisions.dropped}
        specs = _distinct((*self._configured, *decisions.added))
        return [spec for canonical, spec in specs.items() if canonical not in dropped]

    def decisions(self) -> Decisions:
        """Return what people decided so far."""
        path = self.folder / "decisions.json"
        return TypeAdapter(Decisions).validate_json(path.read_text()) if path.is_file() else Decisions()

    def add(self, spec: str, progress: Progress = silent) -> str:
        """Add a source for good, read it, and return it with its absolute path.

        Raises:
            SourceError: if the source cannot be read, or if it has a password, which would be written to disk.
        """
        if without_password(spec) != spec:
            raise SourceError(
                f"{without_password(spec)} was given with a password.",
                expected="a URL without one, because the list of sources is a plain file",
                fix="name it in RAGTUNE_SOURCES, or give the password to the storage's own configuration",
            )
        canonical = _canonical(spec)
        sources = _distinct((*self._configured, *self.decisions().added))
        name = sources.get(canonical, canonical)
        shelf = _read_shelf(name, progress)
        if not shelf.pairs:
            join_corpora([_corpus(shelf)], [name])  # raises if no document is readable
        self._write_shelves([*self.shelves(), shelf])

        def add_source(old: Decisions) -> Decisions:
            dropped = tuple(source for source in old.dropped if _canonical(source) != canonical)
            added = old.added if canonical in sources else (*old.added, name)
            return replace(old, dropped=dropped, added=added)

        self._change_decisions(add_source)
        return without_password(name)

    def drop(self, spec: str) -> str:
        """Remove a source for good and return it; raise SourceError if it is unknown or the only one."""
        source = without_password(self._find_source(spec, self.sources()))
        canonical = _canonical(source)
        if len(self.sources()) == 1:
            raise SourceError(
                f"{source} is the only source.", expected="at least one source", fix="add another one first"
            )

        def drop_source(old: Decisions) -> Decisions:
            added = tuple(name for name in old.added if _canonical(name) != canonical)
            is_configured = canonical in map(_canonical, self._configured)
            return replace(old, added=added, dropped=(*old.dropped, source) if is_configured else old.dropped)

        self._change_decisions(drop_source)
        return source

    def remove(self, names: Sequence[str]) -> list[RemovedDocument]:
        """Remove documents by id, path or title, and return them; removing one twice changes nothing.

        Raises:
            SourceError: if there is no such document, or more than one; it lists close names.
        """
        removed_at, removed = now(), []
        for name in names:
            document = self.find(name)
            spec = next(shelf.spec for shelf in self.shelves() if document in shelf.documents)
            removed.append(RemovedDocument(document.id, spec, document.path, document.title, removed_at))

        def add_removed(old: Decisions) -> Decisions:
            ids = {document.id for document in old.removed}
            return replace(old, removed=(*old.removed, *(document for document in removed if document.id not in ids)))

        self._change_decisions(add_removed)
        return removed

    def restore(self, names: Sequence[str]) -> list[RemovedDocument]:
        """Undo `remove` for documents named by id, path or title; raise SourceError if one was not removed."""
        removed = self.decisions().removed
        restored = [_pick(name, removed, "removed document") for name in names]
        ids = {document.id for document in restored}

        def without_restored(old: Decisions) -> Decisions:
            return replace(old, removed=tuple(document for document in old.removed if document.id not in ids))

        self._change_decisions(without_restored)
        return restored

    def read(
        self, specs: Sequence[str] = (), reread: Sequence[str] | None = None, progress: Progress = silent
    ) -> Corpus:
        """Return the documents of the sources, without the removed ones.

        `specs` are the sources of the home if empty. If `reread` is None, every source is read again. Otherwise only
        the sources in `reread` and those never read before are; the others come from the last read.

        Raises:
            SourceError: as `read_sources` does, if no source is named, and if every document was removed.
        """
        sources = [*_distinct(specs or self.sources()).values()]
        if not sources:
            raise _no_source([shelf.spec for shelf in self.shelves()])
        self._check_languages(sources)
        changed = {self._find_source(spec, sources) for spec in reread or ()}
        last_read = {} if reread is None else {_canonical(shelf.spec): shelf for shelf in self.shelves()}
        shelves = []
        for spec in sources:
            shelf = last_read.get(_canonical(spec)) if spec not in changed else None
            shelves.append(shelf or _read_shelf(spec, progress))
        self._write_shelves(shelves)
        corpus = join_corpora([_corpus(self._in_its_language(shelf)) for shelf in shelves], sources)
        decisions = self.decisions()
        corpus.states = {shelf.spec: self._state(shelf.spec, shelf.state, decisions) for shelf in shelves}
        removed = {document.id for document in decisions.removed}
        corpus.documents = [document for document in corpus.documents if document.id not in removed]
        if not corpus.documents:
            raise SourceError(
                "Every document was removed.",
                expected="at least one document",
                fix="run `ragtune documents restore NAME`",
            )
        return corpus

    def states(self) -> dict[str, str]:
        """Return {source: fingerprint} of the sources as they are now, without reading them.

        A source has changed if its fingerprint differs from the one in `Corpus.states` of the last read.
        A fingerprint changes if files of the source change, if documents of it are removed or restored, or if
        `languages` gives it another language. Those of packages and URLs show only the latter two. Raises SourceError
        if a folder or file is missing.
        """
        decisions = self.decisions()
        return {without_password(spec): self._state(spec, source_state(spec), decisions) for spec in self.sources()}

    def refresh(self, specs: Sequence[str], progress: Progress = silent) -> Corpus:
        """Read these sources again, take the others from the last read, and return all documents.

        Raises SourceError if a source is unknown; it lists the sources.
        """
        last_read = [shelf.spec for shelf in self.shelves()]
        canonical = {_canonical(spec) for spec in last_read}
        sources = last_read if all(_canonical(spec) in canonical for spec in specs) else self.sources()
        return self.read(sources, specs, progress)

    def shelves(self) -> list[Shelf]:
        """Return what was last read, source by source; empty before the first read."""
        path = self.folder / "shelf.json"
        rows = json.loads(path.read_text()) if path.is_file() else []
        return [self._in_its_language(self._load_shelf(row)) for row in rows]

    def documents(self) -> list[Document]:
        """Return the documents of the last read that are not removed; raise SourceError if there was no read yet."""
        removed = {document.id for document in self.decisions().removed}
        return [doc for shelf in self._existing_shelves() for doc in shelf.documents if doc.id not in removed]

    def find(self, name: str) -> Document:
        """Return the document, removed or not, with this id, path or title; raise SourceError as `remove` does."""
        return _pick(name, [doc for shelf in self._existing_shelves() for doc in shelf.documents], "document")

    def ignored(self) -> dict[str, int]:
        """Return {ending: files that no reader reads} of the last read; raise SourceError if there was no read yet."""
        return dict(sum((Counter(shelf.ignored) for shelf in self._existing_shelves()), Counter()))

    def ignored_names(self) -> dict[str, list[str]]:
        """Return {ending: paths of the first files that no reader reads} of the last read."""
        names: dict[str, list[str]] = {}
        for shelf in self._existing_shelves():
            for ending, paths in shelf.ignored_names.items():
                names.setdefault(ending, []).extend(paths)
        return names

    def quarantine(self) -> list[QuarantinedDocument]:
        """Return what the last read could not read, with the reasons; raise SourceError if there was no read yet."""
        return [bad for shelf in self._existing_shelves() for bad in shelf.quarantine]

    def _find_source(self, spec: str, sources: Iterable[str]) -> str:
        """Return the source as the list writes it; raise SourceError if it is not in the list."""
        source = next((source for source in sources if _canonical(source) == _canonical(spec)), None)
        if source is None:
            listed = ", ".join(map(without_password, sources))
            raise SourceError(f"{without_password(spec)} is not a source of this home.", expected=f"one of {listed}")
        return source

    def _check_languages(self, sources: Iterable[str]) -> None:
        """Raise SettingsError if the setting `languages` names something that is not a source."""
        known = {_canonical(spec) for spec in (*sources, *self._configured, *self.decisions().added)}
        unknown = [spec for spec in self._languages if spec not in known]
        if unknown:
            raise SettingsError(
                f"`languages` names {', '.join(unknown)}, which is no source.",
                expected=f"one of {', '.join(map(without_password, sorted(known)))}",
                fix="correct `languages` in ragtune.yaml",
            )

    def _in_its_language(self, shelf: Shelf) -> Shelf:
        """Return the shelf with the language that the settings give to its source."""
        language = self._languages.get(_canonical(shelf.spec))
        if language is None:
            return shelf
        return replace(shelf, documents=tuple(replace(document, language=language) for document in shelf.documents))

    def _state(self, spec: str, files: str, decisions: Decisions) -> str:
        """Return a fingerprint that changes with the files, the language and the removed documents of a source."""
        canonical = _canonical(spec)
        removed = sorted(doc.id for doc in decisions.removed if _canonical(doc.spec) == canonical)
        return content_id(files, self._languages.get(canonical, ""), *removed)

    def _change_decisions(self, change: Callable[[Decisions], Decisions]) -> None:
        """Write the changed decisions, while no other process can change them."""
        with write_lock(self.folder / ".lock", "the list of sources and documents"):
            write_json(self.folder / "decisions.json", asdict(change(self.decisions())))

    def _existing_shelves(self) -> list[Shelf]:
        shelves = self.shelves()
        if not shelves:
            raise SourceError(
                f"No document was read into {self.folder.parent} yet.",
                expected="at least one source that was read",
                fix="run `ragtune index` or `ragtune sources add folder:PATH`",
            )
        return shelves

    def _load_shelf(self, row: dict[str, Any]) -> Shelf:
        lines = [json.loads(line) for line in (self.folder / row["file"]).read_text().splitlines()]
        quarantine = tuple(QuarantinedDocument(**line) for line in lines if "reason" in line)
        pairs = tuple(ExistingPair(**line) for line in lines if "question" in line)
        others = (line for line in lines if "reason" not in line and "question" not in line)
        documents = tuple(map(_DOCUMENT.validate_python, others))
        # A home of an earlier release does not say what was ignored.
        ignored, names = row.get("ignored", {}), row.get("ignored_names", {})
        return Shelf(row["spec"], row["read_at"], row["state"], documents, quarantine, pairs, ignored, names)

    def _write_shelves(self, shelves: Sequence[Shelf]) -> None:
        """Replace what `shelves` returns; write only new documents. If a source comes twice, the last one counts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, rows = self.folder / "shelf.json", {}
        old_rows = json.loads(path.read_text()) if path.is_file() else []
        for shelf in shelves:
            name = f"{content_id(_canonical(shelf.spec))}.jsonl"
            facts = {"spec": shelf.spec, "read_at": shelf.read_at, "state": shelf.state, "file": name}
            names = {ending: list(paths) for ending, paths in shelf.ignored_names.items()}
            rows[name] = {**facts, "ignored": dict(shelf.ignored), "ignored_names": names}
            if rows[name] not in old_rows:
                records: list[Document | QuarantinedDocument | ExistingPair] = [
                    *shelf.documents,
                    *shelf.quarantine,
                    *shelf.pairs,
                ]
                text = "".join(json.dumps(asdict(record)) + "\n" for record in records)
                write_atomically(self.folder / name, text.encode())
        write_json(path, list(rows.values()))


def _no_source(last_read: Sequence[str]) -> SourceError:
    """Return the error for a read of no source; `last_read` are the sources that only the last `--source` named."""
    file = config_file()
    reason = f"{file} names none" if file.is_file() else f"there is no {file.name} in {file.absolute().parent}"
    fix = "name them, `ragtune index --source folder:PATH`, or start a project with `ragtune init FOLDER`"
    if last_read:
        again = " ".join(f"--source {shlex.quote(spec)}" for spec in last_read)
        fix = f"run `ragtune index {again}` again, or keep a source for good: `ragtune sources add {last_read[0]}`"
    return SourceError(
        f"No documents are named: {reason}, and --source is not given.",
        expected=f"at least one source: {SOURCE_FORMS} or a URL",
        fix=fix,
    )


def _read_shelf(spec: str, progress: Progress) -> Shelf:
    """Read a source; its state is taken before, so that a change during the read shows later."""
    state = source_state(spec)
    corpus = read_source(spec, progress)
    documents, quarantine, pairs = tuple(corpus.documents), tuple(corpus.quarantine), tuple(corpus.pairs)
    return Shelf(
        without_password(spec), now(), state, documents, quarantine, pairs, corpus.ignored, corpus.ignored_names
    )


def _corpus(shelf: Shelf) -> Corpus:
    names = {ending: list(paths) for ending, paths in shelf.ignored_names.items()}
    return Corpus([*shelf.documents], [*shelf.quarantine], [*shelf.pairs], Counter(shelf.ignored), ignored_names=names)


def _canonical(spec: str) -> str:
    """Return the source with an absolute path and without a password; equal for every way to write a source."""
    scheme, _, rest = spec.strip().partition(":")
    if scheme in LOCAL_SOURCES and rest:
        return f"{scheme}:{os.path.abspath(Path(rest).expanduser())}"  # noqa: PTH100 resolve() would follow links
    return without_password(spec.strip()).rstrip("/")


def _distinct(specs: Iterable[str]) -> dict[str, str]:
    """Return {canonical source: source as it was first written}."""
    sources: dict[str, str] = {}
    for spec in specs:
        sources.setdefault(_canonical(spec), spec)
    return sources


def _pick(name: str, items: Sequence[Named], kind: str) -> Named:
    """Return the item with this id, or the only one with this path or title.

    macOS writes an accent in the name of a file as a letter of its own (NFD), keyboards write one letter (NFC): names
    that look the same are the same, unless one is written exactly so.
    """
    matches = [item for item in items if item.id == name] or [item for item in items if name in (item.path, item.title)]
    composed = normalize("NFC", name)
    matches = matches or [
        item for item in items if composed in (normalize("NFC", item.path), normalize("NFC", item.title))
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = ", ".join(f"{item.id} ({item.path})" for item in matches[:10])
        raise SourceError(f"{len(matches)} {kind}s are called '{name}'.", expected=f"the id of one of them: {ids}")
    paths = [item.path for item in items]
    close = difflib.get_close_matches(composed, paths, n=3, cutoff=0.5) or paths[:3]
    raise SourceError(
        f"There is no {kind} '{name}'.",
        expected=f"an id, a path or a title; for example {', '.join(close)}" if close else f"a {kind}; there is none",
        fix=f"see `ragtune documents list{' --removed' if kind.startswith('removed') else ''}`",
    )
