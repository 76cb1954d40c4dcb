import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ragtune.errors import RagTuneError, ResourceError
from ragtune.records import ArtifactRef
from ragtune.settings import child_environment
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.home_lock import exclusive
from ragtune_assets.display import materialized
from ragtune_assets.materialize import layers, main, materialize
from ragtune_assets.resources import ArtifactIO


class World:
    """A graph `source` > `middle` > `last`; the test sets the content of its assets."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(folder / "artifacts")
        self.instance = dg.DagsterInstance.ephemeral()
        self.content, self.middle_version, self.check_passes, self.breaks = "one", "1", True, ""

    def write(self, name: str, text: str) -> ArtifactRef:
        with self.store.stage(name) as scratch:
            (scratch / "text").write_text(text)
            return self.store.commit(name, scratch)

    def run(self, *select: str, force: bool = False) -> list[str]:
        return materialize(self.definitions(), self.store, self.instance, select or ["*"], force)

    def definitions(self) -> dg.Definitions:
        world = self

        @dg.asset(code_version="1")
        def source() -> dg.MaterializeResult[ArtifactRef]:
            return materialized(world.write("source", world.content), {})

        @dg.asset(
            code_version=self.middle_version, check_specs=[dg.AssetCheckSpec("good", asset="middle", blocking=True)]
        )
        def middle(source: ArtifactRef):
            if world.breaks:
                raise RagTuneError("The middle is broken.", expected="a whole one", fix="glue it")
            check = dg.AssetCheckResult(passed=world.check_passes, check_name="good")
            length = str(len((Path(source.uri) / "text").read_text()))
            return materialized(world.write("middle", length), {}, [check])

        @dg.asset(code_version="1")
        def last(middle: ArtifactRef) -> dg.MaterializeResult[ArtifactRef]:
            return materialized(world.write("last", hashlib.sha256(middle.sha256.encode()).hexdigest()), {})

        io = dg.IOManagerDefinition.hardcoded_io_manager(ArtifactIO(self.store))
        return dg.Definitions(assets=[source, middle, last], resources={"io_manager": io})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_second_run_runs_only_the_roots(world):
    assert world.run() == ["source", "middle", "last"]
    assert world.run() == ["source"]


def test_a_changed_source_rebuilds_until_the_content_is_the_same_again(world):
    world.run()
    world.content = "two"
    assert world.run() == ["source", "middle"], "'two' is as long as 'one', so the input of `last` is the same"
    world.content = "three"
    assert world.run() == ["source", "middle", "last"]


def test_changed_code_rebuilds_that_asset(world):
    world.run()
    world.middle_version = "2"
    assert world.run() == ["source", "middle"]
    assert world.run() == ["source"]


def test_a_deleted_artefact_is_built_again(world):
    import shutil

    world.run()
    shutil.rmtree(world.store.current("middle").uri)
    assert world.run() == ["source", "middle"]


def test_a_moved_home_has_nothing_to_build(world, tmp_path):
    world.run()
    (tmp_path / "artifacts").rename(tmp_path / "moved")
    world.store = ArtifactStore(tmp_path / "moved")
    assert world.run() == ["source"]


def test_a_failed_blocking_check_stops_the_run_and_is_tried_again(world):
    world.check_passes = False
    with pytest.raises(RagTuneError, match="middle: the check good did not pass"):
        world.run()
    assert world.store.current("last") is None
    world.check_passes = True
    assert world.run() == ["source", "middle", "last"]


def test_a_failing_asset_says_what_was_found_and_how_to_fix_it(world):
    world.breaks = "yes"
    with pytest.raises(RagTuneError, match=r"(?s)middle: The middle is broken\..*glue it"):
        world.run()
    world.breaks = ""
    assert world.run() == ["source", "middle", "last"]


def test_a_resource_that_cannot_be_built_says_why(world, tmp_path):
    def refuse(_context):
        raise RagTuneError("The index is gone.", fix="build it")

    @dg.asset
    def needs_it(index: dg.ResourceParam[str]) -> None: ...

    defs = dg.Definitions([needs_it], resources={"index": dg.ResourceDefinition(refuse)})
    with pytest.raises(RagTuneError, match=r"(?s)^The index is gone\..*build it"):
        materialize(defs, world.store, world.instance)


def test_a_selection_builds_its_part_and_force_builds_what_is_fresh(world):
    world.run()
    assert world.run("middle") == []
    assert world.run("middle+", force=True) == ["middle", "last"]
    assert world.run("source", "last", force=True) == ["source", "last"]
    with pytest.raises(RagTuneError, match="middel"):
        world.run("middel")


def test_layers_never_hold_an_asset_before_its_inputs():
    a, b, c = (dg.AssetKey(name) for name in "abc")
    assert list(layers({c: [a, b], b: [a], a: []})) == [{a}, {b}, {c}]


def test_an_unknown_source_ends_with_a_message_and_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAGTUNE_SOURCES", f'["folder:{tmp_path}/missing"]')
    for name in ("DAGSTER_HOME", "RAGTUNE_DAGSTER_STORAGE", "TRANSFORMERS_VERBOSITY", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "")
    assert main(["--select", "raw_documents"]) == 1
    output = capsys.readouterr().out
    assert "missing" in output
    assert "Traceback" not in output


def ignore_control_c() -> None:
    """Do to a child what a shell does to a background job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def allow_control_c() -> None:
    """Undo it: the tests themselves may run in a background job."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("start_with", "end_with"), [(allow_control_c, signal.SIGINT), (ignore_control_c, signal.SIGTERM)]
)
def test_an_interrupted_run_ends_with_a_message_and_leaves_no_lock(tmp_path, start_with, end_with):
    (tmp_path / "docs").mkdir()
    for number in range(3000):
        (tmp_path / "docs" / f"{number}.md").write_text(f"# Page {number}\n\n" + f"This is fact {number}. " * 60)
    environment = child_environment(RAGTUNE_HOME=str(tmp_path / "home"), RAGTUNE_SOURCES=f'["folder:{tmp_path}/docs"]')
    command = [sys.executable, "-m", "ragtune_assets.materialize", "--select", "raw_documents"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=start_with,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "building" in line:
            break
    assert (f"To stop it: kill {process.pid}" in "".join(lines)) == (start_with is ignore_control_c)
    os.killpg(process.pid, end_with)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 130, rest
    assert "run it again to go on" in rest
    with exclusive(tmp_path / "home"):
        pass


def test_too_little_disk_is_an_error_before_any_work(tmp_path, monkeypatch):
    from ragtune_assets import materialize as module

    monkeypatch.setattr(module, "MIN_DISK_BYTES", 1 << 60)
    with pytest.raises(ResourceError, match="are free"):
        module.check_room(tmp_path)
