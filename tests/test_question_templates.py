import re
from pathlib import Path

import pytest

from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.extractive.question_templates import FOLDER, question_templates, read_templates
from ragtune.errors import DatasetError

ROOT = Path(__file__).parent.parent
API = """
slots:
  object: "name of the object"
templates:
  purpose:
    - "What does {object} do?"
"""


def file_with(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "templates.yaml"
    file.write_text(text)
    return file


def test_a_file_gives_the_templates_of_each_group(tmp_path: Path) -> None:
    assert read_templates(file_with(tmp_path, API)) == {"purpose": ("What does {object} do?",)}


@pytest.mark.parametrize(
    ("template", "slot"), [("What is {objekt}?", "objekt"), ("What is {}?", ""), ("What is {object!r}?", "object!r")]
)
def test_an_unknown_slot_is_named_with_its_template_and_the_known_ones(
    tmp_path: Path, template: str, slot: str
) -> None:
    file = file_with(tmp_path, API + f'    - "{template}"\n')
    with pytest.raises(DatasetError) as error:
        read_templates(file)
    assert f"`{template}` of `purpose`" in str(error.value)
    assert f"unknown slot: {slot}." in str(error.value)
    assert "one of object" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (API + '    - "What does {object} do?"\n', "has a template twice"),
        (API + "  default: []\n", "`default` in .* has no templates"),
        (API + "  default:\n", "`default` in .* has no templates"),
        ("templates: {}\n", "holds no question templates"),
        ("", "holds no question templates"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_templates(file_with(tmp_path, text))


def test_every_template_asks_about_something() -> None:
    asks = re.compile(r"\{(?!place|package|noun|article|auxiliary)\w+\}")
    for group, templates in question_templates().items():
        assert all(asks.search(template) for template in templates), group


def test_api_and_prose_templates_are_different_groups() -> None:
    api, prose = (read_templates(FOLDER / name) for name in ("api.yaml", "prose.yaml"))
    assert not api.keys() & prose.keys()
    assert question_templates() == api | prose


def test_a_fact_is_about_its_focus_whatever_the_order_of_its_slots() -> None:
    slots = {"place": " in Dagster", "auxiliary": "is", "subject": "the scanner", "participle": "designed"}
    fact, reordered = (Fact("statement", "used_for", 0, 5, dict(items)) for items in (slots, reversed(slots.items())))
    assert fact.focus == reordered.focus == "designed"
    assert fact.draw_key == reordered.draw_key
    assert Fact("purpose", "purpose.does", 0, 5).focus == ""


def test_the_dataset_page_counts_the_templates_that_there_are() -> None:
    page = (ROOT / "docs" / "dataset.md").read_text()
    templates = sum(len(group) for group in question_templates().values())
    counted = re.findall(r"(\d+)\s+question\s+templates", page)
    assert counted == [str(templates)]
