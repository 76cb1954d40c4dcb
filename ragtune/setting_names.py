"""Reads the names in the environment and in ragtune.yaml: those of no setting, repeated keys, and empty sections."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel

PREFIX = "RAGTUNE_"
# Why it is an error: docs/decisions/unknown-variables-are-errors.md
_NO_SETTINGS = ("RAGTUNE_CONFIG", "RAGTUNE_DAGSTER_STORAGE")
"""Variables that RagTune reads and that are no settings: the file of the settings, and Dagster's own storage."""
_TESTS = "RAGTUNE_TEST_"
"""Variables of the test suite."""
# A Kubernetes service whose name begins with `ragtune` gives every pod of its namespace such variables:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?$")
_KUBERNETES_ADDRESS = re.compile(r"^(tcp|udp|sctp)://")
# Chosen by hand: finds `RAGTUNE_ANSWR__QUOTATION` and `minuts`, and offers nothing for a word of another kind.
_LEAST_SIMILARITY = 0.7


def unknown_variable(environment: Mapping[str, str], settings: type[BaseModel]) -> tuple[str, str]:
    """Return the first `RAGTUNE_*` variable that names no setting, and the nearest that does; ("", "") if none."""
    for name, value in sorted(environment.items()):
        upper = name.upper()  # pydantic-settings reads variables in any case
        if not upper.startswith(PREFIX) or upper in _NO_SETTINGS or upper.startswith(_TESTS):
            continue
        if _KUBERNETES.search(upper) or _KUBERNETES_ADDRESS.match(value):
            continue
        setting = upper.removeprefix(PREFIX).lower()
        if not _is_setting(setting.split("__"), settings):
            meant = nearest(setting, ("__".join(path) for path in _paths(settings)))
            return name, PREFIX + meant.upper() if meant else ""
    return "", ""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the name that is meant by a misspelt one, or "" if none is close."""
    candidates = list(names)
    wanted = _without_separators(name)
    same = [candidate for candidate in candidates if _without_separators(candidate) == wanted]
    return (same or difflib.get_close_matches(name, candidates, n=1, cutoff=_LEAST_SIMILARITY) or [""])[0]


def repeated_key(text: str) -> tuple[str, int, int]:
    """Return the first key that a mapping of a YAML text has twice, and both lines, from 1; ("", 0, 0) if none.

    YAML forbids that, and PyYAML takes the last one in silence.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    return _repeated(root, (), set()) if root is not None else ("", 0, 0)


def _repeated(node: yaml.Node, path: tuple[str, ...], seen: set[int]) -> tuple[str, int, int]:
    if id(node) in seen:  # an alias, which may also be a circle
        return "", 0, 0
    seen.add(id(node))
    children: list[tuple[tuple[str, ...], yaml.Node]] = []
    if isinstance(node, yaml.SequenceNode):
        children = [(path, item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                return ".".join((*path, key.value)), lines[key.value], line
            lines[key.value] = line
            children.append(((*path, key.value), value))
    return next((hit for below, child in children if (hit := _repeated(child, below, seen))[0]), ("", 0, 0))


def without_empty_sections(values: Mapping[str, Any], settings: type[BaseModel]) -> dict[str, Any]:
    """Return the values of a settings file without its empty sections and lists, which YAML reads as null.

    `training:` is such a section if every line below it is a comment.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        field = settings.model_fields.get(name)
        kind = _kind_of(field.annotation) if field else object
        if value is None and (kind in (list, tuple, dict) or issubclass(kind, BaseModel)):
            continue
        is_section = issubclass(kind, BaseModel) and isinstance(value, Mapping)
        kept[name] = without_empty_sections(value, kind) if is_section else value
    return kept


def _kind_of(annotation: Any) -> type:
    """Return the class of an annotation without its parameters; `object` if it allows several, such as None."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kind = get_origin(annotation) or annotation
    return kind if isinstance(kind, type) else object


def _without_separators(name: str) -> str:
    return name.replace("_", "").replace(".", "").replace("-", "").lower()


def _is_setting(parts: list[str], settings: type[BaseModel]) -> bool:
    model: type[BaseModel] = settings
    for position, part in enumerate(parts):
        field = model.model_fields.get(part)
        if field is None:
            return False
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
            continue
        return position == len(parts) - 1 or get_origin(field.annotation) is dict  # `engine.arguments` has any name
    return True


def _paths(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _paths(field.annotation, (*prefix, name))
        else:
            yield (*prefix, name)
