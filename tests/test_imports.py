"""What the import contracts in pyproject.toml do not cover: circles between files, and long signatures."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ragtune", "ragtune_assets", "ragtune_serving")
ROOMS = ("ragtune/model/base", "ragtune/model/training", "ragtune/model/compression", "ragtune/evaluation")
MOST_PARAMETERS = 6
# llm-compressor calls this function by the parameters that it defines.
DICTATED = {"gptq_block"}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def cycle(imports: dict[str, set[str]]) -> list[str]:
    """Return the files of one circle of imports, or an empty list if there is none."""
    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_circle_not_even_inside_functions() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100, "the graph holds the whole tree"
    assert cycle(imports) == []


def test_a_circle_of_imports_would_be_seen() -> None:
    assert set(cycle({"merge": {"checks"}, "checks": {"pretrained"}, "pretrained": {"merge"}})) == {
        "merge",
        "checks",
        "pretrained",
    }


@pytest.mark.parametrize("room", ROOMS)
def test_no_function_has_more_than_six_parameters(room: str) -> None:
    long = []
    for path in sources(room):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name not in DICTATED:
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls", "ctx")])
                if count > MOST_PARAMETERS:
                    long.append(f"{path.name}:{node.name} has {count}")
    assert long == []


@pytest.mark.parametrize("path", [*(path for room in ROOMS for path in sources(room)), ROOT / "ragtune/records.py"])
def test_records_with_more_than_five_fields_are_keyword_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
        if any(decorator.startswith("dataclass") for decorator in decorators) and len(fields) > 5:
            assert any("kw_only=True" in decorator for decorator in decorators), node.name
