import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from ragtune.dataset.checks.quality import rejection_reason
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.publishing import diff_items
from ragtune.dataset.question_words import first_question_words, ignored_words, question_words
from ragtune.dataset.splits import split_pairs
from ragtune.records import QAPair, SplitItem
from ragtune.settings import DatasetSettings
from tests.support.api_pages import articles, chunk

ROOT = Path(__file__).parent.parent
DOCUMENTS = articles(24)
CHUNKS = {document.id: chunk(document) for document in DOCUMENTS}

# Has one more template in every group, with words that no list has, before the splits and the checks are imported.
WITH_NEW_TEMPLATES = """
import json, sys
from ragtune.dataset.extractive.question_templates import question_templates
templates = question_templates()
for group in templates:
    templates[group] = (*templates[group], "Prithee unveil the essence of the parcel")
from tests.test_question_words import read_pairs, verdicts
print(json.dumps(verdicts(read_pairs(sys.argv[1]))))
"""


def read_pairs(file: str) -> list[QAPair]:
    pairs = json.loads(Path(file).read_text())
    return [QAPair(**{**pair, "span": tuple(pair["span"]), "evidence_ids": ()}) for pair in pairs]


def verdicts(pairs: list[QAPair]) -> dict[str, list[list[str]]]:
    """Return what splits and checks say of the pairs."""
    items = split_pairs(pairs, DOCUMENTS, DatasetSettings(), seed=5)
    return {
        "splits": [[item.pair.id, item.split, item.cluster] for item in items],
        "rejections": [[pair.id, rejection_reason(pair, CHUNKS[pair.document_id])] for pair in pairs],
    }


def test_a_new_template_changes_neither_splits_nor_checks(tmp_path: Path) -> None:
    written = ExtractiveWriter(1).write(list(CHUNKS.values()))
    # Two questions about different documents that differ in nothing but words of the new template.
    first = replace(written[0], id="first", question="Prithee unveil the parcel of ramp7x")
    last = replace(written[-1], id="last", question="Essence of ramp7x")
    pairs = [*written, first, last]
    assert first.document_id != last.document_id
    (tmp_path / "pairs.json").write_text(json.dumps([asdict(pair) for pair in pairs]))
    command = [sys.executable, "-c", WITH_NEW_TEMPLATES, str(tmp_path / "pairs.json")]
    child = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    expected = verdicts(pairs)
    assert json.loads(child.stdout) == expected
    assert len({cluster for name, _, cluster in expected["splits"] if name in ("first", "last")}) == 2
    assert ["first", "the question asks nothing"] in expected["rejections"]


def test_words_that_only_ask_do_not_count_and_identifiers_are_one_word() -> None:
    asked = question_words("Can you explain what the `retries` parameter of shop.Cart.fetch does?")
    assert asked == {"retries", "shop.cart.fetch"}


def test_a_question_in_other_asking_words_is_the_same_question() -> None:
    pair = ExtractiveWriter(1).write(list(CHUNKS.values()))[0]
    before = SplitItem(replace(pair, question="What is the purpose of store.call?"), "train", "c")
    after = SplitItem(replace(pair, id="other", question="Tell me what store.call does."), "train", "c")
    assert diff_items([before], [after]).changed == [(before, after)]


def test_the_word_lists_are_lower_case_words() -> None:
    for words in (ignored_words(), first_question_words()):
        assert words == {word.lower() for word in words if word}
    assert {"what", "explain"} <= ignored_words() & first_question_words()
