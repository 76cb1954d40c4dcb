"""Measures how fast each precision answers through the engine, and transformers' `generate`, on the same prompts.

    python -m benchmarks.default_model.serving --home .ragtune

Needs a home whose graph was built. The prompts are those of held-out questions. Decoding is greedy, and no prompt is
sent twice to one engine. The fastest precision is also measured without tokens guessed from the prompt, and compiled.
transformers answers one prompt at a time, and in batches as large as the engine's load, in the number format that the
processor computes fastest.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.retrieval.results import as_text
from ragtune.answer.answering import Answerer
from ragtune.backends.catalog import engine_from, line_similarity_from, retriever_from
from ragtune.evaluation.benchmark import (
    Load,
    MeasuredModel,
    Prompt,
    distinct_prompts,
    folder_bytes,
    hardware,
    percentile,
    run_loads,
)
from ragtune.evaluation.held_out import held_out
from ragtune.model.base.capacity import arithmetic, chosen_device, fastest_precision, reads_int4, use_threads
from ragtune.model.base.conversations import render_chat
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.records import SplitItem
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.contenders import precision_folders

LEVELS = (1, 4, 8)


def transformers_alone(folder: Path, prompts: list[Prompt], batch: int, settings: Settings) -> dict[str, float]:
    """Return latencies and throughput of `generate` over batches of prompts; the first batch is a warm-up."""
    import torch

    device = chosen_device(settings.device)
    use_threads(settings.threads)
    model, tokenizer = load_model(folder, device).eval(), load_tokenizer(folder)
    tokenizer.padding_side = "left"
    times, written_tokens = [], 0
    for start in range(0, len(prompts), batch):
        texts = [render_chat(tokenizer, prompt, open_reply=True) for prompt in prompts[start : start + batch]]
        began = time.perf_counter()
        ids = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=settings.answer.max_tokens, do_sample=False)
        times.append(time.perf_counter() - began)
        if start:
            ended = (out[:, ids["input_ids"].shape[1] :] == tokenizer.eos_token_id).cumsum(1)
            written_tokens += int((ended == 0).sum() + (ended[:, -1] > 0).sum())  # the first end token of a row counts
    requests = len(prompts) - batch
    return {
        "batch": batch,
        "requests": requests,
        "p50_ms": percentile(times[1:], 50) * 1000,
        "p95_ms": percentile(times[1:], 95) * 1000,
        "requests_per_second": requests / sum(times[1:]),
        "tokens_per_second": written_tokens / sum(times[1:]),
    }


def with_engine(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with changed engine settings."""
    return settings.model_copy(update={"engine": settings.engine.model_copy(update=changes)})


def main() -> None:
    """Measure and write `serving.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".ragtune"))
    parser.add_argument("--requests", type=int, default=24, help="requests at each level of concurrency, at least 8")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "w4a16", "w8a8"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    settings = load_settings({"home": options.home})
    store = ArtifactStore(settings.home / "artifacts")
    merged, quantized, splits = (store.current(name) for name in ("merged_model", "quantized_model", "qa_splits"))
    if merged is None or quantized is None or splits is None:
        raise SystemExit(f"{settings.home} holds no models; run `ragtune materialize` first.")
    folders = precision_folders(store, merged, quantized)
    count = options.requests * (len(LEVELS) + 1)
    pairs = held_out(store.read_records(splits, SplitItem), "test", count, settings.seed)
    answerer = Answerer(retriever_from(settings), settings.answer, line_similarity_from(settings))
    prompts: list[Prompt] = [answerer.prepare(pair.question).messages for pair in pairs]
    device = chosen_device(settings.device)
    rows: list[dict[str, Any]] = []
    fastest = fastest_precision(device)
    runs = [
        *((precision, settings) for precision in options.precisions),
        (fastest, with_engine(settings, speculative_tokens=0)),
        (fastest, with_engine(settings, eager=False)),
    ]
    loads = [Load(level, options.requests, settings.answer.max_tokens, settings.seed) for level in LEVELS]
    for precision, chosen in runs:
        with engine_from(chosen).running(folders[precision], f"serving-{precision}") as engine:
            label = precision if precision != "w4a16" or reads_int4(device) else "w4a16 unpacked"
            model = MeasuredModel(quantized.sha256[:12], label, folder_bytes(folders[precision]))
            measured = run_loads(engine, prompts, loads, model)
        guessed = chosen.engine.speculative_tokens
        how = {
            "speculative_tokens": "default" if guessed is None else guessed,
            "compiled": chosen.engine.eager is False,
        }
        rows += [{**asdict(row), **how} for row in measured]
        print(
            *(f"{row.precision} {how} at {row.concurrency}: p50 {row.p50_ms:.0f} ms" for row in measured),
            sep="\n",
        )
    batches = [
        transformers_alone(
            folders["bf16"], distinct_prompts(prompts, (options.requests // 8 + 1) * level), level, settings
        )
        for level in LEVELS
    ]
    print(
        *(f"transformers, {row['batch']} at once: {row['tokens_per_second']:.1f} tokens/s" for row in batches),
        sep="\n",
    )
    results = {
        "command": " ".join(["python", "-m", "benchmarks.default_model.serving", *sys.argv[1:]]),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "transformers": version("transformers"),
        "arithmetic_of_unquantised_weights": arithmetic(device),
        "seed": settings.seed,
        "dataset_sha256": splits.sha256,
        "model_sha256": {"bf16": merged.sha256, "quantised": quantized.sha256},
        "engine": rows,
        "transformers_generate": batches,
        "tokens_per_second_over_transformers_at_the_same_load": {
            f"{row['precision']} at {row['concurrency']}, {row['speculative_tokens']} guessed"
            f"{', compiled' if row['compiled'] else ''}": round(
                row["tokens_per_second"] / alone["tokens_per_second"], 2
            )
            for row in rows
            for alone in batches
            if alone["batch"] == row["concurrency"]
        },
    }
    options.out.write_text(as_text(json.loads(json.dumps(results, default=str))))


if __name__ == "__main__":
    main()
