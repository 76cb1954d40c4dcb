from pathlib import Path

import griffe

from ragtune.knowledge.docstrings import read_docstring


def test_a_section_that_the_parser_fails_on_is_still_read():
    words = "bool: If the hash is empty, at the state\n        of just initialized."
    code = f'def is_empty():\n    """\n    Returns:\n    {words}\n    """\n'
    function = griffe.visit("hashes", Path("hashes.py"), code)["is_empty"]
    page = read_docstring(function)
    assert "If the hash is empty" in str(page)
