"""The dashboard and the alert rules ask for nothing that `/metrics` does not have."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ragtune_serving import cli
from ragtune_serving.dashboard import ROWS, dashboard
from ragtune_serving.gpu import GpuMemory
from ragtune_serving.scrape import engine_text
from tests.support.promql import Scrape, metrics_of
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.served_gateway import ServedGateway, index_documents

RULES = yaml.safe_load((files("ragtune_serving") / "monitoring" / "alerts.yaml").read_text())["groups"][0]["rules"]
QUERIES = [query.expression for row in ROWS.values() for panel in row for query in panel.queries]
EXPRESSIONS = [*QUERIES, *(rule["expr"] for rule in RULES)]
OURS = [one for one in EXPRESSIONS if not any(name.startswith("vllm:") for name in metrics_of(one))]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A scrape after answers of every kind, failures and verdicts, as on a machine with a GPU."""
    home = tmp_path_factory.mktemp("home")
    index_documents(home)
    upstream = ScriptedUpstream()
    gateway = ServedGateway(home, upstream, answer={"refused_share": 0.0}, gateway={"cache": {"entries": 100}})
    try:
        reply = gateway.ask().json()
        assert gateway.ask().json()["ragtune"]["cached"]
        gateway.events(ragtune={"cache": "no-store"})
        wrong = ["It", "opens", "a", "session", "for", "95", "minutes.", "[1]"]
        upstream.next_words = [wrong, wrong, ["I", "could", "not", "find", "this", "in", "the", "documents."]]
        assert gateway.ask("What does `shop.users.login` open, and for how long?").json()["ragtune"]["replaced"]
        assert gateway.ask(model="ragtune-raw").json()["ragtune"]["refused"]
        upstream.behaviour = "broken"
        assert gateway.ask("What does `shop.cart.empty` remove?").status_code == 503
        for rating in ("up", "down"):
            body = {"response_id": reply["id"], "rating": rating}
            assert gateway.request("POST", "/v1/feedback", json=body).status_code == 200
        gateway.services.metrics.show_memory({}, [GpuMemory("0", 1 << 30, 2 << 30)])
        yield Scrape(gateway.request("GET", "/metrics").text)
    finally:
        gateway.close()
        upstream.close()


@pytest.mark.parametrize("expression", OURS)
def test_every_query_finds_its_series_and_labels_in_a_real_scrape(scraped, expression):
    assert scraped.problems(expression) == []


@pytest.mark.parametrize("expression", [one for one in EXPRESSIONS if one not in OURS])
def test_every_query_for_the_engines_metrics_finds_its_series_in_what_vllm_sends(expression):
    # What vLLM 0.32 sent on a CPU, without the buckets; tests/test_gateway_engine.py asks a running one.
    text = Path(__file__).parent.joinpath("support", "vllm_metrics.txt").read_text()
    assert Scrape(engine_text({("live", "3"): text}).decode()).problems(expression) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("ragtune_request_total", "nothing matches"),
        ('sum(rate(ragtune_requests_total{outcome="lost"}[5m]))', "nothing matches"),
        ("sum by (modell) (ragtune_requests_total)", "no label ['modell']"),
        ("1 - ragtune_ready / ragtune_redy", "nothing matches"),
        ("histogram_quantile(0.5, sum by (le) (rate(ragtune_request_seconds[5m])))", "nothing matches"),
    ],
)
def test_a_query_for_something_else_is_noticed(scraped, expression, problem):
    assert problem in scraped.problems(expression)[0]


def test_every_legend_names_a_label_of_its_query(scraped):
    for row in ROWS.values():
        for query in (query for panel in row for query in panel.queries):
            for label in [part.split("}}")[0] for part in query.legend.split("{{")[1:]]:
                grouped = f"({label}" in query.expression or f" {label})" in query.expression
                series = [s for name in metrics_of(query.expression) for s in scraped.samples.get(name, [])]
                assert grouped or any(label in sample.labels for sample in series), query


def test_every_metric_of_ours_is_on_the_dashboard_or_has_the_same_content_as_one_that_is(scraped):
    shown = {name.removesuffix("_bucket") for one in EXPRESSIONS for name in metrics_of(one)}
    same = {
        "ragtune_first_token_seconds": "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_request_duration_seconds": "ragtune_request_seconds",
        "gen_ai_client_token_usage": "ragtune_tokens_total",
        "ragtune_engine_scraped": "ragtune_engine_up",
    }
    assert set(same.values()) <= shown
    suffixes = ("_bucket", "_count", "_sum", "_created")
    ours = {name for name in scraped.samples if not name.endswith(suffixes)}
    ours |= {name.removesuffix("_bucket") for name in scraped.samples if name.endswith("_bucket")}
    assert ours - shown - set(same) == set()


def test_panels_do_not_overlap_and_every_rule_says_what_to_do():
    panels = dashboard()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)
    for rule in RULES:
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_command_writes_files_that_name_the_gateway_and_its_key(tmp_path):
    environment = {"RAGTUNE_HOME": str(tmp_path / "home"), "RAGTUNE_GATEWAY__PORT": "8123"}
    result = CliRunner().invoke(cli.app, ["monitoring", str(tmp_path / "out")], env=environment)
    assert result.exit_code == 0, result.output
    scrape = yaml.safe_load((tmp_path / "out" / "prometheus.yaml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8123"]}]
    assert job["authorization"]["credentials_file"] == str(tmp_path / "home" / "keys" / "client.key")
    assert scrape["rule_files"] == ["alerts.yaml"]
    assert json.loads((tmp_path / "out" / "dashboard.json").read_text()) == dashboard()
    assert yaml.safe_load((tmp_path / "out" / "alerts.yaml").read_text())["groups"][0]["rules"] == RULES
