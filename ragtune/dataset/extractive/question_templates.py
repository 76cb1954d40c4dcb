"""Reads the question templates from `templates/*.yaml`."""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from ragtune.errors import DatasetError

FOLDER = Path(__file__).parent / "templates"
_SLOT = re.compile(r"\{([^{}]*)\}")


@cache
def question_templates() -> dict[str, tuple[str, ...]]:
    """Return the templates of every group, such as `default` or `how_to.api`."""
    return read_templates(FOLDER / "api.yaml") | read_templates(FOLDER / "prose.yaml")


@cache
def prose_groups() -> frozenset[str]:
    """Return the groups whose templates ask about running text."""
    return frozenset(read_templates(FOLDER / "prose.yaml"))


@cache
def first_words() -> frozenset[str]:
    """Return the words that templates begin with and that may lose their capital: no name, and not `I`."""
    templates = [template for group in question_templates().values() for template in group]
    return frozenset(template.split()[0] for template in templates if not template.startswith(("{", "I ")))


def read_templates(file: Path) -> dict[str, tuple[str, ...]]:
    """Return {group: templates} of one file.

    Raises:
        DatasetError: A section is missing, a template uses a slot that `slots` does not describe, or a group has
            no templates or the same template twice.
    """
    import yaml

    content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"slots", "templates"} <= content.keys():
        raise DatasetError(f"{file} holds no question templates.", expected="a mapping with `slots` and `templates`")
    groups = {str(group): tuple(templates or ()) for group, templates in content["templates"].items()}
    for group, templates in groups.items():
        _check_group(file, group, templates, frozenset(content["slots"]))
    return groups


def _check_group(file: Path, group: str, templates: tuple[str, ...], slots: frozenset[str]) -> None:
    if not templates:
        raise DatasetError(f"The group `{group}` in {file} has no templates.", expected="at least one")
    repeated = [template for template, count in Counter(templates).items() if count > 1]
    if repeated:
        raise DatasetError(f"The group `{group}` in {file} has a template twice: {repeated[0]}", fix="remove one")
    for template in templates:
        unknown = set(_SLOT.findall(template)) - slots
        if unknown:
            raise DatasetError(
                f"The template `{template}` of `{group}` in {file} has an unknown slot: {', '.join(sorted(unknown))}.",
                expected=f"one of {', '.join(sorted(slots))}",
                fix="correct the slot, or describe it under `slots` if a rule fills it",
            )
