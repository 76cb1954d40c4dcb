"""Writes changed settings into the text of ragtune.yaml, with its comments and order as they are."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ragtune.errors import SettingsError


def patched(text: str, changes: Mapping[str, str]) -> str:
    """Return the text of a settings file with these values.

    Args:
        text: YAML with one setting per line, as `ragtune init` writes it; may be empty.
        changes: {dotted name, such as engine.eager: value as YAML}.

    Raises:
        SettingsError: the file is written in a form that cannot be changed line by line.
    """
    expected: dict[str, Any] = yaml.safe_load(text) or {}
    for name, value in changes.items():
        place = expected
        *sections, last = name.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = yaml.safe_load(value)
        text = _with_value(text, sections, last, value)
    if _parsed(text) != expected:
        wanted = ", ".join(f"{name}: {value}" for name, value in changes.items())
        raise SettingsError(
            "The settings file cannot be changed line by line.",
            "sections and settings on lines of their own, as `ragtune init` writes them",
            f"set these values by hand: {wanted}",
        )
    return text


def _parsed(text: str) -> object:
    """Return what the text says, or None if it is no YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def as_patch(before: str, after: str, file: Path) -> str:
    """Return the difference of two texts as a patch for `patch -p0`."""
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, fromfile=str(file), tofile=str(file)))


def _with_value(text: str, sections: list[str], last: str, value: str) -> str:
    """Return the text with one value: in its line if it has one, else as the first line of its innermost section."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    start, end, depth = 0, len(lines), 0
    for depth, section in enumerate(sections):
        at = _line(lines, start, end, depth, section)
        if at is None:
            new = [f"{'  ' * place}{name}:\n" for place, name in enumerate(sections) if place >= depth]
            lines[end:end] = [*new, f"{'  ' * len(sections)}{last}: {value}\n"]
            return "".join(lines)
        start, end = at + 1, _end(lines, at, depth)
    inner = len(sections)
    at = _line(lines, start, end, inner, last)
    line = f"{'  ' * inner}{last}: {value}"
    if at is None:
        lines.insert(start, line + "\n")
    else:
        comment = re.search(r"\s+#.*$", lines[at].rstrip("\n"))
        lines[at] = line + (comment[0] if comment else "") + "\n"
    return "".join(lines)


def _line(lines: list[str], start: int, end: int, depth: int, name: str) -> int | None:
    """Return the number of the line that has this key at this depth, or None."""
    pattern = re.compile(rf"{' ' * 2 * depth}{re.escape(name)}\s*:")
    return next((number for number in range(start, end) if pattern.match(lines[number])), None)


def _end(lines: list[str], start: int, depth: int) -> int:
    """Return the number of the line after the section that begins in a line."""
    deeper = re.compile(rf" {{{2 * depth + 1},}}\S")
    last = start
    for number in range(start + 1, len(lines)):
        if deeper.match(lines[number]):
            last = number
        elif lines[number].strip() and not lines[number].lstrip().startswith("#"):
            break
    return last + 1
