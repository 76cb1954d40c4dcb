"""The model registry: the asset wing releases models into it, and the serving wing loads them from it.

A released model is a folder in `home/models` with a `manifest.json` that was written last. A version in MLflow's
registry points at the folder, and the aliases `champion`, `challenger` and `previous` point at versions.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from ragtune.errors import RegistryError
from ragtune.records import ModelManifest, RegisteredModel, content_id
from ragtune.settings import Settings
from ragtune.store.artifacts import MANIFEST as ARTIFACT_MANIFEST
from ragtune.store.artifacts import file_sha256, folder_files, scratch_name, write_json
from ragtune.store.mlflow_files import make_portable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

Alias = Literal["champion", "challenger", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "challenger", "previous")
MANIFEST = "manifest.json"
FORMAT = 1
REFUSED = "refused_by_gateway"
"""Tag of a version in MLflow: why the gateway does not serve it although it is the champion; missing if it does."""
ALLOWED_TYPES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".yaml", ".md")
"""File types that a released model may contain: weights as safetensors, everything else as plain data."""

_MANIFEST = TypeAdapter(ModelManifest)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """A version as the registry lists it, even if its files are gone.

    `folder` is absolute, or "" if the version was not released by RagTune. `problem` says why it cannot be served, or
    is "". `aliases` are all names that point at it: those of RagTune and any that people or experiments set.
    """

    version: str
    folder: str
    aliases: tuple[str, ...]
    created_at: str
    problem: str


def read_manifest(folder: Path) -> ModelManifest:
    """Return the manifest of a model folder; raise RegistryError if it is missing, damaged or of another format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RegistryError(
            f"{folder} has no {MANIFEST}, so the model there is incomplete.",
            expected="a model folder from a finished release",
            fix="run `ragtune materialize`",
        )
    try:
        manifest = _MANIFEST.validate_json(path.read_bytes())
    except ValidationError as error:
        raise RegistryError(f"{path} cannot be read: {error}", fix="release the model again") from error
    if manifest.format != FORMAT:
        raise RegistryError(
            f"{path} has format {manifest.format}.", expected=f"format {FORMAT}", fix="release the model again"
        )
    return manifest


def verify(folder: Path) -> ModelManifest:
    """Return the manifest after checking that the folder has exactly the files and hashes that it lists.

    Raises:
        RegistryError: a file is missing, changed, not listed, a link, or of a type that could run code (pickled
            weights, Python). The message names the files.
    """
    manifest = read_manifest(folder)
    problems = [f"{path} leads out of the folder" for path in manifest.files if not _inside(path)]
    problems += [
        f"subfolder '{sub}' of {precision} is missing"
        for precision, sub in manifest.precisions.items()
        if not _inside(sub) or not (folder / sub).is_dir()
    ]
    if manifest.served_precision not in manifest.precisions:
        problems.append(f"the served precision {manifest.served_precision} is none of {list(manifest.precisions)}")
    present = _present(folder)
    problems += [f"{path} is missing" for path in manifest.files if _inside(path) and path not in present]
    problems += [problem for path in sorted(present) for problem in _check_file(folder, path, manifest.files)]
    if problems:
        raise RegistryError(
            f"The model at {folder} fails verification: {'; '.join(problems[:8])}.",
            expected="exactly the files in its manifest, with weights as safetensors",
            fix="run `ragtune rollback`, or release the model again",
        )
    return manifest


def quick_problem(folder: Path) -> str:
    """Return why a model folder cannot be served, without reading its weights as `verify` does; "" for nothing."""
    try:
        manifest = read_manifest(folder)
    except RegistryError as error:
        return error.found
    missing = [path for path in manifest.files if not (folder / path).is_file()]
    return f"{missing[0]} and {len(missing) - 1} more files are missing in {folder}." if missing else ""


def _inside(relative: str) -> bool:
    return bool(relative) and not Path(relative).is_absolute() and ".." not in Path(relative).parts


def _present(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST}


def _check_file(folder: Path, path: str, files: Mapping[str, str]) -> "Iterator[str]":
    if (folder / path).is_symlink():
        yield f"{path} is a link"
    elif not path.endswith(ALLOWED_TYPES) and Path(path).name not in ("LICENSE", "NOTICE"):
        yield f"{path} has a type that is not allowed (allowed: {' '.join(ALLOWED_TYPES)})"
    elif path not in files:
        yield f"{path} is not in the manifest"
    elif file_sha256(folder / path) != files[path]:
        yield f"{path} does not have the SHA-256 that is in the manifest"


def assemble(models: Path, precisions: Mapping[str, Path], manifest: ModelManifest) -> Path:
    """Create a model folder in `models` from one folder per precision, and return it.

    The fields `files` and `precisions` of the manifest are filled in here. The manifest is written last, and then one
    rename moves the folder into place. The same content gives the same folder. Files are hard links if the file system
    supports them, so that a release needs no disk space.
    """
    scratch = models / scratch_name()
    try:
        for precision, source in precisions.items():
            _link_tree(source, scratch / precision)
        complete = replace(manifest, files=folder_files(scratch), precisions={name: name for name in precisions})
        identity = {key: value for key, value in asdict(complete).items() if key != "created_at"}
        final = models / content_id(json.dumps(identity, sort_keys=True, default=str))
        if (final / MANIFEST).is_file():
            return final
        write_json(scratch / MANIFEST, asdict(complete))
        if final.exists():
            shutil.rmtree(final)
        scratch.rename(final)
        return final
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_dir() or path.name in (ARTIFACT_MANIFEST, MANIFEST):
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), place)
        except OSError:
            shutil.copyfile(path, place)


class ModelRegistry:
    """Versions and aliases in the MLflow Model Registry (SQLite in the home, or a server).

    Writers hold a file lock in the home. Readers need none.
    """

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.url = settings.tracking_url
        self.name = settings.tracking.model_name
        self._client: MlflowClient | None = None

    def alias(self, name: Alias) -> RegisteredModel | None:
        """Return the version that the alias points at, or None. Calls after the first take about 5 ms.

        Raises RegistryError if that version's files are gone.
        """
        version = self._version_behind(name)
        return self._read(version) if version is not None else None

    def usable_alias(self, name: Alias) -> RegisteredModel | None:
        """Return the version that the alias points at; None with a warning in the log if its files are gone."""
        version = self._version_behind(name)
        if version is None:
            return None
        if problem := self._problem(version):
            logger.warning("%s is version %s, which cannot be served: %s", name, version.version, problem)
            return None
        return self._read(version)

    def alias_version(self, name: Alias) -> str | None:
        """Return the number of the version that the alias points at, or None; its files may be gone."""
        version = self._version_behind(name)
        return str(version.version) if version is not None else None

    def version(self, version: str) -> RegisteredModel:
        """Return one version; raise RegistryError that lists all versions if there is no such one."""
        versions = {str(each.version): each for each in self._all_versions()}
        if version not in versions:
            raise RegistryError(
                f"There is no version '{version}' of model '{self.name}'.",
                expected=f"one of {', '.join(versions) or 'none yet'}",
                fix="run `ragtune models list` to see what is registered",
            )
        return self._read(versions[version])

    def versions(self) -> list[RegisteredModel]:
        """Return every version whose manifest can be read, oldest first."""
        return [self._read(version) for version in self._all_versions() if not self._problem(version)]

    def entries(self) -> list[RegistryEntry]:
        """Return every version, oldest first, including those that cannot be served any more."""
        versions = self._all_versions()
        aliases = self._connect().get_registered_model(self.name).aliases if versions else {}
        return [
            RegistryEntry(
                version=str(version.version),
                folder=str(self.home / version.tags["folder"]) if "folder" in version.tags else "",
                aliases=tuple(sorted(name for name, number in aliases.items() if str(number) == str(version.version))),
                created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
                problem=self._problem(version),
            )
            for version in versions
        ]

    def remove(self, version: str) -> Path | None:
        """Delete a version and its folder; return the folder, or None if other versions need it or it has none.

        Raises RegistryError if there is no such version, or if a name such as `champion` points at it.
        """
        with self._writing() as client:
            entries = {entry.version: entry for entry in self.entries()}
            if version not in entries:
                raise RegistryError(
                    f"There is no version '{version}' of model '{self.name}'.",
                    expected=f"one of {', '.join(entries) or 'none yet'}",
                )
            entry = entries.pop(version)
            if entry.aliases:
                raise RegistryError(
                    f"Version {version} is {', '.join(entry.aliases)}.",
                    expected="a version that is not live, not the previous one and in no experiment",
                    fix="choose another version; `ragtune models list` shows them",
                )
            # The version goes first: a folder without a version is harmless, and `ragtune prune` finds it.
            client.delete_model_version(self.name, version)
        folder = Path(entry.folder)
        shared = any(other.folder == entry.folder for other in entries.values())
        if not entry.folder or shared or not folder.is_relative_to(self.home):
            return None
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def register(self, folder: Path) -> str:
        """Verify a model folder, register it and return its version. A second call returns the same version."""
        manifest = verify(folder)
        with self._writing() as client:
            place = self._place(folder)
            for version in client.search_model_versions(f"name = '{self.name}'", max_results=1000):
                if version.tags.get("folder") == place:
                    return str(version.version)
            tags = {
                "folder": place,
                "manifest_sha256": file_sha256(folder / MANIFEST),
                "served_precision": manifest.served_precision,
                "base_model": manifest.base_model,
                "feedback_rows": str(len(manifest.feedback_ids)),
            }
            # An MLflow server refuses a local path as the source. So the source is a name, and a tag has the folder.
            version = client.create_model_version(
                self.name, source=f"ragtune:/{folder.resolve().name}", run_id=manifest.mlflow_run_id or None, tags=tags
            )
            return str(version.version)

    def tag(self, version: str, name: str, value: str) -> None:
        """Add a tag to a version, which MLflow shows on its page."""
        with self._writing() as client:
            client.set_model_version_tag(self.name, version, name, value)

    def refuse(self, version: str, reason: str) -> None:
        """Write down why the gateway does not serve a version, for MLflow's page and the asset graph; "" removes it."""
        from mlflow.exceptions import MlflowException

        if reason == self.refusal(version):
            return
        try:
            if reason:
                self.tag(version, REFUSED, reason)
            else:
                with self._writing() as client:
                    client.delete_model_version_tag(self.name, version, REFUSED)
        except MlflowException as error:
            raise self._unexpected(error) from error

    def refusal(self, version: str) -> str:
        """Return why the gateway does not serve a version, or ""; raise RegistryError if there is no such version."""
        from mlflow.exceptions import MlflowException

        try:
            tags = self._connect().get_model_version(self.name, version).tags
        except MlflowException as error:
            raise self._unexpected(error) from error
        return str(tags.get(REFUSED, ""))

    def move(self, alias: Alias, version: str) -> RegisteredModel:
        """Point the alias at a version. If it is `champion`, the old champion becomes `previous`."""
        _check_alias(alias)
        target = self.version(version)
        with self._writing() as client:
            live = self.alias_version("champion") if alias == "champion" else None
            if live and live != version:
                client.set_registered_model_alias(self.name, "previous", live)
            client.set_registered_model_alias(self.name, alias, version)
        return target

    def rollback(self) -> RegisteredModel:
        """Swap `champion` and `previous`; raise RegistryError if there is no previous champion."""
        with self._writing():
            live, previous = self.alias_version("champion"), self.alias_version("previous")
            if previous is None or live == previous:
                raise RegistryError(
                    "There is no previous champion to go back to.",
                    expected="two models that have been champion",
                    fix="run `ragtune status` to see the versions",
                )
            verify(Path(self.version(previous).folder))
            return self.move("champion", previous)

    def _unexpected(self, error: Exception) -> RegistryError:
        message = f"MLflow at {self.url} returned an error: {error}"
        return RegistryError(message, fix="check tracking.url, and that the server runs")

    def _version_behind(self, name: Alias) -> Any:
        """Return MLflow's version behind the alias, or None."""
        _check_alias(name)
        if not self._started():
            return None
        from mlflow.exceptions import MlflowException

        try:
            return self._connect().get_model_version_by_alias(self.name, name)
        except MlflowException as error:
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise self._unexpected(error) from error

    def _all_versions(self) -> list[Any]:
        """Return MLflow's versions, oldest first."""
        if not self._started():
            return []
        from mlflow.exceptions import MlflowException

        try:
            versions = self._connect().search_model_versions(f"name = '{self.name}'", max_results=1000)
        except MlflowException as error:
            raise self._unexpected(error) from error
        return sorted(versions, key=lambda version: int(version.version))

    def _problem(self, version: Any) -> str:
        """Return why a version cannot be served, or ""."""
        folder = version.tags.get("folder")
        return quick_problem(self.home / folder) if folder else "It was not released by RagTune: it has no folder."

    def _read(self, version: Any) -> RegisteredModel:
        if "folder" not in version.tags:
            raise RegistryError(
                f"Version {version.version} of '{self.name}' has no folder.",
                expected="a version that RagTune released",
                fix=f"run `ragtune models remove {version.version}`, or delete it in MLflow",
            )
        folder = self.home / version.tags["folder"]
        return RegisteredModel(version=str(version.version), folder=str(folder), manifest=read_manifest(folder))

    def _place(self, folder: Path) -> str:
        """Return the folder, relative to the home if it is inside, so that a home can be moved."""
        resolved = folder.resolve()
        inside = resolved.is_relative_to(self.home)
        return str(resolved.relative_to(self.home) if inside else resolved)

    def _started(self) -> bool:
        """Return whether there is a registry to read; the first writer creates the SQLite file."""
        file = self.url.removeprefix("sqlite:///")
        return file == self.url or Path(file).is_file()

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            from mlflow import MlflowClient

            with self._lock():
                self._client = MlflowClient(tracking_uri=self.url, registry_uri=self.url)
        return self._client

    def _lock(self) -> Any:
        from filelock import FileLock

        path = self.home / "mlflow" / "registry.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, timeout=120, is_singleton=True)

    @contextmanager
    def _writing(self) -> "Iterator[MlflowClient]":
        from mlflow.exceptions import MlflowException

        with self._lock():
            make_portable(self.url)
            client = self._connect()
            try:
                client.get_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise self._unexpected(error) from error
                client.create_registered_model(self.name, description="Models released by RagTune's asset graph.")
            yield client


def _check_alias(alias: str) -> None:
    if alias not in ALIASES:
        raise RegistryError(f"There is no alias '{alias}'.", expected=f"one of {', '.join(ALIASES)}")
