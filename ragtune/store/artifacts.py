"""Immutable, content-addressed artefacts under the home.

An artefact is built in a scratch folder and renamed into place once it is whole, so a
killed process never leaves half of one where a reader would look.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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
    """Return {relative path: SHA-256} of every file below the folder, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def files_sha256(files: dict[str, str]) -> str:
    """Return one SHA-256 for a {path: hash} listing."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with scratch.open("w") as stream:
        json.dump(value, stream, indent=2, sort_keys=True, default=str)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(path)


def scratch_name() -> str:
    """Return a name for a folder that this process is filling."""
    return f".scratch-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def clear_abandoned(*roots: Path) -> None:
    """Remove what processes that are no longer there left half-written, in each root or one folder below."""
    for scratch in (found for root in roots for depth in ("", "*/") for found in root.glob(f"{depth}.scratch-*")):
        owner = scratch.name.split("-")[1]
        if not Path("/proc", owner).exists():
            shutil.rmtree(scratch, ignore_errors=True)


class ArtifactStore:
    """Folders and tables under `root`, each named by the hash of its content."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """Yield an empty scratch folder that is removed afterwards unless `commit` moved it."""
        scratch = self.root / name / scratch_name()
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def commit(self, name: str, scratch: Path, rows: int = 0, identity: str = "") -> ArtifactRef:
        """Move a finished scratch folder to its final place and return the reference.

        `identity` replaces the content hash where the bytes are not reproducible but the inputs
        are known. The manifest with every file's hash is written last.
        """
        files = folder_files(scratch)
        sha256 = identity or files_sha256(files)
        final = self.root / name / sha256[:16]
        ref = ArtifactRef(name=name, uri=str(final), sha256=sha256, rows=rows)
        if (final / MANIFEST).is_file():
            return ref
        if final.exists():
            shutil.rmtree(final)
        write_json(scratch / MANIFEST, {**asdict(ref), "files": files})
        scratch.rename(final)
        return ref

    def write_records(self, name: str, records: Sequence[Any], identity: str = "") -> ArtifactRef:
        """Write dataclass records as one Parquet file; equal records give an equal reference.

        `identity` replaces the content hash where the records are known by their inputs.
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
        """Read records back; raise RegistryError when the artefact is gone or unfinished."""
        import pyarrow.parquet as pq

        if ref.rows == 0:
            return []
        table = pq.read_table(self.folder(ref) / "records.parquet", columns=["record"])
        adapter = TypeAdapter(kind)
        return [adapter.validate_json(row) for row in table.column("record").to_pylist()]

    def folder(self, ref: ArtifactRef) -> Path:
        """Return the artefact's folder; raise RegistryError when it is gone or unfinished."""
        folder = Path(ref.uri)
        if not (folder / MANIFEST).is_file():
            raise RegistryError(
                f"Artefact '{ref.name}' is not complete at {folder}.",
                expected=f"a folder with {MANIFEST}",
                fix=f"run `ragtune materialize --select {ref.name}`",
            )
        return folder

    def set_current(self, ref: ArtifactRef) -> None:
        """Make this the newest artefact of its name."""
        write_json(self.root / ref.name / "current.json", asdict(ref))

    def current(self, name: str) -> ArtifactRef | None:
        """Return the newest artefact of that name, or None before the first."""
        path = self.root / name / "current.json"
        if not path.is_file():
            return None
        return TypeAdapter(ArtifactRef).validate_json(path.read_text())
