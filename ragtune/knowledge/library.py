"""The knowledge base of a home: which sources it has, what was last read of each, what a person took out.

All of it lies in `library/` below the home: `decisions.json` holds what people decided, `shelf.json`
names what was last read, and one JSON lines file per source has its documents.
"""

import difflib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from ragtune.errors import SourceError
from ragtune.knowledge.sources import Corpus, joined, read_source, source_state, without_password
from ragtune.ports import Progress, silent
from ragtune.records import Document, QuarantinedDocument, content_id
from ragtune.settings import Settings
from ragtune.store.artifacts import write_json


@dataclass(frozen=True, slots=True)
class RemovedDocument:
    """A document that a person took out; no read brings it back until it is restored."""

    id: str
    spec: str
    path: str
    title: str
    removed_at: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """What people changed in a home: sources beside those of the settings, sources and documents taken out."""

    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    removed: tuple[RemovedDocument, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelf:
    """What was last read of one source, removed documents included.

    `read_at` is UTC, `state` the fingerprint of its files when reading began.
    """

    spec: str
    read_at: str
    state: str
    documents: tuple[Document, ...]
    quarantine: tuple[QuarantinedDocument, ...]


Named = TypeVar("Named", Document, RemovedDocument)
_DOCUMENT = TypeAdapter(Document)


class Library:
    """The sources of the settings and of the home, and their documents."""

    def __init__(self, settings: Settings) -> None:
        self.folder, self._configured = settings.home / "library", settings.sources

    def sources(self) -> list[str]:
        """Return the sources to read: those of the settings that nobody dropped, then the added ones."""
        decisions = self.decisions()
        dropped = {_place(spec) for spec in decisions.dropped}
        found = _distinct((*self._configured, *decisions.added))
        return [spec for place, spec in found.items() if place not in dropped]

    def decisions(self) -> Decisions:
        """Return what people decided so far."""
        path = self.folder / "decisions.json"
        return TypeAdapter(Decisions).validate_json(path.read_text()) if path.is_file() else Decisions()

    def add(self, spec: str, progress: Progress = silent) -> str:
        """Add a source for good, read it, and return it with its whole path.

        Raises SourceError when it cannot be read or holds a password, which would be written to disk.
        """
        if without_password(spec) != spec:
            raise SourceError(
                f"{without_password(spec)} was given with a password.",
                expected="a URL without one, because the list of sources is a plain file",
                fix="name it in RAGTUNE_SOURCES, or give the password to the storage's own configuration",
            )
        place = _place(spec)
        known = _distinct((*self._configured, *self.decisions().added))
        name = known.get(place, place)
        shelf = _shelf(name, progress)
        joined([_corpus(shelf)], [name])
        self._put([*self.shelves(), shelf])

        def change(old: Decisions) -> Decisions:
            dropped = tuple(each for each in old.dropped if _place(each) != place)
            return replace(old, dropped=dropped, added=old.added if place in known else (*old.added, name))

        self._decide(change)
        return without_password(name)

    def drop(self, spec: str) -> str:
        """Take a source out for good and return it; raise SourceError when it is unknown or the last one."""
        found = without_password(self._known(spec, self.sources()))
        if len(self.sources()) == 1:
            raise SourceError(
                f"{found} is the only source.", expected="one that stays", fix="add another one before you remove it"
            )

        def change(old: Decisions) -> Decisions:
            added = tuple(each for each in old.added if _place(each) != _place(found))
            configured = _place(found) in map(_place, self._configured)
            return replace(old, added=added, dropped=(*old.dropped, found) if configured else old.dropped)

        self._decide(change)
        return found

    def remove(self, names: Sequence[str]) -> list[RemovedDocument]:
        """Take documents out by id, path or title, and return them; doing it twice changes nothing.

        Raises SourceError that lists close names when there is no such document, or more than one.
        """
        now, found = _now(), []
        for name in names:
            document = self.find(name)
            spec = next(shelf.spec for shelf in self.shelves() if document in shelf.documents)
            found.append(RemovedDocument(document.id, spec, document.path, document.title, now))

        def change(old: Decisions) -> Decisions:
            known = {each.id for each in old.removed}
            return replace(old, removed=(*old.removed, *(each for each in found if each.id not in known)))

        self._decide(change)
        return found

    def restore(self, names: Sequence[str]) -> list[RemovedDocument]:
        """Let removed documents come back, by id, path or title; raise SourceError when one was not removed."""
        removed = self.decisions().removed
        found = [_pick(name, removed, "removed document") for name in names]
        ids = {each.id for each in found}
        self._decide(lambda old: replace(old, removed=tuple(each for each in old.removed if each.id not in ids)))
        return found

    def read(
        self, specs: Sequence[str] = (), fresh: Sequence[str] | None = None, progress: Progress = silent
    ) -> Corpus:
        """Return the documents of the sources (those of the home by default), less the removed ones.

        Only the sources in `fresh` are read anew, and those never read before; None means all of them.
        Raises SourceError as `read_sources` does, and when every document was removed.
        """
        wanted = [*_distinct(specs or self.sources()).values()]
        again = {self._known(spec, wanted) for spec in fresh or ()}
        kept = {} if fresh is None else {_place(shelf.spec): shelf for shelf in self.shelves()}
        shelves = []
        for spec in wanted:
            old = kept.get(_place(spec)) if spec not in again else None
            shelves.append(old or _shelf(spec, progress))
        self._put(shelves)
        corpus = joined([_corpus(shelf) for shelf in shelves], wanted)
        decisions = self.decisions()
        corpus.states = {shelf.spec: _state(shelf.spec, shelf.state, decisions) for shelf in shelves}
        removed = {each.id for each in decisions.removed}
        corpus.documents = [document for document in corpus.documents if document.id not in removed]
        if not corpus.documents:
            raise SourceError(
                "Every document was removed.", expected="one that stays", fix="run `ragtune documents restore NAME`"
            )
        return corpus

    def states(self) -> dict[str, str]:
        """Return {source: fingerprint} as a read would have them now in `Corpus.states`, without reading.

        It tells of changed files, and of documents that were removed or restored; of packages and URLs only the
        latter. Raises SourceError for a missing folder or file.
        """
        decisions = self.decisions()
        return {without_password(spec): _state(spec, source_state(spec), decisions) for spec in self.sources()}

    def refresh(self, specs: Sequence[str], progress: Progress = silent) -> Corpus:
        """Read these sources anew, take the others as they were last read, and return all documents.

        Raises SourceError that lists the sources when one is unknown.
        """
        shelved = [shelf.spec for shelf in self.shelves()]
        places = {_place(spec) for spec in shelved}
        listed = shelved if all(_place(spec) in places for spec in specs) else self.sources()
        return self.read(listed, specs, progress)

    def shelves(self) -> list[Shelf]:
        """Return what was last read, source by source; nothing before the first read."""
        path = self.folder / "shelf.json"
        return [self._load(row) for row in json.loads(path.read_text())] if path.is_file() else []

    def documents(self) -> list[Document]:
        """Return the documents that were last read and not removed; raise SourceError when nothing was read."""
        removed = {each.id for each in self.decisions().removed}
        return [each for shelf in self._read_shelves() for each in shelf.documents if each.id not in removed]

    def find(self, name: str) -> Document:
        """Return the document, removed or not, with this id, path or title; raise SourceError as `remove` does."""
        return _pick(name, [each for shelf in self._read_shelves() for each in shelf.documents], "document")

    def quarantine(self) -> list[QuarantinedDocument]:
        """Return what the last read could not read, with the reasons; raise SourceError when nothing was read."""
        return [each for shelf in self._read_shelves() for each in shelf.quarantine]

    def _known(self, spec: str, specs: Iterable[str]) -> str:
        found = next((each for each in specs if _place(each) == _place(spec)), None)
        if found is None:
            listed = ", ".join(map(without_password, specs))
            raise SourceError(f"{without_password(spec)} is not a source of this home.", expected=f"one of {listed}")
        return found

    def _decide(self, change: Callable[[Decisions], Decisions]) -> None:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            write_json(self.folder / "decisions.json", asdict(change(self.decisions())))

    def _read_shelves(self) -> list[Shelf]:
        found = self.shelves()
        if not found:
            raise SourceError(
                f"No document was read into {self.folder.parent} yet.",
                expected="a knowledge base",
                fix="run `ragtune index` or `ragtune sources add folder:PATH`",
            )
        return found

    def _load(self, row: dict[str, str]) -> Shelf:
        lines = [json.loads(line) for line in (self.folder / row["file"]).read_text().splitlines()]
        documents = tuple(_DOCUMENT.validate_python(line) for line in lines if "reason" not in line)
        quarantine = tuple(QuarantinedDocument(**line) for line in lines if "reason" in line)
        return Shelf(row["spec"], row["read_at"], row["state"], documents, quarantine)

    def _put(self, shelves: Sequence[Shelf]) -> None:
        """Make these the shelf, writing those that are new; the last of a source wins."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, rows = self.folder / "shelf.json", {}
        known = json.loads(path.read_text()) if path.is_file() else []
        for shelf in shelves:
            name = f"{content_id(_place(shelf.spec))}.jsonl"
            rows[name] = {"spec": shelf.spec, "read_at": shelf.read_at, "state": shelf.state, "file": name}
            if rows[name] not in known:
                held: list[Document | QuarantinedDocument] = [*shelf.documents, *shelf.quarantine]
                text = "".join(json.dumps(asdict(each)) + "\n" for each in held)
                scratch = self.folder / f".{name}.{os.getpid()}"
                scratch.write_text(text)
                scratch.replace(self.folder / name)
        write_json(path, list(rows.values()))


def _shelf(spec: str, progress: Progress) -> Shelf:
    """Read a source; its state is taken first, so that a change while it is read is seen as one."""
    state = source_state(spec)
    corpus = read_source(spec, progress)
    return Shelf(without_password(spec), _now(), state, tuple(corpus.documents), tuple(corpus.quarantine))


def _corpus(shelf: Shelf) -> Corpus:
    return Corpus([*shelf.documents], [*shelf.quarantine])


def _state(spec: str, files: str, decisions: Decisions) -> str:
    return content_id(files, *sorted(each.id for each in decisions.removed if _place(each.spec) == _place(spec)))


def _place(spec: str) -> str:
    """Return the source with an absolute path, the same however it was written."""
    scheme, _, rest = spec.strip().partition(":")
    if scheme in ("folder", "jsonl") and rest:
        return f"{scheme}:{os.path.abspath(Path(rest).expanduser())}"  # noqa: PTH100 links stay as they are named
    return without_password(spec.strip()).rstrip("/")


def _distinct(specs: Iterable[str]) -> dict[str, str]:
    """Return {place: source as it was first written}."""
    found: dict[str, str] = {}
    for spec in specs:
        found.setdefault(_place(spec), spec)
    return found


def _pick(name: str, items: Sequence[Named], kind: str) -> Named:
    """Return the item with this id, or the only one with this path or title."""
    found = [each for each in items if each.id == name] or [each for each in items if name in (each.path, each.title)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{each.id} ({each.path})" for each in found[:10])
        raise SourceError(f"{len(found)} {kind}s are called '{name}'.", expected=f"the id of one of them: {ids}")
    names = [each.path for each in items]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    raise SourceError(
        f"There is no {kind} '{name}'.",
        expected=f"an id, a path or a title; for example {', '.join(close)}" if close else f"a {kind}; there is none",
        fix=f"see `ragtune documents list{' --removed' if kind.startswith('removed') else ''}`",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
