"""Shows in Dagster that the gateway refuses the champion: a check on `released_model`, and the sensor that updates it.

The wings do not import each other. The gateway writes the reason into a tag of the version in the model registry, which
both wings use anyway, and which MLflow's page shows as well.
"""

import dagster as dg

from ragtune.store.registry import ModelRegistry

CHECK = "gateway_serves_champion"
POLL_SECONDS = 30
"""How often the sensor looks at the registry. Chosen by hand; a look takes milliseconds."""
_RELEASE = dg.AssetKey("released_model")


@dg.asset_check(
    asset=_RELEASE,
    name=CHECK,
    description="Fails while the gateway refuses the champion because it fails to verify or to start.",
)
def gateway_serves_champion(registry: dg.ResourceParam[ModelRegistry]) -> dg.AssetCheckResult:
    """Return whether the gateway refuses the champion; it passes if no gateway has tried it yet."""
    version, reason = _champion(registry)
    return dg.AssetCheckResult(passed=not reason, description=_words(version, reason))


@dg.sensor(
    asset_selection=[_RELEASE],
    minimum_interval_seconds=POLL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Updates the check on `released_model` that fails while the gateway refuses the champion.",
)
def refused_champion(
    context: dg.SensorEvaluationContext, registry: dg.ResourceParam[ModelRegistry]
) -> dg.SensorResult | dg.SkipReason:
    """Report the check if the champion has changed, or what the gateway says of it; this never requests a run."""
    version, reason = _champion(registry)
    words = _words(version, reason)
    if words == context.cursor:
        return dg.SkipReason(f"Nothing has changed. {words}")
    checked = dg.AssetCheckEvaluation(_RELEASE, CHECK, passed=not reason, description=words)
    return dg.SensorResult(cursor=words, asset_events=[checked])


def _champion(registry: ModelRegistry) -> tuple[str, str]:
    """Return the version that the registry names, or "", and why the gateway refuses it, or ""."""
    version = registry.alias_version("champion") or ""
    return version, registry.refusal(version) if version else ""


def _words(version: str, reason: str) -> str:
    if not version:
        return "There is no champion yet, so the base model answers."
    return f"The gateway does not serve version {version}. {reason}" if reason else f"Version {version} is not refused."
