from importlib.metadata import distributions
from pathlib import Path

import pytest

from ragtune.errors import SourceError
from ragtune.knowledge.packages import package_description, read_package
from ragtune.records import Document

FILES = {
    "__init__.py": '''"""Gates and doors for everyone who builds a town out of nothing but wood and stone."""
from gatekit._core.gate import Gate as Gate, open_gate as open_gate
from gatekit._core.gate import _secret
from gatekit import doors
import os
''',
    "_core/__init__.py": "",
    "_core/gate.py": '''
from dataclasses import dataclass
from enum import Enum


def open_gate(name: str, hour: int = 8, *, force: bool = False, _internal=None) -> "Gate":
    """Open a gate.

    See :py:class:`~gatekit.Gate` and ``hour``, which wraps
    over two lines.

    Args:
        name (str): The name of the :ref:`gate <gates>`.
        hour (Optional[int]): When to open it.

    Returns:
        Gate: The open gate.

    Raises:
        ValueError: When there is no such gate.

    Example:
        .. code-block:: python

            open_gate("north")
    """


def _secret():
    """Not for anyone."""


class Gate:
    """A gate.

    Args:
        width: How wide it is, in metres.
    """

    def __init__(self, width: float = 2.5) -> None:
        self.width = width

    def close(self, gently=True):
        """Close it.

        Parameters
        ----------
        gently : bool
            Whether to do it without noise.

        Returns
        -------
        bool
            True when it closed.
        """

    @property
    def state(self) -> str:
        """str: What it is doing now."""

    def _hinge(self):
        """Private."""

    def undocumented(self):
        pass
''',
    "doors.py": '''
__all__ = ["Door", "knock"]
from gatekit._core.gate import Gate


def knock(times: int = 3) -> None:
    """Knock at a door.

    :param times: How often to knock.
    :raises RuntimeError: when nobody answers.
    """


def hidden():
    """Not offered by name."""


class Door(Gate):
    """A door, smaller than a `Gate`."""
''',
    "tests/__init__.py": "",
    "tests/test_gate.py": 'def test_it():\n    """A test that nobody looks up."""\n',
}


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Document]:
    for name, text in FILES.items():
        path = tmp_path / "gatekit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    documents, broken = read_package("gatekit")
    assert broken == []
    return {document.path: document for document in documents}


def test_every_public_object_has_one_page_under_its_shortest_path(pages: dict[str, Document]) -> None:
    assert list(pages) == [
        "gatekit",
        "gatekit.Gate",
        "gatekit.Gate.close",
        "gatekit.Gate.state",
        "gatekit.doors.Door",
        "gatekit.doors.knock",
        "gatekit.open_gate",
    ]


def test_a_page_says_what_a_caller_needs_in_a_fixed_layout(pages: dict[str, Document]) -> None:
    page = pages["gatekit.open_gate"]
    assert (page.title, page.kind, page.source, page.topic) == (
        "gatekit.open_gate",
        "api",
        "package:gatekit",
        "gatekit",
    )
    assert (
        page.text
        == """`gatekit.open_gate(name, hour=8, *, force=False)`  (function)

Open a gate.

See `Gate` and `hour`, which wraps over two lines.

Parameters:
- `name` (str): The name of the gate.
- `hour` (Optional[int], default 8): When to open it.
- `force` (bool, default False)

Returns:
- Gate: The open gate.

Raises:
- ValueError: When there is no such gate.

Examples:

```python
open_gate("north")
```
"""
    )


def test_numpy_and_sphinx_docstrings_give_the_same_layout(pages: dict[str, Document]) -> None:
    close = pages["gatekit.Gate.close"].text
    assert "`gatekit.Gate.close(gently=True)`  (method)" in close
    assert "- `gently` (bool, default True): Whether to do it without noise." in close
    assert "Returns:\n- bool: True when it closed." in close
    knock = pages["gatekit.doors.knock"].text
    assert "- `times` (int, default 3): How often to knock." in knock
    assert "Raises:\n- RuntimeError: when nobody answers." in knock
    assert "Returns" not in knock


def test_a_class_shows_its_constructor_methods_and_bases(pages: dict[str, Document]) -> None:
    gate = pages["gatekit.Gate"].text
    assert gate.startswith("`gatekit.Gate(width=2.5)`  (class)")
    assert "- `width` (float, default 2.5): How wide it is, in metres." in gate
    assert "Methods: `close`, `undocumented`" in gate
    door = pages["gatekit.doors.Door"].text
    assert door.startswith("`gatekit.doors.Door(width=2.5)`  (class)")
    assert "Bases: `Gate`" in door


def test_the_type_in_front_of_a_propertys_docstring_is_not_prose(pages: dict[str, Document]) -> None:
    assert pages["gatekit.Gate.state"].text == (
        "`gatekit.Gate.state`  (property)\n\nWhat it is doing now.\n\nReturns:\n- str\n"
    )


def test_reading_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boomkit").mkdir()
    (tmp_path / "boomkit" / "__init__.py").write_text(
        '"""A package."""\nraise SystemExit\n\ndef f(x):\n    """Do it."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [document.path for document in read_package("boomkit")[0]] == ["boomkit.f"]


def test_an_unknown_package_is_an_error_that_lists_close_names() -> None:
    with pytest.raises(SourceError, match=r"close names: .*duckdb"):
        read_package("duckdbb")


@pytest.mark.parametrize("name", ["a.b", "../etc", "no such"])
def test_a_name_that_is_no_package_is_an_error(name: str) -> None:
    with pytest.raises(SourceError, match="no installed package"):
        read_package(name)


def test_a_real_package_is_read_completely_and_without_markup() -> None:
    documents, broken = read_package("duckdb")
    paths = {document.path for document in documents}
    assert broken == []
    assert len(documents) > 200
    assert {"duckdb.connect", "duckdb.DuckDBPyRelation.avg"} <= paths
    assert len(paths) == len(documents)
    readme = next(document for document in documents if document.path == "duckdb/README")
    assert readme.kind == "prose"
    assert "Version installed:" in readme.text
    for document in documents:
        assert not any(part.startswith("_") for part in document.path.split("."))
        assert ":py:" not in document.text
        assert ":class:" not in document.text
        assert "\n- None\n" not in document.text


def test_a_description_without_a_summary_is_read_even_if_importlib_metadata_replaced_the_finder():
    import importlib_metadata  # noqa: F401 (importing it puts its finder before Python's own)

    names = sorted({str(distribution.metadata["Name"]) for distribution in distributions()})
    descriptions = [package_description(name) for name in names]
    assert all(len(documents) == 1 and documents[0].text.startswith("# ") for documents in descriptions)
