"""Quantisation-aware training on a small model: what it computes, what its gradients are, and what it is good for."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ragtune.errors import SettingsError
from ragtune.model.base.capacity import Machine
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.base.merge import merge_adapter
from ragtune.model.compression.rounding import int4_weights, round_to_nearest
from ragtune.model.examples.tokens import tokenize
from ragtune.model.training.report import AdapterReport
from ragtune.model.training.sft import TrainingData, TrainingJob, build_trainer, train_adapter
from ragtune.model.training.tracking import Tracker
from ragtune.model_settings import QuantizationSettings, TrainingSettings
from ragtune.ports import silent
from ragtune.settings import Settings
from tests.support.tiny_llama import make_loud_llama, talks

ROUNDING = QuantizationSettings(group_size=64, symmetric=True)
SETTINGS = TrainingSettings(
    minutes=5, max_steps=60, max_epochs=30, batch_size=4, learning_rate=0.01, validation_examples=0, qat=True
)
ONE_CORE = Machine("cpu", 1)


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_loud_llama(tmp_path_factory.mktemp("loud") / "model")


def job_of(base: Path, folder: Path, **settings: Any) -> TrainingJob:
    changed = SETTINGS.model_copy(update=settings)
    return TrainingJob(
        base=base,
        settings=changed,
        seed=7,
        out=folder / "out",
        checkpoints=folder / "resume",
        rounding=ROUNDING if changed.qat else None,
    )


def train(base: Path, folder: Path, **settings: Any) -> AdapterReport:
    return train_adapter(job_of(base, folder, **settings), talks(40), [], Tracker(), ONE_CORE)


def rounded_model(base: Path, adapter: Path, folder: Path) -> Any:
    """Return the merged model with its linear layers rounded to INT4, as it is stored without calibration."""
    import torch

    model = load_model(merge_adapter(base, adapter, folder))
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layer.weight.data = round_to_nearest(layer.weight, int4_weights(ROUNDING)).to(layer.weight.dtype)
    return model


def loss_of(model: Any, base: Path) -> float:
    """Return the mean loss of the answers of other conversations than those of the training."""
    import torch

    rows, _ = tokenize(load_tokenizer(base), talks(60)[40:], 512)
    with torch.no_grad():
        losses = [model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss for row in rows]
    return float(torch.stack(losses).mean())


def test_the_trained_model_computes_what_the_rounded_merged_model_will(loud: Path, tmp_path: Path) -> None:
    import torch

    job = job_of(loud, tmp_path, max_steps=2)
    rows, _ = tokenize(load_tokenizer(loud), talks(8), 512)
    trainer, _ = build_trainer(job, TrainingData(load_tokenizer(loud), rows, []), "cpu", Tracker(), silent)
    ids = torch.tensor([rows[0].input_ids])
    with torch.inference_mode():
        before = trainer.model.eval()(ids).logits
    trainer.train()  # a backward pass right after a pass in inference mode
    trainer.model.save_pretrained(tmp_path / "adapter")
    with torch.inference_mode():
        ours = trainer.model.eval()(ids).logits
        stored = rounded_model(loud, tmp_path / "adapter", tmp_path / "merged")(ids).logits
    assert not torch.equal(ours, before)
    # The attention kernels differ; the weights are equal.
    torch.testing.assert_close(ours.float(), stored.float(), atol=0.05, rtol=0.05)
    assert float((ours.float() - stored.float()).abs().mean()) < 0.2 * float((ours - before).float().abs().mean())


def test_gradients_are_those_of_the_straight_through_estimator() -> None:
    import torch

    from ragtune.model.training.qat import _RoundedLinear

    torch.manual_seed(0)
    x, a, b = torch.randn(5, 64), torch.randn(4, 64), torch.randn(32, 4) * 0.1
    weight, bias, scale = torch.randn(32, 64), torch.randn(32), 2.0
    results = []
    for ours in (True, False):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
        merged = weight + scale * (inputs[2] @ inputs[1])
        rounded = round_to_nearest(merged, int4_weights(ROUNDING)).float()
        if ours:
            y = _RoundedLinear.apply(inputs[0], rounded, bias, inputs[1], inputs[2], scale)
        else:
            y = torch.nn.functional.linear(inputs[0], merged + (rounded - merged).detach(), bias)
        y.square().sum().backward()
        results.append([y, *(tensor.grad for tensor in inputs)])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-3)


def test_a_model_that_was_trained_rounded_loses_less_by_rounding(loud: Path, tmp_path: Path) -> None:
    losses = {}
    for qat in (True, False):
        folder = tmp_path / f"qat-{qat}"
        report = train(loud, folder, qat=qat)
        assert report.losses[-1][1] < report.losses[0][1]
        losses[qat] = loss_of(rounded_model(loud, folder / "out", folder / "merged"), loud)
    assert losses[True] < losses[False]


def test_layers_without_an_adapter_are_rounded_too(loud: Path, tmp_path: Path) -> None:
    import torch

    rows, _ = tokenize(load_tokenizer(loud), talks(8), 512)
    job = job_of(loud, tmp_path, target_modules=("q_proj",))
    trainer, _ = build_trainer(job, TrainingData(load_tokenizer(loud), rows, []), "cpu", Tracker(), silent)
    before, after = load_model(loud), trainer.model.get_base_model()
    layers = {name: layer for name, layer in after.named_modules() if name.endswith("down_proj")}
    assert len(layers) == 2
    for name, layer in layers.items():
        plain = before.get_submodule(name).weight
        assert torch.equal(layer.weight, round_to_nearest(plain, int4_weights(ROUNDING)).to(layer.weight.dtype))
    assert torch.equal(after.lm_head.weight, before.lm_head.weight)


def test_a_training_that_rounded_to_another_format_is_not_continued(loud: Path, tmp_path: Path) -> None:
    import dataclasses

    train(loud, tmp_path, max_steps=4)
    job = job_of(loud, tmp_path, max_steps=4)
    same = train_adapter(job, talks(40), [], Tracker(), ONE_CORE)
    assert same.resumed_from == 4
    other = dataclasses.replace(job, rounding=ROUNDING.model_copy(update={"symmetric": False}))
    assert train_adapter(other, talks(40), [], Tracker(), ONE_CORE).resumed_from == 0


def test_what_cannot_be_rounded_is_refused_before_training(loud: Path, tmp_path: Path) -> None:
    import dataclasses

    with pytest.raises(ValidationError, match="set dropout: 0 and use_dora: false"):
        TrainingSettings(qat=True, use_dora=True)
    job = job_of(loud, tmp_path)
    wide = dataclasses.replace(job, rounding=QuantizationSettings(group_size=48))
    with pytest.raises(SettingsError, match=r"\[16, 32, 64\]"):
        train_adapter(wide, talks(4), [], Tracker(), ONE_CORE)
    with pytest.raises(SettingsError, match="no INT4 format"):
        train_adapter(dataclasses.replace(job, rounding=None), talks(4), [], Tracker(), ONE_CORE)
    assert not (tmp_path / "resume").exists()


def test_the_int4_format_shapes_the_adapter_only_if_training_rounds() -> None:
    def version(qat: bool, group_size: int) -> str:
        training = {"qat": qat}
        return Settings(training=training, quantization={"group_size": group_size}).fingerprint("trained_rounding")

    assert version(False, 32) == version(False, 64)
    assert version(True, 32) != version(True, 64)
    assert version(True, 32) != version(False, 32)
