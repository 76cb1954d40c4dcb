"""The registry and the tracker do the same over MLflow on SQLite and over an MLflow server, by one suite."""

import json
import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragtune.backends.engines import free_port
from ragtune.errors import ExperimentError, RegistryError
from ragtune.model.runs.log import RunLog
from ragtune.model.training.tracking import MlflowTracker, RunRecord
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.mlflow_files import delete_run, make_portable
from ragtune.store.registry import ModelRegistry, read_manifest, verify
from ragtune_serving.processes import Program, start, stop
from tests.support.releases import released

START_SECONDS = 120.0


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without models, made once because the migration takes seconds."""
    home = tmp_path_factory.mktemp("migrated")
    with ModelRegistry(load_settings({"home": home}))._writing():
        return home / "mlflow" / "mlflow.db"


@pytest.fixture(scope="module")
def server(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with served(Path(shutil.copy(migrated, folder)), folder / "kept") as url:
        yield url


@contextmanager
def served(database: Path, files: Path) -> Iterator[str]:
    """Yield the URL of an MLflow server over a database and a folder of files."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(files)]
    log = database.with_name("log")
    process = start(Program("MLflow", command, log, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}))
    try:
        end = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        stop(process)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture(params=["sqlite", "server"])
def settings(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path) -> Settings:
    """A home whose MLflow has no models yet."""
    if request.param == "server":
        tracking = {"url": request.getfixturevalue("server"), "model_name": f"model-{uuid.uuid4().hex[:8]}"}
        return load_settings({"home": tmp_path, "tracking": tracking})
    (tmp_path / "mlflow").mkdir()
    shutil.copy(migrated, tmp_path / "mlflow")
    return load_settings({"home": tmp_path})


# --- the registry


def test_a_server_that_is_away_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = ModelRegistry(load_settings({"home": tmp_path, "tracking": {"url": "http://127.0.0.1:9"}}))
    for ask in (registry.versions, lambda: registry.alias("champion"), lambda: registry.register(released(tmp_path))):
        with pytest.raises(RegistryError, match=r"http://127\.0\.0\.1:9 returned an error"):
            ask()


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
    with pytest.raises(RegistryError, match="fails verification"):
        registry.rollback()
    assert registry.alias("champion").folder == str(folders[1])


def three_versions(settings: Settings) -> tuple[ModelRegistry, list[Path]]:
    """Return a registry with versions 1 (no name), 2 (previous) and 3 (champion), and their folders."""
    registry = ModelRegistry(settings)
    folders = [released(settings.home, weights=w) for w in (b"one", b"two", b"three")]
    numbers = [registry.register(folder) for folder in folders]
    for number in numbers[1:]:
        registry.move("champion", number)
    return registry, folders


def test_a_version_whose_weights_are_gone_breaks_no_other(settings):
    registry, folders = three_versions(settings)
    shutil.rmtree(folders[0])
    assert [model.folder for model in registry.versions()] == [str(folder) for folder in folders[1:]]
    first, second, third = registry.entries()
    assert "no manifest.json" in first.problem
    assert (second.problem, third.problem, second.aliases, third.aliases) == ("", "", ("previous",), ("champion",))
    assert registry.rollback().folder == str(folders[1])
    fourth = registry.register(released(settings.home, weights=b"four"))
    assert registry.move("champion", fourth).version == fourth
    with pytest.raises(RegistryError, match="is incomplete"):
        registry.version(first.version)


def test_a_champion_whose_weights_are_gone_does_not_stop_a_new_one(settings, caplog):
    registry, folders = three_versions(settings)
    (folders[2] / "w8a8" / "model.safetensors").unlink()
    assert registry.usable_alias("champion") is None
    assert "which cannot be served: w8a8/model.safetensors and 0 more files are missing" in caplog.text
    fourth = registry.register(released(settings.home, weights=b"four"))
    registry.move("champion", fourth)
    assert registry.usable_alias("champion").version == fourth


def test_a_version_that_somebody_registered_by_hand_is_listed_and_breaks_nothing(settings, client):
    registry, _ = three_versions(settings)
    by_hand = client.create_model_version(settings.tracking.model_name, source="ragtune:/nothing").version
    assert len(registry.versions()) == 3
    assert registry.entries()[-1].problem == "It was not released by RagTune: it has no folder."
    with pytest.raises(RegistryError, match="has no folder"):
        registry.move("champion", str(by_hand))
    assert registry.remove(str(by_hand)) is None


def test_a_version_is_removed_with_its_folder_unless_it_is_live_previous_or_in_an_experiment(settings, client):
    registry, folders = three_versions(settings)
    first, second, third = (entry.version for entry in registry.entries())
    for version, name in ((second, "previous"), (third, "champion")):
        with pytest.raises(RegistryError, match=f"Version {version} is {name}"):
            registry.remove(version)
    client.set_registered_model_alias(settings.tracking.model_name, "experiment-short", first)
    with pytest.raises(RegistryError, match="is experiment-short"):
        registry.remove(first)
    client.delete_registered_model_alias(settings.tracking.model_name, "experiment-short")
    assert registry.remove(first) == folders[0]
    assert [folder.exists() for folder in folders] == [False, True, True]
    assert [entry.version for entry in registry.entries()] == [second, third]
    with pytest.raises(RegistryError, match=f"one of {second}, {third}"):
        registry.remove(first)


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
    live = ModelRegistry(there(settings, elsewhere)).alias("champion")
    assert verify(Path(live.folder)) == read_manifest(Path(live.folder))


def there(settings: Settings, home: Path) -> Settings:
    """Return the settings of another home with the same MLflow, where that is a server."""
    return load_settings({"home": home, "tracking": settings.tracking.model_dump()})


def _register(settings: Settings, folder: Path, queue) -> None:
    registry = ModelRegistry(settings)
    version = registry.register(folder)
    registry.move("champion", version)
    queue.put(version)


def test_two_processes_that_register_the_same_model_get_one_version(settings):
    folder = released(settings.home)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_register, args=(settings, folder, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert queue.get(timeout=5) == queue.get(timeout=5)
    assert len(ModelRegistry(settings).versions()) == 1


def test_an_alias_is_read_again_without_another_client_so_that_it_can_be_polled(settings, monkeypatch):
    registry = ModelRegistry(settings)
    version = registry.register(released(settings.home))
    registry.move("champion", version)
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: pytest.fail("another client was made"))
    assert [registry.alias("champion").version for _ in range(3)] == [version] * 3


def test_a_version_leads_back_to_the_run_that_trained_it(settings, client):
    run = tracker(settings).start()
    version = ModelRegistry(settings).register(released(settings.home, mlflow_run_id=run))
    assert client.get_model_version(settings.tracking.model_name, version).run_id == run


# --- the tracker


@pytest.fixture
def client(settings):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.tracking_url)


def tracker(settings: Settings) -> MlflowTracker:
    """Return a tracker with an experiment of the test's own."""
    name, record = settings.home.name, RunRecord(tags={"purpose": "test"})
    return MlflowTracker(settings.tracking_url, name, "adapter", settings.run_files, record)


def test_a_run_holds_its_parameters_metrics_and_files(settings, client):
    writing = tracker(settings)
    run_id = writing.start()
    begun = client.get_run(run_id)
    assert (begun.info.status, begun.info.run_name, begun.data.tags["purpose"]) == ("RUNNING", "adapter", "test")
    writing.log_params({"rank": 16, "base": "smollm2"})
    for step, loss in enumerate((0.9, 0.5, 0.4), 1):
        writing.log_metrics({"loss": loss, "tokens": 10.0 * step}, step)
    writing.end()
    ended = client.get_run(run_id)
    assert ended.info.status == "FINISHED"
    assert ended.data.params == {"rank": "16", "base": "smollm2"}
    assert ended.data.metrics == {"loss": 0.4, "tokens": 30.0}
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, "loss")] == [
        (1, 0.9),
        (2, 0.5),
        (3, 0.4),
    ]


def test_a_continued_run_keeps_its_first_parameters(settings, client):
    before = tracker(settings)
    run_id = before.start()
    before.log_params({"rank": 16})
    before.end(failed=True)
    assert client.get_run(run_id).info.status == "FAILED"
    after = tracker(settings)
    assert after.start(run_id) == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    after.log_params({"rank": 8, "alpha": 32})
    after.end()
    assert client.get_run(run_id).data.params == {"rank": "16", "alpha": "32"}


def test_a_deleted_run_is_replaced_by_a_new_one(settings):
    begun = tracker(settings)
    first = begun.start("0" * 32)
    assert first != "0" * 32
    assert tracker(settings).start() != first


def test_a_copy_of_the_adapter_can_be_read_from_the_run(settings, client, tmp_path):
    adapter, back = tmp_path / "adapter", tmp_path / "back"
    (adapter / "deep").mkdir(parents=True)
    (adapter / "deep" / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    back.mkdir()
    writing = tracker(settings)
    run_id = writing.start()
    writing.log_artifacts(adapter)
    writing.end()
    if settings.run_files is None:
        copy = Path(client.download_artifacts(run_id, "adapter", str(back)))
    else:  # The server of the home has them; a client of the database alone knows only their relative name.
        copy = settings.run_files / run_id / "artifacts" / "adapter"
    assert (copy / "deep" / "adapter_model.safetensors").read_bytes() == bytes(range(256))


def test_a_run_is_read_back_by_the_start_of_its_id_with_its_files_and_tables(settings):
    writing = tracker(settings)
    writing.record = RunRecord({"ragtune.asset": "chunks"}, {"seed": "17"}, {"settings.yaml": b"seed: 17\n"})
    run_id = writing.start()
    writing.log_table("samples/step-1", ("question", "answer"), [("q", "a")])
    writing.log_metrics({"test/token_f1": 0.5}, 0)
    writing.end()
    reading = load_settings(
        {"home": settings.home, "tracking": {"url": settings.tracking.url, "experiment": settings.home.name}}
    )
    log = RunLog(reading)
    run = log.run(run_id[:12])
    assert (run.id, run.asset, run.status, run.metrics["test/token_f1"]) == (run_id, "chunks", "FINISHED", 0.5)
    assert run.params == {"seed": "17"}
    assert log.file(run, "settings.yaml") == b"seed: 17\n"
    assert json.loads(log.file(run, "samples/step-1.json")) == {"columns": ["question", "answer"], "data": [["q", "a"]]}
    assert [one.id for one in log.runs("chunks")] == [run_id]
    with pytest.raises(ExperimentError, match="no file 'weights'"):
        log.file(run, "weights")
    with pytest.raises(ExperimentError, match="No tracked run"):
        log.run("0" * 32)


def test_more_parameters_than_mlflow_takes_at_once_and_longer_values_are_stored(settings, client):
    writing = tracker(settings)
    run_id = writing.start()
    writing.log_params({**{f"p{number}": number for number in range(250)}, "long": "x" * 9000})
    writing.end()
    params = client.get_run(run_id).data.params
    assert len(params) == 251
    assert len(params["long"]) == 6000


def run_with_files(settings: Settings, name: str) -> str:
    writing = tracker(settings)
    run_id = writing.start()
    (settings.home / name).mkdir()
    (settings.home / name / "weights").write_text(name)
    writing.log_artifacts(settings.home / name)
    writing.end()
    return run_id


def stored_places(home: Path) -> list[str]:
    connection = sqlite3.connect(home / "mlflow" / "mlflow.db")
    rows = connection.execute(
        "SELECT artifact_location FROM experiments UNION SELECT artifact_uri FROM runs"
    ).fetchall()
    connection.close()
    return [place for (place,) in rows]


@pytest.fixture
def home_on_disk(migrated: Path, tmp_path: Path) -> Settings:
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    shutil.copy(migrated, tmp_path / "home" / "mlflow")
    return load_settings({"home": tmp_path / "home"})


def test_no_stored_place_of_files_is_absolute_and_a_copy_writes_to_itself(home_on_disk, tmp_path):
    run_with_files(home_on_disk, "one")
    assert all(place.startswith("mlflow-artifacts:/") for place in stored_places(home_on_disk.home))
    shutil.copytree(home_on_disk.home, tmp_path / "copy")
    before = sorted(home_on_disk.home.rglob("*"))
    run_id = run_with_files(load_settings({"home": tmp_path / "copy"}), "two")
    assert (tmp_path / "copy/mlflow/runs" / run_id / "artifacts/adapter/weights").read_text() == "two"
    assert sorted(home_on_disk.home.rglob("*")) == before


def test_deleting_a_run_in_a_copy_of_an_older_home_leaves_the_files_of_the_original(home_on_disk, tmp_path):
    run_id = run_with_files(home_on_disk, "one")
    files = home_on_disk.home / "mlflow" / "runs"
    connection = sqlite3.connect(home_on_disk.home / "mlflow" / "mlflow.db")
    with connection:  # as version 0.1.0 stored them
        connection.execute("UPDATE experiments SET artifact_location = ?", (files.as_uri(),))
        connection.execute("UPDATE runs SET artifact_uri = ?", (f"{files.as_uri()}/{run_id}/artifacts",))
    connection.close()
    shutil.copytree(home_on_disk.home, tmp_path / "copy")
    copied = load_settings({"home": tmp_path / "copy"})
    make_portable(copied.tracking_url)
    assert f"mlflow-artifacts:/{run_id}/artifacts" in stored_places(copied.home)
    deleted = delete_run(copied, run_id)
    assert deleted == copied.run_files / run_id
    assert not deleted.exists()
    assert (files / run_id / "artifacts/adapter/weights").read_text() == "one"


def test_mlflow_s_own_tools_delete_a_run_of_a_copied_home_and_leave_the_original(home_on_disk, tmp_path):
    from mlflow import MlflowClient

    run_id = run_with_files(home_on_disk, "one")
    shutil.copytree(home_on_disk.home, tmp_path / "copy")
    copied = load_settings({"home": tmp_path / "copy"})
    MlflowClient(tracking_uri=copied.tracking_url).delete_run(run_id)

    def collect_garbage(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", copied.tracking_url]
        environment = child_environment(MLFLOW_TRACKING_URI=url)
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    alone = collect_garbage(copied.tracking_url)
    assert "the tracking URI must be a valid http" in alone.stderr, "files are named relatively to a server"
    with served(copied.home / "mlflow" / "mlflow.db", copied.run_files) as url:
        assert collect_garbage(url).returncode == 0
    assert not list((copied.run_files / run_id).rglob("weights"))
    assert (home_on_disk.run_files / run_id / "artifacts/adapter/weights").read_text() == "one"
    assert MlflowClient(tracking_uri=home_on_disk.tracking_url).get_run(run_id).info.status == "FINISHED"


def test_a_server_keeps_the_artefacts_where_every_home_can_read_them(server, tmp_path):
    settings = load_settings({"home": tmp_path, "tracking": {"url": server}})
    writing = tracker(settings)
    run_id = writing.start()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    writing.log_artifacts(tmp_path / "adapter")
    writing.end()
    assert not list(tmp_path.glob("mlflow/runs/*"))
    asked = f"{server}/get-artifact?run_uuid={run_id}&path=adapter/adapter_config.json"
    with urllib.request.urlopen(asked) as reply:
        assert reply.read() == b"{}"


def test_a_server_that_is_away_is_an_error_that_names_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9[\s\S]*tracking\.url"):
        MlflowTracker("http://127.0.0.1:9", "away", "adapter", tmp_path).start()
