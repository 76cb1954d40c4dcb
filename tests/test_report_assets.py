"""What the assets of judges, people and the report compute, without a graph around them."""

from dataclasses import asdict, replace

import dagster as dg
import pytest

from ragtune.evaluation.judges import RUBRIC, answer_key
from ragtune.evaluation.report.content import build_report
from ragtune.evaluation.report.pages import HTML_NAME, report_folder, write_report
from ragtune.evaluation.studies.items import rating_items
from ragtune.evaluation.studies.results import people_labels, rated_answers, study_results
from ragtune.evaluation.studies.store import StudyStore
from ragtune.evaluation.studies.study import GUIDELINES, Study
from ragtune.model.training.tracking import MlflowTracker
from ragtune.records import AnswerSet
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse
from ragtune_assets.definitions import MODULES
from ragtune_assets.evaluation import gains
from ragtune_assets.release import Release
from ragtune_assets.report import (
    AnswerRatings,
    Judged,
    agreement_rows,
    answer_ratings_of,
    judge,
    measured,
)
from ragtune_assets.resources import build_resources
from ragtune_serving.cli import app
from tests.support.answering_fakes import WordEvidence
from tests.support.measured_candidate import measured_candidate
from tests.support.releases import manifest, released
from tests.test_benchmark_report import difference
from tests.test_studies import answers


def sets(split="gate") -> tuple[AnswerSet, AnswerSet]:
    live = tuple(replace(answer, scored_text=answer.answer) for answer in answers("old"))
    candidate = tuple(replace(answer, scored_text=answer.answer) for answer in answers("new"))
    return AnswerSet("base", "bf16", "base", split, live), AnswerSet("fine-tuned", "w8a8", "4f1b", split, candidate)


def slower():
    return difference(
        "engine.eager", "true", "false", "worse", -0.3, settings="{}", before="version 3 bf16", after="4f1b2c w8a8"
    )


@pytest.fixture
def studied(tmp_path):
    """A study that two people rated: ada says yes to everything, bob too but for one answer."""
    store = StudyStore(f"sqlite:///{tmp_path / 'studies.db'}")
    items = rating_items({"fine-tuned w8a8": answers("new")}, 20, seed=1)
    store.create(Study(name="spring", mode="rating", guideline=GUIDELINES["rating"], source="tests", seed=1), items)
    store.assign("spring", ["ada", "bob"], 2)
    for name in ("ada", "bob"):
        for task in store.open_tasks("spring", name):
            choice = "no" if name == "bob" and task.item_id == items[0].id else "yes"
            store.rate(task.id, name, dict.fromkeys(RUBRIC, choice))
    yield store
    store.close()


def test_without_a_language_model_the_evidence_model_judges_both_models(tmp_path):
    judged = judge(sets(), WordEvidence(), load_settings({"home": tmp_path}))
    assert {j.judge for j in judged.judgements} == {"evidence model words"}
    assert len(judged.judgements) == 2 * 2 * 20
    assert (judged.preferences, judged.usage) == ((), {})
    store = ArtifactStore(tmp_path / "artifacts")
    assert store.read_records(store.write_records("judgements", [judged]), Judged) == [judged]


def test_ratings_travel_to_the_report_and_the_warehouse(studied, tmp_path):
    result = study_results(studied, "spring")
    ratings = answer_ratings_of([result], people_labels(studied))
    assert ratings.raters == "spring: 40 ratings of 20 items by ada, bob"
    assert len(ratings.labels) == 19 * len(RUBRIC)
    store = ArtifactStore(tmp_path / "artifacts")
    assert store.read_records(store.write_records("answer_ratings", [ratings]), AnswerRatings) == [ratings]
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.append(ratings.models)
    warehouse.append(agreement_rows(result))
    _, rows = warehouse.query("SELECT question, percent FROM newest_agreement WHERE annotators = 'ada, bob'")
    assert sorted(rows) == sorted((question, 0.95) for question in RUBRIC)
    _, rows = warehouse.query("SELECT model, n FROM newest_rated_models WHERE question = 'correct'")
    assert rows == [("fine-tuned w8a8", 20)]


def test_gains_are_shown_over_older_models_and_by_rounding_for_the_metrics_that_apply(tmp_path):
    compared = [
        AnswerSet("base", "bf16", "base", "test", tuple(answers("old"))),
        AnswerSet("fine-tuned", "bf16", "4f1b", "test", tuple(answers("new"))),
        AnswerSet("fine-tuned", "w8a8", "4f1b", "test", tuple(answers("new"))),
        *sets("gate"),
    ]
    rows = gains(compared, load_settings({"home": tmp_path}))
    assert [(row.over, row.model, row.precision, row.gain.metric) for row in rows] == [
        ("base bf16", "fine-tuned", "bf16", "token_f1"),
        ("base bf16", "fine-tuned", "w8a8", "token_f1"),
        ("fine-tuned bf16", "fine-tuned", "w8a8", "token_f1"),
    ]


def test_a_home_without_studies_has_ratings_of_nobody(tmp_path):
    store = StudyStore(f"sqlite:///{tmp_path / 'studies.db'}")
    assert answer_ratings_of([], people_labels(store)) == AnswerRatings((), (), (), "")
    store.close()


def test_what_is_known_of_a_candidate_compares_its_judges_with_people(studied, tmp_path):
    settings = load_settings({"home": tmp_path})
    ratings = answer_ratings_of([study_results(studied, "spring")], people_labels(studied))
    judged = judge(sets(), WordEvidence(), settings)
    decision = measured_candidate().decision
    described = replace(manifest(), gate={name: getattr(decision, name) for name in decision.__dataclass_fields__})
    known = measured("4", described, sets(), [], [], [], judged, ratings, settings)
    assert known.models == ("base bf16", "fine-tuned w8a8")
    assert {c.question: c.confusion.n for c in known.calibrations} == {"correct": 19, "supported": 19}
    assert not any(c.counts for c in known.calibrations)
    assert answer_key("q1?", "new says 1") in {label.answer_key for label in ratings.labels}
    assert "19 rated answers; 40 are needed" in str(build_report(known))


def test_judges_are_compared_with_people_on_rated_answers_that_the_gate_never_asked(studied, tmp_path):
    settings = load_settings({"home": tmp_path})
    rated = rated_answers(studied)
    ratings = answer_ratings_of([study_results(studied, "spring")], people_labels(studied), rated)
    live, candidate = (
        replace(one, answers=tuple(replace(a, question=f"gate {a.question}") for a in one.answers)) for one in sets()
    )
    judged = judge((live, candidate), WordEvidence(), settings, ratings.answers)
    assert len(judged.judgements) == 2 * 2 * 20, "what the judges say of the models is that of the gate's answers alone"
    assert {one.answer_key for one in judged.rated} == {answer_key(a.question, a.answer) for a in rated}
    store = ArtifactStore(tmp_path / "artifacts")
    assert store.read_records(store.write_records("judgements", [judged]), Judged) == [judged]
    assert store.read_records(store.write_records("answer_ratings", [ratings]), AnswerRatings) == [ratings]
    decision = measured_candidate().decision
    described = replace(manifest(), gate={name: getattr(decision, name) for name in decision.__dataclass_fields__})
    known = measured("4", described, (live, candidate), [], [], [], judged, ratings, settings)
    assert {c.question: c.confusion.n for c in known.calibrations} == {"correct": 19, "supported": 19}


def test_the_assets_write_a_page_that_dagster_and_mlflow_link_to(tmp_path, give_mlflow, studied):
    from mlflow import MlflowClient

    give_mlflow(tmp_path)
    studied.close()
    settings = load_settings({"home": tmp_path, "feedback": {"url": f"sqlite:///{tmp_path / 'studies.db'}"}})
    known = measured_candidate()
    registry = ModelRegistry(settings)
    tracker = MlflowTracker(settings.tracking_url, "ragtune", "training", settings.run_files)
    run = tracker.start()
    tracker.end()
    number = registry.register(released(tmp_path, gate=asdict(known.decision), mlflow_run_id=run))
    store = ArtifactStore(tmp_path / "artifacts")
    test = [replace(answers_of, split="test") for answers_of in sets()]
    for name, records in (
        ("eval_answers", [*sets(), *test]),
        ("eval_scores", known.scores),
        ("released_model", [Release(number, "models/x", True, "better")]),
        ("benchmark_tables", known.benchmarks),
        ("speed_comparison", [slower()]),
    ):
        store.set_current(store.write_records(name, records))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            dg.load_assets_from_modules(MODULES),
            selection=["judgements", "answer_ratings", "candidate_report"],
            instance=instance,
            resources={**build_resources(settings), "evidence": WordEvidence()},
        )
    page = report_folder(tmp_path, number) / HTML_NAME
    assert "20 items by ada, bob" in page.read_text()
    (event,) = result.asset_materializations_for_node("candidate_report")
    assert event.metadata["page"].value == f"reports/{number}/{HTML_NAME}"
    assert "Slower or larger than the live model: 4f1b2c w8a8 against version 3 bf16" in page.read_text()
    assert event.metadata["report"].value.startswith(f"# Version {number}: promoted")
    [version] = MlflowClient(tracking_uri=settings.tracking_url).search_model_versions("")
    assert version.tags["report"] == f"reports/{number}"
    assert len(list(settings.run_files.glob(f"**/report/{HTML_NAME}"))) == 1
    assert not tracker.attach("0" * 32, page.parent, "report")
    names = {one.info.run_name for one in MlflowClient(tracking_uri=settings.tracking_url).search_runs(["1"])}
    assert names == {"training", "judgements", f"Dagster run {result.run_id[:8]}"}
    [judging] = MlflowClient(tracking_uri=settings.tracking_url).search_runs(
        ["1"], "attributes.run_name = 'judgements'"
    )
    assert judging.data.metrics["judge/evidence model words/correct"] == pytest.approx(0.2)
    [(rows,)] = Warehouse(tmp_path / "warehouse.duckdb").query("SELECT count(*) FROM rated_models")[1]
    assert rows == len(RUBRIC)


def test_the_command_prints_where_the_newest_report_is_and_what_to_do(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path))
    missing = CliRunner().invoke(app, ["report"])
    assert "There is no report about a candidate" in str(missing.exception)
    for version in ("9", "10"):
        write_report(build_report(replace(measured_candidate(), version=version)), report_folder(tmp_path, version))
    printed = CliRunner().invoke(app, ["report"]).stdout
    assert printed.splitlines()[0] == str(tmp_path / "reports" / "10" / HTML_NAME)
    assert "# Version 10: promoted" in printed
    assert "## What to do next" in printed
    assert "## Scores" not in printed
    assert "## Scores" in CliRunner().invoke(app, ["report", "9", "--markdown"]).stdout
    assert "version 8" in str(CliRunner().invoke(app, ["report", "8"]).exception)
