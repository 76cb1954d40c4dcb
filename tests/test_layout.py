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


TEXT_TOOL_NAME = re.compile(
    r"_*(?:STOP(?:_WORDS(?:_TEXT)?)?|ABBREVIATIONS?|stem|stems|content_words|shingles|jaccard|minhash\w*|near_pairs"
    r"|collapse_whitespace|guess_language|sentences|split_sentences|sentence_(?:end|ends|spans))"
)
SENTENCE_SPLITTER = re.compile(r"\(\?<=[^)]*\[?\.!\?|\[\.!\?[^]]*\][^|]*\\s")


def text_tools_defined_in(path: Path) -> Iterator[str]:
    """Yield the stop lists, stemmers, splitters and shingle functions that a module defines at its top level."""
    for node in ast.parse(path.read_text()).body:
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (f"{path.name}:{name}" for name in names if TEXT_TOOL_NAME.fullmatch(name))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SENTENCE_SPLITTER.search(node.value):
            yield f"{path.name}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "datasketch":
            yield f"{path.name}:datasketch"


def test_text_tools_are_defined_in_the_text_package_alone() -> None:
    elsewhere = [path for path in SOURCES if path.parent.name != "text"]
    assert [tool for path in elsewhere for tool in text_tools_defined_in(path)] == []


@pytest.mark.parametrize(
    "source",
    [
        "_STOP_WORDS = 'a an the'.split()",
        "STOP = {'a'}",
        "def _stem(word): ...",
        "def sentences(text): ...",
        "def shingles(text): ...",
        "_END = re.compile(r'(?<=[.!?])\\s+')",
        "parts = re.split(r'[.!?]+\\s', text)",
    ],
)
def test_a_second_text_tool_is_noticed(source: str, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(source)
    assert list(text_tools_defined_in(tmp_path / "other.py"))


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
