"""What the error analysis says of a quantised model, against numbers computed by hand."""

import math
from pathlib import Path

import pytest

from ragtune.errors import ModelError
from ragtune.model.base.capacity import Machine
from ragtune.model.base.loading import load_model
from ragtune.model.compression.errors import QuantizationErrors, quantization_errors
from ragtune.model.compression.quantization import quantize_w4a16, quantize_w8a8
from ragtune.model_settings import QuantizationSettings
from tests.support.tiny_llama import make_loud_llama, talks

ONE_CORE = Machine("cpu", 1)
LAYERS = 2 * 7


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_loud_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def int4(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = QuantizationSettings(calibration_samples=4, symmetric=True, format="gptq")
    return quantize_w4a16(tiny, talks(6), settings, tmp_path_factory.mktemp("int4") / "w4a16", ONE_CORE)


@pytest.fixture(scope="module")
def int8(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize_w8a8(tiny, tmp_path_factory.mktemp("int8") / "w8a8", ONE_CORE)


def errors(tiny: Path, folder: Path) -> QuantizationErrors:
    return quantization_errors(tiny, folder, folder.name, talks(8), ONE_CORE)


def test_a_model_compared_with_itself_has_no_error(tiny: Path) -> None:
    same = errors(tiny, tiny)
    assert (same.mean_kl, same.answer_kl, same.same_top, same.change, same.perplexity_ratio) == (0, 0, 1, 0, 1)
    assert {layer.weight_db for layer in same.layers} == {layer.output_db for layer in same.layers} == {math.inf}


def test_four_bits_cost_more_than_eight_in_every_number(tiny: Path, int4: Path, int8: Path) -> None:
    four, eight = errors(tiny, int4), errors(tiny, int8)
    assert len(four.layers) == len(eight.layers) == LAYERS
    assert four.mean_kl > 3 * eight.mean_kl > 0
    assert four.answer_kl > eight.answer_kl > 0
    assert four.same_top < eight.same_top <= 1
    assert four.change_rms > eight.change_rms > 0
    for ours, theirs in zip(four.layers, eight.layers, strict=True):
        assert ours.name == theirs.name
        # Four more bits are four halvings of the error, 24 dB.
        assert 15 < theirs.weight_db - ours.weight_db < 30
        assert theirs.output_db > ours.output_db > 0


def test_the_tail_holds_the_mean_and_the_worst_prompts_come_first(tiny: Path, int4: Path) -> None:
    report = errors(tiny, int4)
    values = [value for _, value in report.percentiles]
    assert [percentile for percentile, _ in report.percentiles] == [50, 90, 95, 99, 99.9, 100]
    assert values == sorted(values)
    assert values[0] < report.mean_kl < values[-1]
    assert report.same_top_low < report.same_top < report.same_top_high
    worst = [prompt.kl for prompt in report.worst]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] > report.mean_kl
    assert report.worst[0].question in {talk.messages[1].content for talk in talks(8)}


def test_the_numbers_of_tokens_are_those_of_their_definitions(tiny: Path, int8: Path) -> None:
    import torch

    from ragtune.model.base.conversations import render_chat
    from ragtune.model.base.loading import load_tokenizer

    tokenizer, [talk] = load_tokenizer(tiny), talks(1)
    ids = torch.tensor([tokenizer(render_chat(tokenizer, talk.messages), add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        p, q = (torch.softmax(load_model(folder)(ids).logits[0, :-1].float(), -1) for folder in (tiny, int8))
    report = quantization_errors(tiny, int8, "w8a8", [talk], ONE_CORE)
    rows, right = torch.arange(len(p)), ids[0, 1:]
    assert report.tokens == len(p)
    assert report.mean_kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-3)
    assert report.same_top == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
    assert report.change == pytest.approx(float((q[rows, right] - p[rows, right]).mean()), abs=1e-5)
    perplexities = [float(torch.exp(-model[rows, right].log().mean())) for model in (p, q)]
    assert report.perplexity_ratio == pytest.approx(perplexities[1] / perplexities[0], rel=1e-3)


def test_without_conversations_there_is_nothing_to_compare(tiny: Path, int8: Path) -> None:
    with pytest.raises(ModelError, match="no conversations"):
        quantization_errors(tiny, int8, "w8a8", [], ONE_CORE)
