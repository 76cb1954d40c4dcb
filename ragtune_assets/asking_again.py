"""Lets sensors ask again after a run that failed, with a growing pause.

Dagster never starts a second run with the same run key, even if the first failed. So the key has the number of the
attempt, and the attempts are counted by a tag that says why the sensor asks.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

REASON = "ragtune/asked_for"
"""Tag of a run: why a sensor asked for it, such as `feedback-after-12`."""
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 6 * 3600.0
"""Seconds after the first failed attempt, and at most; each pause doubles. Chosen by hand, not measured."""
_LOOK_BACK = 100
"""How many of a sensor's newest runs are looked at. Chosen by hand: the longest pause is reached after nine."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts so far: the failed ones, when the last one ended (seconds since 1970), and a run under way."""

    failed: int = 0
    ended_at: float = 0.0
    last_run_id: str = ""
    under_way: str = ""

    def seconds_left(self, now: float) -> float:
        """Return the seconds until the next attempt; 0.0 if it is time, or if the clock was set back since."""
        if not self.failed or now < self.ended_at:
            return 0.0
        # More doublings than this reach the longest pause anyway.
        pause = min(FIRST_PAUSE * 2.0 ** min(self.failed - 1, 16), LONGEST_PAUSE)
        return max(0.0, self.ended_at + pause - now)


def attempts_of(records: Sequence[dg.RunRecord]) -> Attempts:
    """Return what became of the attempts, newest first."""
    ended = [record for record in records if record.dagster_run.is_finished]
    under_way = next((record.dagster_run.run_id for record in records if not record.dagster_run.is_finished), "")
    if not ended:
        return Attempts(under_way=under_way)
    last = ended[0]
    ended_at = last.end_time or last.update_timestamp.timestamp()
    return Attempts(len(ended), ended_at, last.dagster_run.run_id, under_way)


def request_run(
    instance: dg.DagsterInstance, reason: str, tags: Mapping[str, str] | None = None, **request: Any
) -> dg.RunRequest | dg.SkipReason:
    """Return a request for a run, or why there is none now: an attempt is under way, or the last one just failed.

    Args:
        instance: Dagster's instance.
        reason: why the run is wanted; it must change once a run succeeded.
        tags: more tags of the run.
        request: what `dagster.RunRequest` takes in addition.
    """
    attempts = attempts_of(instance.get_run_records(dg.RunsFilter(tags={REASON: reason}), limit=_LOOK_BACK))
    if attempts.under_way:
        return dg.SkipReason(f"Run {attempts.under_way[:8]} is under way.")
    if left := attempts.seconds_left(time.time()):
        return dg.SkipReason(
            f"{attempts.failed} runs failed, the last one is {attempts.last_run_id[:8]}. "
            f"The next attempt is in {left / 60:.0f} minutes."
        )
    return dg.RunRequest(
        run_key=f"{reason}-attempt-{attempts.failed + 1}", tags={**(tags or {}), REASON: reason}, **request
    )


def failed_attempts(instance: dg.DagsterInstance, sensor: str, key: dg.AssetKey) -> Attempts:
    """Return the attempts of a sensor at an asset since it last succeeded."""
    records = []
    for record in instance.get_run_records(dg.RunsFilter(tags={"dagster/sensor_name": sensor}), limit=_LOOK_BACK):
        run = record.dagster_run
        if key in (run.asset_selection or ()):
            if run.is_success:
                break
            records.append(record)
    return attempts_of(records)
