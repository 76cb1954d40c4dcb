"""What may be deleted from a home to free its disk, by a policy that keeps everything that something needs."""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore, scratch_name
from ragtune.store.disk_use import disk_bytes
from ragtune.store.home_lock import exclusive
from ragtune.store.mlflow_files import delete_run, runs_about, search_runs
from ragtune.store.registry import ModelRegistry, RegistryEntry, read_manifest
from ragtune.store.versions_in_use import versions_in_use

_DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Disposable:
    """Something that may go: a folder or file, or a log to be shortened.

    `version` is the number of a released model, and `run` the id of a run of MLflow, if it is one. `keep` is how many
    bytes at the end of a log stay.
    """

    kind: str
    path: Path
    bytes: int
    why: str
    version: str = ""
    run: str = ""
    keep: int = 0


def disposable(settings: Settings, now: float | None = None) -> list[Disposable]:
    """Return what the settings under `retention` allow to delete, by kind; nothing changes.

    Args:
        settings: the home and its policy.
        now: seconds since 1970; None means the present.
    """
    now = time.time() if now is None else now
    registry = ModelRegistry(settings)
    entries = registry.entries()
    gone = prunable(entries, settings.retention.models, versions_in_use(settings))
    kept = [entry for entry in entries if entry not in gone and not entry.problem]
    return [
        *_models(gone),
        *_model_folders(settings.home / "models", entries),
        *_runs(settings, kept, now - settings.retention.run_days * _DAY),
        *_artifacts(ArtifactStore(settings.home / "artifacts"), kept, settings.retention.artifacts),
        *_checkpoints(settings.home / "work", now - settings.retention.checkpoint_days * _DAY),
        *_logs(settings.home / "logs", settings.retention.log_mib << 20, now - settings.retention.log_days * _DAY),
    ]


def delete(settings: Settings, items: Iterable[Disposable]) -> None:
    """Delete what `disposable` returned; raise ResourceError if a build runs in the home."""
    registry = ModelRegistry(settings)
    with exclusive(settings.home, "`ragtune prune`"):
        for item in items:
            if item.version:
                registry.remove(item.version)
            elif item.run:
                delete_run(settings, item.run)
            elif item.keep:
                _shorten(item.path, item.keep)
            elif item.path.is_dir():
                # Under this name a killed deletion is finished by the next build.
                doomed = item.path.with_name(scratch_name())
                item.path.rename(doomed)
                shutil.rmtree(doomed)
            else:
                item.path.unlink(missing_ok=True)


def prunable(entries: Iterable[RegistryEntry], keep: int, in_use: frozenset[str] = frozenset()) -> list[RegistryEntry]:
    """Return the versions without a name, except the newest `keep` that can be served; the oldest come first.

    Those `in_use` by an experiment or a shadow deployment stay as well.
    """
    unnamed = [entry for entry in entries if not entry.aliases and entry.version not in in_use]
    servable = [entry for entry in unnamed if not entry.problem]
    kept = servable[len(servable) - keep :] if keep else []
    return [entry for entry in unnamed if entry not in kept]


def _models(gone: Iterable[RegistryEntry]) -> Iterator[Disposable]:
    for entry in gone:
        why = entry.problem or "neither live, previous, in an experiment nor among the newest"
        size = disk_bytes(Path(entry.folder)) if entry.folder else 0
        yield Disposable("model", Path(entry.folder), size, why, entry.version)


def _model_folders(models: Path, entries: Iterable[RegistryEntry]) -> Iterator[Disposable]:
    registered = {Path(entry.folder) for entry in entries}
    for folder in sorted(models.glob("[!.]*")):
        if folder not in registered:
            yield Disposable("model", folder, disk_bytes(folder), "no version in the registry has this folder")


def _runs(settings: Settings, kept: Iterable[RegistryEntry], before: float) -> Iterator[Disposable]:
    """Yield the ended runs of MLflow in the home that are about no kept version."""
    if settings.run_files is None or not settings.run_files.is_dir():
        return
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.tracking_url)
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    runs = search_runs(client, experiment.experiment_id) if experiment else []
    needed = runs_about(runs, {read_manifest(Path(entry.folder)).mlflow_run_id for entry in kept} - {""})
    for run in runs:
        ended = (run.info.end_time or 0) / 1000
        if ended and ended < before and run.info.run_id not in needed:
            folder = settings.run_files / run.info.run_id
            yield Disposable("MLflow run", folder, disk_bytes(folder), "old", run=run.info.run_id)


def _artifacts(store: ArtifactStore, kept: Iterable[RegistryEntry], newest: int) -> Iterator[Disposable]:
    """Yield artefacts that are not current, that no kept version was made from, and that are not among the newest."""
    manifests = [read_manifest(Path(entry.folder)) for entry in kept]
    needed = {
        sha256[:16]
        for manifest in manifests
        for sha256 in (manifest.base_sha256, manifest.adapter_sha256, manifest.dataset_sha256)
    }
    for shelf in sorted(path for path in store.root.glob("[!.]*") if path.is_dir()):
        if (current := store.current(shelf.name)) is None:
            continue  # answers and other results that are kept by their inputs: small, and slow to make again
        folders = sorted(shelf.glob("[!.]*/"), key=lambda folder: folder.stat().st_mtime)
        old = [folder for folder in folders if folder != store.folder_of(current)]
        for folder in old[: max(0, len(old) - newest)]:
            if folder.name not in needed:
                why = "neither current, nor among the newest, nor what a released version was made from"
                yield Disposable("artefact", folder, disk_bytes(folder), why)


def _checkpoints(work: Path, before: float) -> Iterator[Disposable]:
    for folder in sorted(work.glob("*/")):
        newest = max((file.stat().st_mtime for file in folder.rglob("*")), default=folder.stat().st_mtime)
        if newest < before:
            yield Disposable("checkpoint", folder, disk_bytes(folder), "an interrupted training that nobody continued")


def _logs(logs: Path, longest: int, before: float) -> Iterator[Disposable]:
    for file in sorted(path for path in logs.rglob("*") if path.is_file()):
        status = file.stat()
        if status.st_mtime < before:
            yield Disposable("log", file, disk_bytes(file), "nothing was written to it for a long time")
        elif file.suffix == ".log" and status.st_size > longest:
            why = f"shortened to its last {longest >> 20} MiB"
            yield Disposable("log", file, status.st_size - longest, why, keep=longest)


def _shorten(file: Path, longest: int) -> None:
    """Keep the end of a log. Programs append to their logs, so they go on writing at the new end."""
    with file.open("r+b") as stream:
        stream.seek(-longest, 2)
        end = stream.read()
        stream.seek(0)
        stream.write(end)
        stream.truncate()
