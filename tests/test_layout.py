"""The rules of the house that no linter knows."""

import ast
import json
import re
from pathlib import Path

import pytest

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


def test_every_setting_stands_in_the_documentation() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    missing = []
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        names = [f"{name}.{part}" for part in inner] if inner else [name]
        missing += [each for each in names if f"`{each}`" not in text]
    assert missing == []


def test_every_default_in_the_documentation_is_the_real_one() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    for name, shown in rows.items():
        section, _, field = name.partition(".")
        default = Settings.model_fields[section].get_default(call_default_factory=True)
        value = getattr(default, field) if field else default
        secret = getattr(value, "get_secret_value", None)
        plain = secret() if secret else str(value) if isinstance(value, Path) else value
        assert json.loads(shown) == (list(plain) if isinstance(plain, tuple) else plain), name
