"""The page Candidates: versions, the gate's decision, promotion and roll-back, experiments."""

from dataclasses import astuple, fields

import pytest

from ragtune.model.runs.scored import MODEL, PRECISION
from ragtune.model.training.tracking import MlflowTracker, RunRecord
from ragtune.records import GateDecision, Score, ScoredAnswer
from ragtune.store.experiments import ExperimentDesign, ExperimentStore
from ragtune.store.mlflow_files import ASSET, TRAINING
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse
from tests.support.browser import browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.measured_candidate import answers
from tests.support.releases import released
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.visitor import Visitor


def decision(version: str, promoted: bool) -> GateDecision:
    return GateDecision(
        promoted=promoted,
        reason="The gain is above zero." if promoted else "The gain may be zero.",
        metric="token_f1",
        live=0.4,
        candidate=0.46,
        gain=0.06,
        low=0.01 if promoted else -0.02,
        high=0.11,
        smallest_detectable_gain=0.05,
        n=120,
        alpha=0.05,
        live_version="1",
        candidate_version=version,
    )


SCORE = Score(
    model="ragtune",
    precision="w8a8",
    metric="token_f1",
    value=0.46,
    low=0.41,
    high=0.51,
    n=160,
    split="test",
    dataset_sha256="d",
    model_version="2",
    seed=17,
    signature="s",
)
DESIGN = ExperimentDesign(
    versions=("1", "2"),
    weights=(0.5, 0.5),
    metric="thumbs",
    smallest_difference=0.05,
    margin=0.02,
    alpha=0.05,
    budget=1000,
    window_hours=24.0,
)


@pytest.fixture
def gateway(tmp_path, give_mlflow):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "safety.md").write_text("# Safety\n\nThe note is valid for four hours.\n")
    home = tmp_path / "home"
    give_mlflow(home)
    upstream = ScriptedUpstream()
    running = ConsoleGateway(home, documents, upstream)
    running.registry = ModelRegistry(running.settings)
    yield running
    running.close()
    upstream.close()


def release_three(gateway: ConsoleGateway) -> None:
    """Release versions 1 to 3; 2 is the champion, 1 the previous one, and the gate refused 3."""
    home = gateway.settings.home
    for number in (1, 2, 3):
        gateway.registry.register(released(home, f"{number} weights".encode(), seed=number))
    gateway.registry.move("champion", "1")
    gateway.registry.move("champion", "2")
    warehouse = Warehouse(home / "warehouse.duckdb")
    warehouse.append([decision("2", promoted=True), decision("3", promoted=False)])
    warehouse.append([SCORE])


@pytest.mark.browser
def test_an_administrator_sees_why_promotes_and_rolls_back(gateway):
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.keys.client_key(), "/console/candidates")
        browser.shows("No version was released yet.")
        release_three(gateway)
        ExperimentStore(gateway.settings.feedback_url).start("warmer", DESIGN, 0.1)
        browser.open("/console/candidates")
        browser.shows("The gain may be zero.")
        browser.shows("0 responses of 1,000")
        browser.check()
        browser.one("[hx-post$=promote]").click()
        alert = browser.driver.switch_to.alert
        assert "The gate has not promoted it." in alert.text
        alert.accept()
        browser.until(lambda: gateway.registry.alias_version("champion") == "3", "the promotion")
        browser.shows("Roll back to version 2")
        browser.one("[hx-post$=roll-back]").click()
        browser.driver.switch_to.alert.accept()
        browser.until(lambda: gateway.registry.alias_version("champion") == "2", "the roll-back")
        browser.open("/console/candidates/2")
        browser.shows("The gain is above zero.")
        browser.shows("[0.410, 0.510]")
        browser.check()


@pytest.mark.browser
def test_two_trainings_are_chosen_and_compared_without_typing(gateway):
    first, second = tracked(gateway, "0.001", 0.4, 0.4), tracked(gateway, "0.0003", 0.7, 0.7)
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.keys.client_key(), "/console/candidates/runs")
        browser.one(f"[name=a][value='{first}']").click()
        browser.one(f"[name=b][value='{second}']").click()
        browser.one("form button[type=submit]").click()
        browser.shows("training.learning_rate")
        browser.shows("B − A")
        browser.check()


def test_others_see_the_versions_and_cannot_change_them(gateway):
    release_three(gateway)
    ola = Visitor(gateway.url, gateway.key("ola", "operator"))
    page = ola.get("/console/candidates").text
    assert "The gain may be zero." in page
    assert "hx-post" not in page
    for path in ("/console/models/promote", "/console/models/roll-back"):
        assert ola.post(path).status_code == 403
    assert gateway.registry.alias_version("champion") == "2"


def test_a_damaged_version_is_named_and_not_promoted(gateway):
    release_three(gateway)
    (weights,) = gateway.settings.home.glob(f"models/{_folder(gateway, '3')}/w8a8/model.safetensors")
    weights.unlink()
    page = Visitor(gateway.url, gateway.keys.client_key()).get("/console/candidates").text
    assert "cannot be served" in page
    assert page.count("/console/models/promote") == 1  # version 1 only


def tracked(gateway: ConsoleGateway, rate: str, score: float, right: float) -> str:
    """Log a training with the scores and the answers of its model, and return the id of its run."""
    settings = gateway.settings

    def run(name: str, record: RunRecord, metrics: dict[str, float]) -> MlflowTracker:
        tracker = MlflowTracker(settings.tracking_url, settings.tracking.experiment, name, settings.run_files, record)
        tracker.start()
        tracker.log_metrics(metrics, 0)
        return tracker

    scores = {"test/token_f1": score, "test/token_f1/low": 0.3, "test/token_f1/high": 0.8, "test/token_f1/n": 48.0}
    params = {"training.learning_rate": rate, "data.qa_splits": "ab" * 32}
    training = run(
        "lora_adapter", RunRecord({ASSET: "lora_adapter"}, params, {"packages.txt": b"torch==2.13.0"}), scores
    )
    training.end()
    tags = {ASSET: "scored_model", TRAINING: training.run_id, PRECISION: "w8a8", MODEL: "fine-tuned"}
    scored = run("fine-tuned w8a8", RunRecord(tags, params), scores)
    columns = ["split", *(field.name for field in fields(ScoredAnswer))]
    scored.log_table("answers", columns, [("test", *astuple(answer)) for answer in answers(right)])
    scored.end()
    return training.run_id


def test_two_trainings_are_compared_on_a_page_of_their_own(gateway):
    ola = Visitor(gateway.url, gateway.key("ola", "operator"))
    assert "No training was tracked yet." in ola.get("/console/candidates/runs").text
    first, second = tracked(gateway, "0.001", 0.4, 0.4), tracked(gateway, "0.0003", 0.7, 0.7)
    assert "/console/candidates/runs" in ola.get("/console/candidates").text
    page = ola.get("/console/candidates/runs").text
    assert page.index(second[:8]) < page.index(first[:8]), "the newest first"
    assert "B − A" not in page
    compared = ola.get(f"/console/candidates/runs?a={first}&b={second[:8]}").text
    assert "training.learning_rate" in compared
    assert "0.0003" in compared
    assert "+0.2" in compared, "the paired gain"
    assert compared.count("The same.") == 2, "data, code and machine"
    wrong = ola.get("/console/candidates/runs?a=zz&b=yy")
    assert wrong.status_code == 404
    assert "No tracked run has an id that starts with &#39;zz&#39;" in wrong.text


def _folder(gateway: ConsoleGateway, version: str) -> str:
    return gateway.registry.version(version).folder.rsplit("/", 1)[1]
