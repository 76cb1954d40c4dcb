"""The code location: every asset with its code version, the sensors, the resources and the executor."""

from typing import Any

import dagster as dg

from ragtune.settings import Settings, load_settings
from ragtune_assets import (
    compression,
    dataset,
    evaluation,
    experiments,
    feedback,
    gateway_check,
    knowledge,
    model,
    preference,
    release,
    report,
    speed,
)
from ragtune_assets.asset import code_version
from ragtune_assets.automation import keep_up, when_inputs_change
from ragtune_assets.dead_runs import dead_runs
from ragtune_assets.exclusive_executor import exclusive_executor
from ragtune_assets.feedback import enough_new_feedback, enough_new_reviews
from ragtune_assets.knowledge import changed_sources
from ragtune_assets.resources import build_resources

MODULES = (
    knowledge,
    dataset,
    model,
    preference,
    compression,
    evaluation,
    speed,
    release,
    feedback,
    report,
    experiments,
)
"""Every module with assets, in the order in which they build on each other."""
_INDEX_KINDS = {"lance": "lancedb", "elasticsearch": "elasticsearch"}
"""Name and icon of a back end in Dagster, by its name in the settings."""


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return the code location for these settings.

    The settings that shape an asset are part of its code version, so a changed value makes stale exactly what it
    touches.
    """
    stored_in = back_end_kinds(settings)

    def with_settings(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(
            code_version=code_version(spec, settings),
            automation_condition=when_inputs_change() if list(spec.deps) else None,
            kinds=spec.kinds | stored_in.get(spec.key.to_user_string(), set()),
        )

    assets: Any = dg.load_assets_from_modules(MODULES)
    return dg.Definitions(
        assets=dg.map_asset_specs(with_settings, assets),
        asset_checks=[gateway_check.gateway_serves_champion],
        sensors=[
            enough_new_feedback,
            enough_new_reviews,
            changed_sources,
            dead_runs,
            gateway_check.refused_champion,
            keep_up(),
        ],
        resources=build_resources(settings),
        executor=exclusive_executor(settings.home, settings),
    )


def back_end_kinds(settings: Settings) -> dict[str, set[str]]:
    """Return {asset: kinds} of the assets whose back end the settings choose, as in `{"search_index": {"lancedb"}}`."""
    database = {settings.feedback_url.partition(":")[0].partition("+")[0]}
    index = {_INDEX_KINDS[settings.index.backend]}
    return {"search_index": index, "feedback_events": database, "review_decisions": database}


@dg.definitions
def defs() -> dg.Definitions:
    """Return the code location of `ragtune.yaml` and the environment."""
    return build_definitions(load_settings())
