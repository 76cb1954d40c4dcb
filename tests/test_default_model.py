"""The reading adapter was not trained on the documents that it is measured on."""

import json
from pathlib import Path

import pytest
import yaml

from grounding.collection import OWN_QUESTIONS, PACKAGES
from ragtune.dataset.people import read_passage_questions
from ragtune.errors import ModelError
from ragtune.knowledge.sources import read_sources
from ragtune.model.training.adapters import export_adapter
from ragtune.settings import Settings
from ragtune.text.shingles import near_pairs

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks" / "default_model"


def sources(file: Path) -> list[str]:
    return yaml.safe_load(file.read_text())["sources"]


def test_no_source_is_both_learnt_and_measured():
    learnt = {*sources(ROOT / "grounding" / "ragtune.yaml"), *PACKAGES}
    learnt |= {question.source for question in read_passage_questions(OWN_QUESTIONS)}
    measured = {*Settings.model_fields["sources"].default, *sources(ROOT / "ragtune.yaml")}
    measured |= {*sources(BENCHMARKS / "ragtune.yaml"), *sources(BENCHMARKS / "prose.yaml")}
    assert not learnt & measured


def test_only_documented_exceptions_of_the_measured_documents_resemble_a_learnt_one():
    learnt = [source for source in sources(ROOT / "grounding" / "ragtune.yaml") if source.startswith("package:")]
    measured = [*sources(ROOT / "ragtune.yaml"), *sources(BENCHMARKS / "ragtune.yaml")]
    documents = read_sources([*learnt, *measured]).documents
    is_learnt = [document.source in learnt for document in documents]
    alike = {
        frozenset((documents[i].title, documents[j].title))
        for i, j in near_pairs([document.text for document in documents], Settings().dataset.jaccard)
        if is_learnt[i] != is_learnt[j]
    }
    documented = {frozenset(pair) for pair in json.loads((BENCHMARKS / "overlap.json").read_text())["examples"]}
    assert alike <= documented
    assert alike, (
        "great_expectations copies methods of pydantic, so an empty result would mean that the comparison fails"
    )


def adapter(folder: Path, weight: float) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"layer.lora_A.weight": torch.full((2, 3), weight)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 2, "base_model_name_or_path": "/somewhere"}')
    (folder / "report.json").write_text("{}")
    return folder


def test_an_adapter_is_exported_in_bf16_as_it_is_or_averaged_with_the_one_it_was_trained_from(tmp_path):
    import torch
    from safetensors.torch import load_file

    before, after, out = adapter(tmp_path / "before", 1.0), adapter(tmp_path / "after", 3.0), tmp_path / "out"
    export_adapter(after, out)
    weights = load_file(out / "adapter_model.safetensors")["layer.lora_A.weight"]
    assert weights.dtype == torch.bfloat16
    assert weights.unique().tolist() == [3.0]
    assert json.loads((out / "adapter_config.json").read_text()) == {
        "r": 2,
        "base_model_name_or_path": None,
        "peft_version": None,
    }
    export_adapter(after, before, share=0.75)
    assert load_file(before / "adapter_model.safetensors")["layer.lora_A.weight"].unique().tolist() == [2.5]
    with pytest.raises(ModelError, match="nowhere lacks"):
        export_adapter(after, tmp_path / "nowhere", share=0.5)


def test_an_adapter_of_a_larger_rank_is_averaged_with_the_one_that_it_widened(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    shapes = {"before": 2, "after": 3}
    for name, rank in shapes.items():
        (tmp_path / name).mkdir()
        value = float(rank)
        tensors = {"x.lora_A.weight": torch.full((rank, 4), value), "x.lora_B.weight": torch.full((4, rank), value)}
        save_file(tensors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
        (tmp_path / name / "report.json").write_text("{}")
    export_adapter(tmp_path / "after", tmp_path / "before", share=0.5)
    averaged = load_file(tmp_path / "before" / "adapter_model.safetensors")
    # The rows that the larger rank added began with B at zero and keep their A.
    assert averaged["x.lora_A.weight"][:, 0].tolist() == [2.5, 2.5, 3.0]
    assert averaged["x.lora_B.weight"][0].tolist() == [2.5, 2.5, 1.5]
