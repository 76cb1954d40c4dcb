"""Measures a running engine under load, with the prompts that the answering path builds.

Requests stream, so that the time to the first token is seen as a reader would see it. No
prompt is sent twice in one form, or the engine's prefix cache would flatter the numbers.
"""

import platform
import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ragtune.errors import DatasetError, EngineError
from ragtune.ports import ChatModel, Progress, RunningEngine, silent
from ragtune.records import BenchmarkRow, Completion, Message
from ragtune.text.whitespace import collapse_whitespace

Prompt = Sequence[Message]


def run_loads(
    engine: RunningEngine,
    prompts: Sequence[Prompt],
    levels: Sequence[int],
    requests: int,
    *,
    model: str,
    precision: str,
    model_bytes: int,
    max_tokens: int,
    seed: int,
    run_id: str = "",
    progress: Progress = silent,
) -> list[BenchmarkRow]:
    """Return a row per level of concurrency; every level gets prompts that no other level had."""
    run_id = run_id or uuid.uuid4().hex[:12]
    rows = []
    # The first request of a process also pays for its memory and its kernels; it is not counted.
    [warm_up] = distinct_prompts(prompts, 1, start=len(levels) * requests)
    engine.chat().complete(warm_up, max_tokens=max_tokens, temperature=0.0, seed=seed)
    for number, level in enumerate(levels):
        progress(f"benchmark of {model} {precision} at {level}", number, len(levels))
        fresh = distinct_prompts(prompts, requests, start=number * requests)
        row = run_load(
            engine,
            fresh,
            level,
            requests,
            model=model,
            precision=precision,
            model_bytes=model_bytes,
            max_tokens=max_tokens,
            seed=seed,
            run_id=run_id,
        )
        rows.append(row)
    progress(f"benchmark of {model} {precision}", len(levels), len(levels))
    return rows


def run_load(
    engine: RunningEngine,
    prompts: Sequence[Prompt],
    concurrency: int,
    requests: int,
    *,
    model: str,
    precision: str,
    model_bytes: int,
    max_tokens: int,
    seed: int,
    run_id: str = "",
) -> BenchmarkRow:
    """Send `requests` greedy requests, `concurrency` at a time, and return what was measured.

    Latencies are of the requests that succeeded, in milliseconds; tokens per second are generated
    tokens over the whole wall time. Raises EngineError when not one request succeeded.
    """
    chosen = distinct_prompts(prompts, requests)
    chat = engine.chat()
    started = time.perf_counter()
    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        outcomes = list(pool.map(lambda prompt: _ask(chat, prompt, max_tokens, seed), chosen))
    wall = time.perf_counter() - started
    done = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
    if not done:
        raise EngineError(f"All {requests} requests of the benchmark failed; the first: {failed[0]}")
    total = [completion.total_seconds * 1000 for completion in done]
    first = [completion.first_token_seconds * 1000 for completion in done]
    return BenchmarkRow(
        run_id=run_id or uuid.uuid4().hex[:12],
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=model,
        precision=precision,
        concurrency=concurrency,
        requests=requests,
        errors=len(failed),
        p50_ms=percentile(total, 50),
        p95_ms=percentile(total, 95),
        ttft_p50_ms=percentile(first, 50),
        ttft_p95_ms=percentile(first, 95),
        tokens_per_second=sum(completion.completion_tokens for completion in done) / wall,
        peak_memory_bytes=engine.memory_bytes(),
        model_bytes=model_bytes,
        hardware=hardware(),
    )


def distinct_prompts(prompts: Sequence[Prompt], count: int, start: int = 0) -> list[Prompt]:
    """Return `count` prompts from `start` on; a prompt that comes round again gets a mark in front.

    The mark changes its first tokens, so that no cached prefix serves it.
    """
    if not prompts:
        raise DatasetError("There is no prompt to measure with.", "at least one prepared question")
    chosen: list[Prompt] = []
    for place in range(start, start + count):
        round_, index = divmod(place, len(prompts))
        prompt = prompts[index]
        if round_:
            prompt = (replace(prompt[0], content=f"({round_ + 1}) {prompt[0].content}"), *prompt[1:])
        chosen.append(prompt)
    return chosen


def percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile (0 to 100) with linear interpolation."""
    import numpy as np

    return float(np.percentile(values, share))


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def hardware() -> str:
    """Return the processor, its cores and the memory in one line, and the GPUs where there are any."""
    import os

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        cpu = collapse_whitespace(found[1])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [found[1] for gpu in gpus if (found := re.search(r"Model:\s*(.+)", gpu.read_text()))]
    return ", ".join([cpu, f"{len(os.sched_getaffinity(0))} cores", f"{memory:.0f} GiB", *names])


def _ask(chat: ChatModel, prompt: Prompt, max_tokens: int, seed: int) -> Completion | EngineError:
    """Return the completion, or the error as a value: a failed request is a result of the load."""
    try:
        return chat.complete(prompt, max_tokens=max_tokens, temperature=0.0, seed=seed)
    except EngineError as error:
        return error
