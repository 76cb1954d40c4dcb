import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ragtune.errors import DatasetError, ModelError, SettingsError
from ragtune.model.base.capacity import Machine
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.base.merge import merge_adapter
from ragtune.model.examples.tokens import Tokenized, batch_order, pack, tokenize
from ragtune.model.training.arguments import on_one_device
from ragtune.model.training.report import AdapterReport, read_report
from ragtune.model.training.sft import TrainingData, TrainingJob, build_trainer, train_adapter
from ragtune.model.training.tracking import MlflowTracker, Tracker
from ragtune.model_settings import TrainingSettings
from ragtune.ports import silent
from ragtune.records import Message
from tests.support.tiny_llama import Talk, make_tiny_llama, talks

SETTINGS = TrainingSettings(
    minutes=5, max_steps=12, batch_size=4, checkpoint_every=4, learning_rate=0.01, validation_examples=4
)

ONE_CORE = Machine("cpu", 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdapterReport]:
    folder = tmp_path_factory.mktemp("trained")
    tracker = MlflowTracker(f"sqlite:///{folder}/ml/mlflow.db", "tests", "tiny", folder / "runs")
    report = train(tiny, folder, SETTINGS, tracker)
    return folder, report


def train(base: Path, folder: Path, settings: TrainingSettings, tracker: Tracker | None = None) -> AdapterReport:
    job = TrainingJob(base=base, settings=settings, seed=7, out=folder / "out", checkpoints=folder / "resume")
    return train_adapter(job, talks(40), talks(6), tracker or Tracker(), ONE_CORE)


def test_training_lowers_the_loss_and_reports_its_numbers(trained: tuple[Path, AdapterReport]) -> None:
    folder, report = trained
    assert report.steps == 12
    assert report.stopped_by == "max_steps"
    assert [step for step, _ in report.losses] == list(range(1, 13))
    assert report.losses[-1][1] < report.losses[0][1] - 0.1
    assert 0 < report.loss_tokens < report.tokens <= report.padded_tokens
    assert report.validation_loss < report.losses[0][1]
    assert read_report(folder / "out") == report
    assert {p.name for p in (folder / "out").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_mlflow_holds_parameters_curve_and_adapter(trained: tuple[Path, AdapterReport]) -> None:
    from mlflow import MlflowClient

    folder, report = trained
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/ml/mlflow.db")
    run = client.get_run(report.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.01"
    assert len(client.get_metric_history(report.mlflow_run_id, "loss")) == 12
    assert list((folder / "runs").rglob("adapter_model.safetensors"))


def test_answers_of_each_validation_are_logged_as_a_table(tiny: Path, tmp_path: Path) -> None:
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/ml/mlflow.db", "tests", "tiny", tmp_path / "runs")
    job = TrainingJob(
        base=tiny,
        settings=changed(eval_every=6, eval_answers=3),
        seed=7,
        out=tmp_path / "out",
        checkpoints=tmp_path / "resume",
    )
    questions = [replace(talk, evidence="the default") for talk in talks(3)]
    report = train_adapter(job, talks(40), questions, tracker, ONE_CORE)
    folder = tmp_path / "runs" / report.mlflow_run_id / "artifacts" / "samples"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-00{step:04d}.json" for step in (0, 6, 12)]
    table = json.loads((folder / "step-000012.json").read_text())
    assert table["columns"] == ["prompt", "target", "answer"]
    assert [row[1] for row in table["data"]] == [talk.messages[-1].content for talk in talks(3)]
    assert all(isinstance(row[2], str) for row in table["data"])


def test_a_killed_training_continues_from_its_last_complete_checkpoint(tiny: Path, tmp_path: Path) -> None:
    settings = changed(max_steps=40, checkpoint_every=2)
    script = (
        "from pathlib import Path; from ragtune.model_settings import TrainingSettings; "
        "from tests.test_sft import train; "
        f"train(Path({str(tiny)!r}), Path({str(tmp_path)!r}), "
        f"TrainingSettings.model_validate_json({settings.model_dump_json()!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent.parent)
    while child.poll() is None and len(list(tmp_path.glob("resume/checkpoint-*/clock.json"))) < 2:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    newest = max(int(p.parent.name.split("-")[1]) for p in tmp_path.glob("resume/checkpoint-*/clock.json"))
    incomplete = tmp_path / "resume" / "checkpoint-39"
    incomplete.mkdir(exist_ok=True)

    report = train(tiny, tmp_path, settings)
    assert 4 <= report.resumed_from == newest < 40
    assert report.steps == 40
    assert [step for step, _ in report.losses] == list(range(1, 41))
    assert not incomplete.exists()


def test_a_training_with_other_settings_does_not_continue_from_these_checkpoints(
    tiny: Path, trained: tuple[Path, AdapterReport], tmp_path: Path
) -> None:
    shutil.copytree(trained[0] / "resume", tmp_path / "resume")
    report = train(tiny, tmp_path, changed(learning_rate=0.02, max_steps=2))
    assert (report.resumed_from, report.steps) == (0, 2)


def test_a_finished_training_is_not_repeated(tiny: Path, trained: tuple[Path, AdapterReport], tmp_path: Path) -> None:
    shutil.copytree(trained[0] / "resume", tmp_path / "resume")
    report = train(tiny, tmp_path, SETTINGS)
    again, first = (folder / "out" / "adapter_model.safetensors" for folder in (tmp_path, trained[0]))
    assert report.resumed_from == 12
    assert again.read_bytes() == first.read_bytes()
    assert report.losses == trained[1].losses


def test_a_training_can_start_from_an_earlier_adapter(
    tiny: Path, trained: tuple[Path, AdapterReport], tmp_path: Path
) -> None:
    folder, first = trained
    report = train(tiny, tmp_path, changed(start_from=str(folder / "out"), learning_rate=1e-5, max_steps=4))
    assert report.losses[0][1] < first.losses[0][1] - 0.1
    assert report.validation_loss == pytest.approx(first.validation_loss, abs=0.05)


def test_an_earlier_adapter_that_does_not_fit_is_refused(
    tiny: Path, trained: tuple[Path, AdapterReport], tmp_path: Path
) -> None:
    adapter = str(trained[0] / "out")
    with pytest.raises(ModelError, match="holds no adapter"):
        train(tiny, tmp_path, changed(start_from=str(tmp_path)))
    with pytest.raises(ModelError, match="has rank 16 and alpha 32"):
        train(tiny, tmp_path, changed(start_from=adapter, rank=8))
    deeper = make_tiny_llama(tmp_path / "deeper", layers=3)
    with pytest.raises(ModelError, match="14 tensors are missing"):
        train(deeper, tmp_path, changed(start_from=adapter))


def test_training_stops_when_its_minutes_are_spent(tiny: Path, tmp_path: Path) -> None:
    report = train(tiny, tmp_path, changed(minutes=0.02, max_steps=100000, max_epochs=100000))
    assert report.stopped_by == "minutes"
    assert report.steps < 100000


@pytest.mark.parametrize(
    "knobs",
    [
        {"dropout": 0.1},
        {"gradient_checkpointing": True},
        {"use_rslora": True, "learning_rate": 0.003},
        {"use_dora": True},
        {"packing": True, "batch_size": 2},
        {"target_modules": ("q_proj", "v_proj", "up_proj")},
        {"gradient_accumulation_steps": 2, "batch_size": 2, "weight_decay": 0.01, "lr_scheduler_type": "cosine"},
        {"optimizer": "adamw_torch"},
        {"optimizer": "adafactor"},
        {"optimizer": "adagrad"},
        {"optimizer": "rmsprop", "learning_rate": 0.005},
        {"optimizer": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0},
    ],
    ids=lambda knobs: knobs.get("optimizer") or ",".join(knobs),
)
def test_every_way_of_training_learns_and_merges(tiny: Path, tmp_path: Path, knobs: dict[str, Any]) -> None:
    report = train(tiny, tmp_path, changed(**knobs, max_steps=12))
    assert report.losses[-1][1] < report.losses[0][1] - 0.1
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    for name in knobs.keys() & {"use_rslora", "use_dora"}:
        assert config[name] is True
    if "target_modules" in knobs:
        assert set(config["target_modules"]) == set(knobs["target_modules"])
    assert merge_adapter(tiny, tmp_path / "out", tmp_path / "merged").is_dir()


def test_one_step_of_two_passes_equals_one_of_a_pass_with_all_rows(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    plain = {"optimizer": "sgd", "learning_rate": 1.0, "max_steps": 1, "max_grad_norm": 0.0}
    adapters = []
    for passes in (1, 2):
        settings = changed(batch_size=4 // passes, gradient_accumulation_steps=passes, **plain)
        job = TrainingJob(
            base=tiny,
            settings=settings,
            seed=7,
            out=tmp_path / f"out{passes}",
            checkpoints=tmp_path / f"resume{passes}",
        )
        train_adapter(job, talks(4), [], Tracker(), ONE_CORE)
        adapters.append(load_file(tmp_path / f"out{passes}" / "adapter_model.safetensors"))
    moved = [float(tensor.abs().max()) for name, tensor in adapters[0].items() if "lora_B" in name]
    assert max(moved) > 1e-3
    for name, tensor in adapters[0].items():
        # bf16 sums of the same terms in another order.
        assert float((adapters[1][name] - tensor).abs().max()) < 0.02 * max(moved)


def test_an_earlier_adapter_of_another_kind_is_refused(
    tiny: Path, trained: tuple[Path, AdapterReport], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"use_dora: False[\s\S]*Expected: use_rslora: False and use_dora: True"):
        train(tiny, tmp_path, changed(start_from=str(trained[0] / "out"), use_dora=True))


def test_a_layer_that_the_model_lacks_is_refused_with_those_it_has(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"w_proj, which are no linear[\s\S]*down_proj, gate_proj"):
        train(tiny, tmp_path, changed(target_modules=("q_proj", "w_proj")))


def test_our_loss_and_gradient_equal_those_of_the_whole_model(tiny: Path, tmp_path: Path) -> None:
    import torch

    rows, _ = tokenize(load_tokenizer(tiny), talks(6), 1024)
    trainer = trainer_for(tiny, rows, SETTINGS, tmp_path)
    model = trainer.model.float()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    batch = trainer.data_collator([asdict(row) for row in rows])
    loss = trainer.compute_loss(model.train(), batch)
    loss.backward()
    plain = load_model(tiny).float()
    adapted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    gradients = {n: p.grad.clone() for n, p in adapted.items()}
    expected = reference_loss(plain, adapted, batch, SETTINGS.alpha / SETTINGS.rank)
    expected_gradients = torch.autograd.grad(expected, list(adapted.values()))
    # Float32 sums of a few thousand terms in another order differ by about 1e-6.
    assert abs(float(loss.detach()) - float(expected.detach())) < 1e-5
    assert max(float((gradients[n] - g).abs().max()) for n, g in zip(adapted, expected_gradients, strict=True)) < 1e-4


@pytest.mark.parametrize(("sparse", "dropout"), [(True, 0.0), (False, 1e-9)], ids=["our loss", "TRL's loss"])
def test_conversations_that_share_a_prompt_are_learnt_as_if_each_were_alone(
    tiny: Path, tmp_path: Path, sparse: bool, dropout: float
) -> None:
    import torch

    tokenizer, alone = load_tokenizer(tiny), talks_about_two_texts()
    together = [replace(alone[0], siblings=tuple(alone[1:4])), replace(alone[4], siblings=tuple(alone[5:]))]
    losses, gradients, tokens = [], [], []
    for examples in (alone, together):
        rows, dropped = tokenize(tokenizer, examples, 1024)
        assert dropped == 0
        trainer = trainer_for(tiny, rows, changed(dropout=dropout), tmp_path)
        trainer.sparse = sparse
        loss, gradient = loss_and_gradient(trainer, rows)
        losses.append(loss)
        gradients.append(gradient)
        tokens.append(trainer.counts)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)
    assert tokens[0]["loss_tokens"] == tokens[1]["loss_tokens"]
    assert tokens[1]["tokens"] < 0.6 * tokens[0]["tokens"]


def test_packed_conversations_are_learnt_as_if_each_had_a_row(tiny: Path, tmp_path: Path) -> None:
    import torch

    shared = talks_about_two_texts()
    examples = [*talks(5), replace(shared[0], siblings=tuple(shared[1:3])), shared[4]]
    losses, gradients, counts = [], [], []
    for packing in (False, True):
        rows, _ = tokenize(load_tokenizer(tiny), examples, 1024)
        rows = pack(rows, 400) if packing else rows
        trainer = trainer_for(tiny, rows, SETTINGS, tmp_path)
        loss, gradient = loss_and_gradient(trainer, rows)
        losses.append(loss)
        gradients.append(gradient)
        counts.append(trainer.counts)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)
    assert counts[0]["tokens"] == counts[1]["tokens"]
    assert counts[1]["padded_tokens"] < counts[0]["padded_tokens"]


def test_packing_keeps_every_token_and_nearly_the_order(tiny: Path) -> None:
    rows, _ = tokenize(load_tokenizer(tiny), talks(150), 1024)
    packed = pack(rows, 300)
    assert sum(len(row.input_ids) for row in packed) == sum(len(row.input_ids) for row in rows)
    assert all(len(row.input_ids) <= 300 for row in packed)
    assert sorted(place for row in packed for place in row.examples) == list(range(150))
    assert sum(row.conversations for row in packed) == 150
    assert {place // 64 for place in packed[0].examples} == {0}
    assert len(packed) < 0.6 * len(rows)


def loss_and_gradient(trainer: Any, rows: Sequence[Any]) -> tuple[float, Any]:
    """Return the loss of one batch and the gradient of its adapter, whose weights are the same for every trainer."""
    import torch

    model = trainer.model.float().train()
    torch.manual_seed(0)
    for name, weight in sorted(model.named_parameters()):
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    loss = trainer.compute_loss(model, trainer.data_collator([asdict(row) for row in rows]))
    loss.backward()
    gradients = [p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.requires_grad]
    return float(loss.detach()), torch.cat(gradients)


def trainer_for(base: Path, rows: list[Tokenized], settings: TrainingSettings, folder: Path) -> Any:
    job = TrainingJob(base=base, settings=settings, seed=1, out=folder / "out", checkpoints=folder)
    trainer, _ = build_trainer(job, TrainingData(load_tokenizer(base), rows, []), "cpu", Tracker(), silent)
    return trainer


def talks_about_two_texts() -> list[Talk]:
    """Eight questions: the first four are about one text, the last four about another."""
    conversations = []
    for number, talk in enumerate(talks(8)):
        system, user, answer = talk.messages
        text = "the default is one . " * (9 + 3 * (number // 4))
        conversations.append(Talk((system, Message("user", f"{text}{user.content}"), answer)))
    return conversations


def test_siblings_without_room_in_the_row_are_counted_as_dropped(tiny: Path) -> None:
    tokenizer, (first, *others) = load_tokenizer(tiny), talks_about_two_texts()[:4]
    [alone], _ = tokenize(tokenizer, [first], 1024)
    example = replace(first, siblings=tuple(others))
    [row], dropped = tokenize(tokenizer, [example], len(alone.input_ids) + 30)
    assert 0 < dropped < 4
    assert row.conversations == 4 - dropped
    assert tokenize(tokenizer, [example], len(alone.input_ids) - 1) == ([], 4)


def reference_loss(plain, adapted, batch, scale):
    import torch

    weights = dict(plain.named_parameters())
    merged = dict(weights)
    for name, a in adapted.items():
        if "lora_A" in name:
            b = adapted[name.replace("lora_A", "lora_B")]
            key = name.removeprefix("base_model.model.").split(".lora_A")[0] + ".weight"
            merged[key] = weights[key] + scale * b @ a
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits = torch.func.functional_call(plain, merged, kwargs=inputs).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (200, 200), (150, 190)])
def test_causal_attention_equals_that_of_pytorch(queries: int, keys: int, hides: bool) -> None:
    import torch

    from ragtune.model.training.kernels import causal_attention

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, n, 16, requires_grad=True) for heads, n in ((6, queries), (2, keys), (2, keys)))
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    hidden = (torch.rand(2, queries, keys) < 0.3) & (torch.arange(keys) > 0) if hides else None
    visible = mask if hidden is None else (mask & ~hidden)[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
    output = causal_attention(q, k, v, 0.25, hidden)
    weight = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((output * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_only_the_reply_and_its_end_are_learnt(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    talk = Talk((Message("system", "s"), Message("user", "what ?"), Message("assistant", "the default is one .")))
    [row], dropped = tokenize(tokenizer, [talk], 200)
    learnt = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label != -100]
    assert tokenizer.decode(learnt) == "the default is one .<|im_end|>"
    assert dropped == 0


def test_a_conversation_that_is_too_long_is_left_out_not_cut(tiny: Path) -> None:
    rows, dropped = tokenize(load_tokenizer(tiny), talks(10), 80)
    assert dropped > 0
    assert len(rows) + dropped == 10
    assert all(len(row.input_ids) <= 80 and row.labels[-1] != -100 for row in rows)


def test_examples_without_an_answer_and_empty_example_lists_are_refused(tiny: Path, tmp_path: Path) -> None:
    question = Talk((Message("system", "s"), Message("user", "what ?")))
    with pytest.raises(DatasetError, match="last message"):
        tokenize(load_tokenizer(tiny), [question], 200)
    with pytest.raises(DatasetError, match="None of the 0"):
        train_adapter(
            TrainingJob(base=tiny, settings=SETTINGS, seed=1, out=tmp_path / "out", checkpoints=tmp_path),
            [],
            [],
            Tracker(),
            ONE_CORE,
        )


def test_batches_hold_rows_of_similar_length_and_keep_the_order_of_stretches() -> None:
    lengths = [(i * 37) % 100 + 1 for i in range(128)]
    order = batch_order(lengths, 4, 32, seed=3)
    batches = [order[i : i + 4] for i in range(0, 128, 4)]
    assert sorted(order) == list(range(128))
    assert all(set(sum(batches[i : i + 8], [])) == set(range(i * 4, i * 4 + 32)) for i in range(0, 32, 8))  # noqa: RUF017
    padded = sum(4 * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.2 * sum(lengths)
    assert batch_order(lengths, 4, 32, seed=3) == order


def test_an_adapter_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"report\.json"):
        read_report(tmp_path)


def changed(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**{**SETTINGS.model_dump(), **changes})


def test_a_process_trains_on_one_device_however_many_gpus_it_sees():
    assert on_one_device(SimpleNamespace(n_gpu=4, _n_gpu=4))._n_gpu == 1
    assert on_one_device(SimpleNamespace(n_gpu=0, _n_gpu=0))._n_gpu == 0
