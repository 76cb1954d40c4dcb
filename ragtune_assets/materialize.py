"""Builds the asset graph, layer by layer, and only what changed: `python -m ragtune_assets.materialize`.

Roots always run, because only reading them tells whether they changed; everything else runs when
an input, its code or its settings did. The exit code is 0, 1 with a message, or 130 after Ctrl-C.
"""

import argparse
import ctypes
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import dagster as dg

from ragtune.errors import RagTuneError, ResourceError
from ragtune.settings import Settings, load_settings, prepare_process
from ragtune.store.artifacts import ArtifactStore, clear_abandoned
from ragtune_assets.definitions import build_definitions
from ragtune_assets.interrupts import Interrupts
from ragtune_assets.knowledge import drift_of_index
from ragtune_assets.progress import LOGGER, log_to
from ragtune_assets.staleness import reason_to_build

DAGSTER_HOME = Path(__file__).with_name("instance")
MIN_DISK_BYTES = 4 << 30
MIN_MEMORY_BYTES = 3 << 30
OUR_ERROR = r"^ragtune\.errors\.\w+: "
RUN_TAG = "ragtune/materialize"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the selected assets and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ragtune_assets.materialize", description=__doc__)
    parser.add_argument("--select", action="append", default=[], metavar="SELECTION", help="an asset, or `qa_dataset+`")
    parser.add_argument("--force", action="store_true", help="build what is selected even when it is fresh")
    chosen = parser.parse_args(arguments)
    log_to(sys.stdout)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Shells start background jobs like this, and expect them to go on when Ctrl-C ends something else.
        LOGGER.info("Ctrl-C is switched off for this background job. To stop it: kill %d", os.getpid())
    try:
        settings = load_settings()
        with exclusive(settings.home):
            check_room(settings.home)
            store = ArtifactStore(settings.home / "artifacts")
            with open_instance(settings) as instance:
                clear_dead_runs(instance)
                clear_abandoned(store.root, settings.home / "models")
                defs = build_definitions(settings)
                drifts = {"search_index": partial(drift_of_index, settings, store)}
                materialize(defs, store, instance, chosen.select or ["*"], chosen.force, drifts)
    except RagTuneError as error:
        LOGGER.error("%s", error)
        return 1
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        LOGGER.error("Stopped. What was finished is kept; run it again to go on.")
        return 130
    return 0


def materialize(
    defs: dg.Definitions,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    select: Sequence[str] = ("*",),
    force: bool = False,
    drifts: Mapping[str, Callable[[], str]] = MappingProxyType({}),
) -> list[str]:
    """Build what is stale in the selection and return the names that ran, in order.

    `drifts` tell of assets whose artefact lies outside the store why they are no longer what was built, or nothing.

    Raises RagTuneError that names the failing asset or check and the reason.
    """
    job = defs.resolve_implicit_global_asset_job_def()
    graph = defs.resolve_asset_graph()
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    checks: dict[dg.AssetKey, list[str]] = {}
    for check in graph.asset_check_keys:
        if graph.get(check).blocking:
            checks.setdefault(check.asset_key, []).append(check.name)
    selected = set().union(*(_selected(one, graph) for one in select))
    started, ran = time.monotonic(), []
    for layer in layers({key: [dep.asset_key for dep in spec.deps] for key, spec in specs.items()}):
        reasons = {}
        for key in sorted(layer & selected):
            reason = "it was asked for" if force else reason_to_build(instance, store, specs[key], checks)
            name = key.to_user_string()
            reason = reason or (drifts[name]() if name in drifts else "")
            LOGGER.info("%s: %s", name, f"building, because {reason}" if reason else "fresh")
            if reason:
                reasons[key] = reason
        if reasons:
            _run(job, instance, sorted(reasons))
            give_memory_back()
            ran += [key.to_user_string() for key in reasons]
    LOGGER.info("Done in %.0f s: %d built, %d fresh.", time.monotonic() - started, len(ran), len(selected) - len(ran))
    return ran


def layers(deps: dict[dg.AssetKey, list[dg.AssetKey]]) -> Iterator[set[dg.AssetKey]]:
    """Yield the assets in topological order, as sets that do not depend on each other."""
    sorter = TopologicalSorter(deps)
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        yield set(ready)
        sorter.done(*ready)


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold the home for one materialisation; raise ResourceError that names the process which has it."""
    from filelock import FileLock, Timeout

    home.mkdir(parents=True, exist_ok=True)
    owner = home / "materialize.pid"
    lock = FileLock(home / "materialize.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        pid = owner.read_text().strip() if owner.is_file() else "unknown"
        raise ResourceError(
            f"Process {pid} is already building the graph in {home}.",
            expected="one materialisation per home",
            fix=f"wait for it, end it (kill {pid}), or set RAGTUNE_HOME to another folder",
        ) from error
    try:
        owner.write_text(f"{os.getpid()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Yield the Dagster instance whose storage lies in the home."""
    storage = settings.home / "dagster"
    storage.mkdir(parents=True, exist_ok=True)
    prepare_process(
        DAGSTER_HOME=str(DAGSTER_HOME),
        RAGTUNE_DAGSTER_STORAGE=str(storage),
        RAGTUNE_HOME=str(settings.home),
        TRANSFORMERS_VERBOSITY="error",
        TQDM_DISABLE="1",
    )
    with dg.DagsterInstance.from_config(str(DAGSTER_HOME)) as instance:
        yield instance


def _run(job: dg.JobDefinition, instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> None:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    started = time.monotonic()
    with Interrupts() as interrupts:
        result = job.execute_in_process(
            run_config=quiet,
            instance=instance,
            asset_selection=list(keys),
            tags={RUN_TAG: str(os.getpid())},
            raise_on_error=False,
        )
    if interrupts.seen:
        raise KeyboardInterrupt
    if not result.success:
        raise _failure(result)
    LOGGER.info("... %s in %.0f s", ", ".join(key.to_user_string() for key in keys), time.monotonic() - started)


def _failure(result: dg.ExecuteInProcessResult) -> RagTuneError:
    """Return what failed: steps, what a step needs, or blocking checks."""
    lines = []
    for event in result.all_events:
        if event.is_step_failure:
            lines.append(f"{event.step_key}: {_cause(event.step_failure_data.error)}")
        elif event.is_resource_init_failure:
            lines.append(_cause(event.engine_event_data.error))
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed and evaluation.blocking:
            lines.append(f"{evaluation.asset_key.to_user_string()}: the check {evaluation.check_name} did not pass.")
    found = "\n".join(lines) or "The run failed."
    return RagTuneError(f"{found}\nThe whole story is run {result.run_id} in Dagster (`ragtune up`).")


def _cause(error: Any) -> str:
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "failed"
    return re.sub(OUR_ERROR, "", error.message.strip())


def _selected(select: str, graph: Any) -> set[dg.AssetKey]:
    if select == "*":
        return set(graph.get_all_asset_keys())
    try:
        return set(dg.AssetSelection.from_string(select).resolve(graph))
    except dg.DagsterError as error:
        names = ", ".join(sorted(key.to_user_string() for key in graph.get_all_asset_keys()))
        raise RagTuneError(f"'{select}' selects no asset: {error}", expected=f"one of {names}, or `name+`") from error


def give_memory_back() -> None:
    """Return what a layer no longer needs to the machine, which the engines of the next one share."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def clear_dead_runs(instance: dg.DagsterInstance) -> None:
    """Close runs of a materialisation that was killed and give their pool slots back.

    The home is ours alone, so every unfinished run with our tag is dead.
    """
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    for run in instance.get_runs(unfinished):
        if RUN_TAG in run.tags:
            instance.report_run_canceled(run, message="The process that ran it ended.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def check_room(home: Path) -> None:
    """Raise ResourceError when the disk or the memory is too small to begin with."""
    from ragtune.model.base.capacity import require_disk, require_memory

    require_disk(home, MIN_DISK_BYTES, "The asset graph")
    require_memory(MIN_MEMORY_BYTES, "The asset graph")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
