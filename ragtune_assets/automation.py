"""When an asset is rebuilt without being asked: its inputs' content or its own code changed."""

import warnings
from typing import Any

import dagster as dg

from ragtune_assets.staleness import inputs_reason


class AncestorsAreFresh(dg.AutomationCondition[dg.AssetKey]):
    """True when nothing further up waits to be rebuilt.

    Without it an adapter that depends on the index and on the dataset would be trained when the
    index is new, and again a few ticks later when the dataset has followed.
    """

    @property
    def name(self) -> str:
        """How Dagster shows the condition."""
        return "ancestors_are_fresh"

    def evaluate(self, context: "dg.AutomationContext[dg.AssetKey]") -> "dg.AutomationResult[dg.AssetKey]":
        """Judge by the version tags of the newest materialisations."""
        graph, instance = context.asset_graph, context.asset_graph_view.instance
        waiting = any(_stale(graph, instance, key) for key in _ancestors(graph, context.key))
        return dg.AutomationResult(context, context.get_empty_subset() if waiting else context.candidate_subset)


def when_inputs_change() -> dg.AutomationCondition[dg.AssetKey]:
    """Return the condition of every asset that is not a root.

    Unlike `eager()` it stops where an input was rebuilt to the same content. Nothing fires before
    the first whole run of the graph.
    """
    new: dg.AutomationCondition[Any] = (
        dg.AutomationCondition.newly_missing()
        | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
        | dg.AutomationCondition.code_version_changed()
    )
    return (
        new.since_last_handled()
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
        & AncestorsAreFresh()
    ).with_label("an input changed")


def keep_up() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that is on from the start and rebuilds what changed, one layer per tick."""
    with warnings.catch_warnings():
        # A condition of our own is judged where our code runs; Dagster calls that switch beta.
        warnings.filterwarnings("ignore", message="Parameter `use_user_code_server`")
        return dg.AutomationConditionSensorDefinition(
            "keep_up",
            target=dg.AssetSelection.all(),
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=30,
            use_user_code_server=True,
            description="Rebuilds what changed, one layer of the graph per tick.",
        )


def _ancestors(graph: Any, key: dg.AssetKey) -> set[dg.AssetKey]:
    """Return everything above the asset except the roots, which only a run of their own can judge."""
    found: set[dg.AssetKey] = set()
    waiting = set(graph.get(key).parent_keys)
    while waiting:
        above = waiting.pop()
        if above not in found:
            found.add(above)
            waiting |= graph.get(above).parent_keys
    return {above for above in found if graph.get(above).parent_keys}


def _stale(graph: Any, instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    node = graph.get(key)
    return bool(inputs_reason(instance, key, node.code_version, node.parent_keys))
