"""The asset that trains preferences: skipped with numbers, or a tracked run of its own whose adapter is merged."""

from pathlib import Path

import pytest

from ragtune.model.examples.preferences import PreferenceExample
from ragtune.model.repetition import repeat
from ragtune.model.runs.log import RunLog
from ragtune.model.training.adapters import WEIGHTS
from ragtune.model.training.preference import read_preference
from ragtune.records import Message
from ragtune_assets.model import learnt_feedback
from tests.support.tracked_home import TrackedHome

PREFERENCE = {
    "enabled": True,
    "min_examples": 6,
    "batch_size": 3,
    "max_steps": 3,
    "max_epochs": 9,
    "learning_rate": 0.01,
}
PROMPT = (Message("system", "the answer stands in passage one ."), Message("user", "[1] the default is 7 ."))
EXAMPLES = [
    PreferenceExample(messages=PROMPT, chosen=f"the default is {n} . [1]", rejected="two .", feedback_ids=(f"fb-{n}",))
    for n in range(6)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, give_mlflow) -> TrackedHome:
    """A home in which SFT ran, first without enough feedback and then with six corrections."""
    folder = tmp_path_factory.mktemp("home")
    give_mlflow(folder)
    home = TrackedHome(folder, preference=PREFERENCE)
    home.store.set_current(home.store.write_records("preference_examples", EXAMPLES[:2]))
    home.run("lora_adapter")
    home.run("preference_adapter")
    assert home.ref("preference_adapter").sha256 == home.ref("lora_adapter").sha256
    assert home.runs("tags.`ragtune.asset` = 'preference_adapter'") == [], "a skipped training is no run"
    home.store.set_current(home.store.write_records("preference_examples", EXAMPLES))
    home.run("preference_adapter")
    home.run("merged_model")
    return home


def test_enough_feedback_trains_another_adapter_in_a_run_below_that_of_dagster(home: TrackedHome) -> None:
    run = home.newest("preference_adapter")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"]
    assert run.data.tags["ragtune.result"] == home.ref("preference_adapter").sha256 != home.ref("lora_adapter").sha256
    assert run.data.params["data.preference_examples"] == home.ref("preference_examples").sha256
    assert (run.data.params["method"], run.data.metrics["pairs"]) == ("dpo", 6.0)
    assert run.data.metrics["validation_loss"] > 0
    assert {"rewards/margins", "loss/replay"} <= run.data.metrics.keys()


def test_the_adapter_names_the_feedback_that_it_learnt_from_and_is_the_one_that_is_merged(home: TrackedHome) -> None:
    folder = home.store.folder(home.ref("preference_adapter"))
    report = read_preference(folder)
    assert report is not None
    assert learnt_feedback(folder, []) == report.feedback_ids == tuple(f"fb-{n}" for n in range(6))
    merging = home.newest("merged_model")
    assert merging.data.params["data.preference_adapter"] == home.ref("preference_adapter").sha256


@pytest.mark.parametrize("asset", ["preference_adapter", "merged_model"])
def test_a_preference_training_and_its_merge_are_repeated_from_their_logs(home: TrackedHome, asset: str) -> None:
    log = RunLog(home.settings)
    assert repeat(log.runs(asset)[-1], log).same


def test_no_checkpoint_stays_after_the_training(home: TrackedHome) -> None:
    assert not Path(home.settings.home, "work", "preference_adapter").exists()
    assert (home.store.folder(home.ref("preference_adapter")) / WEIGHTS).is_file()
