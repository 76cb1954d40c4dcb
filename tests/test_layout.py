"""The rules of the house that no linter knows."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from ragtune.settings import Settings
from tests.support.annotated_tree import PAGE, annotated_tree, folder_texts, tree_on_page

ROOT = Path(__file__).parent.parent
PACKAGES = ("ragtune", "ragtune_assets", "ragtune_serving")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


WRITTEN = sorted(
    {
        *SOURCES,
        *(path for folder in ("tests", "benchmarks", "grounding") for path in (ROOT / folder).rglob("*.py")),
        *(path for folder in (*PACKAGES, "docs", "benchmarks") for path in (ROOT / folder).rglob("*.md")),
        *(path for pattern in ("*.md", "*.yaml", "*.yml", "*.toml") for path in ROOT.glob(pattern)),
        ROOT / "Makefile",
        *(ROOT / "grounding").glob("*.yaml"),
    }
)
"""Every file with text of ours."""

QUOTED = ("docs/reviews/", "tests/test_layout.py")
"""Samples of other people's documents and of a model's answers, and the list of words itself."""

FORBIDDEN = (
    "anew",
    "beside",
    "is kept for",
    "is told",
    "mend",
    "mended",
    "mends",
    "none where",
    "nothing where",
    "of its own accord",
    "so many",
    "whoever",
)
"""Words of a dialect that has to be decoded. Say: again, next to, keeps, gets, fix, "or None if", by itself, who."""

FORBIDDEN_PATTERN = re.compile(
    r"\b(" + "|".join(word.replace(" ", r"\s+") for word in FORBIDDEN) + r")\b", re.IGNORECASE
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def statement_lines(text: str) -> int:
    """Count the lines of a module without blank lines, comments and strings that stand alone, such as docstrings."""
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_blank_lines_comments_and_docstrings_do_not_count_as_statements() -> None:
    text = '"""A module.\n\nTwo.\n"""\n\n# Why.\nlimit = (\n    3,  # more\n)\n"""What it is."""\n'
    assert statement_lines(text) == 3


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_has_over_400_lines_of_statements_and_no_function_is_over_60_lines(path: Path) -> None:
    text = path.read_text()
    assert statement_lines(text) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} at line {node.lineno}"


def prose(path: Path) -> list[tuple[int, str]]:
    """Return (line, text) of what a person reads: comments and strings of Python code, all of another file."""
    text = path.read_text()
    if path.suffix != ".py":
        return [(1, text)]
    strings = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [(token.start[0], token.string) for token in tokens if token.type in strings]


def forbidden_words(path: Path) -> list[str]:
    """Return `line: context` of every forbidden word in a file."""
    return [
        f"{line + text.count(chr(10), 0, match.start())}: "
        + " ".join(text[max(0, match.start() - 30) : match.end() + 30].split())
        for line, text in prose(path)
        for match in FORBIDDEN_PATTERN.finditer(text)
    ]


def test_forbidden_words_are_found_in_comments_and_strings_and_not_in_names(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text('beside = 1  # cut anew\nprint(beside, """None\n  where it ends""", "besides")\n')
    assert forbidden_words(file) == ["1: # cut anew", '2: """None where it ends"""']


@pytest.mark.parametrize("path", [path for path in WRITTEN if not name(path).startswith(QUOTED)], ids=name)
def test_a_text_is_in_plain_english(path: Path) -> None:
    if places := forbidden_words(path):
        pytest.fail(f"{name(path)} has forbidden words:\n" + "\n".join(places), pytrace=False)


def test_the_files_of_dagster_in_the_checkout_equal_those_in_the_package() -> None:
    packaged = ROOT / "ragtune_assets" / "instance"
    assert (ROOT / "dagster_home" / "dagster.yaml").read_text() == (packaged / "dagster.yaml").read_text()
    assert (ROOT / "workspace.yaml").read_text() == (packaged / "workspace.yaml").read_text()


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


def test_the_annotated_tree_equals_the_files_on_disk_and_the_first_lines_of_their_docstrings() -> None:
    page = tree_on_page(PAGE.read_text())
    current = annotated_tree(ROOT, PACKAGES, folder_texts(page))
    assert page.splitlines() == current.splitlines(), "run `python -m tests.support.annotated_tree`"
    assert "?" not in folder_texts(page).values()


def test_a_new_file_and_a_changed_docstring_change_the_tree(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "till.py").write_text('"""Counts coins.\n\nSlowly.\n"""\n')
    texts = {"shop/": "sells bread"}
    first = annotated_tree(tmp_path, ("shop",), texts)
    assert first.split() == ["shop/", "sells", "bread", "till.py", "Counts", "coins"]
    assert folder_texts(first) == texts
    (tmp_path / "shop" / "oven.py").write_text('"""Bakes."""\n')
    assert [line.split()[0] for line in annotated_tree(tmp_path, ("shop",), {}).splitlines()] == [
        "shop/",
        "oven.py",
        "till.py",
    ]


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
