"""When an asset is rebuilt without being asked: its inputs' content or its own code changed."""

import dagster as dg


def when_inputs_change() -> dg.AutomationCondition:
    """Return the condition of every asset that is not a root.

    Unlike `eager()` it stops where an input was rebuilt to the same content. Nothing fires before
    the first whole run of the graph.
    """
    new = (
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
    ).with_label("an input changed")


keep_up = dg.AutomationConditionSensorDefinition(
    "keep_up",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Rebuilds what changed, one layer of the graph per tick.",
)
