"""The annotated tree in docs/architecture.md; `python -m tests.support.annotated_tree` brings it up to date.

The text behind a file is the first line of its docstring. The text behind a folder is written by hand and stays.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("ragtune", "ragtune_assets", "ragtune_serving")
TREE = re.compile(r"(?<=<!-- tree -->\n```\n).*?(?=```)", re.DOTALL)
_FOLDER, _FILE = 28, 26
"""Widths of the columns of names, so that all texts begin at the same place."""


def tree_on_page(page: str) -> str:
    """Return the tree that a page shows; raise ValueError if it shows none."""
    tree = TREE.search(page)
    if tree is None:
        raise ValueError("The page has no '<!-- tree -->' with a code block below it.")
    return tree[0]


def folder_texts(tree: str) -> dict[str, str]:
    """Return {folder: text} of a tree."""
    return {line.split(" ", 1)[0]: line[_FOLDER:] for line in tree.splitlines() if not line.startswith(" ")}


def annotated_tree(root: Path, packages: tuple[str, ...], texts: Mapping[str, str]) -> str:
    """Return the tree of the packages below `root`; a folder without a text gets "?"."""
    lines = []
    for folder in (folder for package in packages for folder in _folders(root / package)):
        name = f"{folder.relative_to(root).as_posix()}/"
        lines.append(f"{name:<{_FOLDER}}{texts.get(name, '?')}")
        for file in sorted(folder.glob("*.py")):
            if file.name != "__init__.py":
                docstring = ast.get_docstring(ast.parse(file.read_text())) or "?"
                lines.append(f"  {file.name:<{_FILE}}{docstring.splitlines()[0].removesuffix('.')}")
    return "\n".join(lines) + "\n"


def _folders(root: Path) -> Iterator[Path]:
    yield root
    for folder in sorted(path for path in root.iterdir() if (path / "__init__.py").is_file()):
        yield from _folders(folder)


def main() -> None:
    """Write the current tree into the page."""
    page = PAGE.read_text()
    tree = annotated_tree(ROOT, PACKAGES, folder_texts(tree_on_page(page)))
    PAGE.write_text(TREE.sub(lambda _: tree, page, count=1))


if __name__ == "__main__":
    main()
