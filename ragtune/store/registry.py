"""The model registry: what the asset wing releases and the serving wing loads.

A released model is a folder below `home/models` whose `manifest.json` was written last; a version
in MLflow's registry points at it, and the aliases `champion`, `challenger` and `previous` move.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from ragtune.errors import RegistryError
from ragtune.records import ModelManifest, RegisteredModel, content_id
from ragtune.settings import Settings
from ragtune.store.artifacts import MANIFEST as ARTIFACT_MANIFEST
from ragtune.store.artifacts import file_sha256, folder_files, scratch_name, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

Alias = Literal["champion", "challenger", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "challenger", "previous")
MANIFEST = "manifest.json"
FORMAT = 1
WHOLE = (".safetensors", ".json", ".jinja", ".txt", ".model", ".yaml", ".md")
"""File types that a released model may hold: weights as safetensors, the rest is plain data."""

_MANIFEST = TypeAdapter(ModelManifest)


def read_manifest(folder: Path) -> ModelManifest:
    """Return the manifest of a model folder; raise RegistryError when there is none to read."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RegistryError(
            f"{folder} holds no {MANIFEST}, so the model there is not whole.",
            expected="a model folder that a release finished",
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
    """Return the manifest once every file in the folder is one it lists, with the hash it lists.

    Raises RegistryError that names each file which is missing, changed, unlisted, a link or of a
    type that could run code (pickled weights, Python).
    """
    manifest = read_manifest(folder)
    problems = [f"{path} leads out of the folder" for path in manifest.files if not _inside(path)]
    problems += [
        f"subfolder '{sub}' of {precision} is missing"
        for precision, sub in manifest.precisions.items()
        if not _inside(sub) or not (folder / sub).is_dir()
    ]
    if manifest.served_precision not in manifest.precisions:
        problems.append(f"the served precision {manifest.served_precision} is not among {list(manifest.precisions)}")
    present = _present(folder)
    problems += [f"{path} is missing" for path in manifest.files if _inside(path) and path not in present]
    problems += [problem for path in sorted(present) for problem in _check_file(folder, path, manifest.files)]
    if problems:
        raise RegistryError(
            f"The model at {folder} does not verify: {'; '.join(problems[:8])}.",
            expected="exactly the files of its manifest, weights as safetensors",
            fix="run `ragtune rollback`, or release the model again",
        )
    return manifest


def _inside(relative: str) -> bool:
    return bool(relative) and not Path(relative).is_absolute() and ".." not in Path(relative).parts


def _present(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST}


def _check_file(folder: Path, path: str, files: Mapping[str, str]) -> "Iterator[str]":
    if (folder / path).is_symlink():
        yield f"{path} is a link"
    elif not path.endswith(WHOLE) and Path(path).name not in ("LICENSE", "NOTICE"):
        yield f"{path} is of a type that is not loaded (allowed: {' '.join(WHOLE)})"
    elif path not in files:
        yield f"{path} is not in the manifest"
    elif file_sha256(folder / path) != files[path]:
        yield f"{path} has another SHA-256 than the manifest says"


def assemble(models: Path, precisions: Mapping[str, Path], manifest: ModelManifest) -> Path:
    """Build a model folder below `models` from one folder per precision and return it.

    `files` and `precisions` of the manifest are filled in here and the manifest is written last,
    before one rename puts the folder in place. The same content gives the same folder. Files are
    hard-linked where the file system allows it, so a release costs no disk.
    """
    scratch = models / scratch_name()
    try:
        for precision, source in precisions.items():
            _link_tree(source, scratch / precision)
        whole = replace(manifest, files=folder_files(scratch), precisions={name: name for name in precisions})
        identity = {key: value for key, value in asdict(whole).items() if key != "created_at"}
        final = models / content_id(json.dumps(identity, sort_keys=True, default=str))
        if (final / MANIFEST).is_file():
            return final
        write_json(scratch / MANIFEST, asdict(whole))
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

    Writers take a file lock in the home; readers take none.
    """

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.url = settings.tracking_url
        self.name = settings.tracking.model_name
        self._client: MlflowClient | None = None

    def alias(self, name: Alias) -> RegisteredModel | None:
        """Return the version that the alias points at, or None (5 ms after the first call)."""
        _known(name)
        if not self._started():
            return None
        from mlflow.exceptions import MlflowException

        try:
            version = self._connect().get_model_version_by_alias(self.name, name)
        except MlflowException as error:
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise self._silent(error) from error
        return self._read(version)

    def version(self, version: str) -> RegisteredModel:
        """Return one version; raise RegistryError that lists the versions when it is unknown."""
        found = {model.version: model for model in self.versions()}
        if version not in found:
            raise RegistryError(
                f"There is no version '{version}' of model '{self.name}'.",
                expected=f"one of {', '.join(found) or 'none yet'}",
                fix="run `ragtune status` to see what is registered",
            )
        return found[version]

    def versions(self) -> list[RegisteredModel]:
        """Return every version, oldest first."""
        if not self._started():
            return []
        from mlflow.exceptions import MlflowException

        try:
            found = self._connect().search_model_versions(f"name = '{self.name}'", max_results=1000)
        except MlflowException as error:
            raise self._silent(error) from error
        return [self._read(version) for version in sorted(found, key=lambda one: int(one.version))]

    def register(self, folder: Path) -> str:
        """Verify a model folder and return its version; registering it again returns the same."""
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
            # A server refuses a path of this machine as the source, so the source is a name; the tag has the folder.
            version = client.create_model_version(
                self.name, source=f"ragtune:/{folder.resolve().name}", run_id=manifest.mlflow_run_id or None, tags=tags
            )
            return str(version.version)

    def move(self, alias: Alias, version: str) -> RegisteredModel:
        """Point the alias at a version; moving `champion` makes the old one `previous`."""
        _known(alias)
        target = self.version(version)
        with self._writing() as client:
            live = self.alias("champion") if alias == "champion" else None
            if live and live.version != version:
                client.set_registered_model_alias(self.name, "previous", live.version)
            client.set_registered_model_alias(self.name, alias, version)
        return target

    def rollback(self) -> RegisteredModel:
        """Swap `champion` and `previous`; raise RegistryError when there is nothing to go back to."""
        with self._writing():
            live, previous = self.alias("champion"), self.alias("previous")
            if previous is None or (live and live.version == previous.version):
                raise RegistryError(
                    "There is no previous champion to go back to.",
                    expected="at least two models that were champion",
                    fix="run `ragtune status` to see the versions",
                )
            verify(Path(previous.folder))
            return self.move("champion", previous.version)

    def _silent(self, error: Exception) -> RegistryError:
        found = f"MLflow at {self.url} did not answer as it should: {error}"
        return RegistryError(found, fix="check tracking.url and that the server runs")

    def _read(self, version: Any) -> RegisteredModel:
        folder = self.home / version.tags["folder"]
        return RegisteredModel(version=str(version.version), folder=str(folder), manifest=read_manifest(folder))

    def _place(self, folder: Path) -> str:
        """Return the folder relative to the home, so that a home can be moved."""
        resolved = folder.resolve()
        inside = resolved.is_relative_to(self.home)
        return str(resolved.relative_to(self.home) if inside else resolved)

    def _started(self) -> bool:
        """Return whether there is a store to read (a SQLite file is made by the first writer)."""
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
            client = self._connect()
            try:
                client.get_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise self._silent(error) from error
                client.create_registered_model(self.name, description="Models released by RagTune's asset graph.")
            yield client


def _known(alias: str) -> None:
    if alias not in ALIASES:
        raise RegistryError(f"There is no alias '{alias}'.", expected=f"one of {', '.join(ALIASES)}")
