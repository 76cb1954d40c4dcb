"""Reads the public API of an installed package from its source code, without importing it.

An object is public if its path has no name with a leading underscore, and if a module exports it (with `__all__` or
`import X as X`) or defines it near the top of the package. Every object gives one document, under the shortest path
by which people can import it.
"""

import difflib
import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

import griffe

from ragtune.errors import SourceError
from ragtune.knowledge.apidocs import describe
from ragtune.knowledge.cleaning import clean_markdown
from ragtune.knowledge.restructured import unwrap
from ragtune.ports import Progress, silent
from ragtune.records import Document, QuarantinedDocument, content_id

# Names of modules that a package does not mean as its API, even if they have no underscore.
_INTERNAL = {
    "tests", "test", "testing_utils", "conftest", "utils", "util", "internal", "protos", "vendor", "vendored",
    "migrations", "compat", "compatibility", "scripts", "setup", "alembic",
}  # fmt: skip
# In a module with this many dots in its path or more, only what the module exports is public. Chosen by hand on the
# packages dagster, mlflow, duckdb, peft, trl and great_expectations, not measured.
_DEPTH = 3
# Generated, test and migration modules.
_SKIPPED_MODULE = re.compile(r"_pb2(_grpc)?$|^(tests|migrations|db_migrations|alembic)$")
_REEXPORT = re.compile(r"\b(\w+) as \1\b")
_FAILURES = (griffe.AliasResolutionError, griffe.CyclicAliasError, KeyError)

Entity = griffe.Object


@dataclass(frozen=True, slots=True)
class PublicObject:
    """An object with the path by which people import it; `explicit` is True if a module exports it by name."""

    path: str
    entity: Entity
    explicit: bool


def read_package(name: str, progress: Progress = silent) -> tuple[list[Document], list[QuarantinedDocument]]:
    """Return (a document per documented public object, sorted by path; objects that could not be described).

    The last document is the package's own description.

    Raises:
        SourceError: if no such package is installed or it has no Python source.
    """
    logging.getLogger("griffe").setLevel(logging.CRITICAL)
    package = _Package(name)
    public = package.public_objects()
    documents, broken = [], []
    for done, item in enumerate(public):
        try:
            text = describe(item.path, item.entity, package.resolve, exported=item.explicit)
        except _FAILURES as error:
            broken.append(QuarantinedDocument(f"package:{name}", item.path, f"{type(error).__name__}: {error}"))
            continue
        if text:
            documents.append(_document(name, item, text))
        if done % 100 == 0:
            progress(f"reading package {name}", done, len(public))
    documents += package_description(name)
    progress(f"reading package {name}", len(public), len(public))
    return documents, broken


def _document(package: str, item: PublicObject, text: str) -> Document:
    source = f"package:{package}"
    parts = item.path.split(".")
    return Document(
        id=content_id(source, item.path),
        source=source,
        path=item.path,
        title=item.path,
        text=text,
        sha256=sha256(f"{item.path}\0{text}".encode()).hexdigest(),
        topic=".".join(parts[:2]) if len(parts) > 2 else package,
        language="en",
        modified=_modification_time(item.entity),
        kind="api",
    )


def _modification_time(entity: Entity) -> str:
    path = entity.filepath
    if not isinstance(path, Path):
        return ""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def package_description(name: str) -> list[Document]:
    """Return a document with the package's own description from its metadata; empty if it has no metadata."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        distributions = _distributions().get(name, [])
        if not distributions:
            return []
        metadata = importlib.metadata.metadata(sorted(distributions)[0])
    # Not metadata["Summary"]: other packages may replace the class of the metadata with one that raises if a field is
    # missing.
    fields = metadata.json
    facts = f"Version installed: {fields.get('version')}."
    if fields.get("summary"):
        facts = f"{fields['summary']}\n\n{facts}"
    body = str(fields.get("description") or "")
    text = f"# {fields['name']}\n\n{facts}\n\n{unwrap(clean_markdown(body))}".strip() + "\n"
    source, path = f"package:{name}", f"{name}/README"
    return [
        Document(
            id=content_id(source, path),
            source=source,
            path=path,
            title=f"{fields['name']} (package)",
            text=text,
            sha256=sha256(text.encode()).hexdigest(),
            topic=name,
        )
    ]


class _Finder(griffe.ModuleFinder):
    """Skips generated, test and migration modules, which take long to parse and have no public names."""

    def submodules(self, module: griffe.Module) -> list[tuple[tuple[str, ...], Path]]:
        """Return (parts of the name, path) for each submodule that can have public names."""
        submodules = super().submodules(module)
        return [(parts, path) for parts, path in submodules if not any(_SKIPPED_MODULE.search(part) for part in parts)]


class _Package:
    """A parsed package, with the packages that share its name (`dagster_shared` with `dagster`, `_duckdb`)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loader = griffe.GriffeLoader(allow_inspection=False, store_source=False)
        self.loader.finder = _Finder()
        self.loaded: set[str] = set()
        if not re.fullmatch(r"\w+", name) or importlib.util.find_spec(name) is None:
            raise _unknown(name)
        self._load(name)
        if name not in self.loader.modules_collection.members:
            raise SourceError(
                f"Package '{name}' has no Python source that can be read.",
                expected="a package with .py or .pyi files",
                fix="name another package, or give its documentation as a folder",
            )

    def _load(self, name: str) -> None:
        if name not in self.loaded:
            self.loaded.add(name)
            try:
                self.loader.load(name, try_relative_path=False, find_stubs_package=True)
            except (ModuleNotFoundError, griffe.LoadingError):
                logging.getLogger(__name__).info("%s has no source to read", name)

    def resolve(self, entity: griffe.Object | griffe.Alias) -> Entity | None:
        """Return the target of an alias, or None if it is outside the package and those that share its name."""
        if not isinstance(entity, griffe.Alias):
            return entity
        # Each round may load one more package on the way to the target; four are more than any chain needs.
        for _ in range(4):
            try:
                return entity.final_target
            except griffe.AliasResolutionError as error:
                top = str(error.alias.target_path).split(".")[0]
                if top in self.loaded or not top.strip("_").startswith(self.name):
                    return None
                self._load(top)
            except griffe.CyclicAliasError:
                return None
        return None

    def public_objects(self) -> list[PublicObject]:
        """Return every public object once, under the path that people would import it by, sorted by path."""
        best: dict[str, PublicObject] = {}
        root = self.loader.modules_collection.members[self.name]
        for item in self._walk(root, self.name, set()):
            key = item.entity.path
            if key not in best or _rank(item) < _rank(best[key]):
                best[key] = item
        objects = list(best.values())
        for item in best.values():
            if isinstance(item.entity, griffe.Class):
                objects += _members(item)
        # In reverse, so that an object found by itself wins over the same path as a member.
        return sorted({item.path: item for item in reversed(objects)}.values(), key=lambda item: item.path)

    def _walk(self, module: Entity, path: str, trail: set[str]) -> Iterator[PublicObject]:
        """Yield the public objects below a module; `trail` has the modules on the way to it."""
        if module.path in trail:
            return
        trail = trail | {module.path}
        if module.docstring and module.path.count(".") < _DEPTH:
            yield PublicObject(path, module, True)
        exported = _exported_names(module)
        for name, member in list(module.members.items()):
            if name.startswith("_") or name in _INTERNAL or name.endswith(("_pb2", "_pb2_grpc")):
                continue
            explicit = name in exported
            if isinstance(member, griffe.Alias):
                entity = self.resolve(member) if explicit else None
            else:
                implicit = not module.exports and module.path.count(".") < _DEPTH
                entity = member if explicit or implicit or isinstance(member, griffe.Module) else None
            if entity is None or not entity.path.split(".")[0].strip("_").startswith(self.name):
                continue
            if isinstance(entity, griffe.Module):
                if len(trail) < 8:
                    yield from self._walk(entity, f"{path}.{name}", trail)
            else:
                yield PublicObject(f"{path}.{name}", entity, explicit)


def _exported_names(module: Entity) -> set[str]:
    """Return the names that a module exports.

    These are the names in `__all__`. If there is none and the module is an `__init__` file, they are the names it
    imports as `X as X`, or if there are none, those that it imports from its own submodules.
    """
    if module.exports:
        return {str(name) for name in module.exports}
    if not isinstance(module.filepath, Path):
        return set()
    if module.filepath.name not in ("__init__.py", "__init__.pyi"):
        return set()
    names = set(_REEXPORT.findall(module.filepath.read_text(encoding="utf-8", errors="replace")))
    if names:
        return names
    prefix = f"{module.path}."
    aliases = {name: member for name, member in module.members.items() if isinstance(member, griffe.Alias)}
    return {name for name, member in aliases.items() if member.target_path.startswith(prefix)}


def _members(owner: PublicObject) -> list[PublicObject]:
    """Return the documented public members that a class defines itself."""
    members = []
    for name, member in owner.entity.members.items():
        if name.startswith("_") or isinstance(member, griffe.Alias) or not member.docstring:
            continue
        if isinstance(member, griffe.Function) or "property" in member.labels or isinstance(member, griffe.Class):
            members.append(PublicObject(f"{owner.path}.{name}", member, owner.explicit))
    return members


def _rank(item: PublicObject) -> tuple[bool, int, int, str]:
    """Return a sort key for paths of one object: exported ones first, then the shortest."""
    return not item.explicit, item.path.count("."), len(item.path), item.path


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _unknown(name: str) -> SourceError:
    installed = sorted(top for top in _distributions() if not top.startswith("_"))
    close = difflib.get_close_matches(name, installed, n=3, cutoff=0.6)
    return SourceError(
        f"There is no installed package '{name}'.",
        expected=f"a package that Python can import; close names: {', '.join(close) or 'none'}",
        fix="install it into this environment or correct the name in `sources`",
    )
