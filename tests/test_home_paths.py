"""Homes with unusual paths: they work, or they are refused in words."""

import pytest

from ragtune.errors import SettingsError
from ragtune.settings import load_settings
from ragtune.store.feedback import FeedbackLog
from ragtune.store.warehouse import Warehouse
from ragtune_assets.dagster_instance import open_instance

pytestmark = pytest.mark.usefixtures("keep_environment")


@pytest.mark.parametrize("name", ["what?", "100%25", "back\\slash", "two\nlines"])
def test_a_home_whose_path_would_send_data_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(SettingsError, match="spaces, umlauts and '#' are fine"):
        load_settings({"home": tmp_path / name})


@pytest.mark.parametrize("name", ["my home", "Bücher", "c#", "quo'te; & more"])
def test_databases_of_a_home_with_an_unusual_path_lie_in_it(name, tmp_path):
    settings = load_settings({"home": tmp_path / name})
    log = FeedbackLog(settings.feedback_url)
    assert log.count_responses() == 0
    log.close()
    Warehouse(settings.home / "warehouse.duckdb").query("SELECT 1")
    with open_instance(settings) as instance:
        assert instance.get_runs_count() == 0
    assert (settings.home / "feedback" / "feedback.db").is_file()
    assert (settings.home / "warehouse.duckdb").is_file()
    assert (settings.home / "dagster" / "history" / "runs.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
