"""Dagster's webserver and daemon as `ragtune up` starts them: a run through the UI's API, and a sensor that fires."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragtune.backends.engines import free_port
from ragtune.records import Chunk, ResponseRecord
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.commands.running import platform_programs, prepare_platform
from ragtune_serving.processes import start, stop

SECONDS = 300.0
"""Everything takes half a minute of two cores; the rest is for a machine that is busy with other tests."""
RUN = """mutation ($assets: [AssetKeyInput!]!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "ragtune", repositoryName: "__repository__", jobName: "__ASSET_JOB",
               assetSelection: $assets},
    runConfigData: "{}"}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""
ASSETS = "{ assetNodes { assetKey { path } } }"
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with a document, its passage and a correction that can train, which is enough for the sensor."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "kilns.md").write_text("# Kilns\n\nA kiln is an oven that hardens clay at a high heat.\n")
    monkeypatch.setenv("RAGTUNE_SOURCES", f'["folder:{tmp_path}/documents"]')
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAGTUNE_FEEDBACK__RETRAIN_AFTER", "1")
    monkeypatch.setenv("RAGTUNE_FEEDBACK__APPROVAL", "false")
    monkeypatch.setenv("RAGTUNE_PORTS__DAGSTER", str(free_port()))
    settings = load_settings()
    (settings.home / "dagster").mkdir(parents=True)
    log = FeedbackLog(settings.feedback_url)
    log.record_response(
        ResponseRecord(
            id="r1",
            created_at="2026-01-01",
            question="What is a kiln?",
            answer="An oven.",
            model="ragtune",
            model_version="1",
            chunk_ids=("c1",),
            cited_chunk_ids=(),
            refused=False,
        )
    )
    log.add("r1", "down", correction="An oven that hardens clay.")
    log.close()
    text = "A kiln is an oven that hardens clay at a high heat."
    chunk = Chunk(id="c1", document_id="d", source="s", title="Kilns", heading_path=(), text=text, position=0)
    store = ArtifactStore(settings.home / "artifacts")
    store.set_current(store.write_records("chunks", [chunk]))
    return settings


@pytest.fixture
def ask(settings: Settings) -> Iterator[Callable[..., dict[str, Any]]]:
    """Return a function that sends GraphQL to the webserver, as the UI does; the daemon runs too."""
    prepare_platform(settings)
    programs = [program for program in platform_programs(settings) if program.name.startswith("Dagster")]
    running = [(program, start(program)) for program in programs]
    url = f"http://127.0.0.1:{settings.ports.dagster}/graphql"

    def ask(query: str, **variables: Any) -> dict[str, Any]:
        reply = httpx.post(url, json={"query": query, "variables": variables}, timeout=120)
        data: dict[str, Any] = reply.raise_for_status().json()["data"]
        return data

    def answers() -> bool:
        for program, process in running:
            assert process.poll() is None, program.log.read_text()
        try:
            return bool(ask("{ version }"))
        except httpx.ConnectError:
            return False

    try:
        wait_for(answers, "the webserver")
        yield ask
    finally:
        for _, process in running:
            stop(process, patience=120)


def is_loaded(ask: Callable[..., dict[str, Any]]) -> bool:
    """Tell whether the assets are there; fail with the error of a code location that could not be loaded."""
    for entry in ask(LOCATIONS)["workspaceOrError"]["locationEntries"]:
        error = entry["locationOrLoadError"]
        assert not error or error["__typename"] != "PythonError", error["message"]
    return bool(ask(ASSETS)["assetNodes"])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.5)


@pytest.mark.graph
def test_the_pages_of_dagster_build_an_asset_and_the_daemon_lets_a_sensor_fire(settings, ask):
    assert ask("{ shouldShowNux }") == {"shouldShowNux": False}, "nobody is invited to a newsletter"
    wait_for(lambda: is_loaded(ask), "the code location")
    launched = ask(RUN, assets=[{"path": ["raw_documents"]}, {"path": ["existing_pairs"]}])["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched

    def by_sensor() -> dict[str, tuple[str, str]]:
        """Return {sensor, or "" for a person: (run, status)}."""
        rows = ask(RUNS)["runsOrError"]["results"]
        tags = [{tag["key"]: tag["value"] for tag in row["tags"]} for row in rows]
        names = [tag.get("dagster/sensor_name", "") for tag in tags]
        return {name: (row["runId"], row["status"]) for name, row in zip(names, rows, strict=True)}

    wait_for(lambda: by_sensor().get("", ("", ""))[1] in ("SUCCESS", "FAILURE"), "the run of a person")
    assert by_sensor()[""] == (launched["run"]["runId"], "SUCCESS")
    wait_for(lambda: by_sensor().get("enough_new_feedback", ("", ""))[1] in ("SUCCESS", "FAILURE"), "the sensor")
    assert by_sensor()["enough_new_feedback"][1] == "SUCCESS"
    store = ArtifactStore(settings.home / "artifacts")
    assert [store.current(name).rows for name in ("raw_documents", "feedback_events")] == [1, 1]
    assert list((settings.home / "dagster" / "running").glob("*")) == [], "ended runs hold no lock"
