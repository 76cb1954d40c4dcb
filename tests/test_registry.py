from pathlib import Path

import pytest

from ragtune.errors import RegistryError
from ragtune.settings import load_settings
from ragtune.store.artifacts import write_json
from ragtune.store.registry import ModelRegistry, assemble, verify
from tests.support.releases import manifest, released


def test_a_fresh_home_has_no_champion_and_reading_it_makes_no_store(tmp_path):
    registry = ModelRegistry(load_settings({"home": tmp_path}))
    assert registry.alias("champion") is None
    assert registry.versions() == []
    assert not list(tmp_path.iterdir())


def test_a_release_verifies_and_equal_content_gives_the_same_folder(tmp_path):
    first = released(tmp_path)
    again = released(tmp_path, created_at="2027-01-01T00:00:00+00:00")
    assert first == again
    assert verify(first).precisions == {"w8a8": "w8a8", "w4a16": "w4a16"}
    assert set(verify(first).files) == {
        f"{p}/{f}" for p in ("w8a8", "w4a16") for f in ("model.safetensors", "config.json")
    }
    assert released(tmp_path, weights=b"other") != first


def test_a_folder_without_a_manifest_is_never_taken_for_a_model(tmp_path):
    folder = released(tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(RegistryError, match=r"has no manifest\.json"):
        verify(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "w8a8/config.json").write_text('{"changed": 1}'), "not have the SHA-256"),
        (lambda f: (f / "w8a8/model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "w8a8/extra.json").write_text("{}"), "not in the manifest"),
        (lambda f: (f / "w8a8/pytorch_model.bin").write_bytes(b"\x80"), "not allowed"),
        (lambda f: (f / "modeling.py").write_text("1"), "not allowed"),
        (lambda f: (f / "w8a8/link.json").symlink_to("/etc/hostname"), "is a link"),
    ],
)
def test_a_damaged_model_does_not_verify(tmp_path, damage, words):
    folder = released(tmp_path)
    # Hard links share their bytes with the source, so break them before writing.
    for path in list(folder.rglob("*.json")):
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    damage(folder)
    with pytest.raises(RegistryError, match=words):
        verify(folder)


def test_pickled_weights_are_refused_even_when_the_manifest_lists_them(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04")
    folder = assemble(tmp_path / "models", {"w8a8": source}, manifest())
    with pytest.raises(RegistryError, match=r"pytorch_model\.bin has a type that is not allowed"):
        verify(folder)


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    folder = released(tmp_path)
    import json

    raw = json.loads((folder / "manifest.json").read_text())
    raw["files"]["../secret.json"] = "0" * 64
    raw["precisions"]["w8a8"] = "/etc"
    write_json(folder / "manifest.json", raw)
    with pytest.raises(RegistryError, match=r"leads out of the folder; subfolder '/etc'"):
        verify(folder)


def test_a_killed_release_leaves_no_model(tmp_path):
    with pytest.raises(RuntimeError):
        _assemble_that_dies(tmp_path)
    assert not [path for path in (tmp_path / "models").glob("*") if (path / "manifest.json").exists()]


def _assemble_that_dies(home: Path) -> None:
    source = home / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")

    class Dying(dict):
        def items(self):
            yield "w8a8", source
            raise RuntimeError("killed")

    assemble(home / "models", Dying(), manifest())
