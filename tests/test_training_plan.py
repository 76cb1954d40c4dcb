"""How long a training takes, when it stops, what it validates and which checkpoint it trusts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.errors import ModelError
from ragtune.model.base.capacity import Machine
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.training.adapters import WEIGHTS
from ragtune.model.training.checkpoints import newest_checkpoint
from ragtune.model.training.report import AdapterReport
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.trainer import CLOCK, MEASURED_STEPS, StepPlan
from ragtune.model.training.validation import (
    BEST,
    RECORD,
    BestCheckpoint,
    Measures,
    Validation,
    best_validation,
    generated_answers,
    validation_scores,
)
from ragtune.model_settings import TrainingSettings
from tests.support.tiny_llama import make_tiny_llama, talks

SETTINGS = TrainingSettings(
    minutes=5, max_steps=12, batch_size=4, checkpoint_every=4, learning_rate=0.01, validation_examples=4
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


def train(base: Path, folder: Path, **changes: float | str) -> AdapterReport:
    settings = TrainingSettings(**{**SETTINGS.model_dump(), **changes})
    job = TrainingJob(base=base, settings=settings, seed=7, out=folder / "out", checkpoints=folder / "resume")
    questions = [replace(talk, evidence="the default") for talk in talks(4)]
    return train_adapter(job, talks(40), questions, Tracker(), Machine("cpu", 1))


def weights(folder: Path) -> bytes:
    return (folder / "out" / WEIGHTS).read_bytes()


# The plan of steps


def test_the_speed_of_the_first_steps_fixes_how_many_fit_into_the_time() -> None:
    plan = StepPlan(seconds=100.0, max_steps=1000, warmup_share=0.1)
    plan.record(9.0)  # the first step prepares memory and says nothing about the others
    for _ in range(MEASURED_STEPS - 1):
        assert plan.total == 0
        plan.record(2.0)
    left = 100.0 - 9.0 - 2.0 * (MEASURED_STEPS - 1)
    assert plan.total == MEASURED_STEPS + round(left / 2.0)
    plan.record(50.0)  # later speed changes nothing
    assert plan.total == MEASURED_STEPS + round(left / 2.0)


def test_a_plan_never_exceeds_the_largest_number_of_steps_and_ends_soon_if_the_time_is_over() -> None:
    fast, slow = StepPlan(100.0, 20, 0.1), StepPlan(1.0, 1000, 0.1)
    for _ in range(MEASURED_STEPS):
        fast.record(0.01)
    slow.record(5.0)
    assert fast.total == 20
    assert (slow.total, slow.over) == (1, True)


def test_learning_rates_depend_on_steps_alone() -> None:
    measured, repeated = StepPlan(100.0, 1000, 0.2), StepPlan(1.0, 1000, 0.2, total=50)
    rates = []
    for step in range(50):
        if step == MEASURED_STEPS:
            measured.total = 50
        rates.append((measured.rate(step), repeated.rate(step)))
    assert all(first == second for first, second in rates)
    peak = max(rates)
    assert peak[0] == 1.0
    assert rates.index(peak) == 10
    assert rates[-1][0] < 0.03


@pytest.mark.parametrize(
    ("schedule", "after_half", "last"), [("linear", 0.5, 0.02), ("cosine", 0.5, 0.02), ("constant_with_warmup", 1, 1)]
)
def test_after_the_warm_up_the_rate_follows_the_schedule(schedule: str, after_half: float, last: float) -> None:
    plan = StepPlan(1.0, 1000, 0.2, total=100, schedule=schedule)
    rates = [plan.rate(step) for step in range(101)]
    assert max(rates) == rates[20] == 1.0
    assert rates[60] == pytest.approx(after_half)
    assert rates[100] == pytest.approx(last)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_a_cosine_stays_high_for_longer_than_a_line() -> None:
    line, cosine = (StepPlan(1.0, 1000, 0.2, total=100, schedule=name) for name in ("linear", "cosine"))
    assert cosine.rate(40) > line.rate(40) + 0.05
    assert cosine.rate(80) < line.rate(80) - 0.05


def test_a_training_with_the_logged_steps_gives_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    first = train(tiny, tmp_path / "first", minutes=0.02, max_steps=300, max_epochs=100)
    second = train(tiny, tmp_path / "second", minutes=9, steps=first.planned_steps, max_steps=300, max_epochs=100)
    assert first.stopped_by == "minutes"
    assert second.steps == first.steps == first.planned_steps
    assert weights(tmp_path / "first") == weights(tmp_path / "second")


# Numbers that are not finite


def test_training_stops_at_the_first_number_that_is_not_finite_and_keeps_the_last_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"not finite[\s\S]*learning_rate"):
        train(tiny, tmp_path, learning_rate=1e30, checkpoint_every=1)
    found = newest_checkpoint(tmp_path / "resume", CLOCK)
    assert found is not None
    assert not (tmp_path / "out").exists()


# Checkpoints


@pytest.mark.parametrize("damage", ["empty weights", "no weights", "no record", "half of the optimiser"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tiny: Path, tmp_path: Path, damage: str) -> None:
    whole = train(tiny, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "resume", tmp_path / "cut" / "resume")
    newest = tmp_path / "cut" / "resume" / "checkpoint-12"
    if damage == "empty weights":
        (newest / WEIGHTS).write_bytes(b"")
    elif damage == "no weights":
        (newest / WEIGHTS).unlink()
    elif damage == "no record":
        (newest / CLOCK).unlink()
    else:
        optimiser = newest / "optimizer.pt"
        optimiser.write_bytes(optimiser.read_bytes()[: optimiser.stat().st_size // 2])
    messages: list[str] = []
    found = newest_checkpoint(tmp_path / "cut" / "resume", CLOCK, lambda what, *_: messages.append(what))
    assert found is not None
    assert found[0].name == "checkpoint-8"
    assert any("checkpoint-12 is not used" in message for message in messages)

    resumed = train(tiny, tmp_path / "cut")
    assert (resumed.resumed_from, resumed.steps) == (8, 12)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert resumed.losses == whole.losses


# Validation by generation


def test_answers_are_right_if_they_hold_the_evidence_and_refusals_are_counted_apart() -> None:
    examples = [
        replace(talk, evidence=evidence) for talk, evidence in zip(talks(4), ["7 marks", "x", "y", ""], strict=True)
    ]
    answers = ["It costs 7  Marks. [1]", "I could not find this in the documents.", "Nothing.", "Sorry, I do not know."]
    assert validation_scores(3, examples, answers) == Validation(step=3, right=1 / 3, refused=1 / 3, held=1.0, n=3)


def test_of_a_whole_sentence_an_answer_needs_most_words_and_not_the_same_order() -> None:
    example = replace(talks(1)[0], evidence="The night ferry leaves the northern quay at eleven in winter.")
    answers = ["In winter the night ferry leaves at eleven from the northern quay.", "The ferry leaves at nine."]
    rights = [validation_scores(0, [example], [answer]).right for answer in answers]
    assert rights == [1.0, 0.0]


def test_a_batch_of_answers_equals_the_answers_one_by_one(tiny: Path) -> None:
    import torch

    model, tokenizer = load_model(tiny).float(), load_tokenizer(tiny)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "layernorm" not in name:
            torch.nn.init.normal_(weight, std=0.3)  # the weights of `make_tiny_llama` are too small to say anything
    together = generated_answers(model, tokenizer, talks(5))
    assert together == [generated_answers(model, tokenizer, [talk])[0] for talk in talks(5)]
    assert len(set(together)) > 1


QUESTIONS = [replace(talk, evidence="yes") for talk in talks(4)]


def validated(metric: str, patience: int, rights: list[float], losses: list[float], folder: Path):
    """Return the validations, the steps whose adapter was saved, and after which steps patience was over."""
    saved: list[int] = []
    step = 0

    def answers(questions):
        return ["yes" if place < rights[step] * len(questions) else "no" for place in range(len(questions))]

    settings = TrainingSettings(
        eval_every=1, eval_answers=4, early_stopping_patience=patience, metric_for_best_model=metric
    )
    measures = Measures(lambda: losses[step], answers, lambda _: saved.append(step))
    keeper = BestCheckpoint(settings, QUESTIONS, measures, folder)
    validations: list[Validation] = []
    given_up = []
    for step in range(len(rights)):
        validations.append(keeper.validate(step, validations))
        given_up.append(keeper.gives_up(validations))
    return validations, saved, given_up


def test_the_adapter_with_most_right_answers_is_kept_and_patience_ends_a_training(tmp_path: Path) -> None:
    validations, saved, given_up = validated("right", 2, [0.25, 0.75, 0.5, 0.75], [4.0, 3.0, 2.0, 1.0], tmp_path)
    assert saved == [0, 1]
    assert json.loads((tmp_path / BEST / RECORD).read_text())["right"] == 0.75
    assert best_validation(validations, "right").step == 1
    assert given_up == [False, False, False, True]


def test_the_adapter_with_the_lowest_loss_is_kept_if_the_loss_is_the_metric(tmp_path: Path) -> None:
    validations, saved, given_up = validated("loss", 1, [0.25, 0.75, 0.5, 0.75], [4.0, 3.0, 3.5, 3.1], tmp_path)
    assert saved == [0, 1]
    assert best_validation(validations, "loss").loss == 3.0
    assert given_up == [False, False, True, True]


def test_right_answers_as_the_metric_need_answers() -> None:
    with pytest.raises(ValueError, match="set eval_every and eval_answers above 0"):
        TrainingSettings(metric_for_best_model="right")


def test_validation_begins_before_the_first_step_and_the_best_adapter_is_written(tiny: Path, tmp_path: Path) -> None:
    report = train(tiny, tmp_path, eval_every=4, eval_answers=4, metric_for_best_model="right")
    assert [validation.step for validation in report.validations] == [0, 4, 8, 12]
    best = best_validation(report.validations, "right")
    assert (report.best_step, report.validation_loss) == (best.step, best.loss)
    kept = (tmp_path / "resume" / BEST / WEIGHTS).read_bytes()
    assert (kept == weights(tmp_path)) or report.best_step == 12


def test_by_default_the_loss_is_validated_and_falls_below_that_before_training(tiny: Path, tmp_path: Path) -> None:
    report = train(tiny, tmp_path, eval_every=TrainingSettings().eval_every)
    before, after = report.validations
    assert (before.step, after.step, before.n) == (0, 12, 0)
    assert after.loss < before.loss - 0.1
    assert report.validation_loss == after.loss


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_validation_changes_nothing_about_the_training(tiny: Path, tmp_path: Path, dropout: float) -> None:
    with_validation = train(tiny, tmp_path / "with", eval_every=4, eval_answers=4, dropout=dropout)
    without = train(tiny, tmp_path / "without", eval_every=0, dropout=dropout)
    assert with_validation.losses == without.losses


# A larger rank


def test_a_training_with_a_larger_rank_begins_where_the_earlier_adapter_ended(tiny: Path, tmp_path: Path) -> None:
    first = train(tiny, tmp_path / "first")
    wider = train(
        tiny, tmp_path / "wider", start_from=str(tmp_path / "first" / "out"), rank=32, alpha=64, learning_rate=1e-9
    )
    # The rate moves no weight by more than rounding; another rank sums in another order.
    assert wider.validation_loss == pytest.approx(first.validation_loss, abs=0.02)


def test_a_larger_rank_needs_alpha_in_proportion(tiny: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path / "first")
    with pytest.raises(ModelError, match="has rank 16 and alpha 32, which is a scale of 2"):
        train(tiny, tmp_path / "wider", start_from=str(tmp_path / "first" / "out"), rank=32, alpha=32)
