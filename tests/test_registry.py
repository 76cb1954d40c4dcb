import multiprocessing
import time
from pathlib import Path

import pytest

from ragtune.errors import RegistryError
from ragtune.records import ModelManifest
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import write_json
from ragtune.store.registry import ModelRegistry, assemble, read_manifest, verify


def manifest(**changes) -> ModelManifest:
    fields = {
        "format": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "base_model": "smollm2",
        "base_sha256": "b" * 64,
        "adapter_sha256": "a" * 64,
        "dataset_sha256": "d" * 64,
        "feedback_ids": (),
        "prompt_sha256": "p" * 64,
        "seed": 17,
        "code_version": "1",
        "served_precision": "w8a8",
        "precisions": {},
        "files": {},
        "scores": (),
        "gate": {},
        "mlflow_run_id": "",
        "packages": {},
    }
    return ModelManifest(**{**fields, **changes})


def released(home: Path, weights: bytes = b"weights", **changes) -> Path:
    source = home / "source" / weights.hex()[:8]
    source.mkdir(parents=True, exist_ok=True)
    (source / "model.safetensors").write_bytes(weights)
    (source / "config.json").write_text("{}")
    return assemble(home / "models", {"w8a8": source, "w4a16": source}, manifest(**changes))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow store, made once because the migration takes seconds."""
    home = tmp_path_factory.mktemp("template")
    ModelRegistry(load_settings({"home": home})).register(released(home))
    (home / "mlflow" / "mlflow.db").rename(home / "full.db")
    import sqlite3

    with sqlite3.connect(home / "full.db") as db:
        for table in ("model_version_tags", "model_versions", "registered_models"):
            db.execute(f"delete from {table}")
    return home / "full.db"


@pytest.fixture
def settings(tmp_path: Path, template: Path) -> Settings:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(template.read_bytes())
    return load_settings({"home": tmp_path})


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
    with pytest.raises(RegistryError, match=r"holds no manifest\.json"):
        verify(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "w8a8/config.json").write_text('{"changed": 1}'), "another SHA-256"),
        (lambda f: (f / "w8a8/model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "w8a8/extra.json").write_text("{}"), "not in the manifest"),
        (lambda f: (f / "w8a8/pytorch_model.bin").write_bytes(b"\x80"), "not loaded"),
        (lambda f: (f / "modeling.py").write_text("1"), "not loaded"),
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
    with pytest.raises(RegistryError, match=r"pytorch_model\.bin is of a type that is not loaded"):
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


def test_registering_twice_returns_the_same_version(settings):
    registry = ModelRegistry(settings)
    folder = released(settings.home)
    assert registry.register(folder) == registry.register(folder)
    assert len(registry.versions()) == 1


def test_moving_champion_remembers_the_previous_and_rollback_swaps_them(settings):
    registry = ModelRegistry(settings)
    first, second = (registry.register(released(settings.home, weights=w)) for w in (b"one", b"two"))
    registry.move("champion", first)
    assert registry.alias("previous") is None
    with pytest.raises(RegistryError, match="no previous champion"):
        registry.rollback()
    registry.move("champion", second)
    assert registry.alias("champion").version == second
    assert registry.alias("previous").version == first
    assert registry.rollback().version == first
    assert registry.alias("champion").version == first
    assert registry.alias("previous").version == second


def test_rollback_refuses_a_previous_model_that_does_not_verify(settings):
    registry = ModelRegistry(settings)
    folders = [released(settings.home, weights=w) for w in (b"one", b"two")]
    for folder in folders:
        registry.move("champion", registry.register(folder))
    (folders[0] / "w8a8" / "config.json").unlink()
    with pytest.raises(RegistryError, match="does not verify"):
        registry.rollback()
    assert registry.alias("champion").folder == str(folders[1])


def test_unknown_versions_and_aliases_are_answered_with_the_known_ones(settings):
    registry = ModelRegistry(settings)
    version = registry.register(released(settings.home))
    with pytest.raises(RegistryError, match=f"one of {version}"):
        registry.move("champion", "99")
    with pytest.raises(RegistryError, match="champion, challenger, previous"):
        registry.move("best", version)


def test_a_moved_home_keeps_its_models(settings, tmp_path_factory):
    registry = ModelRegistry(settings)
    registry.move("champion", registry.register(released(settings.home)))
    elsewhere = tmp_path_factory.mktemp("parent") / "moved"
    settings.home.rename(elsewhere)
    live = ModelRegistry(load_settings({"home": elsewhere})).alias("champion")
    assert verify(Path(live.folder)) == read_manifest(Path(live.folder))


def _register(home: str, folder: str, queue) -> None:
    registry = ModelRegistry(load_settings({"home": home}))
    version = registry.register(Path(folder))
    registry.move("champion", version)
    queue.put(version)


def test_two_processes_that_register_the_same_model_get_one_version(settings):
    folder = released(settings.home)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_register, args=(str(settings.home), str(folder), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert queue.get(timeout=5) == queue.get(timeout=5)
    assert len(ModelRegistry(settings).versions()) == 1


def test_reading_an_alias_is_cheap_enough_to_poll(settings):
    registry = ModelRegistry(settings)
    registry.move("champion", registry.register(released(settings.home)))
    started = time.perf_counter()
    for _ in range(20):
        registry.alias("champion")
    assert (time.perf_counter() - started) / 20 < 0.1
