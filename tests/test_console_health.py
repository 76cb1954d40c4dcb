"""The page Health: what is live, the load, verdicts, errors, what needs attention."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ragtune.records import ResponseRecord
from ragtune.store.feedback import Activity
from ragtune_serving.console.health import Kept, last_errors, latency_chart, load_chart, quantiles
from ragtune_serving.metrics import Metrics
from tests.support.browser import browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.visitor import Visitor

AT = datetime(2026, 5, 2, 12, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    documents = tmp_path_factory.mktemp("documents")
    (documents / "safety.md").write_text("# Safety\n\nThe note is valid for four hours.\n")
    upstream = ScriptedUpstream()
    running = ConsoleGateway(tmp_path_factory.mktemp("home"), documents, upstream)
    yield running
    running.close()
    upstream.close()


def response(number: int, at: datetime, latency: float = 800.0, refused: bool = False) -> ResponseRecord:
    return ResponseRecord(
        id=f"r{number}",
        created_at=at.isoformat(),
        question="How long?",
        answer="Four hours.",
        model="ragtune",
        model_version="1",
        chunk_ids=(),
        cited_chunk_ids=(),
        refused=refused,
        latency_ms=latency,
    )


@pytest.mark.browser
def test_the_page_shows_engines_load_verdicts_and_errors_and_is_accessible_with_data(gateway):
    log, now = gateway.services.log, datetime.now(UTC)
    log.record_responses([response(n, now - timedelta(hours=n % 20), 500.0 + 40 * n, n % 5 == 0) for n in range(60)])
    for number in range(9):
        log.add(f"r{number}", "down" if number % 3 == 0 else "up")
    logs = gateway.settings.home / "logs"
    logs.mkdir(exist_ok=True)
    (logs / "gateway.log").write_text("2026-05-01 10:00:00,123 ERROR ragtune_serving.api: it failed <b>badly</b>\n")
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ola", "operator"), "/console/health")
        browser.shows("Nothing needs your attention.")
        browser.shows("it failed <b>badly</b>")
        browser.shows("ready", "#now")
        browser.until(lambda: len(browser.all(".chart canvas")) == 3, "three charts")
        for text in ("Responses, 24 h\n60", "20% refused", "Verdicts\n9"):
            browser.shows(text)
        browser.check()


def test_the_load_is_counted_by_the_hour():
    since = AT - timedelta(hours=24)
    rows = [
        Activity((AT - timedelta(hours=hours)).isoformat(), latency, refused)
        for hours, latency, refused in ((0, 1000.0, False), (0, 3000.0, True), (5, 500.0, False))
    ]
    chart = load_chart(rows, since)
    assert (chart["series"][0]["values"][-1], chart["series"][1]["values"][-1]) == (2, 1)
    assert (sum(chart["series"][0]["values"]), len(chart["x"])) == (3, 25)
    times = latency_chart(rows, since)["series"]
    assert (times[0]["values"][-1], times[1]["values"][-1]) == (2.0, 2.9)
    assert times[0]["values"][-2] is None


def test_quantiles_of_the_metrics_are_the_bounds_of_their_buckets():
    metrics = Metrics()
    assert quantiles("search", metrics.retrieval, {}) is None
    for milliseconds in (3, 4, 4, 9000):
        metrics.retrieval.observe(milliseconds)
    found = quantiles("search", metrics.retrieval, {})
    assert (found.count, found.p50, found.p95) == (4, 5.0, None)
    assert found.mean == pytest.approx(2252.75)


def test_only_warnings_and_errors_of_the_log_are_shown_the_newest_first(tmp_path):
    file = tmp_path / "gateway.log"
    assert last_errors(file) == []
    file.write_text(
        "2026-05-01 10:00:00,1 INFO a: fine\n2026-05-01 10:00:01,1 WARNING a: one\nTraceback\n"
        "2026-05-01 10:00:02,1 ERROR a: two\n"
    )
    assert [line.rsplit(" ", 1)[1] for line in last_errors(file)] == ["two", "one"]


def test_what_needs_attention_is_looked_for_once_in_a_while():
    looks = []

    def look() -> list:
        looks.append(1)
        return []

    kept = Kept(look, 3600)
    assert (kept.get(), kept.get(), len(looks)) == ([], [], 1)
    always = Kept(look, 0)
    always.get()
    always.get()
    assert len(looks) == 3


def test_verdicts_are_counted_by_day(tmp_path):
    from ragtune.store.feedback import FeedbackLog

    log = FeedbackLog(f"sqlite:///{tmp_path / 'log.db'}")
    log.record_responses([response(1, AT), replace(response(2, AT - timedelta(days=3)), refused=True)])
    for rating in ("up", "down", "up"):
        log.add("r1", rating)
    (day,) = log.verdicts_by_day().items()
    assert day == (log.events()[0].created_at[:10], {"up": 2, "neutral": 0, "down": 1})
    recent = log.activity((AT - timedelta(hours=1)).isoformat(), 10)
    assert [(one.latency_ms, one.refused) for one in recent] == [(800.0, False)]
    assert len(log.activity("2000", 1)) == 1
    log.close()


def test_a_problem_comes_with_what_to_do(tmp_path, gateway):
    ola = Visitor(gateway.url, gateway.key("ola", "operator"))
    page = ola.get("/console/health/installation").text
    assert "feedback log" in page
    assert "How to fix" in page or "fails" not in page
    assert ola.get("/console/health/disk").status_code == 200
