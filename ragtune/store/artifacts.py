"""Immutable artefacts in the home, named by the hash of their content.

An artefact is written into a scratch folder, which is renamed when it is complete. So a killed process never leaves
an incomplete one where readers look.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ragtune.errors import RegistryError
from ragtune.records import ArtifactRef

Record = TypeVar("Record")
MANIFEST = "artifact.json"


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_files(folder: Path) -> dict[str, str]:
    """Return {relative path: SHA-256} of all files in the folder and its subfolders, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def files_sha256(files: dict[str, str]) -> str:
    """Return the SHA-256 of a {path: hash} listing."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one; a failure leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never an incomplete one."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True, default=str).encode())


def scratch_name() -> str:
    """Return a name for a folder that this process fills; it contains the pid, see `clear_abandoned`."""
    return f".scratch-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def clear_abandoned(*roots: Path) -> None:
    """Remove the scratch folders of processes that no longer run, in each root and in its direct subfolders."""
    patterns = (".scratch-*", "*/.scratch-*")
    for scratch in [path for root in roots for pattern in patterns for path in root.glob(pattern)]:
        owner = scratch.name.split("-")[1]
        if not Path("/proc", owner).exists():
            shutil.rmtree(scratch, ignore_errors=True)


class ArtifactStore:
    """Folders and tables below `root`, each named by the hash of its content."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """Yield an empty scratch folder, and remove it at the end unless `commit` moved it."""
        scratch = self.root / name / scratch_name()
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def commit(self, name: str, scratch: Path, rows: int = 0, identity: str = "") -> ArtifactRef:
        """Move a complete scratch folder to its final place and return the reference.

        The manifest with the hash of every file is written last.

        Args:
            name: name of the artefact.
            scratch: a folder from `stage`.
            rows: number of records, for the reference.
            identity: a hash of the inputs. It replaces the content hash if the bytes are not reproducible.
        """
        files = folder_files(scratch)
        sha256 = identity or files_sha256(files)
        final = self._place(name, sha256)
        ref = ArtifactRef(name=name, uri=str(final), sha256=sha256, rows=rows)
        if (final / MANIFEST).is_file():
            return ref
        if final.exists():
            shutil.rmtree(final)
        write_json(scratch / MANIFEST, {**self._stored(ref), "files": files})
        scratch.rename(final)
        return ref

    def write_records(self, name: str, records: Sequence[Any], identity: str = "") -> ArtifactRef:
        """Write dataclass records as one Parquet file. Equal records give an equal reference.

        `identity` is a hash of the inputs that replaces the content hash.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"record": json.dumps(asdict(record), sort_keys=True)} for record in records]
        plain = [{k: v for k, v in asdict(r).items() if isinstance(v, str | int | float | bool)} for r in records]
        table = pa.Table.from_pylist([{**columns, **row} for columns, row in zip(plain, rows, strict=True)])
        digest = hashlib.sha256("\n".join(row["record"] for row in rows).encode()).hexdigest()
        with self.stage(name) as scratch:
            pq.write_table(table, scratch / "records.parquet", compression="zstd")
            return self.commit(name, scratch, rows=len(rows), identity=identity or digest)

    def read_records(self, ref: ArtifactRef, kind: type[Record]) -> list[Record]:
        """Return the records; raise RegistryError if the artefact is missing or incomplete."""
        import pyarrow.parquet as pq

        if ref.rows == 0:
            return []
        table = pq.read_table(self.folder(ref) / "records.parquet", columns=["record"])
        adapter = TypeAdapter(kind)
        return [adapter.validate_json(row) for row in table.column("record").to_pylist()]

    def folder(self, ref: ArtifactRef) -> Path:
        """Return the artefact's folder; raise RegistryError if it is missing or incomplete."""
        folder = self.folder_of(ref)
        if not (folder / MANIFEST).is_file():
            raise RegistryError(
                f"Artefact '{ref.name}' at {folder} is missing or incomplete.",
                expected=f"a folder with {MANIFEST}",
                fix=f"run `ragtune materialize --select {ref.name}`",
            )
        return folder

    def set_current(self, ref: ArtifactRef) -> None:
        """Make this the current artefact of its name."""
        write_json(self.root / ref.name / "current.json", self._stored(ref))

    def current(self, name: str) -> ArtifactRef | None:
        """Return the current artefact of that name, or None if there is none yet."""
        path = self.root / name / "current.json"
        if not path.is_file():
            return None
        ref = TypeAdapter(ArtifactRef).validate_json(path.read_text())
        return replace(ref, uri=str(self.folder_of(ref)))

    def folder_of(self, ref: ArtifactRef) -> Path:
        """Return where the artefact's folder is if it exists."""
        return self._place(ref.name, ref.sha256)

    def _place(self, name: str, sha256: str) -> Path:
        """Return the folder of an artefact. It follows from the name and the hash, so a store can be moved."""
        return self.root / name / sha256[:16]

    def _stored(self, ref: ArtifactRef) -> dict[str, Any]:
        """Return what is written about an artefact: its place is relative to the home."""
        return asdict(replace(ref, uri=f"{self.root.name}/{ref.name}/{ref.sha256[:16]}"))
