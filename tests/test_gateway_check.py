"""Dagster shows a champion that the gateway refuses, by a check on the release and a sensor."""

import dagster as dg
import pytest

from ragtune.settings import load_settings
from ragtune.store.registry import ModelRegistry
from ragtune_assets.definitions import build_definitions
from ragtune_assets.gateway_check import CHECK, gateway_serves_champion, refused_champion
from tests.support.releases import released

KEY = dg.AssetCheckKey(dg.AssetKey("released_model"), CHECK)
WHY = "Version 1 is not served. config.json is missing."


@pytest.fixture
def registry(tmp_path, give_mlflow) -> ModelRegistry:
    give_mlflow(tmp_path)
    registry = ModelRegistry(load_settings({"home": tmp_path}))
    registry.move("champion", registry.register(released(tmp_path)))
    return registry


def evaluate(registry: ModelRegistry, cursor: str | None = None):
    return refused_champion(dg.build_sensor_context(cursor=cursor, resources={"registry": registry}))


def test_the_sensor_reports_a_refusal_once_and_then_that_it_is_over(registry):
    first = evaluate(registry)
    assert [event.passed for event in first.asset_events] == [True]
    assert isinstance(evaluate(registry, first.cursor), dg.SkipReason)
    registry.refuse("1", WHY)
    second = evaluate(registry, first.cursor)
    (event,) = second.asset_events
    assert (event.asset_check_key, event.passed) == (KEY, False)
    assert event.description == f"The gateway does not serve version 1. {WHY}"
    assert isinstance(evaluate(registry, second.cursor), dg.SkipReason)
    registry.refuse("1", "")
    assert [event.passed for event in evaluate(registry, second.cursor).asset_events] == [True]


def test_what_the_sensor_reports_is_the_state_of_the_check_in_dagster(registry):
    registry.refuse("1", WHY)
    with dg.DagsterInstance.ephemeral() as instance:
        for event in evaluate(registry).asset_events:
            instance.report_runless_asset_event(event)
        record = instance.get_latest_asset_check_evaluation_record(KEY)
    assert record.status.value == "FAILED"
    assert WHY in record.event.dagster_event.asset_check_evaluation_data.description


def test_the_check_and_the_sensor_are_part_of_the_code_location(registry):
    definitions = build_definitions(load_settings({"home": registry.home}))
    assert KEY in definitions.resolve_asset_graph().asset_check_keys
    sensor = definitions.resolve_sensor_def("refused_champion")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_the_check_passes_until_the_gateway_refuses_the_champion(registry):
    assert gateway_serves_champion(registry).passed
    registry.refuse("1", WHY)
    checked = gateway_serves_champion(registry)
    assert (checked.passed, checked.description) == (False, f"The gateway does not serve version 1. {WHY}")


def test_without_a_champion_nothing_is_refused(tmp_path):
    registry = ModelRegistry(load_settings({"home": tmp_path}))
    assert gateway_serves_champion(registry).passed
    (event,) = evaluate(registry).asset_events
    assert event.description == "There is no champion yet, so the base model answers."
