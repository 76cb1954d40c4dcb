"""What a minute of training is worth: RagTune's trainer beside plain TRL, with the same model, pairs and adapter.

    python -m benchmarks.default_model.training --home .ragtune --seeds 1 2 3

Needs a home whose graph was built. Both start from the raw model, learn the same conversations in float or bf16
as the processor computes faster, with the same learning rate, and stop on time; plain TRL reads each conversation
by itself, in its own random order. The score is the share of held-out answers whose every token, citation and end
included, is the most likely one after those before it, which is when greedy decoding writes just that answer.
The clock stands while a score is taken.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragtune.backends.catalog import retriever_from
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.resampling import mean_interval
from ragtune.model import sft
from ragtune.model.capacity import use_threads
from ragtune.model.examples import TrainingExample
from ragtune.model.pretrained import load_tokenizer, raw_model
from ragtune.model.tokens import Tokenized, tokenize
from ragtune.model.tracking import Tracker
from ragtune.ports import silent
from ragtune.records import Chunk, SplitItem
from ragtune.settings import Settings, TrainingSettings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.model import examples

HERE = Path(__file__).parent
Curve = list[dict[str, float]]
HeldOut = tuple[list[Tokenized], list[str]]
"""Rows, and the document of each, by which scores are resampled."""


def plain_trainer(base: Path, rows: list[Tokenized], knobs: TrainingSettings, seed: int, work: Path) -> Any:
    """Return TRL's own trainer with the same adapter, and a clock that paces the learning rate and ends it."""
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from ragtune.model.pretrained import load_model
    from ragtune.model.trainer import Clock, Watch

    clock = Clock(knobs.minutes * 60, knobs.max_steps, knobs.warmup_share)

    class Paced(SFTTrainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
            own: Any = self
            own.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or own.optimizer, lambda _: clock.rate())
            return own.lr_scheduler

    arguments = SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=knobs.batch_size,
        max_steps=knobs.max_steps,
        learning_rate=knobs.learning_rate,
        weight_decay=0.0,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    columns = [replace(row, branches=[0] * len(row.branches)) for row in rows]
    trainer = Paced(
        model=load_model(base, "cpu", "sdpa"),
        args=arguments,
        train_dataset=sft._dataset(columns, range(len(columns))).remove_columns("branches"),
        processing_class=load_tokenizer(base),
        peft_config=LoraConfig(
            r=knobs.rank, lora_alpha=knobs.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch(clock, Tracker(), silent))
    return trainer, clock


def own_trainer(base: Path, rows: list[Tokenized], knobs: TrainingSettings, seed: int, work: Path) -> Any:
    """Return RagTune's trainer with its clock."""
    trainer, watch = sft._trainer(base, load_tokenizer(base), rows, [], knobs, seed, work, "cpu", Tracker(), silent)
    return trainer, watch.clock


def curve(trainer: Any, clock: Any, held_out: HeldOut, marks: Sequence[float]) -> Curve:
    """Train to the end and return a score for each mark, in minutes, and one for the end."""
    import torch
    from transformers import TrainerCallback

    points: Curve = []
    rows, clusters = held_out
    read = {"tokens": 0, "conversations": 0}

    class Marks(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            due = [mark for mark in marks if mark * 60 <= clock.spent and mark not in {p["mark"] for p in points}]
            if due or control.should_training_stop:
                began = time.monotonic()
                right = exact(trainer.model, rows)
                mean, low, high = mean_interval(right, clusters, 2000, trainer.args.seed)
                points.append(
                    {
                        "mark": max(due, default=0.0),
                        "minutes": round(clock.spent / 60, 2),
                        "steps": state.global_step,
                        **read,
                        "score": round(mean, 4),
                        "low": round(low, 4),
                        "high": round(high, 4),
                        "n": len(right),
                    }
                )
                print(points[-1], flush=True)
                clock.started += time.monotonic() - began

    trainer.add_callback(Marks())
    collate = trainer.data_collator

    def counting(rows: list[dict[str, list[int]]]) -> Any:
        read["tokens"] += sum(len(row["input_ids"]) for row in rows)
        read["conversations"] += sum(max(1, *row.get("branches", [0])) for row in rows)
        return collate(rows)

    trainer.data_collator = counting
    torch.manual_seed(trainer.args.seed)
    trainer.train()
    return points


def exact(model: Any, rows: Sequence[Tokenized]) -> list[float]:
    """Return 1.0 for each conversation whose answer is the model's greedy one, else 0.0."""
    import torch

    from ragtune.model.trainer import Collator

    was_training = model.training
    core = model.eval().get_base_model()
    right: list[float] = []
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            some = [
                {"input_ids": r.input_ids, "labels": r.labels, "branches": r.branches} for r in rows[start : start + 8]
            ]
            batch = Collator(0)(some)
            states = core.base_model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).last_hidden_state
            for state, label in zip(states, batch["labels"], strict=True):
                learnt = label[1:] != -100
                logits = core.get_output_embeddings()(state[:-1][learnt])
                right.append(float((logits.argmax(-1) == label[1:][learnt]).all()))
    model.train(was_training)
    return right


def conversations(
    settings: Settings, store: ArtifactStore, together: int
) -> tuple[list[TrainingExample], list[TrainingExample], list[str]]:
    """Return what is learnt, what is held out, and the document of each of the latter."""
    splits, passages = store.current("qa_splits"), store.current("chunks")
    if splits is None or passages is None:
        raise SystemExit(f"{settings.home} holds no dataset. Build the graph there first: make demo")
    items, chunks = store.read_records(splits, SplitItem), store.read_records(passages, Chunk)
    retriever = retriever_from(settings)
    documents = {item.pair.id: item.pair.document_id for item in items}
    held_out = examples(items, "validation", chunks, retriever, settings)
    learnt = examples(items, "train", chunks, retriever, settings, together)
    return learnt, held_out, [documents[each.pair_id] for each in held_out]


def main() -> None:
    """Measure and write `training.json` beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".ragtune"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--plain-minutes", type=float, default=15.0)
    parser.add_argument("--items", type=int, default=150, help="held-out conversations")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    asked = parser.parse_args()
    settings = load_settings({"home": asked.home})
    knobs = settings.training.model_copy(
        update={"learning_rate": asked.learning_rate, "max_steps": 2000, "max_epochs": 100.0}
    )
    settings = settings.model_copy(
        update={"training": knobs.model_copy(update={"max_steps": 400, "validation_examples": asked.items})}
    )
    use_threads(settings.threads)
    store = ArtifactStore(settings.home / "artifacts")
    base = raw_model(settings.base_model, store)
    if base is None:
        raise SystemExit(f"'{settings.base_model.name}' was made from no raw model. Set base_model.name to smollm2")
    learnt, held_out, documents = conversations(settings, store, knobs.together)
    tokenizer = load_tokenizer(store.folder(base))
    together, _ = tokenize(tokenizer, learnt, knobs.max_tokens)
    alone, _ = tokenize(
        tokenizer, [replace(e, siblings=()) for each in learnt for e in (each, *each.siblings)], knobs.max_tokens
    )
    test, dropped = tokenize(tokenizer, held_out, 10 * knobs.max_tokens)
    assert not dropped
    recipes = (
        ("ragtune", own_trainer, together, asked.minutes),
        ("plain TRL", plain_trainer, alone, asked.plain_minutes),
    )
    runs = []
    for seed in asked.seeds:
        for name, make, rows, minutes in recipes:
            print(name, "seed", seed, flush=True)
            with tempfile.TemporaryDirectory() as work:
                timed = knobs.model_copy(update={"minutes": minutes})
                trainer, clock = make(store.folder(base), rows, timed, seed, Path(work))
                points = curve(trainer, clock, (test, documents), [1, 2, 3, 5, 7.5, 10, 15])
            runs.append({"recipe": name, "seed": seed, "curve": points})
    results = {
        "command": "python -m benchmarks.default_model.training",
        "model": "raw SmolLM2-135M-Instruct",
        "settings": knobs.model_dump(mode="json"),
        "hardware": hardware(),
        "runs": runs,
    }
    (HERE / "training.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
