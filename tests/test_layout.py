"""The rules of the house that no linter knows."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from ragtune.settings import Settings

ROOT = Path(__file__).parent.parent
PACKAGES = ("ragtune", "ragtune_assets", "ragtune_serving")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_over_400_lines_and_no_function_over_60(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} at line {node.lineno}"


def test_only_the_settings_module_reads_the_environment() -> None:
    readers = [path.name for path in SOURCES if re.search(r"os\.(environ|getenv)", path.read_text())]
    assert readers == ["settings.py"]


def test_every_public_function_and_class_of_the_core_has_a_docstring() -> None:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    bare = [
        f"{path.name}:{node.name}"
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, kinds) and not node.name.startswith("_") and ast.get_docstring(node) is None
    ]
    assert bare == []


def test_the_annotated_tree_of_the_readme_equals_the_files_on_disk() -> None:
    block = re.search(r"<!-- tree -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    listed: set[str] = set()
    folder = ""
    for line in block.group(1).splitlines():
        entry = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        if entry.endswith("/"):
            folder = entry
            continue
        listed |= {folder + name for name in entry.split()}
    on_disk = {p.relative_to(ROOT).as_posix() for p in SOURCES if p.name != "__init__.py"}
    assert {name for name in listed if name.endswith(".py")} == on_disk


def knobs(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from knobs(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.get_default(call_default_factory=True)


def test_the_page_of_settings_shows_every_knob_with_its_real_default() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    shown = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", page, re.MULTILINE))
    real = {}
    for name, value in knobs(Settings):
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        real[name] = json.dumps(str(plain) if isinstance(plain, Path) else plain)
    assert shown == real
