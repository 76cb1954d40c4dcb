"""`ragtune benchmark` and `ragtune tune` over real gateways, in front of servers whose speed is known."""

import json
import subprocess

import pytest
import yaml
from typer.testing import CliRunner

from ragtune.errors import ResourceError, SettingsError
from ragtune.settings import load_settings
from ragtune.store.feedback import FeedbackLog
from ragtune.store.locks import held
from ragtune.store.warehouse import Warehouse
from ragtune_serving.benchmarking.comparing import Pair, Plan, VllmByDefault, compare, floors_of
from ragtune_serving.benchmarking.figures import Run
from ragtune_serving.benchmarking.gateways import Gateway, in_words, running_gateway, started_gateway
from ragtune_serving.benchmarking.generator import Target
from ragtune_serving.benchmarking.scenarios import LoadTest
from ragtune_serving.benchmarking.workloads import WORKLOADS
from ragtune_serving.cli import app
from tests.support.paced_upstream import NAME, paced_upstream
from tests.support.served_gateway import ServedGateway, index_documents

FAST, SLOW = 0.1, 0.8
"""Seconds of an answer. They differ so much because tests share their machine."""
QUESTIONS = [f"What does part {number} of the cart do?" for number in range(40)]


class Upstream:
    def __init__(self, url: str, name: str = NAME) -> None:
        self.url, self.name = url, name


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory):
    log = tmp_path_factory.mktemp("upstreams") / "log"
    with (
        paced_upstream(4, FAST, log) as fast,
        paced_upstream(4, SLOW, log) as slow,
        paced_upstream(2, 0.5, log) as middle,
    ):
        yield {"fast": Upstream(fast), "slow": Upstream(slow), "middle": Upstream(middle)}


@pytest.fixture
def home(tmp_path, monkeypatch, upstreams):
    """A home over the server in the middle, whose settings file is in the working directory."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "home": str(tmp_path / "home"),
        "sources": [],
        "engine": {"backend": "openai", "url": upstreams["middle"].url, "model": NAME},
        "answer": {"quotations": False, "refused_share": 0.0},
        "gateway": {"max_requests": 6},
        "load": {"seconds": 2.0, "first_token_ms": 1900.0, "answer_ms": 1900.0, "price_per_hour": 3.6},
    }
    (tmp_path / "ragtune.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "home").mkdir()
    index_documents(tmp_path / "home")
    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
    return tmp_path / "home"


def cli(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception}"
    return result.stdout


def test_the_saturation_is_found_overload_gets_429s_and_the_home_stays_as_it_was(home):
    only = [word for name in ("curve", "stress", "spike", "soak") for word in ("--only", name)]
    cli("benchmark", "run", *only, "--workload", "stream", "--soak-minutes", "0.1", "--questions", "questions.txt")
    warehouse = Warehouse(home / "warehouse.duckdb")
    rows = warehouse.loads()
    [saturation] = [row for row in rows if row.scenario == "saturation"]
    assert 1.5 <= saturation.offered <= 6, "two places of 0.5 s give four answers a second"
    assert saturation.total_p50_ms > 450
    assert saturation.cost == pytest.approx(3.6 / 3600 * 1000 / saturation.good)
    assert saturation.memory_bytes > 100 << 20
    [during] = [row for row in rows if (row.scenario, row.part) == ("stress", "during")]
    assert during.limited > 0
    assert (during.unhelpful, during.failed) == (0, 0)
    report = cli("benchmark", "report", "--markdown")
    assert "| stress | what is not answered gets a 429 with Retry-After |" in report
    assert "## Where the time goes" in report
    assert "| engine |" in report, "the time of a server without metrics is one stage"
    history = cli("benchmark", "history")
    assert saturation.run_id in history.replace("\n", "")
    # A gateway that is measured answers with a feedback log, keys and a lock of its own.
    assert not (home / "keys").exists()
    assert not (home / "gateway").exists()
    assert FeedbackLog(load_settings().feedback_url).count_responses() == 0
    assert list((home / "speed" / "scratch").iterdir()) == []


@pytest.mark.slow
def test_faster_settings_are_found_proven_written_as_a_patch_and_measured_again_once_applied(home, upstreams):
    file = home.parent / "ragtune.yaml"
    slow = file.read_text().replace(upstreams["middle"].url, upstreams["slow"].url)
    file.write_text(slow.replace("max_requests: 6", "max_requests: 0"))
    before = file.read_text()
    vary = ["--vary", f"engine.url={upstreams['fast'].url}", "--vary", "gateway.workers=1"]
    common = ["--workload", "stream", "--questions", "questions.txt", "--rounds", "3"]
    printed = cli("tune", "--minutes", "2", *vary, *common)
    assert file.read_text() == before, "only --apply writes the settings"
    assert f"+  url: {upstreams['fast'].url}" in printed
    rows = [row for row in Warehouse(home / "warehouse.duckdb").speed_differences() if row.settings != "{}"]
    assert {row.settings for row in rows} == {json.dumps({"engine.url": upstreams["fast"].url})}
    [burst] = [row for row in rows if row.metric == "answers per second in a burst"]
    assert burst.verdict == "better"
    assert burst.change > burst.floor
    [patch] = (home / "speed").glob("*/tuned.patch")
    subprocess.run(["patch", "-p0"], input=patch.read_text(), text=True, check=True, cwd=home.parent)
    assert yaml.safe_load(file.read_text())["engine"]["url"] == upstreams["fast"].url
    cli("benchmark", "run", "--only", "compare", *common)
    report = cli("benchmark", "report", "--markdown")
    assert "was applied. Expected +" in report
    confirmed = [row for row in Warehouse(home / "warehouse.duckdb").speed_differences() if row.predicted]
    assert [row.verdict for row in confirmed] == ["better"]


def gateway_over(home, upstream: Upstream) -> tuple[ServedGateway, Gateway]:
    served = ServedGateway(home, upstream, load={"seconds": 1.5})
    return served, Gateway(Target(served.url, served.key), served.settings)


def plan(rounds: int = 3) -> Plan:
    return Plan(
        workloads=[WORKLOADS["stream"]], questions=QUESTIONS, rate=1.5, rounds=rounds, run_id="run", seed=1
    )  # fmt: skip


def test_slower_settings_are_worse_and_the_same_ones_are_not(tmp_path, upstreams):
    homes = [tmp_path / name for name in ("fast", "again", "slow")]
    served = []
    try:
        for home, name in zip(homes, ("fast", "fast", "slow"), strict=True):
            home.mkdir()
            index_documents(home)
            served.append(gateway_over(home, upstreams[name]))
        fast, again, slow = (gateway for _, gateway in served)
        same = compare(fast, again, plan(), Pair(before="a", after="a again", settings={}, former={}), {})
        floors = floors_of(same)
        pair = Pair(before="fast", after="slow", settings={"engine.url": "slow"}, former={"engine.url": "fast"})
        rows = {row.metric: row for row in compare(fast, slow, plan(), pair, floors)}
    finally:
        for one, _ in served:
            one.close()
    assert rows["answer p50"].verdict == "worse"
    assert rows["answer p50"].change > 0.5
    assert rows["answers per second in a burst"].verdict == "worse"
    assert rows["answers per second in a burst"].after_value == pytest.approx(4 / SLOW, rel=0.3)
    assert rows["answer p50"].rounds == 3
    assert {row.verdict for row in same} >= {"no difference"}


def test_a_killed_server_is_no_engine_of_ours_so_chaos_is_refused(tmp_path, upstreams):
    index_documents(tmp_path)
    served, gateway = gateway_over(tmp_path, upstreams["fast"])
    try:
        test = LoadTest(Run(id="run", gateway=gateway, version="provider", precision=""), QUESTIONS)
        with pytest.raises(ResourceError, match="no engine of its own"):
            test.chaos(WORKLOADS["stream"], 1.0, 1.0)
    finally:
        served.close()


def test_a_change_that_does_not_exist_or_is_invalid_is_an_error_that_names_it(home, monkeypatch):
    settings = load_settings()
    with (
        pytest.raises(SettingsError, match="There is no setting"),
        started_gateway(settings, {"engine.speed": "1"}),
    ):
        pass
    with (
        pytest.raises(SettingsError, match="start_timeout"),
        started_gateway(settings, {"engine.start_timeout": "0"}),
    ):
        pass
    monkeypatch.setenv("RAGTUNE_API_KEY", "key")
    monkeypatch.setenv("RAGTUNE_GATEWAY_URL", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match="No gateway answers questions"):
        running_gateway(load_settings())


@pytest.mark.slow
@pytest.mark.engine
def test_a_killed_engine_comes_back_and_the_report_says_where_its_time_goes(tmp_path, monkeypatch):
    from ragtune_serving.benchmarking import report
    from ragtune_serving.benchmarking.suite import Wish, run_suite

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAGTUNE_LOAD__SECONDS", "3")
    monkeypatch.setenv("RAGTUNE_ENGINE__EAGER", "true")  # starts in a third of the time
    (tmp_path / "home").mkdir()
    index_documents(tmp_path / "home")
    settings = load_settings()
    warehouse = Warehouse(settings.home / "warehouse.duckdb")
    results = run_suite(settings, Wish(phases=("chaos",), workloads=("stream",)), warehouse)
    [chaos] = [scenario for scenario in results.scenarios if scenario.name == "chaos"]
    assert [claim.held for claim in chaos.claims] == [True, True], chaos.claims
    full = results.breakdowns["stream, 32 at once"]
    assert full.stages["prompt"] > 0
    assert full.stages["tokens"] > 0
    assert results.roofline is not None
    assert 0 < results.roofline.share < 1
    page = report.write(results, warehouse.loads(), settings.home)
    assert "bound." in page.read_text()


def test_what_a_killed_benchmark_left_is_removed_and_what_another_one_uses_is_not(home):
    scratch = home / "speed" / "scratch"
    for name in ("gateway-left", "gateway-used"):
        (scratch / name).mkdir(parents=True)
    with held(scratch / "gateway-used.lock"), started_gateway(load_settings()) as gateway:
        assert gateway.ready()
        assert gateway.cold_start > 0
        assert gateway.model() == ("provider", "")
        assert not (scratch / "gateway-left").exists()
        assert (scratch / "gateway-used").exists()


def test_vllm_by_default_gets_none_of_our_flags(tmp_path):
    settings = load_settings({"home": tmp_path, "device": "cpu", "engine": {"backend": "vllm"}})
    by_default = VllmByDefault(settings.engine, tmp_path, "cpu")
    arguments = by_default.arguments(tmp_path / "model", "name", 1234)
    flags = {argument for argument in arguments if argument.startswith("--")}
    assert flags == {"--model", "--served-model-name", "--host", "--port"}
    environment = by_default.environment("key")
    assert not {"OMP_WAIT_POLICY", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"} & set(environment)


def test_a_key_among_changed_settings_is_in_no_message():
    assert in_words({"engine.url": "http://x", "engine.api_key": "secret"}) == "engine.url=http://x"
