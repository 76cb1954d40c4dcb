import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from ragtune.errors import RegistryError
from ragtune.records import QAPair
from ragtune.store.artifacts import ArtifactStore, clear_abandoned, folder_files, scratch_name, write_json


@dataclass(frozen=True)
class Planet:
    name: str
    moons: tuple[str, ...]


def test_records_survive_the_round_trip_with_their_tuples(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    planets = [Planet("Mars", ("Phobos", "Deimos")), Planet("Venus", ())]
    assert store.read_records(store.write_records("planets", planets), Planet) == planets


def test_a_pair_with_scores_and_span_survives_the_round_trip(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    pair = QAPair(
        id="1",
        question="What?",
        answer="That.",
        kind="purpose",
        document_id="d",
        chunk_id="c",
        span=(3, 8),
        scores={"clear": 0.5},
    )
    assert store.read_records(store.write_records("pairs", [pair]), QAPair) == [pair]


def test_equal_records_give_an_equal_reference_and_other_records_another(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first = store.write_records("planets", [Planet("Mars", ())])
    assert store.write_records("planets", [Planet("Mars", ())]) == first
    assert store.write_records("planets", [Planet("Moon", ())]).sha256 != first.sha256


def test_an_empty_table_is_an_artefact_too(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.read_records(store.write_records("planets", []), Planet) == []


def test_work_that_fails_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def build() -> None:
        with store.stage("model") as scratch:
            (scratch / "weights").write_text("half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        build()
    assert list((tmp_path / "model").iterdir()) == []


def test_a_folder_without_its_manifest_is_never_taken_for_whole(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with store.stage("model") as scratch:
        (scratch / "weights").write_text("whole")
        ref = store.commit("model", scratch)
    (Path(ref.uri) / "artifact.json").unlink()
    with pytest.raises(RegistryError, match="missing or incomplete"):
        store.folder(ref)
    with store.stage("model") as scratch:
        (scratch / "weights").write_text("whole")
        assert store.commit("model", scratch) == ref
    assert folder_files(store.folder(ref)).keys() == {"weights"}


def test_the_newest_artefact_is_found_by_name(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.current("planets") is None
    ref = store.write_records("planets", [Planet("Mars", ())])
    store.set_current(ref)
    assert store.current("planets") == ref


def test_what_a_killed_process_left_half_written_is_removed_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    abandoned = [tmp_path / "models" / f".scratch-{ended.pid}-a", tmp_path / "store" / "x" / f".scratch-{ended.pid}-b"]
    own = tmp_path / "store" / "x" / scratch_name()
    for folder in (*abandoned, own):
        folder.mkdir(parents=True)
    clear_abandoned(tmp_path / "models", tmp_path / "store")
    assert [folder.exists() for folder in (*abandoned, own)] == [False, False, True]


def test_a_store_that_is_moved_or_copied_finds_its_own_artefacts(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home" / "artifacts")
    store.set_current(store.write_records("planets", [Planet("Mars", ())]))
    stored = [path.read_text() for path in (tmp_path / "home").rglob("*.json")]
    assert len(stored) == 2
    assert not any(str(tmp_path) in text for text in stored)
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    (tmp_path / "home").rename(tmp_path / "moved")
    for home in ("copy", "moved"):
        here = ArtifactStore(tmp_path / home / "artifacts")
        ref = here.current("planets")
        assert ref is not None
        assert here.folder(ref).is_relative_to(tmp_path / home)
        assert here.read_records(ref, Planet) == [Planet("Mars", ())]


def test_a_store_of_version_0_1_0_with_absolute_paths_is_read_after_a_move(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    ref = store.write_records("planets", [Planet("Mars", ())])
    write_json(
        tmp_path / "artifacts/planets/current.json", {**asdict(ref), "uri": f"/old/home/planets/{ref.sha256[:16]}"}
    )
    assert store.current("planets") == ref


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_scratch(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        write_json(tmp_path / "a.json", circle)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}'
