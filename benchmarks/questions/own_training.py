"""Measures what a training on a collection's own questions brings people who ask about it.

    python -m benchmarks.questions.own_training manual --work .ragtune/own-training [--seeds 17 18 19] [--steps 60]

The user of this measurement has a collection and some fifty or a hundred questions with answers, which are the
answerable questions of the development set as a `pairs:` source. Per seed the graph is built up to the merged model in
a home of its own. The base that such a training starts from and that is served before it, and each trained model, then
answer the locked questions through the whole answering path. Differences are paired by question: the mean over seeds,
with an interval over the pages that hold the answers. Answers and homes in the work folder are used again. Writes
`own_training.json` next to this script.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.questions.measure import SETS, interval, is_right, read_lines
from benchmarks.questions.offline import DOCUMENTS, ROOT, read_rows
from benchmarks.serving.served_home import facts
from ragtune.store.artifacts import ArtifactStore, file_sha256

OUT = Path(__file__).with_suffix(".json")
Rows = dict[str, dict[str, Any]]


def main() -> None:
    """Train and ask per set and seed, then print and write the differences."""
    options = _options()
    results = json.loads(OUT.read_text())["sets"] if OUT.is_file() else {}
    for name in options.set:
        results[name] = measure(name, options)
        result = {**facts("benchmarks.questions.own_training"), "sets": results}
        OUT.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({name: results[name]}, indent=1), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="+", help="manual, httpx, ...")
    parser.add_argument("--work", type=Path, required=True, help="folder for homes and answers, which are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--steps", type=int, default=60, help="steps of each training")
    parser.add_argument(
        "--set-value", action="append", default=[], metavar="NAME=VALUE", help="another RAGTUNE_ setting"
    )
    return parser.parse_args()


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores before and after the training on one set, and the paired differences."""
    source = f"folder:{ROOT / DOCUMENTS[name]}" if name in DOCUMENTS else f"package:{name}"
    work = options.work.resolve() / name
    pairs = work / "pairs.jsonl"
    known = write_pairs(name, pairs)
    questions = read_lines(SETS / f"{name}.locked.jsonl")
    before: Rows = {}
    after: list[Rows] = []
    models = []
    for seed in options.seeds:
        home = work / f"home-{seed}"
        _materialize(home, [source, f"pairs:{pairs}"], seed, options)
        store = ArtifactStore(home / "artifacts")
        base, merged = _folder(store, "base_model"), _folder(store, "merged_model")
        before = before or _ask(name, source, base, work / "before")
        after.append(_ask(name, source, merged, work / f"after-{seed}"))
        models.append(
            {"seed": seed, "adapter_sha256": file_sha256(_folder(store, "lora_adapter") / "adapter_model.safetensors")}
        )
    return {
        "questions_sha256": file_sha256(SETS / f"{name}.locked.jsonl"),
        "known_pairs": known,
        "steps": options.steps,
        "settings": options.set_value,
        "models": models,
        **differences(questions, before, after),
    }


def write_pairs(name: str, file: Path) -> int:
    """Write the answerable development questions that stand alone as existing pairs; return how many."""
    rows = [row for row in read_lines(SETS / f"{name}.dev.jsonl") if row["answerable"] and not row["history"]]
    pairs = [{"question": row["question"], "answer": row["answers"][0]} for row in rows if row["answers"]]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    return len(pairs)


def _materialize(home: Path, sources: Sequence[str], seed: int, options: argparse.Namespace) -> None:
    chosen = {
        "RAGTUNE_HOME": str(home),
        "RAGTUNE_SOURCES": json.dumps(list(sources)),
        "RAGTUNE_SEED": str(seed),
        "RAGTUNE_TRAINING__STEPS": str(options.steps),
        **dict(value.split("=", 1) for value in options.set_value),
    }
    command = [sys.executable, "-m", "ragtune_assets.materialize", "--select", "*merged_model"]
    subprocess.run(command, env={**os.environ, **chosen}, cwd=ROOT, check=True)


def _folder(store: ArtifactStore, name: str) -> Path:
    ref = store.current(name)
    if ref is None:
        raise SystemExit(f"The home below {store.root} has no {name}.")
    return store.folder(ref)


def _ask(name: str, source: str, model: Path, answers: Path) -> Rows:
    command = [sys.executable, "-m", "benchmarks.questions.measure", f"{name}.locked", "--answers", str(answers)]
    places = ["--homes", str(answers.parent / "asked"), "--model-folder", str(model)]
    subprocess.run([*command, *places, "--source", source, "--concurrency", "8"], cwd=ROOT, check=True)
    return read_rows(answers / f"{name}.locked.jsonl")


def differences(questions: Sequence[dict[str, Any]], before: Rows, after: Sequence[Rows]) -> dict[str, Any]:
    """Return each score as [mean, low, high, n]: before, after per seed, and the mean gain over the seeds."""
    result: dict[str, Any] = {}
    for name, score in SCORES.items():
        asked = [one for one in questions if one["answerable"] != (name == "unanswerable refused")]
        pages = [(one["sources"] or [one["id"]])[0].partition("#")[0] for one in asked]
        old = [float(score(before[one["id"]], one["answers"])) for one in asked]
        new = [[float(score(rows[one["id"]], one["answers"])) for one in asked] for rows in after]
        gains = [sum(values) / len(values) - was for was, *values in zip(old, *new, strict=True)]
        result[name] = {
            "before": interval(old, pages),
            "after, by seed": [interval(values, pages) for values in new],
            "gain": interval(gains, pages),
        }
    return result


SCORES = {
    "right": lambda row, accepted: not row["refused"] and is_right(row["answer"], accepted),
    "right in own words": lambda row, accepted: not row["refused"] and is_right(row["own_words"], accepted),
    "model right": lambda row, accepted: is_right(row["model_text"], accepted),
    "answerable refused": lambda row, _: row["refused"],
    "unanswerable refused": lambda row, _: row["refused"],
}
"""What is compared, by name: whether a row of answers has it, given the accepted answers."""


if __name__ == "__main__":
    main()
