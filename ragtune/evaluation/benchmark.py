"""Measures a running engine under load, with prompts that the answering path built.

Requests are streamed, so that the time to the first token is measured as a reader experiences it. No prompt is sent
twice in the same form: otherwise the engine's prefix cache would answer it faster than a new question.
"""

import platform
import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ragtune.errors import DatasetError, EngineError
from ragtune.ports import ChatModel, Progress, RunningEngine, silent
from ragtune.records import BenchmarkRow, Completion, Message

Prompt = Sequence[Message]


@dataclass(frozen=True, slots=True)
class Load:
    """A load on an engine: `requests` greedy requests of `max_tokens` each, `concurrency` at a time."""

    concurrency: int
    requests: int
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """The model that an engine runs: its name, its precision and the size of its folder in bytes."""

    name: str
    precision: str
    size_bytes: int


def run_loads(
    engine: RunningEngine,
    prompts: Sequence[Prompt],
    loads: Sequence[Load],
    model: MeasuredModel,
    run_id: str = "",
    progress: Progress = silent,
) -> list[BenchmarkRow]:
    """Return one measurement per load; no two loads send the same prompt."""
    run_id = run_id or _new_run_id()
    # The first request of an engine also pays for allocating memory and loading kernels, so it is not measured.
    [warm_up] = distinct_prompts(prompts, 1, start=sum(load.requests for load in loads))
    engine.chat().complete(warm_up, max_tokens=loads[0].max_tokens, temperature=0.0, seed=loads[0].seed)
    rows: list[BenchmarkRow] = []
    sent = 0
    for load in loads:
        progress(f"benchmark of {model.name} {model.precision} at {load.concurrency}", len(rows), len(loads))
        rows.append(run_load(engine, distinct_prompts(prompts, load.requests, start=sent), load, model, run_id))
        sent += load.requests
    progress(f"benchmark of {model.name} {model.precision}", len(loads), len(loads))
    return rows


def run_load(
    engine: RunningEngine, prompts: Sequence[Prompt], load: Load, model: MeasuredModel, run_id: str = ""
) -> BenchmarkRow:
    """Put one load on the engine and return the measurement.

    Latencies are those of the successful requests, in milliseconds. Tokens per second are generated tokens divided
    by the wall time of the whole load. Raises EngineError if every request failed.
    """
    chat = engine.chat()
    started = time.perf_counter()
    with ThreadPoolExecutor(max_workers=load.concurrency) as pool:
        outcomes = list(
            pool.map(lambda prompt: _complete(chat, prompt, load), distinct_prompts(prompts, load.requests))
        )
    wall = time.perf_counter() - started
    completions = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
    if not completions:
        raise EngineError(f"All {load.requests} requests of the benchmark failed; the first: {errors[0]}")
    latencies = [completion.total_seconds * 1000 for completion in completions]
    first_tokens = [completion.first_token_seconds * 1000 for completion in completions]
    return BenchmarkRow(
        run_id=run_id or _new_run_id(),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model.name,
        precision=model.precision,
        concurrency=load.concurrency,
        requests=load.requests,
        errors=len(errors),
        p50_ms=percentile(latencies, 50),
        p95_ms=percentile(latencies, 95),
        ttft_p50_ms=percentile(first_tokens, 50),
        ttft_p95_ms=percentile(first_tokens, 95),
        tokens_per_second=sum(completion.completion_tokens for completion in completions) / wall,
        peak_memory_bytes=engine.memory_bytes(),
        model_bytes=model.size_bytes,
        hardware=hardware(),
    )


def distinct_prompts(prompts: Sequence[Prompt], count: int, start: int = 0) -> list[Prompt]:
    """Return `count` prompts from position `start` on, beginning again at the first when they run out.

    A repeated prompt gets its round in front, such as "(2) ". Its first token is then new, so that no cached prefix
    serves it.
    """
    if not prompts:
        raise DatasetError("There is no prompt to measure with.", "at least one prepared question")
    selection: list[Prompt] = []
    for position in range(start, start + count):
        repeats, index = divmod(position, len(prompts))
        prompt = prompts[index]
        if repeats:
            prompt = (replace(prompt[0], content=f"({repeats + 1}) {prompt[0].content}"), *prompt[1:])
        selection.append(prompt)
    return selection


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the percentile of the values (`percent` from 0 to 100), with linear interpolation."""
    import numpy as np

    return float(np.percentile(values, percent))


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def hardware() -> str:
    """Return this machine in one line: processor, cores, memory and the GPUs if there are any."""
    import os

    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (match := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        processor = " ".join(match[1].split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu_files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpus = [match[1] for file in gpu_files if (match := re.search(r"Model:\s*(.+)", file.read_text()))]
    return ", ".join([processor, f"{len(os.sched_getaffinity(0))} cores", f"{memory:.0f} GiB", *gpus])


def _new_run_id() -> str:
    return uuid.uuid4().hex[:12]


def _complete(chat: ChatModel, prompt: Prompt, load: Load) -> Completion | EngineError:
    """Return the completion, or the error as a value: a failed request is part of the measurement."""
    try:
        return chat.complete(prompt, max_tokens=load.max_tokens, temperature=0.0, seed=load.seed)
    except EngineError as error:
        return error
