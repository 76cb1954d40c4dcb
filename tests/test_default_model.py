"""The adapter in the repository was not trained on what it is measured on."""

import json
from pathlib import Path

import pytest
import yaml

from ragtune.errors import ModelError
from ragtune.knowledge.sources import read_sources
from ragtune.model.adapters import keep_adapter
from ragtune.settings import Settings
from ragtune.text.shingles import near_pairs

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


def adapter(folder: Path, weight: float) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"layer.lora_A.weight": torch.full((2, 3), weight)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 2, "base_model_name_or_path": "/somewhere"}')
    (folder / "report.json").write_text("{}")
    return folder


def test_an_adapter_is_kept_in_bf16_alone_or_averaged_with_the_one_that_it_went_on_from(tmp_path):
    import torch
    from safetensors.torch import load_file

    before, after, kept = adapter(tmp_path / "before", 1.0), adapter(tmp_path / "after", 3.0), tmp_path / "kept"
    keep_adapter(after, kept)
    weights = load_file(kept / "adapter_model.safetensors")["layer.lora_A.weight"]
    assert weights.dtype == torch.bfloat16
    assert weights.unique().tolist() == [3.0]
    assert json.loads((kept / "adapter_config.json").read_text()) == {
        "r": 2,
        "base_model_name_or_path": None,
        "peft_version": None,
    }
    keep_adapter(after, before, share=0.75)
    assert load_file(before / "adapter_model.safetensors")["layer.lora_A.weight"].unique().tolist() == [2.5]
    with pytest.raises(ModelError, match="nowhere lacks"):
        keep_adapter(after, tmp_path / "nowhere", share=0.5)
