"""Hashes what code does, so that a kept result is remade when the code behind it changes.

A part is a function, a class, a module or a data file. The hash covers the source text of the part
and of everything that it refers to, followed through imports, definition by definition:

- Whole modules would be too much: an edit of one reader would retrain every model.
- A list of names alone would be too little: somebody has to remember to extend it.

Only text is read and nothing is imported, so heavy libraries stay unloaded. Comments, docstrings, formatting, the
texts of error messages and the module in which a definition stands do not count. Data files count if the code names
them, or their folder, in a string. A reference cannot be followed through an object that comes in as an argument
unless its annotation names the class; what stands behind an interface of `ports` has to be named as a part of its own.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType

WITHOUT_EFFECT = frozenset(
    {
        "ragtune.behaviour",
        # An error ends the work, so its text shapes no result.
        "ragtune.errors",
        # The values of settings are hashed where they are used, by `Settings.fingerprint`.
        "ragtune.model_settings",
        "ragtune.consistency",
        "ragtune.settings",
        # Interfaces say what a back end can do; what it does stands in the back end.
        "ragtune.ports",
        # These keep results and hand them back unchanged.
        "ragtune.store.artifacts",
        "ragtune.store.database",
        "ragtune.store.feedback",
        "ragtune.store.warehouse",
    }
)
"""Modules that are not followed, because no edit of them changes a result."""

_CORE = __name__.partition(".")[0]


def behaviour_sha256(*parts: object) -> str:
    """Return a hash of functions, classes, modules and data files, and of all that they refer to."""
    return SourceCode().sha256(*parts)


@dataclass(frozen=True, slots=True)
class Reference:
    """A definition of a module by its name; `*` stands for all of them."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Definition:
    """What is hashed of one definition, and where it leads."""

    digest: str
    references: frozenset[Reference]


class SourceCode:
    """The source text of this package and of the packages of the parts."""

    def __init__(
        self,
        edits: Mapping[str, str] = MappingProxyType({}),
        without_effect: frozenset[str] = WITHOUT_EFFECT,
    ) -> None:
        """Read modules as they are on disk, except those for which `edits` holds another text."""
        self.without_effect = without_effect
        self._edited = {name: _Module(name, text, _module(name).folder) for name, text in edits.items()}

    def sha256(self, *parts: object) -> str:
        """Return a hash of the parts and of all that they refer to."""
        digests = {file_sha256(part) for part in parts if isinstance(part, Path)}
        for definitions in self.definitions(*parts).values():
            digests |= {definition.digest for definition in definitions}
        return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()

    def definitions(self, *parts: object) -> dict[Reference, list[Definition]]:
        """Return every definition that counts for the parts."""
        waiting = [_reference(part) for part in parts if not isinstance(part, Path)]
        packages = {_CORE, *(reference.module.partition(".")[0] for reference in waiting)}
        visited: dict[Reference, list[Definition]] = {}
        while waiting:
            reference = waiting.pop()
            if reference not in visited and self._is_followed(reference.module, packages):
                visited[reference] = list(self._read(reference))
                waiting += [inner for definition in visited[reference] for inner in definition.references]
        return visited

    def _is_followed(self, module: str, packages: set[str]) -> bool:
        return module.partition(".")[0] in packages and module not in self.without_effect

    def _read(self, reference: Reference) -> Iterator[Definition]:
        """Yield the definition, or what stands for it: a re-export, a whole submodule."""
        module = self._edited.get(reference.module) or _module(reference.module)
        if reference.name == "*":
            yield from (module.definition(name, self.without_effect) for name in module.nodes)
        elif reference.name in module.nodes:
            yield module.definition(reference.name, self.without_effect)
            if "" in module.nodes:
                yield module.definition("", self.without_effect)
        elif reference.name in module.imports:
            yield Definition("", frozenset({module.imports[reference.name]}))
        elif _path(f"{reference.module}.{reference.name}"):
            yield Definition("", frozenset({Reference(f"{reference.module}.{reference.name}", "*")}))
        elif not reference.name.startswith("__"):
            raise LookupError(f"The module {reference.module} defines no '{reference.name}'.")


@dataclass(eq=False)
class _Module:
    """One parsed module; statements that define nothing have the name ''."""

    name: str
    source: str
    folder: Path
    nodes: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Reference] = field(default_factory=dict)
    _read: dict[tuple[str, frozenset[str]], Definition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in ast.parse(self.source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= _imported(node)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                for inner in node.body:
                    self._add(inner)
            else:
                self._add(node)

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports |= _imported(node)
            return
        if not _is_text(node):
            for name in _defined(node) or [""]:
                self.nodes.setdefault(name, []).append(node)

    def definition(self, name: str, without_effect: frozenset[str]) -> Definition:
        key = name, without_effect
        if key not in self._read:
            self._read[key] = self._definition(self.nodes[name], without_effect)
        return self._read[key]

    def _definition(self, nodes: list[ast.stmt], without_effect: frozenset[str]) -> Definition:
        # A decorator such as `@asset(owners=...)` describes an asset; it does nothing to what the asset computes.
        reader = _Reader({name for name, target in self.imports.items() if target.module in without_effect})
        for node in nodes:
            reader.read(node)
        imports = {**self.imports, **reader.imports}
        references = {Reference(self.name, base) for base, _ in reader.names if base in self.nodes}
        outside: set[str] = set()
        for base, attribute in reader.names:
            target = imports.get(base) if base not in self.nodes else None
            if target and target.module.partition(".")[0] in (_CORE, self.name.partition(".")[0]):
                references.add(_inside(target, attribute))
            elif target:
                # Of other packages the names count: `from math import floor` is not `from math import ceil as floor`.
                outside.add(f"{target.module}.{target.name}")
        files = [file_sha256(file) for file in self._data_files(reader.strings)]
        text = "\x1f".join([*reader.tokens, *sorted(outside), *files])
        return Definition(hashlib.sha256(text.encode()).hexdigest(), frozenset(references))

    def _data_files(self, strings: set[str]) -> list[Path]:
        """Return the data files that the strings name: a file next to the module, or all files of a folder there."""
        paths = [self.folder / text for text in strings if text.split("/")[0] in _data_names(self.folder)]
        files = [path for path in paths if path.is_file()]
        files += [file for path in paths if path.is_dir() for file in path.rglob("*") if _is_data(file)]
        return sorted(files)


class _Reader:
    """Turns definitions into tokens, and collects the names, imports and strings in them."""

    def __init__(self, without_effect: set[str]) -> None:
        """Leave out decorators with one of these names."""
        self.without_effect = without_effect
        self.tokens: list[str] = []
        self.names: set[tuple[str, str]] = set()
        self.imports: dict[str, Reference] = {}
        self.strings: set[str] = set()

    def read(self, node: ast.AST) -> None:
        if isinstance(node, ast.Expr) and _is_text(node):
            return
        self.tokens.append(type(node).__name__)
        if isinstance(node, ast.Name):
            self.names.add((node.id, ""))
            self.tokens.append(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            self.names.add((node.value.id, node.attr))
            self.tokens += [node.value.id, node.attr]
        elif isinstance(node, ast.Constant):
            self.tokens.append(repr(node.value))
            if isinstance(node.value, str):
                self.strings.add(node.value)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.imports |= _imported(node)
        elif isinstance(node, ast.Raise):
            self._read_raise(node)
        else:
            self._read_fields(node)

    def _read_raise(self, node: ast.Raise) -> None:
        """Read which error is raised, and leave out its message."""
        if node.exc is not None:
            self.read(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)

    def _read_fields(self, node: ast.AST) -> None:
        for name in node._fields:
            value = getattr(node, name)
            if name == "decorator_list":
                value = [decorator for decorator in value if not self._is_ignored_decorator(decorator)]
            if isinstance(value, ast.AST):
                if not isinstance(value, ast.expr_context):
                    self.read(value)
            elif isinstance(value, list):
                self.tokens.append("[")
                for item in value:
                    if isinstance(item, ast.AST):
                        self.read(item)
                    else:
                        self.tokens.append(repr(item))
                self.tokens.append("]")
            else:
                self.tokens.append(repr(value))

    def _is_ignored_decorator(self, node: object) -> bool:
        called = node.func if isinstance(node, ast.Call) else node
        return isinstance(called, ast.Name) and called.id in self.without_effect


def file_sha256(path: Path) -> str:
    """Return the hash of a data file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _module(name: str) -> _Module:
    path = _path(name)
    if path is None:
        raise LookupError(f"The source text of the module {name} cannot be found; install its .py files.")
    return _Module(name, path.read_text(), path.parent)


@cache
def _data_names(folder: Path) -> frozenset[str]:
    """Return the names of the data files and folders in a module's folder."""
    return frozenset(path.name for path in folder.iterdir() if path.is_dir() or _is_data(path))


def _is_data(path: Path) -> bool:
    return path.is_file() and path.suffix not in (".py", ".pyc")


@cache
def _path(name: str) -> Path | None:
    """Return the file of a module, or None if there is none; only the outermost package is asked for, nothing runs."""
    root, *inner = name.split(".")
    spec = importlib.util.find_spec(root)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in (Path(folder, *inner, "__init__.py"), Path(folder, *inner).with_suffix(".py")):
            if file.is_file():
                return file
    return None


def _inside(target: Reference, attribute: str) -> Reference:
    """Return what an imported name means: `retrieval.search` leads to a definition if `retrieval` is a module."""
    if target.name != "*" and _path(f"{target.module}.{target.name}"):
        target = Reference(f"{target.module}.{target.name}", "*")
    return Reference(target.module, attribute) if target.name == "*" and attribute else target


def _reference(part: object) -> Reference:
    if isinstance(part, ModuleType):
        return Reference(part.__name__, "*")
    name, module = getattr(part, "__qualname__", ""), getattr(part, "__module__", "")
    if not name or not module:
        raise LookupError(f"{part!r} has no source text: name a function, a class, a module or a file.")
    return Reference(module, name.partition(".")[0])


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, Reference]:
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: Reference(node.module or "", alias.name) for alias in node.names}
    return {alias.asname or alias.name.partition(".")[0]: Reference(alias.name, "*") for alias in node.names}


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines; empty if it only does something."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        names = [name for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        return [name.id for name in names if isinstance(name.ctx, ast.Store)]
    return []


def _is_text(node: ast.AST) -> bool:
    """Return whether a statement is a docstring, or the description of the constant above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
