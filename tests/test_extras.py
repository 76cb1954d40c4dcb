"""The extras of the package: what each brings, and what a command says without it."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from ragtune.errors import ResourceError
from ragtune.extras import INCLUDED, LIBRARIES, missing_library, require
from ragtune_serving import cli
from ragtune_serving.commands import running

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = packages_distributions()


def normalized(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]).lower()


def distributions(extra: str) -> set[str]:
    """Return what an extra installs, with the extras that it includes."""
    names = set()
    for requirement in EXTRAS[extra]:
        if requirement.startswith("ragtune["):
            names |= set().union(*(distributions(name) for name in requirement[8:-1].split(",")))
        else:
            names.add(normalized(requirement))
    return names


def brought_by(module: str) -> set[str]:
    return {normalized(name) for name in DISTRIBUTIONS[module]}


@pytest.mark.parametrize("extra", LIBRARIES)
def test_an_extra_brings_every_library_that_is_recommended_under_its_name(extra):
    needed = [*LIBRARIES[extra], *(module for name in INCLUDED.get(extra, ()) for module in LIBRARIES[name])]
    assert [module for module in needed if not brought_by(module) & distributions(extra)] == []


def test_every_library_of_an_extra_has_an_extra_to_recommend():
    recommended = set().union(*(brought_by(module) for modules in LIBRARIES.values() for module in modules))
    assert distributions("all") <= recommended


def test_all_brings_every_extra_but_the_tools_of_developers():
    assert distributions("all") == set().union(*(distributions(name) for name in EXTRAS if name not in ("all", "dev")))


def test_the_core_brings_nothing_that_only_training_or_serving_needs():
    core = {normalized(requirement) for requirement in PROJECT["dependencies"]}
    assert core & distributions("all") == set()


def test_a_complete_installation_needs_no_extra():
    for extra in LIBRARIES:
        require(extra)


@pytest.fixture
def without_dagster(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("ragtune.extras.find_spec", lambda name: None if name == "dagster" else find(name))


def test_a_command_names_the_extra_that_it_needs(without_dagster):
    with pytest.raises(ResourceError, match=r"pip install 'ragtune\[graph\]'"):
        running.materialize([])


def test_a_missing_library_is_named_with_its_extra_instead_of_a_traceback(monkeypatch, capsys):
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'trl'", name="trl.trainer")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "pip install 'ragtune[train]'" in capsys.readouterr().err


def test_a_missing_module_of_our_own_is_a_bug_and_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'ragtune.typo'", name="ragtune.typo")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_a_missing_library_of_the_core_asks_for_a_complete_installation():
    assert "complete installation" in str(missing_library("lancedb"))


def test_help_and_search_import_no_library_of_an_extra():
    modules = {module for modules in LIBRARIES.values() for module in modules}
    code = "import sys; import ragtune_serving.cli; from ragtune.backends.catalog import retriever_from\n"
    code += f"print(*sorted({modules!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
