"""Preference training moves the adapter towards the wanted answers, forgets nothing, and survives being killed."""

import math
import multiprocessing
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragtune.errors import DatasetError, ModelError
from ragtune.model.base.capacity import Machine
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.base.merge import merge_adapter
from ragtune.model.examples.preferences import PreferenceExample
from ragtune.model.examples.tokens import split_reply
from ragtune.model.training.adapters import WEIGHTS
from ragtune.model.training.checkpoints import newest_checkpoint
from ragtune.model.training.preference import (
    PreferenceData,
    PreferenceJob,
    PreferenceReport,
    forgetting_warnings,
    read_preference,
    train_preference,
)
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.trainer import CLOCK
from ragtune.model.training.validation import Validation
from ragtune.model_settings import PreferenceSettings, TrainingSettings
from ragtune.ports import Progress, silent
from ragtune.records import Message
from tests.support.tiny_llama import make_tiny_llama, talks

TRAINING = TrainingSettings(steps=12, max_steps=12, batch_size=4, learning_rate=0.01, eval_every=0)
PREFERENCE = PreferenceSettings(enabled=True, learning_rate=0.01, max_steps=16, max_epochs=20, checkpoint_every=3)
WANTED, UNWANTED = "the default stands in passage one . [1]", "the user is system ."
EXAMPLES = [
    PreferenceExample(messages=talk.messages[:-1], chosen=WANTED, rejected=UNWANTED, feedback_ids=(f"fb-{place}",))
    for place, talk in enumerate(talks(12))
]
MACHINE = Machine("cpu", 1)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ragtune.model.training.preference_trainers", "peft"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model `base` and the adapter `sft` that was trained on it."""
    folder = tmp_path_factory.mktemp("tiny")
    base = make_tiny_llama(folder / "base")
    job = TrainingJob(base=base, settings=TRAINING, seed=7, out=folder / "sft", checkpoints=folder / "checkpoints")
    train_adapter(job, talks(40), talks(4), Tracker(), MACHINE)
    return folder


def train(
    tiny: Path, out: Path, method: Any = "dpo", examples: Any = EXAMPLES, progress: Progress = silent, **changes: Any
) -> PreferenceReport:
    job = PreferenceJob(
        base=tiny / "base",
        adapter=tiny / "sft",
        training=TRAINING,
        preference=PREFERENCE.model_copy(update=changes),
        seed=7,
        out=out / "adapter",
        checkpoints=out / "checkpoints",
    )
    data = PreferenceData(method=method, examples=examples, replay=talks(16), validation=talks(4))
    return train_preference(job, data, Tracker(), MACHINE, progress)


def log_probability(tiny: Path, adapter: Path, text: str) -> float:
    """Return the mean log-probability of an answer to the prompts of the examples."""
    import torch
    from peft import PeftModel

    tokenizer = load_tokenizer(tiny / "base")
    model = PeftModel.from_pretrained(load_model(tiny / "base"), adapter).eval()
    total = 0.0
    for example in EXAMPLES:
        prompt, reply = split_reply(tokenizer, (*example.messages, Message("assistant", text)))
        with torch.no_grad():
            scores = model(torch.tensor([[*prompt, *reply]])).logits[0].float().log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(reply) - 1)
        total += sum(float(scores[place, token]) for place, token in zip(places, reply, strict=True))
    return total / len(EXAMPLES)


@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_the_wanted_answers_become_likelier_and_the_unwanted_ones_less_likely(
    tiny: Path, tmp_path: Path, method: str
) -> None:
    report = train(tiny, tmp_path, method)
    before, after = tiny / "sft", tmp_path / "adapter"
    margins = [log_probability(tiny, one, WANTED) - log_probability(tiny, one, UNWANTED) for one in (before, after)]
    assert margins[1] > margins[0] + 1, "the answers are some ten tokens long: a nat is more than noise"
    assert (report.method, report.steps, report.pairs, report.warnings) == (method, 16, 12, ())
    assert (report.chosen, report.rejected) == (12, 12)
    assert report.feedback_ids == tuple(sorted(f"fb-{place}" for place in range(12)))
    assert read_preference(after) == report


def test_kto_learns_from_thumbs_without_pairs(tiny: Path, tmp_path: Path) -> None:
    up = [replace(example, rejected="") for example in EXAMPLES[:6]]
    down = [replace(example, chosen="") for example in EXAMPLES[6:]]
    report = train(tiny, tmp_path, "kto", [*up, *down])
    assert (report.chosen, report.rejected, report.pairs) == (6, 6, 0)
    gains = [
        log_probability(tiny, tmp_path / "adapter", text) - log_probability(tiny, tiny / "sft", text)
        for text in (WANTED, UNWANTED)
    ]
    assert gains[0] > gains[1] + 1


def test_the_first_loss_of_dpo_is_that_of_equal_models_and_replay_adds_that_of_the_conversations(
    tiny: Path, tmp_path: Path
) -> None:
    alone = train(tiny, tmp_path / "alone", replay_share=0.0, max_steps=1)
    assert alone.losses[0][1] == pytest.approx(math.log(2), abs=1e-3), "-log sigmoid(0)"
    assert alone.replayed == 0
    both = train(tiny, tmp_path / "both", max_steps=1)
    assert both.replayed == 4, "half of the rows of a step with four examples"
    assert both.losses[0][1] == pytest.approx(math.log(2) + (both.validations[0].loss or 0), rel=0.15), "like others"


def test_with_replay_the_conversations_of_sft_stay_likelier_than_without(tiny: Path, tmp_path: Path) -> None:
    kept, lost = train(tiny, tmp_path / "kept"), train(tiny, tmp_path / "lost", replay_share=0.0)
    after = [report.validations[-1].loss or 0.0 for report in (kept, lost)]
    assert after[0] < after[1]


def test_a_loss_of_sft_that_grew_by_a_fifth_is_warned_about_with_the_settings_to_change() -> None:
    measured = [
        Validation(step=step, right=0, refused=0, held=0, n=0, loss=loss) for step, loss in ((0, 1.0), (9, 1.3))
    ]
    assert forgetting_warnings([]) == forgetting_warnings(measured[:1]) == []
    assert forgetting_warnings([measured[0], replace(measured[1], loss=1.1)]) == []
    [warning] = forgetting_warnings(measured)
    assert "grew from 1 to 1.3: the model forgets. Lower preference.learning_rate" in warning


def test_the_adapter_merges_like_the_one_after_sft_and_keeps_its_files(tiny: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path, max_steps=2)
    names = {path.name for path in (tiny / "sft").iterdir()}
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == names | {"preference.json"}
    merge_adapter(tiny / "base", tmp_path / "adapter", tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


class Killer:
    """A progress report that kills its own process at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, what: str, done: int, total: int) -> None:
        step = re.match(r"training, step (\d+)", what)
        if step and int(step[1]) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_a_killed_training_goes_on_and_gives_the_same_adapter(tiny: Path, tmp_path: Path, method: str) -> None:
    train(tiny, tmp_path / "whole", method)
    process = CONTEXT.Process(target=train, args=(tiny, tmp_path / "cut", method, EXAMPLES, Killer(8)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    report = train(tiny, tmp_path / "cut", method)
    assert report.resumed_from == 6
    whole, cut = (tmp_path / name / "adapter" / WEIGHTS for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_a_number_that_is_not_finite_ends_the_training_and_names_the_setting(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not finite.*[\s\S]*lower preference\.learning_rate"):
        train(tiny, tmp_path, learning_rate=1e39, checkpoint_every=1)
    assert newest_checkpoint(tmp_path / "checkpoints", CLOCK) is None
    assert not (tmp_path / "adapter").exists()


def test_examples_that_are_too_long_are_counted_and_too_few_are_refused(tiny: Path, tmp_path: Path) -> None:
    longest = replace(EXAMPLES[0], chosen="one two three " * 400)
    assert train(tiny, tmp_path, examples=[*EXAMPLES[1:], longest], max_steps=1).dropped == 1
    with pytest.raises(DatasetError, match="1 of 2 preference examples fit into 1024 tokens"):
        train(tiny, tmp_path, examples=[EXAMPLES[1], longest])
