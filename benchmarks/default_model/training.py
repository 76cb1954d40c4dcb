"""Compares RagTune's trainer with plain TRL minute by minute, with the same model, pairs and adapter.

    python -m benchmarks.default_model.training --home .ragtune --seeds 1 2 3

Needs a home whose graph was built. Both start from the raw model and learn the same conversations with the same
learning rate, in float32 or bf16, whichever the processor computes faster, and both stop on time. Plain TRL reads each
conversation by itself, in its own random order. The score is the share of held-out answers that greedy decoding would
write exactly: every token, including citation and end, is the most likely one after the tokens before it. The clock
stops while a score is computed.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.retrieval.results import as_text
from ragtune.backends.catalog import evidence_from, line_similarity_from, retriever_from
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.resampling import mean_interval
from ragtune.model.base.capacity import use_threads
from ragtune.model.base.loading import load_tokenizer
from ragtune.model.base.pretrained import raw_model
from ragtune.model.examples.dataset_conversations import DatasetConversations
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.tokens import Tokenized, tokenize
from ragtune.model.training import sft
from ragtune.model.training.tracking import Tracker
from ragtune.model_settings import TrainingSettings
from ragtune.ports import silent
from ragtune.records import Chunk, SplitItem
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore

Curve = list[dict[str, float]]
HeldOut = tuple[list[Tokenized], list[str]]
"""Rows, and the document of each row, by which scores are resampled."""


class Recipe(NamedTuple):
    """A way to train: a function that makes the trainer and the callback with its plan, the rows, and the settings."""

    name: str
    make: Callable[..., Any]
    rows: list[Tokenized]
    knobs: TrainingSettings


def plain_trainer(base: Path, rows: list[Tokenized], knobs: TrainingSettings, seed: int, work: Path) -> Any:
    """Return TRL's own trainer with the same adapter, and the callback that plans its steps and ends the training."""
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from ragtune.model.base.loading import load_model
    from ragtune.model.training.trainer import ProgressCallback, StepPlan

    callback = ProgressCallback(StepPlan(knobs.minutes * 60, knobs.max_steps, knobs.warmup_share), Tracker(), silent)

    class Paced(SFTTrainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
            trainer: Any = self
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or trainer.optimizer, callback.plan.rate)
            return trainer.lr_scheduler

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
        train_dataset=sft.token_dataset(columns, range(len(columns))).remove_columns("branches"),
        processing_class=load_tokenizer(base),
        peft_config=LoraConfig(
            r=knobs.rank, lora_alpha=knobs.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callback)
    return trainer, callback


def own_trainer(
    base: Path, rows: list[Tokenized], knobs: TrainingSettings, seed: int, work: Path, layers: int | None = None
) -> Any:
    """Return RagTune's trainer and its callback; with `layers` only the adapters of the last ones learn."""
    job = sft.TrainingJob(base=base, settings=knobs, seed=seed, out=work / "adapter", checkpoints=work)
    data = sft.TrainingData(load_tokenizer(base), rows, [])
    trainer, callback = sft.build_trainer(job, data, "cpu", Tracker(), silent)
    if layers is not None:
        first_learning = trainer.model.config.num_hidden_layers - layers
        for name, parameter in trainer.model.named_parameters():
            layer = re.search(r"\.layers\.(\d+)\.", name)
            if layer and int(layer[1]) < first_learning:
                parameter.requires_grad_(False)
    return trainer, callback


def variant(change: str, rows: list[Tokenized], knobs: TrainingSettings) -> Recipe:
    """Return RagTune's recipe with one setting changed; `layers=10` lets the last ten layers learn."""
    name, _, value = change.partition("=")
    if name == "layers":
        return Recipe(change, partial(own_trainer, layers=int(value)), rows, knobs)
    changed = TrainingSettings.model_validate({**knobs.model_dump(), name: value})
    scaled = changed.model_copy(update={"alpha": 2 * changed.rank})  # the same scale at every rank
    return Recipe(change, own_trainer, rows, scaled)


def curve(trainer: Any, callback: Any, held_out: HeldOut, marks: Sequence[float]) -> Curve:
    """Train to the end and return a score at each mark (in minutes) and one at the end."""
    import torch
    from transformers import TrainerCallback

    points: Curve = []
    marks_left = sorted(marks)
    rows, clusters = held_out
    counts = {"tokens": 0, "conversations": 0}

    class Marks(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            due = [mark for mark in marks_left if mark * 60 <= callback.plan.spent]
            if due or control.should_training_stop:
                spent = callback.plan.spent
                del marks_left[: len(due)]
                right = exact(trainer.model, rows)
                mean, low, high = mean_interval(right, clusters, 2000, trainer.args.seed)
                points.append(
                    {
                        "minutes": round(spent / 60, 2),
                        "steps": state.global_step,
                        **counts,
                        "score": round(mean, 4),
                        "low": round(low, 4),
                        "high": round(high, 4),
                        "n": len(right),
                    }
                )
                print(points[-1], flush=True)
                callback.began = time.monotonic()

    trainer.add_callback(Marks())
    collate = trainer.data_collator

    def collate_and_count(rows: list[dict[str, list[int]]]) -> Any:
        counts["tokens"] += sum(len(row["input_ids"]) for row in rows)
        counts["conversations"] += sum(max(1, *row.get("branches", [0])) for row in rows)
        return collate(rows)

    trainer.data_collator = collate_and_count
    torch.manual_seed(trainer.args.seed)
    trainer.train()
    return points


def exact(model: Any, rows: Sequence[Tokenized]) -> list[float]:
    """Return 1.0 for each conversation whose answer greedy decoding would write exactly, else 0.0."""
    import torch

    from ragtune.model.training.trainer import Collator

    was_training = model.training
    core = model.eval().get_base_model()
    right = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].input_ids))
    with torch.no_grad():
        for start in range(0, len(rows), 8):
            places = order[start : start + 8]
            batch = Collator(0)(
                [{name: getattr(rows[place], name) for name in ("input_ids", "labels", "branches")} for place in places]
            )
            states = core.base_model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).last_hidden_state
            for place, state, label in zip(places, states, batch["labels"], strict=True):
                learnt = label[1:] != -100
                logits = core.get_output_embeddings()(state[:-1][learnt])
                right[place] = float((logits.argmax(-1) == label[1:][learnt]).all())
    model.train(was_training)
    return right


def conversations(
    settings: Settings, store: ArtifactStore, together: int
) -> tuple[list[TrainingExample], list[TrainingExample], list[str], str]:
    """Return (training examples, held-out examples, the document of each held-out one, the hash of the dataset)."""
    splits, passages = store.current("qa_splits"), store.current("chunks")
    if splits is None or passages is None:
        raise SystemExit(f"{settings.home} holds no dataset. Build the graph there first: make demo")
    items = store.read_records(splits, SplitItem)
    documents = {item.pair.id: item.pair.document_id for item in items}
    dataset = DatasetConversations(
        store.read_records(passages, Chunk),
        retriever_from(settings),
        line_similarity_from(settings),
        evidence_from(settings),
        settings,
    )
    held_out = dataset.of_split(items, "validation")
    learnt = dataset.of_split(items, "train", together)
    return learnt, held_out, [documents[example.pair_id] for example in held_out], splits.sha256


def main() -> None:
    """Train with each recipe and seed, and write the curves to `training.json` after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".ragtune"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--plain-minutes", type=float, default=15.0, help="minutes of plain TRL; 0 leaves it out")
    parser.add_argument("--marks", type=float, nargs="+", default=[1, 2.5, 5, 10], help="minutes at which to score")
    parser.add_argument("--items", type=int, default=150, help="held-out conversations")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--also", nargs="*", default=[], metavar="SETTING=VALUE", help="further variants to train, such as rank=4"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    settings = load_settings({"home": options.home})
    knobs = settings.training.model_copy(
        update={"learning_rate": options.learning_rate, "max_steps": 2000, "max_epochs": 100.0}
    )
    settings = settings.model_copy(
        update={"training": knobs.model_copy(update={"max_steps": 400, "validation_examples": options.items})}
    )
    use_threads(settings.threads)
    store = ArtifactStore(settings.home / "artifacts")
    base = raw_model(settings.base_model, store)
    if base is None:
        raise SystemExit(f"'{settings.base_model.name}' has no raw model. Set base_model.name to smollm2")
    learnt, held_out, documents, dataset = conversations(settings, store, knobs.together)
    tokenizer = load_tokenizer(store.folder(base))
    together, _ = tokenize(tokenizer, learnt, knobs.max_tokens)
    separate = [replace(sibling, siblings=()) for example in learnt for sibling in (example, *example.siblings)]
    alone, _ = tokenize(tokenizer, separate, knobs.max_tokens)
    test, dropped = tokenize(tokenizer, held_out, 10 * knobs.max_tokens)
    assert not dropped
    plain = knobs.model_copy(update={"minutes": options.plain_minutes})
    knobs = knobs.model_copy(update={"minutes": options.minutes})
    recipes = [
        Recipe("ragtune", own_trainer, together, knobs),
        *(variant(change, together, knobs) for change in options.also),
    ]
    if options.plain_minutes:
        recipes.append(Recipe("plain TRL", plain_trainer, alone, plain))
    results: dict[str, Any] = {
        "command": " ".join(["python", "-m", "benchmarks.default_model.training", *sys.argv[1:]]),
        "model": "raw SmolLM2-135M-Instruct",
        "model_sha256": base.sha256,
        "dataset_sha256": dataset,
        "settings": knobs.model_dump(mode="json"),
        "hardware": hardware(),
        "runs": [],
    }
    for seed in options.seeds:
        for name, make, rows, training in recipes:
            print(name, "seed", seed, flush=True)
            with tempfile.TemporaryDirectory() as work:
                trainer, callback = make(store.folder(base), rows, training, seed, Path(work))
                points = curve(trainer, callback, (test, documents), options.marks)
            results["runs"].append({"recipe": name, "seed": seed, "minutes": training.minutes, "curve": points})
            options.out.write_text(as_text(results))


if __name__ == "__main__":
    main()
