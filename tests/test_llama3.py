"""The profile for Llama 3 8B on a small model of the same architecture: trained, merged, quantised, loaded."""

from pathlib import Path

import pytest
import yaml

from ragtune.model.base.capacity import Machine
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.base.merge import merge_adapter
from ragtune.model.compression.quantization import quantize_w4a16, quantize_w8a8
from ragtune.model.compression.weights import inspect_weights
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import Tracker
from ragtune.model_settings import QuantizationSettings, TrainingSettings
from tests.support.tiny_llama import make_tiny_llama, talks

PROFILE = yaml.safe_load(
    (Path(__file__).parent.parent / "ragtune_serving" / "profiles" / "llama3-8b.yaml")
    .read_text()
    .replace("{sources}", "")
)
ONE_CORE = Machine("cpu", 1)
LAYERS = 2


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with what Llama 3 has and the packaged model lacks, in several files: see `config`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = make_tiny_llama(tmp_path_factory.mktemp("llama3") / "model")
    (folder / "model.safetensors").unlink()
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=2,  # four query heads per key-value head
        max_position_embeddings=8192,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 4096,
        },
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,  # an output layer of its own
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture(scope="module")
def merged(llama3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    small = {
        "max_steps": 10,
        "max_epochs": 100,
        "eval_every": 5,
        "eval_answers": 2,
        "validation_examples": 4,
        "learning_rate": 5e-3,
    }
    settings = TrainingSettings(**{**PROFILE["training"], **small})
    job = TrainingJob(base=llama3, settings=settings, seed=7, out=folder / "adapter", checkpoints=folder / "resume")
    report = train_adapter(job, talks(32), talks(4), Tracker(), ONE_CORE)
    assert report.steps == 10
    assert report.losses[-1][1] < report.losses[0][1] - 0.1
    return merge_adapter(llama3, folder / "adapter", folder / "merged")


def test_the_merged_model_has_the_files_and_the_architecture_of_the_base(llama3: Path, merged: Path) -> None:
    assert {path.name for path in merged.iterdir()} == {path.name for path in llama3.iterdir()}
    assert check_model_folder(merged) == check_model_folder(llama3)


@pytest.mark.parametrize("precision", ["w4a16", "w8a8"])
def test_the_quantised_models_have_the_precision_of_the_profile_and_answer_like_the_merged_one(
    merged: Path, tmp_path: Path, precision: str
) -> None:
    import torch

    if precision == "w4a16":
        settings = QuantizationSettings(**{**PROFILE["quantization"], "calibration_samples": 4})
        folder = quantize_w4a16(merged, talks(6), settings, tmp_path / precision, ONE_CORE)
    else:
        folder = quantize_w8a8(merged, tmp_path / precision, ONE_CORE)
    weights = inspect_weights(folder)
    assert (weights["precision"], weights["packed_int4"] + weights["int8"]) == (precision, LAYERS * 7)
    ids = torch.tensor([load_tokenizer(merged)(talks(8)[7].messages[1].content)["input_ids"]])
    with torch.no_grad():
        logits = [load_model(model)(ids).logits.float().flatten() for model in (merged, folder)]
    assert float(torch.cosine_similarity(*logits, dim=0)) > (0.999 if precision == "w8a8" else 0.9)
