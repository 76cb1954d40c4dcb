"""Reads the documents of sources: folders, installed packages, JSONL files and URLs; and existing question files.

A document that cannot be read goes to the quarantine with the reason, and the others are read. A source that cannot
be read at all is an error.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

from ragtune.errors import SourceError
from ragtune.knowledge.audit import audit
from ragtune.knowledge.blocks import join
from ragtune.knowledge.pair_files import read_pairs
from ragtune.knowledge.readers.files import can_read, read_bytes
from ragtune.knowledge.readers.json_lines import read_json_lines
from ragtune.knowledge.readers.reading import Reading, UnreadableError
from ragtune.ports import Progress, silent
from ragtune.records import Document, ExistingPair, QuarantinedDocument, content_id
from ragtune.settings import LOCAL_SOURCES, SOURCE_FORMS
from ragtune.text.counts import counted

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Larger files go to the quarantine, because a file is read into memory whole. Chosen by hand, not measured."""
MOST_LOST_NAMED = 200
"""Lost words that a document keeps by name. Chosen by hand: enough to see what was lost, little to store."""
NAMES_SHOWN = 3
"""Files of each ending without a reader that are named; chosen by hand: enough to see what they are."""
DIGITS = ".0"
"""Stands for all endings of digits."""
_SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", ".git"}


@dataclass(slots=True)
class Corpus:
    """The documents and existing pairs of all sources, and what could not be read.

    `ignored` is {ending: files that no reader reads}, with "" for files without an ending; `ignored_names` has the
    first paths of each. `states` is {source: fingerprint}; `Library.read` fills it in.
    """

    documents: list[Document] = field(default_factory=list)
    quarantine: list[QuarantinedDocument] = field(default_factory=list)
    pairs: list[ExistingPair] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    states: dict[str, str] = field(default_factory=dict)
    ignored_names: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    r"""A file of a source before it is read.

    `path` is relative to the source; bytes of its name that are not UTF-8 are written as `\xe9`. `modified` is an ISO
    time, `stamp` the same time in nanoseconds, 0 if unknown. `problem` says why the file is not opened at all, such as
    a named pipe; it is "" for a regular file.
    """

    path: str
    size: int
    modified: str
    open: Callable[[], bytes]
    stamp: int = 0
    problem: str = ""


def read_sources(specs: Sequence[str], progress: Progress = silent) -> Corpus:
    """Return every document of the sources, in the order of the specs and then by path.

    Raises:
        SourceError: if a source is missing, empty, unreadable or of an unknown scheme, or if no document is readable.
    """
    if not specs:
        raise SourceError("There is no source.", expected="at least one of folder:, package:, jsonl: or a URL")
    return join_corpora([read_source(spec, progress) for spec in dict.fromkeys(specs)], specs)


def join_corpora(parts: Sequence[Corpus], specs: Sequence[str]) -> Corpus:
    """Return the corpora of several sources as one; raise SourceError if they have no document."""
    corpus = Corpus(
        [document for part in parts for document in part.documents],
        [document for part in parts for document in part.quarantine],
        [pair for part in parts for pair in part.pairs],
        sum((part.ignored for part in parts), Counter()),
    )
    for part in parts:
        for ending, paths in part.ignored_names.items():
            corpus.ignored_names.setdefault(ending, []).extend(paths)
    if not corpus.documents and corpus.pairs and all(spec.strip().startswith("pairs:") for spec in specs):
        raise SourceError(
            f"{', '.join(specs)} has {counted(len(corpus.pairs), 'question')} with answers, and there is no document.",
            expected="at least one source of documents that the answers can be found in",
            fix="add one with `ragtune sources add folder:PATH`; a FAQ page can be both",
        )
    if not corpus.documents:
        reasons = "; ".join(f"{item.path}: {item.reason}" for item in corpus.quarantine[:5])
        sources = ", ".join(map(without_password, specs))
        raise SourceError(
            f"No document of {sources} can be read: {counted(len(corpus.quarantine), 'file')} failed ({reasons}).",
            expected="at least one readable document",
            fix="repair the files or name another source",
        )
    return corpus


def read_source(spec: str, progress: Progress = silent) -> Corpus:
    """Return the documents of one source; they may all be unreadable. Raises SourceError as `read_sources` does."""
    spec = spec.strip()
    scheme, _, rest = spec.partition(":")
    if scheme == "package" and rest:
        from ragtune.knowledge.packages import read_package

        return Corpus(*read_package(rest, progress))
    if scheme == "jsonl" and rest:
        return _read_jsonl_file(spec, rest)
    if scheme == "pairs" and rest:
        return _read_pair_file(spec, rest)
    if scheme == "folder" and rest:
        name = f"folder:{rest.rstrip('/') or '/'}"
        return _read_files(name, _local_files(Path(rest).expanduser()), progress)
    if rest.startswith("//") and scheme:
        return _read_files(without_password(spec).rstrip("/"), _remote_files(spec), progress)
    raise unknown_source(spec)


def is_source(spec: str) -> bool:
    """Return whether a source is written in one of the known ways; what it names may be missing."""
    scheme, _, rest = spec.strip().partition(":")
    return bool(scheme and rest) and (scheme in ("package", *LOCAL_SOURCES) or rest.startswith("//"))


def unknown_source(spec: str) -> SourceError:
    """Return the error about something that is no source."""
    return SourceError(
        f"'{spec}' is not a source.",
        expected=f"{SOURCE_FORMS}, or a URL such as s3://bucket/folder",
        fix=f"write folder:{spec} for a folder" if Path(spec).exists() else "correct `sources` or --source",
    )


def source_state(spec: str) -> str:
    """Return a fingerprint of the names, sizes and times of a source's files, without reading them.

    It is "" for packages and URLs, which cannot be watched cheaply. Raises SourceError if a folder or file is missing.
    """
    scheme, _, rest = spec.strip().partition(":")
    if scheme not in LOCAL_SOURCES or not rest:
        return ""
    path = Path(rest).expanduser() if scheme == "folder" else _existing_file(scheme, rest)
    watched = (file for file in _local_files(path) if scheme == "pairs" or _is_document(file))
    return content_id(*(f"{file.path} {file.size} {file.stamp}" for file in watched))


def describe_ignored(ignored: Mapping[str, int], names: Mapping[str, Sequence[str]]) -> str:
    """Return the numbers of files that no reader reads with some names and what to do; "" if there are none.

    `names` has paths of them, by ending.
    """
    saved_as = {".doc": ".docx", ".dot": ".docx", ".ppt": ".pptx", ".rtf": ".docx", ".xls": ".xlsx"}
    advice = {ending: f" (save as {name})" for ending, name in saved_as.items()}
    advice |= dict.fromkeys((".7z", ".gz", ".rar", ".tar", ".tgz", ".zip"), " (unpack)")
    kinds = sorted(ignored.items(), key=lambda kind: (-kind[1], kind[0]))
    words = {"": "without an ending", DIGITS: "with a number as ending"}
    return "; ".join(
        f"{count} {words.get(kind, kind)}{advice.get(kind, '')}{_some(names.get(kind, ()), count)}"
        for kind, count in kinds
    )


def _some(paths: Sequence[str], count: int) -> str:
    """Return the first paths behind a colon; dots say that there are more."""
    more = ", ..." if count > len(paths[:NAMES_SHOWN]) else ""
    return f": {', '.join(paths[:NAMES_SHOWN])}{more}" if paths else ""


def _ending(path: str) -> str:
    """Return the ending of a file's name in lower case; all endings of digits are one kind, such as `notes.2024`."""
    ending = PurePosixPath(path).suffix.lower()
    return DIGITS if ending[1:].isdecimal() else ending


def _is_document(file: _File) -> bool:
    return can_read(file.path) or file.path.lower().endswith(".jsonl")


def _read_files(source: str, files: Sequence[_File], progress: Progress) -> Corpus:
    corpus = Corpus()
    readable = [file for file in files if file.problem or _is_document(file)]
    for file in files:
        if not file.problem and not _is_document(file):
            corpus.ignored[_ending(file.path)] += 1
            names = corpus.ignored_names.setdefault(_ending(file.path), [])
            names += [file.path] if len(names) < NAMES_SHOWN else []
    if not readable:
        contents = describe_ignored(dict(corpus.ignored.most_common(5)), corpus.ignored_names)
        raise SourceError(
            f"{source} holds no readable document ({contents or 'it is empty'}).",
            expected="Markdown, reStructuredText, text, HTML, PDF, Office, CSV, notebook, source code or JSONL files",
            fix="put documents there or correct the path",
        )
    for done, file in enumerate(readable, start=1):
        try:
            if file.problem:
                raise UnreadableError(file.problem)
            if file.size > MAX_FILE_BYTES:
                raise UnreadableError(f"it has {file.size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}")
            raw = file.open()
            if file.path.lower().endswith(".jsonl"):
                _add_records(corpus, source, raw, prefix=f"{file.path}#", modified=file.modified)
            else:
                reading = read_bytes(file.path, raw)
                document = _document(source, file.path, reading, file.modified)
                words, lost = audit(file.path, raw, reading)
                named = lost[:MOST_LOST_NAMED]
                corpus.documents.append(replace(document, words=words, lost=named, lost_words=len(lost)))
        except (UnreadableError, OSError) as error:
            corpus.quarantine.append(QuarantinedDocument(source, file.path, str(error)))
        except Exception as error:  # noqa: BLE001
            # A damaged file can make a parser fail in any way; the quarantine names it, and the others are read.
            reason = f"its reader failed: {type(error).__name__}: {error}"
            corpus.quarantine.append(QuarantinedDocument(source, file.path, reason))
        progress(f"reading {source}", done, len(readable))
    return corpus


def _read_jsonl_file(spec: str, name: str) -> Corpus:
    path = _existing_file("jsonl", name)
    corpus = Corpus()
    try:
        _add_records(corpus, spec, path.read_bytes(), prefix="", modified=_iso(path.stat().st_mtime))
    except (OSError, UnreadableError) as error:
        raise SourceError(f"{path} cannot be read: {error}.", expected="UTF-8 text, one JSON object a line") from error
    if not corpus.documents and not corpus.quarantine:
        raise SourceError(f"{path} is empty.", expected='lines of {"id", "title", "text"}')
    return corpus


def _read_pair_file(spec: str, name: str) -> Corpus:
    """Return the existing pairs of a file; its other records are in the quarantine, with their places."""
    path, source = _existing_file("pairs", name), spec.strip()
    try:
        raw = _read_regular_file(path)
    except (OSError, UnreadableError) as error:
        raise SourceError(f"{path} cannot be read: {error}.", expected="a file that you may read") from error
    file = read_pairs(source, path, raw)
    return Corpus(
        quarantine=[QuarantinedDocument(source, f"{path.name}, {place}", reason) for place, reason in file.problems],
        pairs=file.pairs,
    )


def _existing_file(scheme: str, name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        kind = "a JSONL file" if scheme == "jsonl" else "a file with questions and answers"
        raise SourceError(f"There is no file {path}.", expected=kind, fix=f"correct the path after {scheme}:")
    return path


def _add_records(corpus: Corpus, source: str, raw: bytes, prefix: str, modified: str) -> None:
    for record in read_json_lines(raw):
        if not isinstance(record, Reading):
            corpus.quarantine.append(QuarantinedDocument(source, f"{prefix}{record[0]}", record[1]))
            continue
        path = f"{prefix}{record.key}"
        corpus.documents.append(_document(source, path, record, record.modified or modified))


def _document(source: str, path: str, reading: Reading, modified: str) -> Document:
    folders = PurePosixPath(path).parts[:-1] if not reading.key else ()
    text, spans = join(reading.blocks)
    return Document(
        id=content_id(source, path),
        source=source,
        path=path,
        title=reading.title,
        text=text,
        sha256=sha256(f"{reading.title}\0{text}".encode()).hexdigest(),
        topic=reading.topic or (folders[0] if folders else ""),
        language=reading.language,
        modified=modified,
        blocks=spans,
        left_out=reading.left_out,
    )


def _local_files(root: Path) -> list[_File]:
    """Return the visible files below a folder, sorted by path, or the one file; links to folders are not followed."""
    if not root.exists():
        raise SourceError(f"There is no folder {root}.", expected="a folder of documents", fix="correct the path")
    if root.is_file():
        return [_local_file(root.parent, root)]
    if not os.access(root, os.R_OK | os.X_OK):
        raise SourceError(f"{root} cannot be read.", expected="a folder that you may list", fix=f"chmod u+rx {root}")
    files: list[_File] = []

    def refuse(error: OSError) -> None:
        files.append(_File(_printable(root, Path(error.filename)) + "/", 0, "", bytes, 0, f"{error.strerror}"))

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if _is_visible(name))
        files += [_local_file(root, Path(folder, name)) for name in names if _is_visible(name)]
    return sorted(files, key=lambda file: file.path)


def _local_file(root: Path, path: Path) -> _File:
    name, read = _printable(root, path), partial(_read_regular_file, path)
    try:
        status = path.stat()
    except OSError:
        # A dangling link: reading it later gives the reason for the quarantine.
        return _File(name, 0, "", read)
    problem = "" if stat.S_ISREG(status.st_mode) or not can_read(name) else _kind_of_file(status.st_mode)
    return _File(name, status.st_size, _iso(status.st_mtime), read, status.st_mtime_ns, problem)


def _printable(root: Path, path: Path) -> str:
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _read_regular_file(path: Path) -> bytes:
    """Return the bytes of a file; never wait for a pipe or device that took its place after it was listed."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - flags need os.open
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise UnreadableError(_kind_of_file(mode))
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise UnreadableError(f"it has more than the {MAX_FILE_BYTES:,} bytes that one file may have")
    return raw


def _kind_of_file(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return f"it is {kinds.get(stat.S_IFMT(mode), 'no regular file')}, and only regular files are read"


def _remote_files(url: str) -> list[_File]:
    import fsspec

    scheme = url.partition(":")[0]
    try:
        system, root = fsspec.url_to_fs(url)
    except (ValueError, ImportError) as error:
        schemes = ", ".join(sorted(name for name in fsspec.available_protocols() if name.isalnum())[:40])
        raise SourceError(
            f"'{scheme}://' cannot be opened: {error}.",
            expected=f"folder:, package:, jsonl:, pairs: or one of {schemes}",
            fix="correct the scheme, or install the package that the message names",
        ) from error
    try:
        listing = system.find(root, detail=True)
    except Exception as error:  # each storage client raises its own errors
        raise SourceError(
            f"{without_password(url)} cannot be listed: {error}.", fix="check the address and your permissions"
        ) from error
    if not listing:
        raise SourceError(f"{without_password(url)} is empty or does not exist.", expected="a folder of documents")
    base = root.rstrip("/")
    files = []
    for path, details in sorted(listing.items()):
        relative = path[len(base) :].lstrip("/") if path.startswith(base) and path != base else PurePosixPath(path).name
        if all(_is_visible(part) for part in PurePosixPath(relative).parts):
            size = int(details.get("size") or 0)
            files.append(_File(relative, size, _modification_time(details), _opener(system.cat_file, path)))
    return files


def _opener(read: Callable[[str], bytes], path: str) -> Callable[[], bytes]:
    def fetch() -> bytes:
        try:
            return read(path)
        except Exception as error:  # each storage client raises its own errors
            raise UnreadableError(f"it cannot be fetched: {error}") from error

    return fetch


def _modification_time(details: dict[str, object]) -> str:
    """Return the time of the last change, which each storage client names differently, or ""."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "modified", "created"):
        value = details.get(name)
        if isinstance(value, datetime):
            # A time without a zone is UTC, or the same file would look changed on a machine in another time zone.
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            return aware.astimezone(UTC).isoformat(timespec="seconds")
        if isinstance(value, int | float):
            return _iso(value)
        if isinstance(value, str) and value:
            return value
    return ""


def without_password(url: str) -> str:
    """Return the source, with user name and password removed if it is a URL."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _SKIPPED_FOLDERS and not name.endswith("~")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
