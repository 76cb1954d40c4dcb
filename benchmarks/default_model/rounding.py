"""Measures what INT4 and INT8 weights cost the default model: bf16, W4A16 and W8A8 on the same questions, paired.

    python -m benchmarks.default_model.rounding --home .ragtune --questions 2000

Needs a home with a dataset (`ragtune materialize --select +qa_splits --select base_model`). The base model was trained
on none of its documents, so questions of every split are used, except those that GPTQ was calibrated on.
"""

import argparse
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.retrieval.results import as_text
from ragtune.answer.answering import RememberingAnswerer
from ragtune.backends.catalog import engine_from, evidence_from, line_similarity_from, retriever_from
from ragtune.evaluation.benchmark import folder_bytes, hardware
from ragtune.evaluation.gate import paired_gain
from ragtune.evaluation.held_out import Contender, Exam, HeldOutAnswers
from ragtune.evaluation.metrics import SIGNATURES
from ragtune.evaluation.scoring import ScoreIdentity, summarise
from ragtune.model.base.capacity import chosen_device
from ragtune.model.compression.quantization import quantize_w4a16, quantize_w8a8
from ragtune.model.examples.dataset_conversations import DatasetConversations
from ragtune.records import Chunk, Precision, SplitItem, content_id
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.progress import LoggedProgress, log_to

SAMPLES = 2000


def main() -> None:
    """Quantise, let the models answer and write `rounding.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".ragtune"))
    parser.add_argument("--questions", type=int, default=2000, help="number of questions, at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    log_to(sys.stderr)
    settings = load_settings({"home": options.home})
    store, seed, progress = ArtifactStore(settings.home / "artifacts"), settings.seed, LoggedProgress()
    base, splits, passages = (store.current(name) for name in ("base_model", "qa_splits", "chunks"))
    if base is None or splits is None or passages is None:
        raise SystemExit(f"{settings.home} holds no dataset; see --help.")
    items, retriever = store.read_records(splits, SplitItem), retriever_from(settings)
    items.sort(key=lambda item: (item.split != "train", content_id(str(seed), item.pair.id)))
    samples = settings.quantization.calibration_samples
    calibration, rest = items[:samples], items[samples:]
    pairs = sorted((item.pair for item in rest), key=lambda pair: content_id(str(seed), pair.id))[: options.questions]
    folders: dict[Precision, Path] = {"bf16": store.folder(base)}
    made_from = content_id(base.sha256, splits.sha256, str(seed), settings.fingerprint("quantization"))
    folder = settings.home / "work" / "rounding" / made_from
    if not (folder / "w8a8").is_dir():
        dataset = DatasetConversations(
            store.read_records(passages, Chunk),
            retriever,
            line_similarity_from(settings),
            evidence_from(settings),
            settings,
        )
        conversations = dataset.of_split(calibration, "train", progress=progress)
        quantize_w4a16(folders["bf16"], conversations, settings.quantization, folder / "w4a16", progress=progress)
        quantize_w8a8(folders["bf16"], folder / "w8a8", progress=progress)
    folders |= {"w4a16": folder / "w4a16", "w8a8": folder / "w8a8"}
    context = f"{settings.fingerprint('answer', 'index', 'engine')} {passages.sha256}"
    exam = Exam(RememberingAnswerer(retriever, settings.answer, line_similarity_from(settings)), context)
    answers = HeldOutAnswers(engine_from(settings), {"test": exam}, store, settings.evaluation, seed, progress)
    contenders = [Contender("base", name, path, base.sha256[:12], {"test": pairs}) for name, path in folders.items()]
    at_once = 2 if chosen_device(settings.device) == "cpu" else 1
    answer_sets = answers.of_all(contenders, at_once)
    by_precision = {
        contender.precision: answered["test"] for contender, answered in zip(contenders, answer_sets, strict=True)
    }
    gains = {
        (precision, metric): paired_gain(
            by_precision["bf16"], by_precision[precision], metric, alpha=0.025, samples=SAMPLES, seed=seed
        )
        for precision in ("w4a16", "w8a8")
        for metric in ("token_f1", "citation", "refusal_recall", "false_refusal")
    }
    full = folder_bytes(folders["bf16"])
    identity = ScoreIdentity(
        model="base",
        precision="bf16",
        split="test",
        dataset_sha256=splits.sha256,
        model_version=base.sha256[:12],
        seed=seed,
    )
    results = {
        "command": " ".join(["python", "-m", "benchmarks.default_model.rounding", *sys.argv[1:]]),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "seed": seed,
        "dataset_sha256": splits.sha256,
        "model_sha256": base.sha256,
        "signatures": SIGNATURES,
        "smaller_by": {name: round(1 - folder_bytes(path) / full, 3) for name, path in folders.items()},
        "scores": {
            name: {
                score.metric: [round(score.value, 4), round(score.low, 4), round(score.high, 4), score.n]
                for score in summarise(answered, replace(identity, precision=name))
            }
            for name, answered in by_precision.items()
        },
        "paired_with_bf16": [
            {
                "precision": precision,
                "metric": metric,
                "gain": [round(value, 4) for value in (gain.gain, gain.low, gain.high)],
                "n": gain.n,
            }
            for (precision, metric), gain in gains.items()
        ],
    }
    options.out.write_text(as_text(results))
    for (precision, metric), gain in gains.items():
        print(f"{precision} {metric}: {gain.gain:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] n={gain.n}")


if __name__ == "__main__":
    main()
