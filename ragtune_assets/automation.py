"""Rebuilds an asset by itself when the content of its inputs or its own code changed."""

import time
import warnings
from typing import Any

import dagster as dg

from ragtune_assets.asking_again import failed_attempts
from ragtune_assets.staleness import inputs_reason

SENSOR = "keep_up"
_TICK_SECONDS = 30
"""Dagster's own default for automation ticks."""


class AncestorsAreFresh(dg.AutomationCondition[dg.AssetKey]):
    """True if no ancestor of the asset waits to be rebuilt.

    Without it an adapter that depends on the index and on the dataset would be trained when the
    index is new, and again a few ticks later when the dataset has followed.
    """

    @property
    def name(self) -> str:
        """The name that Dagster shows."""
        return "ancestors_are_fresh"

    def evaluate(self, context: "dg.AutomationContext[dg.AssetKey]") -> "dg.AutomationResult[dg.AssetKey]":
        """Decide by the version tags of the newest materialisations."""
        graph, instance = context.asset_graph, context.asset_graph_view.instance
        waiting = any(_stale(graph, instance, key) for key in _ancestors(graph, context.key))
        return dg.AutomationResult(context, context.get_empty_subset() if waiting else context.candidate_subset)


class FailedAWhileAgo(dg.AutomationCondition[dg.AssetKey]):
    """True if the asset is still stale after runs that failed, and the pause after the last of them is over.

    Dagster itself requests one run for each change. Without this condition, an asset whose run failed would stay stale
    until the next change.
    """

    @property
    def name(self) -> str:
        """The name that Dagster shows."""
        return "failed_a_while_ago"

    def evaluate(self, context: "dg.AutomationContext[dg.AssetKey]") -> "dg.AutomationResult[dg.AssetKey]":
        """Decide by the runs that the sensor started for this asset."""
        graph, instance = context.asset_graph, context.asset_graph_view.instance
        again = False
        if _stale(graph, instance, context.key):
            attempts = failed_attempts(instance, SENSOR, context.key)
            again = bool(attempts.failed) and not attempts.under_way and not attempts.seconds_left(time.time())
        return dg.AutomationResult(context, context.candidate_subset if again else context.get_empty_subset())


def when_inputs_change() -> dg.AutomationCondition[dg.AssetKey]:
    """Return the condition of every asset that is not a root.

    Unlike `eager()` it does not fire if an input was rebuilt to the same content. Nothing fires before
    the first run of the whole graph.
    """
    new: dg.AutomationCondition[Any] = (
        dg.AutomationCondition.newly_missing()
        | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
        | dg.AutomationCondition.code_version_changed()
    )
    return (
        (new.since_last_handled() | FailedAWhileAgo())
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
        & AncestorsAreFresh()
    ).with_label("an input changed")


def keep_up() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that rebuilds what changed, one layer per tick; it is on from the start."""
    with warnings.catch_warnings():
        # Conditions of our own have to be evaluated where our code is; Dagster calls that option beta.
        warnings.filterwarnings("ignore", message="Parameter `use_user_code_server`")
        return dg.AutomationConditionSensorDefinition(
            SENSOR,
            target=dg.AssetSelection.all(),
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=_TICK_SECONDS,
            use_user_code_server=True,
            description="Rebuilds what changed, one layer of the graph per tick.",
        )


def _ancestors(graph: Any, key: dg.AssetKey) -> set[dg.AssetKey]:
    """Return all ancestors of the asset except roots, because only a run of a root shows whether it is stale."""
    ancestors: set[dg.AssetKey] = set()
    queue = set(graph.get(key).parent_keys)
    while queue:
        parent = queue.pop()
        if parent not in ancestors:
            ancestors.add(parent)
            queue |= graph.get(parent).parent_keys
    return {ancestor for ancestor in ancestors if graph.get(ancestor).parent_keys}


def _stale(graph: Any, instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    node = graph.get(key)
    return bool(inputs_reason(instance, key, node.code_version, node.parent_keys))
