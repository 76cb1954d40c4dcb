"""Builds the asset graph, layer by layer, and only what changed: `python -m ragtune_assets.materialize`.

Roots always run, because only reading them shows whether they changed. Everything else runs if
an input, its code or its settings changed. The exit code is 0, 1 with a message, or 130 after Ctrl-C.
"""

import argparse
import ctypes
import gc
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import dagster as dg

from ragtune.errors import RagTuneError, ResourceError, no_permission
from ragtune.model.base.capacity import require_disk, require_memory
from ragtune.model.plan import base_model_bytes, require_fit
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore, clear_abandoned
from ragtune.store.disk_use import is_disk_full, says_disk_full
from ragtune.store.home_lock import exclusive
from ragtune_assets.dagster_instance import open_instance
from ragtune_assets.dataset import gate_note
from ragtune_assets.dead_runs import alive, close_dead_runs, free_slots
from ragtune_assets.definitions import build_definitions
from ragtune_assets.interrupts import Interrupts
from ragtune_assets.knowledge import index_drift
from ragtune_assets.progress import LOGGER, log_to
from ragtune_assets.staleness import reason_to_build
from ragtune_assets.tracking import Status, end_in_this_process

MIN_DISK_BYTES = 4 << 30
MIN_MEMORY_BYTES = 3 << 30
"""What a run of the whole graph with the default model needs at least. Chosen by hand, not measured."""
MIN_STEP_BYTES = 256 << 20
"""Room for a step that does not compute its own need, as training, merging and quantising do. Chosen by hand."""
OUR_ERROR = r"^ragtune\.errors\.\w+: "
RUN_TAG = "ragtune/materialize"
_POOL_SECONDS, _POOL_NOTICE_SECONDS = 1.0, 30.0
"""How often to look at a full pool, and how often to say so. Chosen by hand; not sensitive."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the selected assets and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ragtune_assets.materialize", description=__doc__)
    parser.add_argument("--select", action="append", default=[], metavar="SELECTION", help="an asset, or `qa_dataset+`")
    parser.add_argument("--force", action="store_true", help="build what is selected even if it is fresh")
    chosen = parser.parse_args(arguments)
    log_to(sys.stdout)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Shells start background jobs like this, and expect them to go on when Ctrl-C ends something else.
        LOGGER.info("Ctrl-C is switched off for this background job. To stop it: kill %d", os.getpid())
    try:
        settings = load_settings()
        with exclusive(settings.home):
            check_room(settings.home)
            store = ArtifactStore(settings.home / "artifacts")
            require_fit(settings, base_model_bytes(settings, store))
            with open_instance(settings) as instance:
                for run_id in close_dead_runs(instance, settings.home):
                    LOGGER.info("Run %s had no process any more and is closed as failed.", run_id[:8])
                free_slots(instance)  # Who holds a slot holds the lock of the home, and that is this process.
                clear_abandoned(store.root, settings.home / "models")
                defs = build_definitions(settings)
                drifts = {"search_index": partial(index_drift, settings, store)}
                notes = {"lora_adapter": partial(gate_note, settings, store)}
                selection = chosen.select or ["*"]
                materialize(defs, store, instance, selection, chosen.force, drifts, MIN_STEP_BYTES, notes)
    except RagTuneError as error:
        LOGGER.error("%s", error)
        return 1
    except PermissionError as error:
        LOGGER.error("%s", no_permission(error))
        return 1
    except Exception as error:  # Dagster's own files may be what the full disk has no room for.
        if not is_disk_full(error):
            raise
        LOGGER.error("%s", disk_full(settings.home, str(error)))
        return 1
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        LOGGER.error("Stopped. Finished assets are kept; run it again to go on.")
        return 130
    return 0


def materialize(
    defs: dg.Definitions,
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    select: Sequence[str] = ("*",),
    force: bool = False,
    drifts: Mapping[str, Callable[[], str]] = MappingProxyType({}),
    step_bytes: int = 0,
    notes: Mapping[str, Callable[[], str]] = MappingProxyType({}),
) -> list[str]:
    """Build what is stale in the selection and return the names that ran, in order.

    `drifts` is for assets whose artefact lies outside the store: each function returns why the artefact is no longer
    what was built, or "". `step_bytes` must be free on the disk before each step. `notes` returns what a person should
    know before an expensive asset is built.

    Raises RagTuneError that names the failing asset or check and the reason.
    """
    job = defs.resolve_implicit_global_asset_job_def()
    graph = defs.resolve_asset_graph()
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    checks = _blocking_checks(graph)
    selected = set().union(*(_selected(selection, graph) for selection in select))
    started = time.monotonic()
    ran: list[dg.AssetKey] = []

    def reason(key: dg.AssetKey) -> str:
        drift = drifts.get(key.to_user_string(), str)
        return "it was asked for" if force else reason_to_build(instance, store, specs[key], checks) or drift()

    for layer in layers({key: [dep.asset_key for dep in spec.deps] for key, spec in specs.items()}):
        reasons = {key: reason(key) for key in sorted(layer & selected)}
        stale = _with_neighbours({key for key, text in reasons.items() if text}, graph)
        for key in sorted(reasons.keys() | stale):
            text = reasons.get(key) or "it is built in the same step"
            LOGGER.info("%s: %s", key.to_user_string(), f"building, because {text}" if key in stale else "fresh")
        for key in sorted(stale):
            if key.to_user_string() in notes:
                LOGGER.info("%s: %s", key.to_user_string(), notes[key.to_user_string()]())
        if stale:
            require_disk(store.root.parent, step_bytes, ", ".join(key.to_user_string() for key in sorted(stale)))
            wait_for_pools(instance, set().union(*(graph.get(key).pools or () for key in stale)))
            _run(job, instance, store.root.parent, sorted(stale))
            give_memory_back()
            ran += sorted(stale)
    fresh = len(selected.difference(ran))
    LOGGER.info("Done in %.0f s: %d built, %d fresh.", time.monotonic() - started, len(ran), fresh)
    return [key.to_user_string() for key in ran]


def layers(deps: dict[dg.AssetKey, list[dg.AssetKey]]) -> Iterator[set[dg.AssetKey]]:
    """Yield the assets in topological order, as sets that do not depend on each other."""
    sorter = TopologicalSorter(deps)
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        yield set(ready)
        sorter.done(*ready)


def _blocking_checks(graph: Any) -> dict[dg.AssetKey, list[str]]:
    """Return the names of the blocking checks of each asset."""
    checks: dict[dg.AssetKey, list[str]] = {}
    for check in graph.asset_check_keys:
        if graph.get(check).blocking:
            checks.setdefault(check.asset_key, []).append(check.name)
    return checks


def _with_neighbours(keys: set[dg.AssetKey], graph: Any) -> set[dg.AssetKey]:
    """Return the assets and those that the same steps build: a step cannot be run in part."""
    return set().union(*(graph.get(key).execution_set_asset_keys for key in keys))


def wait_for_pools(instance: dg.DagsterInstance, pools: Iterable[str]) -> None:
    """Wait until every pool has a free slot, and say what is waited for; Ctrl-C and SIGTERM end it.

    Dagster would wait inside the run, where it says nothing and does not react to signals.
    """
    next_notice = 0.0
    for pool in sorted(pools):
        while (info := instance.event_log_storage.get_concurrency_info(pool)).limit is not None:
            if info.active_slot_count < info.limit:
                break
            if time.monotonic() >= next_notice:
                holders = ", ".join(f"run {run_id[:8]}" for run_id in sorted(info.active_run_ids)) or "nobody"
                LOGGER.info("Waiting for the pool '%s': its limit is %d, held by %s.", pool, info.limit, holders)
                next_notice = time.monotonic() + _POOL_NOTICE_SECONDS
            time.sleep(_POOL_SECONDS)


def _run(job: dg.JobDefinition, instance: dg.DagsterInstance, home: Path, keys: Sequence[dg.AssetKey]) -> None:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    started, run_id = time.monotonic(), str(uuid.uuid4())
    with Interrupts() as interrupts, alive(home, run_id):
        status: Status = "KILLED"
        try:
            result = job.execute_in_process(
                run_config=quiet,
                instance=instance,
                run_id=run_id,
                asset_selection=list(keys),
                tags={RUN_TAG: str(os.getpid())},
                raise_on_error=False,
            )
            status = "KILLED" if interrupts.seen else "FINISHED" if result.success else "FAILED"
        finally:
            end_in_this_process(run_id, status)
    if interrupts.seen:
        raise KeyboardInterrupt
    if not result.success:
        failure = _failure(result)
        raise disk_full(home, str(failure)) if says_disk_full(str(failure)) else failure
    LOGGER.info("... %s in %.0f s", ", ".join(key.to_user_string() for key in keys), time.monotonic() - started)


def _failure(result: dg.ExecuteInProcessResult) -> RagTuneError:
    """Return an error that names the failed steps, resources and blocking checks."""
    lines = []
    for event in result.all_events:
        if event.is_step_failure:
            lines.append(f"{event.step_key}: {_cause(event.step_failure_data.error)}")
        elif event.is_resource_init_failure:
            lines.append(_cause(event.engine_event_data.error))
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed and evaluation.blocking:
            name, why = evaluation.asset_key.to_user_string(), evaluation.description or ""
            lines.append(f"{name}: the check {evaluation.check_name} did not pass. {why}".strip())
    causes = "\n".join(lines) or "The run failed."
    return RagTuneError(f"{causes}\nFor details see run {result.run_id} in Dagster (`ragtune up`).")


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
    """Return memory that a layer no longer needs to the machine, for the engines of the next layer."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def disk_full(home: Path, cause: str) -> RagTuneError:
    """Return the error for a full disk, with the ways out."""
    return ResourceError(
        f"The disk that holds {home} is full: {cause}",
        expected="room for what is built; what was finished is kept, and nothing incomplete counts",
        fix="free some space (`ragtune prune --dry-run` shows what can go), and run it again; it goes on",
    )


def check_room(home: Path) -> None:
    """Raise ResourceError if there is too little disk or memory to begin."""
    require_disk(home, MIN_DISK_BYTES, "the asset graph")
    require_memory(MIN_MEMORY_BYTES, "The asset graph")


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt: the handler of SIGTERM, which ends a build like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
