"""What in the asset graph needs a person: `python -m ragtune_assets.health` prints it as JSON for `ragtune status`."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import dagster as dg

from ragtune.dataset.reviews.store import ReviewStore
from ragtune.errors import RagTuneError, no_permission
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.problems import Problem
from ragtune_assets.asking_again import Attempts, attempts_of
from ragtune_assets.dagster_instance import open_instance
from ragtune_assets.dead_runs import runs_without_process
from ragtune_assets.definitions import build_definitions
from ragtune_assets.feedback import new_corrections
from ragtune_assets.staleness import reason_to_build

NEWEST_RUNS = 200
"""How many runs are looked at for failures. Chosen by hand; a build of the whole graph is some 15 runs."""
QUEUE_SECONDS = 3600.0
"""A run that is not launched for longer, or feedback that no run takes, is stuck. Chosen by hand: it takes seconds."""


def problems(instance: dg.DagsterInstance, settings: Settings, defs: dg.Definitions) -> list[Problem]:
    """Return the runs that are dead or do not start, the assets that failed or are stale, and a refused candidate."""
    records = instance.get_run_records(limit=NEWEST_RUNS)
    failures = _failures(instance, records)
    failed = {problem.subject for problem in failures}
    return [
        *_stuck(instance, settings, records),
        *_waiting_feedback(settings),
        *failures,
        *_stale(instance, settings, defs, failed),
        *_refused(instance),
    ]


def _stuck(instance: dg.DagsterInstance, settings: Settings, records: Sequence[dg.RunRecord]) -> list[Problem]:
    dead = [
        Problem("stuck", run.run_id, f"run {run.run_id[:8]} has no process any more", "run `ragtune materialize`")
        for run in runs_without_process(instance, settings.home)
    ]
    late = [record for record in records if record.dagster_run.status == dg.DagsterRunStatus.QUEUED]
    late = [record for record in late if time.time() - record.create_timestamp.timestamp() > QUEUE_SECONDS]
    fix = "start `ragtune up`, or delete the run in Dagster"
    for record in late:
        run_id, since = record.dagster_run.run_id, f"{record.create_timestamp:%Y-%m-%d %H:%M} UTC"
        dead.append(Problem("stuck", run_id, f"run {run_id[:8]} waits for its start since {since}", fix))
    return dead


def _waiting_feedback(settings: Settings) -> list[Problem]:
    """Return that enough feedback for a training waits, if it does so for long: nobody runs the sensor, or it fails."""
    log, reviews = FeedbackLog(settings.feedback_url), ReviewStore(settings.feedback_url)
    needed = settings.feedback.retrain_after
    try:
        new = new_corrections(settings, ArtifactStore(settings.home / "artifacts"), log, reviews)
    finally:
        log.close()
        reviews.close()
    if len(new) < needed:
        return []
    enough_at = datetime.fromisoformat(sorted(one.since for one in new)[needed - 1])
    if time.time() - enough_at.timestamp() < QUEUE_SECONDS:
        return []
    what = f"{len(new)} new corrections wait since {enough_at:%Y-%m-%d %H:%M} UTC; {needed} are enough for a training"
    return [Problem("stuck", "feedback", what, "start `ragtune up`, or run `ragtune materialize`")]


def _failures(instance: dg.DagsterInstance, records: Sequence[dg.RunRecord]) -> list[Problem]:
    """Return the assets whose newest run that ended failed, with the reason and the time of the next attempt."""
    by_asset: dict[dg.AssetKey, list[dg.RunRecord]] = {}
    for record in records:
        for key in record.dagster_run.asset_selection or ():
            by_asset.setdefault(key, []).append(record)
    failed = []
    for key, runs in sorted(by_asset.items(), key=lambda item: item[0].to_user_string()):
        since_success: list[dg.RunRecord] = []
        for record in runs:
            if record.dagster_run.is_success:
                break
            since_success.append(record)
        attempts = attempts_of(since_success)
        if attempts.failed and not attempts.under_way and not _built_since(instance, key, attempts):
            name = key.to_user_string()
            times = f"{attempts.failed} runs" if attempts.failed > 1 else "a run"
            what = (
                f"{times} of {name} failed, the last one is {attempts.last_run_id[:8]}: {_reason(instance, attempts)}"
            )
            failed.append(Problem("failed", name, what, _next(attempts)))
    return failed


def _built_since(instance: dg.DagsterInstance, key: dg.AssetKey, attempts: Attempts) -> bool:
    """Return whether the last failed run built this asset all the same, and failed at another one."""
    event = instance.get_latest_materialization_event(key)
    return event is not None and event.run_id == attempts.last_run_id


def _next(attempts: Attempts) -> str:
    minutes = attempts.seconds_left(time.time()) / 60
    when = f"in {minutes:.0f} min" if minutes else "at its next look"
    return f"fix the cause and run `ragtune materialize`; if a sensor asked for it, it asks again {when}"


def _reason(instance: dg.DagsterInstance, attempts: Attempts) -> str:
    """Return the first line of the innermost error of a run, or its closing message."""
    failures = instance.all_logs(
        attempts.last_run_id, of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    )
    for entry in failures:
        event = entry.dagster_event
        if event is not None and event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                return _in_words(error.message.strip().splitlines()[0])
    messages = [entry.dagster_event.message for entry in failures if entry.dagster_event is not None]
    return (messages[-1] or "no reason is known") if messages else "it was ended by a person"


def _in_words(message: str) -> str:
    """Return the first line of an error for people; Dagster has no words for a step whose process was killed."""
    if message.endswith("ChildProcessCrashException"):
        return "the process of the step was killed; usually memory ran out"
    return message


def _stale(instance: dg.DagsterInstance, settings: Settings, defs: dg.Definitions, failed: set[str]) -> list[Problem]:
    """Return one problem that names the assets that were built before and would now be built again."""
    store = ArtifactStore(settings.home / "artifacts")
    reasons = {}
    for spec in defs.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        if list(spec.deps) and name not in failed and instance.get_latest_materialization_event(spec.key) is not None:
            reasons[name] = reason_to_build(instance, store, spec, {})
    stale = {name: reason for name, reason in reasons.items() if reason}
    if not stale:
        return []
    listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(stale.items()))
    return [Problem("stale", "assets", f"{len(stale)} assets are stale ({listed})", "run `ragtune materialize`")]


def _refused(instance: dg.DagsterInstance) -> list[Problem]:
    """Return the candidate that the gate refused last, if the newest release is one."""
    check = dg.AssetCheckKey(dg.AssetKey("released_model"), "gate_passed")
    record = instance.get_latest_asset_check_evaluation_record(check)
    event = record.event.dagster_event if record is not None and record.event is not None else None
    if record is None or event is None or record.status.value != "FAILED":
        return []
    what = f"the newest candidate did not become champion: {event.asset_check_evaluation_data.description}"
    subject = f"candidate of run {record.run_id}"
    return [Problem("refused", subject, what, "see the page of `released_model` in Dagster")]


def main() -> int:
    """Print the problems as a JSON list."""
    try:
        settings = load_settings()
        with open_instance(settings) as instance:
            rows = problems(instance, settings, build_definitions(settings))
    except RagTuneError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except PermissionError as error:
        sys.stderr.write(f"{no_permission(error)}\n")
        return 1
    sys.stdout.write(json.dumps([asdict(problem) for problem in rows]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
