import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.errors import EngineError, EngineMemoryError, RegistryError
from ragtune.settings import load_settings
from ragtune.store.registry import ModelRegistry, assemble
from ragtune_serving.deployment import Deployment
from ragtune_serving.engine import Pace, ServedModel, SupervisedEngine
from ragtune_serving.refused_champion import RefusalNote, refused_champion
from tests.support.fake_engine import FakeEngine
from tests.support.releases import manifest

PACE = Pace(watch=0.05, first_pause=0.05, longest_pause=0.2, calm=60)
MANIFEST = manifest()


class Routes:
    """A `Publisher` that remembers the URL of each route."""

    def __init__(self) -> None:
        self.now = {}

    def publish(self, route, running):
        if running is None:
            self.now.pop(route, None)
        else:
            self.now[route] = running.url


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """An empty registry, made once: MLflow takes seconds for its first tables."""
    home = tmp_path_factory.mktemp("migrated")
    with ModelRegistry(load_settings({"home": home}))._writing():
        return home / "mlflow"


@pytest.fixture
def parts(tmp_path, migrated):
    shutil.copytree(migrated, tmp_path / "mlflow")
    settings = load_settings({"home": tmp_path, "gateway": {"poll_seconds": 0.05, "comparison_idle_seconds": 0.5}})
    engine, routes, registry = FakeEngine(tmp_path), Routes(), ModelRegistry(settings)
    base = tmp_path / "base"
    base.mkdir()
    deployment = Deployment(settings, engine, registry, lambda: (base, "bf16"), routes, PACE)
    yield deployment, engine, routes, registry
    deployment.stop()
    for running in engine.launched:
        running.stop()


def release(registry: ModelRegistry, tag: str) -> str:
    source = registry.home / f"source-{tag}"
    source.mkdir()
    (source / "config.json").write_text(f'"{tag}"')
    folder = assemble(registry.home / "models", {"w8a8": source}, replace(MANIFEST, adapter_sha256=tag))
    return registry.register(folder)


def test_a_killed_engine_is_restarted_and_published_again(tmp_path):
    engine, routes = FakeEngine(tmp_path), Routes()
    supervised = SupervisedEngine(engine, ServedModel("m", "base", tmp_path, ""), "m#1", routes.publish, PACE)
    supervised.start()
    until(lambda: supervised.ready)
    first = routes.now["m#1"]
    engine.launched[0].process.kill()
    until(lambda: not supervised.ready)
    assert "being restarted" in str(supervised.unavailable())
    until(lambda: supervised.ready)
    assert supervised.restarts == 1
    assert routes.now["m#1"] != first
    supervised.stop()
    assert routes.now == {}
    assert engine.launched[1].process.poll() is not None


def test_an_engine_that_never_starts_says_why_and_is_tried_with_growing_pauses(tmp_path):
    supervised = SupervisedEngine(
        FakeEngine(tmp_path), ServedModel("m", "base", Path("broken"), ""), "m#1", Routes().publish, PACE
    )
    began = time.monotonic()
    supervised.start()
    until(lambda: supervised.restarts >= 4)
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2
    assert "This model is broken" in str(supervised.unavailable())
    supervised.stop()


def test_without_a_champion_the_base_model_answers_every_name(parts):
    deployment, _, routes, _ = parts
    with pytest.raises(EngineError, match="starting"):
        deployment.engine_for("ragtune")
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    engines = {deployment.engine_for(name) for name in ("ragtune", "ragtune-base", "ragtune-raw")}
    assert engines == {deployment.live}
    assert deployment.live.model.version == "base"
    assert list(routes.now) == [deployment.live.route]


def test_a_new_champion_takes_over_without_a_gap_and_the_old_engine_drains(parts):
    deployment, engine, _, registry = parts
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    old = deployment.engine_for("ragtune")
    assert old.model.version == "1"
    old.hold()
    registry.move("champion", release(registry, "two"))
    while deployment.live.model.version == "1":
        assert deployment.engine_for("ragtune").ready
        time.sleep(0.01)
    assert deployment.engine_for("ragtune").model.version == "2"
    time.sleep(0.2)
    assert old.ready, "an engine that still answers a request must not be stopped"
    old.release()
    until(lambda: old.state == "stopped")
    until(lambda: engine.launched[0].process.poll() is not None)


def test_the_comparison_engine_starts_on_demand_and_ends_when_idle(parts):
    deployment, _, _, registry = parts
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    assert deployment.status()["comparison"] is None
    comparison = deployment.engine_for("ragtune-raw")
    assert comparison is deployment.engine_for("ragtune-base")
    assert comparison is not deployment.live
    until(lambda: comparison.ready)
    until(lambda: comparison.state == "stopped")
    assert deployment.status()["comparison"] is None


def test_a_damaged_champion_is_not_served_until_it_was_fixed_and_the_live_one_stays(parts):
    deployment, _, _, registry = parts
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    second = release(registry, "two")
    damaged = Path(registry.version(second).folder) / "w8a8" / "config.json"
    damaged.write_text("changed")
    registry.move("champion", second)
    until(lambda: deployment.error)
    assert "Version 2 is not served" in deployment.error
    assert deployment.engine_for("ragtune").model.version == "1"
    until(lambda: registry.refusal("2"))
    assert "config.json does not have the SHA-256" in registry.refusal("2")
    damaged.write_text('"two"')
    until(lambda: deployment.live.model.version == "2")
    assert deployment.error == ""
    until(lambda: registry.refusal("2") == "")


def test_a_champion_whose_manifest_is_gone_is_refused_by_its_number(parts):
    deployment, _, _, registry = parts
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    second = release(registry, "two")
    manifest = Path(registry.version(second).folder) / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()
    with registry._writing() as client:  # as if the file went after the release
        client.set_registered_model_alias(registry.name, "champion", second)
    until(lambda: refused_champion(deployment.status()))
    refused = refused_champion(deployment.status())
    assert (refused.version, refused.served) == ("2", "1")
    assert "has no manifest.json" in refused.reason
    manifest.write_bytes(content)
    until(lambda: deployment.live.model.version == "2")


def test_a_champion_that_does_not_start_leaves_the_live_one(parts):
    deployment, _, _, registry = parts
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    source = registry.home / "source-bad"
    source.mkdir()
    (source / "broken").mkdir()
    (source / "broken" / "config.json").write_text("{}")
    folder = assemble(registry.home / "models", {"w8a8": source}, replace(MANIFEST, adapter_sha256="bad"))
    registry.move("champion", registry.register(folder))
    until(lambda: (deployment.status()["next"] or {}).get("error"))
    assert "This model is broken" in deployment.status()["next"]["error"]
    until(lambda: deployment.status()["next"]["restarts"] >= 2)
    assert deployment.engine_for("ragtune").model.version == "1"
    until(lambda: registry.refusal("2"))
    assert registry.refusal("2") == "Its engine does not start: This model is broken."
    refused = refused_champion(deployment.status())
    assert (refused.version, refused.served) == ("2", "1")
    registry.rollback()
    until(lambda: deployment.status()["next"] is None)
    assert deployment.engine_for("ragtune").ready


class SmallEngine(FakeEngine):
    """Starts the server if memory holds it: one at a time."""

    def launch(self, model, name, at_once=1):
        if any(running.process.poll() is None for running in self.launched):
            raise EngineMemoryError("The engine needs 3 GiB of memory; 1 GiB is free.")
        return super().launch(model, name, at_once)


@pytest.fixture
def small(parts, tmp_path):
    """The parts of `parts` on a machine whose memory holds one engine."""
    deployment, _, routes, registry = parts
    engine = deployment._engine = SmallEngine(tmp_path)
    deployment._pace = replace(PACE, handover=0.05)
    yield deployment, engine, routes, registry
    deployment.stop()
    for running in engine.launched:
        running.stop()


def swaps(deployment, how: str) -> None:
    gateway = deployment.settings.gateway.model_copy(update={"swap": how})
    deployment.settings = deployment.settings.model_copy(update={"gateway": gateway})


def broken_release(registry: ModelRegistry) -> str:
    source = registry.home / "source-bad"
    (source / "broken").mkdir(parents=True)
    (source / "broken" / "config.json").write_text("{}")
    return registry.register(
        assemble(registry.home / "models", {"w8a8": source}, replace(MANIFEST, adapter_sha256="b"))
    )


@pytest.mark.parametrize("swap", ["auto", "in_place"])
def test_a_new_champion_takes_the_place_of_the_old_one_if_memory_holds_only_one(small, swap):
    deployment, engine, _, registry = small
    swaps(deployment, swap)
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    old = deployment.engine_for("ragtune")
    old.hold()
    registry.move("champion", release(registry, "two"))
    until(lambda: deployment.live is None)
    coming = deployment.engine_for("ragtune")
    assert (coming.model.version, coming.awaited, coming.ready) == ("2", True, False)
    assert "in place of the one before" in str(coming.unavailable())
    time.sleep(0.3)
    assert old.ready, "its request is not over"
    old.release()
    until(lambda: deployment.live is coming)
    assert not coming.awaited
    assert engine.launched[0].process.poll() is not None
    assert deployment.error == ""


def test_the_old_champion_comes_back_if_the_new_one_does_not_start_in_its_place(small):
    deployment, _, _, registry = small
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    bad = broken_release(registry)
    swaps(deployment, "in_place")
    registry.move("champion", bad)
    until(lambda: deployment.error)
    assert f"Version {bad} did not start in place of version 1" in deployment.error
    assert "This model is broken" in deployment.error
    until(lambda: deployment.live and deployment.live.ready)
    assert deployment.engine_for("ragtune").model.version == "1"
    time.sleep(0.3)
    assert deployment.coming is None, "each try is a pause for users"
    registry.rollback()
    until(lambda: deployment.error == "")
    registry.move("champion", bad)
    until(lambda: deployment.live is None)
    until(lambda: deployment.live and deployment.live.ready)


def test_the_live_engine_stays_if_memory_is_short_and_swaps_may_not_pause_it(small):
    deployment, _, _, registry = small
    swaps(deployment, "parallel")
    registry.move("champion", release(registry, "one"))
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    registry.move("champion", release(registry, "two"))
    until(lambda: (deployment.status()["next"] or {}).get("restarts", 0) >= 2)
    assert "needs 3 GiB" in deployment.status()["next"]["error"]
    assert deployment.engine_for("ragtune").ready
    comparison = deployment.engine_for("ragtune-base")
    until(lambda: comparison.state == "restarting")
    assert "needs 3 GiB of memory; 1 GiB is free" in str(comparison.unavailable())


def test_a_champion_without_the_precision_of_the_settings_is_an_error_and_the_live_one_stays(parts):
    deployment, _, _, registry = parts
    deployment.start()
    until(lambda: deployment.live and deployment.live.ready)
    deployment.settings = deployment.settings.model_copy(
        update={"quantization": deployment.settings.quantization.model_copy(update={"serve": "bf16"})}
    )
    registry.move("champion", release(registry, "one"))
    until(lambda: deployment.error)
    assert "has no bf16 weights" in deployment.error
    assert deployment.engine_for("ragtune").model.version == "base"


ENGINE = {"version": "1", "restarts": 0, "error": ""}
STARTING = {"version": "2", "restarts": 0, "error": ""}
FAILED_ONCE = {**STARTING, "restarts": 1, "error": "no room"}
FAILED_TWICE = {**FAILED_ONCE, "restarts": 2}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"live": ENGINE, "next": None, "champion": "1", "error": ""}, ""),
        ({"live": ENGINE, "next": None, "champion": None, "error": "MLflow is away"}, ""),
        ({"live": ENGINE, "next": STARTING, "champion": "2", "error": ""}, ""),
        ({"live": ENGINE, "next": FAILED_ONCE, "champion": "2", "error": ""}, ""),
        ({"live": None, "next": FAILED_TWICE, "champion": "2", "error": ""}, ""),
        ({"live": None, "error": "The gateway does not answer."}, ""),
        ({"live": ENGINE, "next": FAILED_TWICE, "champion": "2", "error": ""}, "Its engine does not start: no room"),
        ({"live": ENGINE, "next": None, "champion": "2", "error": "a file is missing"}, "a file is missing"),
        ({"live": None, "next": ENGINE, "champion": "2", "error": "it did not start"}, "it did not start"),
    ],
)
def test_a_champion_is_refused_if_another_model_answers_and_there_is_a_reason(status, reason):
    refused = refused_champion(status)
    assert (refused.reason if refused else "") == reason


class LockedRegistry:
    """A registry whose versions get notes, unless it is locked."""

    def __init__(self) -> None:
        self.notes, self.locked = [], True

    def refuse(self, version: str, reason: str) -> None:
        if self.locked:
            raise RegistryError("The database is locked.")
        self.notes.append((version, reason))


def test_a_note_that_cannot_be_written_is_logged_once_and_tried_again(caplog):
    registry = LockedRegistry()
    note = RefusalNote(registry)
    status = {"live": ENGINE, "next": None, "champion": "2", "error": "a file is missing"}
    note.update(status)
    note.update(status)
    assert caplog.text.count("The database is locked.") == 1
    registry.locked = False
    note.update(status)
    note.update(status)
    note.update({**status, "live": {**ENGINE, "version": "2"}, "error": ""})
    assert registry.notes == [("2", "a file is missing"), ("2", "")]
