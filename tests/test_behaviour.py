"""What counts for the hash of a behaviour: on the real answering path, and on a small package."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ragtune.behaviour import SourceCode, behaviour_sha256
from ragtune.evaluation.scoring import score_model
from ragtune.knowledge import excerpts
from ragtune.knowledge.retrieval import Retriever

TEXT = Path(excerpts.__file__ or "").read_text()


def with_edited_excerpts(text: str) -> str:
    """Return the hash of scoring answers if the module of excerpts, three imports away, had this text."""
    return SourceCode({excerpts.__name__: text}).sha256(score_model)


def function(tree: ast.Module, name: str) -> ast.FunctionDef:
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


def test_the_hash_is_the_same_each_time_and_differs_between_behaviours() -> None:
    assert behaviour_sha256(score_model) == with_edited_excerpts(TEXT)
    assert behaviour_sha256(score_model) != behaviour_sha256(Retriever)


def test_an_edit_of_code_that_is_reached_through_imports_changes_the_hash() -> None:
    tree = ast.parse(TEXT)
    function(tree, "choose_lines").body.insert(1, ast.parse("limit = 0").body[0])
    assert with_edited_excerpts(ast.unparse(tree)) != behaviour_sha256(score_model)


def test_comments_docstrings_and_formatting_do_not_count() -> None:
    tree = ast.parse(TEXT)
    function(tree, "choose_lines").body[0] = ast.parse('"""Another docstring."""').body[0]
    without_comments_and_formatting = ast.unparse(tree)
    assert without_comments_and_formatting != TEXT
    assert with_edited_excerpts(without_comments_and_formatting + "\n# A comment.") == behaviour_sha256(score_model)


def test_a_definition_that_nothing_refers_to_does_not_count() -> None:
    assert with_edited_excerpts(TEXT + "\n\nUNUSED = 1\n") == behaviour_sha256(score_model)


TILL = """
from dataclasses import dataclass
from math import floor
from pathlib import Path
from shop import prices

def total(count: int) -> int:
    if count < 0:
        raise ValueError("A count is negative.")
    return floor(count * prices.price()) + len(Path("rates.txt").read_text())

def unrelated() -> None: ...
"""
PRICES = "import heavy\nRATE = 2\ndef price():\n    return RATE\ndef discount():\n    return 1\n"
FILES = {
    "__init__.py": "",
    "till.py": TILL,
    "prices.py": PRICES,
    "rates.py": "RATE = 2",
    "rates.txt": "1",
    "heavy.py": "raise SystemExit(9)",
}


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., str]:
    """Return a function that edits the files of a package and returns the hash of its function `total`."""
    folder = tmp_path / "shop"
    folder.mkdir()
    code = (
        "import types; from ragtune.behaviour import behaviour_sha256\n"
        "total = types.SimpleNamespace(__module__='shop.till', __qualname__='total')\n"
        "print(behaviour_sha256(total))"
    )

    def sha256(name: str = "till.py", old: str = "", new: str = "") -> str:
        for file, text in {**FILES, name: FILES[name].replace(old, new) if old else FILES[name]}.items():
            (folder / file).write_text(text)
        search_path = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=search_path, capture_output=True, text=True, check=True)
        return done.stdout

    return sha256


@pytest.mark.parametrize(
    ("name", "old", "new", "counts"),
    [
        ("prices.py", "RATE = 2", "RATE = 3", True),
        ("till.py", "import floor", "import ceil as floor", True),
        ("rates.txt", "1", "22", True),
        ("prices.py", "return 1", "return 2", False),
        ("till.py", "A count is negative.", "The count is below zero.", False),
        ("till.py", "-> None: ...", "-> None: pass", False),
        ("heavy.py", "9", "8", False),
    ],
)
def test_what_is_used_counts_and_nothing_is_imported(
    shop: Callable[..., str], name: str, old: str, new: str, counts: bool
) -> None:
    assert (shop(name, old, new) != shop()) == counts


def test_moving_a_definition_to_another_module_does_not_count(shop: Callable[..., str]) -> None:
    moved = FILES["prices.py"].replace("RATE = 2", "from shop.rates import RATE")
    assert shop("prices.py", FILES["prices.py"], moved) == shop()


def test_what_has_no_source_text_is_refused() -> None:
    with pytest.raises(LookupError, match="name a function, a class, a module or a file"):
        behaviour_sha256(3)
