import json
import shutil
from pathlib import Path

import pytest

from ragtune.errors import ModelError
from ragtune.model.base import pretrained
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.base.merge import merge_adapter
from ragtune.model_settings import BaseModelSettings
from ragtune.store.artifacts import ArtifactStore
from tests.support.tiny_llama import make_tiny_llama, talks


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny, tmp_path_factory.mktemp("adapter") / "lora")


def write_adapter(base: Path, out: Path, **knobs: object) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(
        load_model(base), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **knobs)
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
        elif "magnitude" in name:
            weight.data *= 1 + torch.rand_like(weight)
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize(
    "knobs",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"use_dora": True, "use_rslora": True}],
    ids=["LoRA", "rsLoRA", "DoRA", "both"],
)
def test_the_merge_computes_what_base_and_adapter_compute_together(
    tiny: Path, tmp_path: Path, knobs: dict[str, bool]
) -> None:
    import torch
    from peft import PeftModel

    adapter = write_adapter(tiny, tmp_path / "lora", **knobs)
    merged = merge_adapter(tiny, adapter, tmp_path / "merged")
    ids = torch.tensor([load_tokenizer(tiny)(talks(1)[0].messages[1].content)["input_ids"]])
    with torch.no_grad():
        plain = load_model(tiny).float()(ids).logits
        alone = load_model(merged).float()(ids).logits
        together = PeftModel.from_pretrained(load_model(tiny).float(), adapter)(ids).logits
    gap = float((together - plain).abs().max())
    assert float((alone - together).abs().max()) < 0.1 * gap


def test_the_merge_keeps_format_tokenizer_and_tied_embeddings(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    merged = merge_adapter(tiny, adapter, tmp_path / "merged")
    assert {p.name for p in merged.iterdir()} == {p.name for p in tiny.iterdir()}
    with safe_open(tiny / "model.safetensors", "pt") as before, safe_open(merged / "model.safetensors", "pt") as after:
        assert set(before.keys()) == set(after.keys())
        changed = {name for name in before.keys() if not before.get_tensor(name).equal(after.get_tensor(name))}  # noqa: SIM118
        assert {str(after.get_tensor(name).dtype) for name in after.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    assert len(changed) == 2 * 7, "two blocks with seven linear layers each"
    assert all("proj" in name for name in changed)


def test_an_adapter_of_another_base_is_refused_and_leaves_nothing(tmp_path: Path, adapter: Path) -> None:
    shallow = make_tiny_llama(tmp_path / "shallow", layers=1)
    with pytest.raises(ModelError, match="7 of the adapter's 14 layers"):
        merge_adapter(shallow, adapter, tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["shallow"]


def test_an_adapter_that_is_neither_lora_nor_dora_is_refused(tiny: Path, tmp_path: Path) -> None:
    mixed = write_adapter(tiny, tmp_path / "mixed", rank_pattern={"q_proj": 2})
    with pytest.raises(ModelError, match="rank_pattern"):
        merge_adapter(tiny, mixed, tmp_path / "merged")
    with pytest.raises(ModelError, match="adapter_config"):
        merge_adapter(tiny, tmp_path, tmp_path / "merged")


def test_an_adapter_or_a_sum_that_is_not_finite_is_refused(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(adapter / "adapter_model.safetensors")
    name = min(name for name in weights if "lora_B" in name)
    for value, message in ((float("nan"), "adapter_model.safetensors are NaN"), (3e38, "model.safetensors are NaN")):
        broken = shutil.copytree(adapter, tmp_path / "broken", dirs_exist_ok=True)
        a = name.replace("lora_B", "lora_A")
        changed = {**weights, name: weights[name].float().fill_(value), a: weights[a].float().fill_(10.0)}
        save_file(changed, broken / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=rf"1 of \d+ tensors of \S+/{message} or infinite[\s\S]*learning_rate"):
            merge_adapter(tiny, broken, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


def test_the_scale_is_alpha_over_rank(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weaker = shutil.copytree(adapter, tmp_path / "weaker")
    config = json.loads((weaker / "adapter_config.json").read_text())
    (weaker / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 0}))
    merged = merge_adapter(tiny, weaker, tmp_path / "merged")
    same, base = load_file(merged / "model.safetensors"), load_file(tiny / "model.safetensors")
    assert all(same[name].equal(base[name]) for name in base)


def test_the_default_base_model_is_the_packaged_one_with_its_adapter_merged_in(
    tiny: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    monkeypatch.setattr(pretrained, "READING_ADAPTER", adapter)
    monkeypatch.setattr(
        pretrained,
        "_packaged",
        lambda store, progress, name: pretrained.resolve_base_model(
            BaseModelSettings(name=str(tiny)), store, name=name
        ),
    )
    default = pretrained.resolve_base_model(BaseModelSettings(name="smollm2"), store)
    raw = pretrained.raw_model(BaseModelSettings(name="smollm2"), store)
    expected = merge_adapter(tiny, adapter, tmp_path / "merged")
    weights = {ref: (store.folder(ref) / "model.safetensors").read_bytes() for ref in (default, raw)}
    assert weights[raw] == (tiny / "model.safetensors").read_bytes() != weights[default]
    assert weights[default] == (expected / "model.safetensors").read_bytes()
    assert pretrained.resolve_base_model(BaseModelSettings(name="smollm2"), store) == default
    (store.folder(default) / "config.json").write_text("{}")
    assert pretrained.resolve_base_model(BaseModelSettings(name="smollm2"), store) == default
    assert (store.folder(default) / "config.json").read_text() != "{}", "a damaged model is rebuilt"
    assert pretrained.raw_model(BaseModelSettings(name=str(tiny)), store) is None


def test_the_shipped_adapter_is_small_and_fits_the_packaged_model() -> None:
    from safetensors.torch import load_file

    file = pretrained.READING_ADAPTER / "adapter_model.safetensors"
    assert file.stat().st_size < 20_000_000
    weights = load_file(file)
    assert len(weights) == 30 * 7 * 2, "30 blocks, 7 linear layers each, A and B"
    inputs = {tensor.shape[1] for name, tensor in weights.items() if name.endswith("lora_A.weight")}
    assert inputs == {576, 1536}
