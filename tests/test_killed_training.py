"""A training that is killed at any moment and started again gives the same adapter, bit for bit."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragtune.errors import ModelError, ResourceError
from ragtune.model.base.capacity import Machine
from ragtune.model.training.adapters import WEIGHTS
from ragtune.model.training.checkpoints import BEST, newest_checkpoint
from ragtune.model.training.losses import divergence
from ragtune.model.training.report import AdapterReport, read_report
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.trainer import CLOCK
from ragtune.model_settings import TrainingSettings
from ragtune.ports import Progress, silent
from tests.support.small_disk import fill
from tests.support.tiny_llama import make_tiny_llama, talks

SETTINGS = TrainingSettings(
    steps=14,
    max_steps=14,
    batch_size=4,
    checkpoint_every=3,
    learning_rate=0.01,
    dropout=0.1,  # draws random numbers in every step
    eval_every=4,
    eval_answers=4,
    metric_for_best_model="right",
    validation_examples=4,
)
KILLS = 5
"""Random moments at which each training is killed; a training of 14 steps has checkpoints after every third."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ragtune.model.training.trainer", "peft"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


def train(base: Path, folder: Path, threads: int = 1, progress: Progress = silent, **changes: Any) -> AdapterReport:
    job = TrainingJob(
        base=base,
        settings=SETTINGS.model_copy(update=changes),
        seed=7,
        out=folder / "out",
        checkpoints=folder / "resume",
    )
    questions = [replace(talk, evidence="the default") for talk in talks(4)]
    return train_adapter(job, talks(40), questions, Tracker(), Machine("cpu", threads), progress)


class Killer:
    """A progress report that kills its own process some part of a step after a step was reached."""

    def __init__(self, step: int, part: float) -> None:
        self.step, self.part, self.reached = step, part, time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        step = re.match(r"training, step (\d+)", what)
        seconds, self.reached = time.monotonic() - self.reached, time.monotonic()
        if step and int(step[1]) >= self.step:
            threading.Timer(self.part * seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def exit_code(base: Path, folder: Path, threads: int, progress: Progress = silent) -> int | None:
    """Train in a process of its own and return its exit code."""
    process = CONTEXT.Process(target=train, args=(base, folder, threads, progress))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_killed_at_random_moments_gives_the_same_adapter(tiny: Path, tmp_path: Path, threads: int) -> None:
    assert exit_code(tiny, tmp_path / "whole", threads) == 0

    draws = random.Random(threads)
    for step in sorted(draws.sample(range(1, SETTINGS.steps), KILLS)):
        killer = Killer(step, draws.uniform(0, 1))
        assert exit_code(tiny, tmp_path / "cut", threads, killer) == -signal.SIGKILL
    assert exit_code(tiny, tmp_path / "cut", threads) == 0

    whole, cut = (read_report(tmp_path / name / "out") for name in ("whole", "cut"))
    assert cut.resumed_from > 0
    assert (cut.losses, cut.validations, cut.best_step) == (whole.losses, whole.validations, whole.best_step)
    weights = [(tmp_path / name / "out" / WEIGHTS).read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_training_that_patience_ended_is_not_continued(tiny: Path, tmp_path: Path) -> None:
    first = train(tiny, tmp_path, eval_every=2, early_stopping_patience=1, learning_rate=1e-9)
    assert (first.stopped_by, first.steps) == ("patience", 2)
    again = train(tiny, tmp_path, eval_every=2, early_stopping_patience=1, learning_rate=1e-9)
    assert (again.stopped_by, again.steps, again.resumed_from) == ("patience", 2, 2)


@pytest.mark.parametrize("content", [b"", b'{"files": {"a'], ids=["empty", "half-written"])
def test_a_damaged_record_of_a_checkpoint_is_named_and_the_one_before_is_used(
    tiny: Path, tmp_path: Path, content: bytes
) -> None:
    train(tiny, tmp_path)
    (tmp_path / "resume" / "checkpoint-14" / CLOCK).write_bytes(content)
    messages: list[str] = []
    found = newest_checkpoint(tmp_path / "resume", CLOCK, lambda what, *_: messages.append(what))
    assert found is not None
    assert found[0].name == "checkpoint-12"
    assert messages == ["checkpoint-14 is not used: it was not written to its end; an earlier checkpoint is"]


def test_without_the_record_of_the_run_the_training_starts_again_and_says_so(tiny: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path)
    (tmp_path / "resume" / "run.json").write_bytes(b"")
    messages: list[str] = []
    report = train(tiny, tmp_path, progress=lambda what, *_: messages.append(what))
    assert report.resumed_from == 0
    assert any("run.json is damaged" in message for message in messages)


def test_a_damaged_best_adapter_is_named_and_the_last_one_is_used(tiny: Path, tmp_path: Path) -> None:
    first = train(tiny, tmp_path)
    assert first.best_step < first.steps
    (tmp_path / "resume" / BEST / WEIGHTS).write_bytes(b"")
    messages: list[str] = []
    report = train(tiny, tmp_path, progress=lambda what, *_: messages.append(what))
    assert report.best_step == report.steps
    assert any("best is missing or damaged" in message for message in messages)


def test_too_little_disk_is_told_before_the_first_step(tiny: Path, small_disk: Path, tmp_path: Path) -> None:
    free = fill(small_disk, leave=64 << 10)
    steps: list[str] = []
    job = TrainingJob(base=tiny, settings=SETTINGS, seed=7, out=tmp_path / "out", checkpoints=small_disk / "resume")
    with pytest.raises(ResourceError, match=r"GiB below \S+resume are needed for the checkpoints of the training"):
        train_adapter(job, talks(16), talks(2), Tracker(), Machine("cpu", 1), lambda what, *_: steps.append(what))
    assert not [what for what in steps if what.startswith("training, step")]
    free()


# Numbers that are not finite, and losses that grow


def test_a_weight_that_becomes_infinite_ends_the_training_before_a_checkpoint_has_it(
    tiny: Path, tmp_path: Path
) -> None:
    # The first step of AdamW moves a weight by the learning rate: 1e39 is infinite in float32.
    with pytest.raises(ModelError, match=r"stopped at step 1: the weight of \d+ tensors is not finite"):
        train(tiny, tmp_path, learning_rate=1e39, checkpoint_every=1, dropout=0.0)
    assert newest_checkpoint(tmp_path / "resume", CLOCK) is None


def test_a_loss_diverges_if_its_mean_is_twice_the_lowest_before() -> None:
    assert divergence([2.0] * 30) == ""
    assert divergence([2.0, 8.0] + [1.0] * 20 + [1.8] * 10) == "", "less than twice"
    assert divergence([0.04] * 20 + [0.09] * 10) == "", "twice, but both near zero"
    assert "last 10 steps is 2.5 after 1. Lower training.learning_rate" in divergence([1.0] * 20 + [2.5] * 10)
    assert divergence([1.0] * 9 + [8.0]) == "", "a single batch says little"
    assert "is 8.2 after 1" in divergence([1.0] + [9.0] * 9), "from the first step on"


def test_a_diverging_loss_is_reported_while_training_and_in_the_report(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = Path(shutil.copytree(tiny, tmp_path / "loud"))
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 60  # so that the model can be wrong with great certainty
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    plain = {"eval_every": 0, "dropout": 0.0, "steps": 60, "max_steps": 60, "max_epochs": 100}
    assert train(base, tmp_path / "good", learning_rate=0.05, **plain).warnings == ()
    messages: list[str] = []
    report = train(
        base,
        tmp_path / "bad",
        progress=lambda what, *_: messages.append(what),
        learning_rate=0.5,
        warmup_share=0.9,  # the rate rises to the end: the loss is good before it is bad
        start_from=str(tmp_path / "good" / "out"),
        **plain,
    )
    (warning,) = report.warnings
    assert "the training loss diverges" in warning
    assert warning in messages


def test_a_training_that_learns_warns_about_nothing(tiny: Path, tmp_path: Path) -> None:
    assert train(tiny, tmp_path).warnings == ()
