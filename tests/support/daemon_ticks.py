"""Does what Dagster's daemon does, in one process and without waiting: sensors and automation ticks.

Run as a script in the environment of a home; prints a JSON line {"sensor": ..., "layers": [...]}.
"""

import json
import sys

import dagster as dg

from ragtune.settings import load_settings
from ragtune_assets.dagster_instance import open_instance
from ragtune_assets.definitions import build_definitions
from ragtune_assets.feedback import enough_new_feedback
from ragtune_assets.resources import build_resources

ASKED_FOR = [dg.AssetKey("feedback_events"), dg.AssetKey("review_decisions")]
"""What the sensor asks for."""


def main() -> int:
    settings = load_settings()
    defs = build_definitions(settings)
    job = defs.resolve_implicit_global_asset_job_def()
    # The benchmark measures the same loads again and is not on the way to a release.
    benchmarks = dg.AssetSelection.assets("benchmark_runs", "benchmark_tables", "speed_comparison")
    watched = dg.AssetSelection.all() - benchmarks
    with open_instance(settings) as instance:
        cursor = dg.evaluate_automation_conditions(defs, instance, watched).cursor
        needed = ("settings", "store", "feedback_log", "reviews")
        resources = {name: build_resources(settings)[name] for name in needed}
        request = enough_new_feedback(dg.build_sensor_context(instance, resources=resources))
        if not isinstance(request, dg.RunRequest):
            say(request.skip_message, [])
            return 0
        job.execute_in_process(instance=instance, asset_selection=ASKED_FOR)
        layers = []
        while True:
            result = dg.evaluate_automation_conditions(defs, instance, watched, cursor=cursor)
            cursor = result.cursor
            keys = sorted({evaluated.key for evaluated in result.results if evaluated.true_subset.size}, key=str)
            if not keys:
                break
            layers.append([key.to_user_string() for key in keys])
            job.execute_in_process(instance=instance, asset_selection=keys)
    say(dict(request.tags), layers)
    return 0


def say(sensor: object, layers: list[list[str]]) -> None:
    sys.stdout.write(json.dumps({"sensor": sensor, "layers": layers}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
