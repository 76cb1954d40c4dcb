"""`ragtune experiments`: tracked runs are listed, compared and repeated from what they logged."""

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from ragtune.errors import ExperimentError
from ragtune.model.repetition import repeat
from ragtune.model.runs.comparison import compare
from ragtune.model.runs.conversations import CONVERSATIONS_FILE, packed, unpacked
from ragtune.model.runs.log import RunLog
from ragtune.records import AnswerSet
from ragtune_serving.cli import app
from tests.support.measured_candidate import answers
from tests.support.tracked_home import TRAINING, TrackedHome


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, give_mlflow) -> TrackedHome:
    """A home with a training planned by minutes, its quantised model, and a second training of other settings."""
    folder = tmp_path_factory.mktemp("home")
    give_mlflow(folder)
    first = TrackedHome(folder, training={**TRAINING, "minutes": 0.05, "max_steps": 60, "max_epochs": 100})
    for name in ("lora_adapter", "preference_adapter", "merged_model", "quantized_model"):
        first.run(name)
    evaluate(first, "quantized_model", 0.45)
    second = TrackedHome(folder, training={**TRAINING, "learning_rate": 0.02})
    second.run("lora_adapter")
    second.run("preference_adapter")
    second.run("merged_model")
    evaluate(second, "merged_model", 0.7)
    return second


def evaluate(home: TrackedHome, asset: str, right: float) -> None:
    """Score invented answers of the model that this asset made."""
    version = home.ref(asset).sha256[:12]
    sets = [
        AnswerSet("base", "bf16", "base", "test", tuple(answers(0.4))),
        AnswerSet("fine-tuned", "w8a8", version, "test", tuple(answers(right))),
    ]
    ref = home.store.write_records("eval_answers", sets)
    home.store.set_current(ref)
    # The run of eval_answers, which needs an engine, would have this tag.
    model = home.newest(asset)
    home.client.set_tag(model.info.run_id, "ragtune.result", ref.sha256)
    home.run("eval_scores")
    home.client.set_tag(model.info.run_id, "ragtune.result", home.ref(asset).sha256)


@pytest.fixture
def log(home: TrackedHome) -> RunLog:
    return RunLog(home.settings)


@pytest.fixture
def command(home: TrackedHome, monkeypatch: pytest.MonkeyPatch):
    """Run `ragtune experiments` with these arguments and return the result."""
    monkeypatch.setenv("RAGTUNE_HOME", str(home.settings.home))
    return lambda *arguments: CliRunner().invoke(app, ["experiments", *arguments])


# --- repeating


def test_a_training_planned_by_minutes_is_repeated_from_its_log_with_equal_weights(home, log, command) -> None:
    newer, first = log.runs("lora_adapter")
    # Nothing that the training read is there any more, except the base model.
    away = home.settings.home / "away"
    for name in ("chunks", "qa_splits", "lora_adapter", "merged_model"):
        shutil.move(home.store.root / name, away / name)
    try:
        result = command("repeat", first.short_id)
    finally:
        for name in ("chunks", "qa_splits", "lora_adapter", "merged_model"):
            shutil.move(away / name, home.store.root / name)
    assert result.exit_code == 0, result.output
    assert "The same: the weights of the adapter" in result.stdout
    again, *_ = log.runs("lora_adapter")
    assert (again.tags["ragtune.repeats"], again.tags["ragtune.same_result"]) == (first.id, "yes")
    steps = first.metrics["planned_steps"]
    assert steps <= 60, "how many fit into three seconds"
    losses = [[m.value for m in home.client.get_metric_history(run.id, "loss")] for run in (first, again)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == steps
    assert again.params["training.learning_rate"] == first.params["training.learning_rate"] == "0.01"
    assert newer.params["training.learning_rate"] == "0.02"
    assert not (home.settings.home / "work" / f"repeat-{first.short_id}").exists()
    assert log.repetitions(first) == [again]


def test_a_repetition_with_another_result_says_so_and_what_changed(home, log, command) -> None:
    _, *_, first = log.runs("lora_adapter")
    file = home.files(first.id) / CONVERSATIONS_FILE
    packages = home.files(first.id) / "packages.txt"
    kept, kept_packages = file.read_bytes(), packages.read_bytes()
    training, validation = unpacked(kept)
    file.write_bytes(packed([list(reversed(training)), validation]))
    packages.write_bytes(kept_packages.replace(b"torch==", b"torch==0."))
    try:
        result = command("repeat", first.short_id, "--json")
    finally:
        file.write_bytes(kept)
        packages.write_bytes(kept_packages)
    assert result.exit_code == 1
    done = json.loads(result.stdout)
    assert done["same"] is False
    assert done["largest_difference"] > 0
    assert "torch" in {difference["name"] for difference in done["changed"]}


def test_quantised_and_merged_weights_are_repeated_from_the_log(home, log) -> None:
    [quantised], [_, merged] = log.runs("quantized_model"), log.runs("merged_model")
    shutil.rmtree(home.store.root / "merged_model" / quantised.params["data.merged_model"][:16])
    for run, compared in ((merged, "the merged weights"), (quantised, "the quantised weights")):
        done = repeat(run, log)
        assert (done.compared, done.same, done.changed) == (compared, True, ())
        assert done.before == done.after == run.tags["ragtune.result"]


def test_scores_are_computed_again_from_the_logged_answers(home, log) -> None:
    scored = next(run for run in log.runs("scored_model") if run.name == "fine-tuned w8a8")
    done = repeat(scored, log)
    assert (done.same, done.largest_difference) == (True, 0.0)
    home.client.log_metric(scored.id, "test/token_f1", 0.99, step=1)
    assert repeat(log.run(scored.id), log).same is False
    home.client.log_metric(scored.id, "test/token_f1", scored.metrics["test/token_f1"], step=2)


def test_a_run_that_cannot_be_repeated_says_what_can(home, log) -> None:
    scoring, *_ = log.runs("eval_scores")
    with pytest.raises(ExperimentError, match=r"only holds other runs[\s\S]*fine-tuned w8a8"):
        repeat(scoring, log)
    with pytest.raises(ExperimentError, match=r"depends on an engine[\s\S]*materialize --select benchmark_runs"):
        repeat(replace(scoring, id="0" * 32, asset="benchmark_runs"), log)
    with pytest.raises(ExperimentError, match="is FAILED"):
        repeat(replace(log.runs("lora_adapter")[0], status="FAILED"), log)


def test_another_base_model_than_that_of_the_run_is_refused_with_both_hashes(home, log) -> None:
    run = log.runs("lora_adapter")[-1]
    changed = replace(run, params={**run.params, "data.base_model": "ab" * 32})
    file = home.files(run.id) / "settings.yaml"
    kept = file.read_text()
    folder = home.store.folder(home.ref("base_model"))
    file.write_text(kept.replace("name: smollm2", f"name: {folder}", 1))
    try:
        with pytest.raises(ExperimentError, match=r"has the hash [0-9a-f]{16}[\s\S]*which has abababab"):
            repeat(changed, log)
    finally:
        file.write_text(kept)


# --- comparing


def test_a_comparison_names_what_differs_and_pairs_the_gains_by_question(home, log) -> None:
    first = log.runs("lora_adapter")[-1]
    second = next(run for run in log.runs("lora_adapter") if run.params["training.learning_rate"] == "0.02")
    found = compare(log, first, second)
    settings = {one.name: (one.a, one.b) for one in found.settings}
    assert settings["training.learning_rate"] == ("0.01", "0.02")
    assert not any(name.startswith(("gateway.", "ports.")) for name in settings)
    assert (found.data, found.code, found.notes) == ((), (), ())
    [pair] = [pair for pair in found.scores if pair.metric == "token_f1"]
    assert pair.precision == "w8a8"
    assert pair.gain is not None
    assert pair.a is not None
    assert pair.b is not None
    assert pair.gain.gain == pytest.approx(pair.b.value - pair.a.value)
    assert 0 < pair.gain.low < pair.gain.gain < pair.gain.high
    wide = (pair.b.high - pair.b.low) + (pair.a.high - pair.a.low)
    assert pair.gain.high - pair.gain.low < wide / 2, "pairs tell more than two intervals"


def test_only_questions_that_both_answered_are_paired(home, log) -> None:
    first, second = (run for run in log.runs("scored_model") if run.name == "fine-tuned w8a8")
    file = home.files(first.id) / "answers.json"
    kept = file.read_text()
    table = json.loads(kept)
    file.write_text(json.dumps({**table, "data": table["data"][:30]}))
    try:
        found = compare(log, first, second)
    finally:
        file.write_text(kept)
    [pair] = [pair for pair in found.scores if pair.metric == "token_f1"]
    assert pair.gain is not None
    assert pair.gain.n == 30
    assert found.notes == ("w8a8: A answered 30 questions and B 48; gains are over the 30 of both.",)


def test_runs_without_a_common_precision_are_compared_without_scores(home, log) -> None:
    [quantised] = [run for run in log.runs("quantized_model") if "ragtune.repeats" not in run.tags]
    bare = replace(quantised, tags={}, asset="retrieval_scores")
    assert "no precision" in compare(log, quantised, bare).notes[0]


# --- the command


def test_the_list_shows_trainings_with_their_scores_and_all_runs_if_asked(home, log, command) -> None:
    text = command("list").stdout
    first = log.runs("lora_adapter")[-1]
    row = next(line for line in text.splitlines() if line.strip().startswith(first.short_id))
    assert "finished" in row
    assert f"{first.metrics['test/token_f1']:.3f} [" in row
    assert "eval_scores" not in text
    every = command("list", "--all", "--limit", "100").stdout
    assert {"eval_scores", "quantized_model"} <= set(every.split())
    assert len(json.loads(command("list", "--asset", "eval_scores", "--json").stdout)) == 2


def test_a_run_is_shown_with_its_links_its_own_settings_and_what_repeated_it(home, log, command) -> None:
    first = log.runs("lora_adapter")[-1]
    text = command("show", first.short_id).stdout
    assert f"/#/runs/{first.id}" in text
    assert f"/runs/{first.tags['dagster_run_id']}" in text
    assert "training.max_steps" in text
    assert "quantization.calibration_samples" in text
    assert "training.warmup_share" not in text, "a default"
    assert home.ref("qa_splits").sha256[:12] in text


def test_the_comparison_is_printed_for_people(home, log, command) -> None:
    first, second = (run for run in log.runs("scored_model") if run.name == "fine-tuned w8a8")
    text = command("compare", second.short_id, first.short_id).stdout
    assert "training.learning_rate" in text
    assert "Code and machine: the same" in text
    assert "gains are paired by question" in text


def test_an_unknown_run_and_commands_of_ab_tests_are_answered_with_what_to_do(home, command) -> None:
    assert "No tracked run has an id" in str(command("show", "zz").exception)
    assert "`ragtune experiment start x`" in str(command("start", "x").exception)
    wrong = CliRunner().invoke(app, ["experiment", "repeat", "abc"]).exception
    assert "`ragtune experiments repeat abc`" in str(wrong)


def test_a_home_without_runs_says_how_to_get_some_and_makes_no_database(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["experiments", "list"])
    assert "`ragtune materialize` tracks every training" in result.stdout
    assert not (tmp_path / "mlflow").exists()
