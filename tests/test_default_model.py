"""The adapter in the repository was not trained on what it is measured on."""

import json
from pathlib import Path

import yaml

from ragtune.dataset.near_duplicates import near_pairs
from ragtune.knowledge.sources import read_sources
from ragtune.settings import Settings

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks" / "default_model"


def sources(file: Path) -> list[str]:
    return yaml.safe_load(file.read_text())["sources"]


def test_no_source_is_both_learnt_and_measured():
    learnt = set(sources(ROOT / "grounding" / "ragtune.yaml"))
    measured = {*Settings.model_fields["sources"].default, *sources(ROOT / "ragtune.yaml")}
    measured |= {*sources(BENCHMARKS / "ragtune.yaml"), *sources(BENCHMARKS / "prose.yaml")}
    assert not learnt & measured


def test_of_the_packages_measured_only_documents_that_are_named_resemble_one_that_was_learnt():
    learnt = [each for each in sources(ROOT / "grounding" / "ragtune.yaml") if each.startswith("package:")]
    measured = [*sources(ROOT / "ragtune.yaml"), *sources(BENCHMARKS / "ragtune.yaml")]
    documents = read_sources([*learnt, *measured]).documents
    seen = [document.source in learnt for document in documents]
    alike = {
        frozenset((documents[i].title, documents[j].title))
        for i, j in near_pairs([document.text for document in documents], Settings().dataset.jaccard)
        if seen[i] != seen[j]
    }
    named = {frozenset(pair) for pair in json.loads((BENCHMARKS / "overlap.json").read_text())["examples"]}
    assert alike <= named
    assert alike, "pydantic's methods are copied into great_expectations; finding none would mean that nothing is found"
