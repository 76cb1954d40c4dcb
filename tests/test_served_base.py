"""Before the first release the base model is served in the precision that the machine answers fastest with."""

import re

import pytest

from ragtune.backends import served_base as module
from ragtune.backends.served_base import served_base
from ragtune.errors import ModelError
from ragtune.model.compression.weights import inspect_weights
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from tests.support.tiny_llama import make_tiny_llama


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a tiny base model, and the reference of that."""
    home = tmp_path_factory.mktemp("home")
    store = ArtifactStore(home / "artifacts")
    with store.stage("base_model") as scratch:
        make_tiny_llama(scratch)
        return home, store, store.commit("base_model", scratch)


def served(home, **sections):
    folder, store, ref = home
    told: list[str] = []
    settings = load_settings({"home": folder, "device": "cpu", **sections})
    found = served_base(settings, store, ref, lambda what, done, total: told.append(what))
    return *found, told


def test_int8_weights_are_made_once_where_they_are_the_fastest(home, monkeypatch):
    monkeypatch.setattr(module, "fastest_precision", lambda device: "w8a8")
    folder, precision, told = served(home)
    assert precision == "w8a8"
    assert inspect_weights(folder)["precision"] == "w8a8"
    assert (folder / "tokenizer.json").is_file()
    folder_of_copies = home[1].root / "base_model_w8a8"
    assert re.search(rf"once per home \(less than [\d.]+ KiB in {folder_of_copies}\), because", told[0])
    assert told[0] == told[-1], "one task from its begin to its end"
    assert served(home) == (folder, "w8a8", [])


@pytest.mark.parametrize("fastest", ["bf16", "w4a16"])
def test_the_base_model_is_served_as_it_is_where_int8_gains_nothing(home, monkeypatch, fastest):
    monkeypatch.setattr(module, "fastest_precision", lambda device: fastest)
    folder, precision, _ = served(home)
    assert (folder, precision) == (home[1].folder(home[2]), "bf16")


def test_the_setting_decides_before_the_machine_does(home, monkeypatch):
    monkeypatch.setattr(module, "fastest_precision", lambda device: "w8a8")
    assert served(home, quantization={"serve": "bf16"})[1] == "bf16"


def test_without_llm_compressor_the_base_model_is_served_as_it_is_and_somebody_is_told(home, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "fastest_precision", lambda device: "w8a8")
    monkeypatch.setattr(module, "RECIPE", "another")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    _, precision, told = served(home)
    assert precision == "bf16"
    assert "llm-compressor is not installed" in told[0]


def test_weights_that_cannot_be_made_are_an_error_with_the_way_out(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    with store.stage("base_model") as scratch:
        make_tiny_llama(scratch)
        (scratch / "config.json").write_text('{"model_type": "zebra"}')
        ref = store.commit("base_model", scratch)
    settings = load_settings({"home": tmp_path, "device": "cpu", "quantization": {"serve": "w8a8"}})
    with pytest.raises(ModelError, match=r"could not be made[\s\S]*quantization.serve: bf16"):
        served_base(settings, store, ref)
