"""The pages Experiments and Feedback: the interval, what people can do, votes, replay, and what feedback says."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from ragtune.experiments.routing import route
from ragtune.experiments.starting import GUARDRAILS
from ragtune.experiments.status import look_now, status_of
from ragtune.records import Exposure, ResponseRecord
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.experiments import ExperimentDesign
from ragtune.store.report_rows import QuestionGap
from ragtune.store.shadows import ShadowDesign, ShadowPair, Side
from tests.support.browser import browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.visitor import Visitor

DESIGN = ExperimentDesign(
    versions=("1", "2"),
    weights=(0.5, 0.5),
    metric="cited",
    smallest_difference=0.1,
    margin=0.02,
    alpha=0.05,
    budget=4000,
    window_hours=1.0,
    salt="fixed",
    guardrails=tuple(guard for guard in GUARDRAILS if guard[0] != "cited"),
)
STATE = "return document.readyState === 'complete' && document.querySelector('.head .tag')?.textContent"
"""What a whole page says about the state of its experiment; an element of a page that reloads cannot be read."""
PAGE = "/console/experiments/experiment?name=warmer%20answers"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    documents = tmp_path_factory.mktemp("documents")
    (documents / "safety.md").write_text("# Safety\n\nThe note is valid for four hours.\n")
    upstream = ScriptedUpstream()
    # No look while a test runs: the tests say what has happened.
    running = ConsoleGateway(tmp_path_factory.mktemp("home"), documents, upstream, experiments={"look_seconds": 3600})
    yield running
    running.close()
    upstream.close()


def side(version: str, answer: str) -> Side:
    return Side(
        version=version,
        answer=answer,
        refused=False,
        cited_chunk_ids=(),
        failures=(),
        generation_ms=900.0,
        prompt_tokens=10,
        completion_tokens=5,
    )


def users_come(gateway: ConsoleGateway, count: int, cited: tuple[float, float]) -> None:
    """Let users ask once, hours ago, and rate seven of ten answers today; `cited` is the share of each arm."""
    draw, store, log = random.Random(5), gateway.services.experiments.store, gateway.services.log
    experiment = store.get("warmer answers")
    began, exposures, responses = datetime.now(UTC) - timedelta(hours=9), [], []
    for number in range(count):
        way = route(experiment, f"user {number}", "key", "")
        at = (began + timedelta(seconds=number)).isoformat()
        exposures.append(
            Exposure(
                experiment=experiment.id,
                response_id=f"e{number}",
                created_at=at,
                unit=way.unit,
                arm=way.arm,
                shares=way.shares,
                sequence=0,
            )
        )
        responses.append(
            ResponseRecord(
                id=f"e{number}",
                created_at=at,
                question="How long is a note valid?" if number % 3 else "Who invented it?",
                answer="Four hours. [1]",
                model="ragtune",
                model_version=way.version,
                chunk_ids=(gateway.chunks[0].id,),
                cited_chunk_ids=(gateway.chunks[0].id,) if draw.random() < cited[way.arm] else (),
                refused=False,
                user=way.unit,
                latency_ms=900.0,
            )
        )
    log.record_responses(responses, exposures)
    for exposure in exposures:
        if draw.random() < 0.7:
            log.add(exposure.response_id, "up" if draw.random() < cited[exposure.arm] else "down", user=exposure.unit)


@pytest.mark.browser
def test_an_operator_watches_the_interval_pauses_stops_and_replays_the_decision(gateway):
    store = gateway.services.experiments.store
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ola", "operator"), "/console/experiments")
        browser.shows("No experiment was started yet.")
        browser.check()
        store.start("warmer answers", DESIGN, 0.5)
        users_come(gateway, 240, (0.4, 0.9))
        browser.open("/console/experiments")
        browser.one("main section a").click()
        browser.shows("240\nof 4,000")
        browser.shows("as it should be")
        browser.shows("Version 2")
        browser.until(lambda: browser.all(".chart canvas"), "the chart of the interval")
        status = status_of(look_now(store.get("warmer answers"), store, gateway.services.log, datetime.now(UTC)))
        browser.shows(status.candidates[0].words[0])
        browser.shows("to the end: may lose 2 points. holds")
        browser.check()
        for title, state in (("Pause", "paused"), ("Resume", "running"), ("Stop", "stopped")):
            next(button for button in browser.all(".head button") if button.text == title).click()
            browser.driver.switch_to.alert.accept()
            browser.until(lambda state=state: browser.script(STATE) == state, state)
        browser.shows("by ola in the console")
        browser.one("#replay button").click()
        browser.shows("The logs give the recorded decision again.")
        browser.check()
    stopped = store.get("warmer answers")
    assert [event.kind for event in stopped.events] == ["start", "pause", "resume", "stop"]


@pytest.mark.browser
def test_people_are_asked_to_vote_on_mirrored_answers(gateway):
    shadows = gateway.services.experiments.shadows
    bea = Visitor(gateway.url, gateway.key("bea", "annotator"))
    gateway.key("ask", "application")
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.keys.client_key(), "/console/experiments")
        shadow = shadows.start("next", ShadowDesign(versions=("2",), share=0.5))
        for number in range(6):
            shadows.add(
                shadow,
                ShadowPair(
                    response_id=f"s{number}",
                    user=f"user {number}",
                    question=f"How long is note {number} valid?",
                    chunk_ids=(),
                    live=side("1", "Four hours."),
                    mirrored=side("2", f"It is valid for {number} days."),
                ),
            )
        shadows.record_counts(shadow, "2", "q", {"sampled": 8, "mirrored": 6, "dropped: queue is full": 2})
        browser.open("/console/experiments/shadow?name=next")
        browser.shows("It is valid for 5 days.")
        browser.shows("dropped: queue is full")
        browser.one("main summary").click()
        people = browser.one("[name=people]")
        for unable in ("bea, nobody here", "ask"):
            people.clear()
            people.send_keys(unable)
            browser.one("form button[type=submit]").click()
            browser.shows(f"No valid key that may vote has the name {unable.removeprefix('bea, ')}.")
        assert all("400" in one for one in browser.errors()), "only what was refused"
        people.clear()
        people.send_keys("bea, bea,")
        browser.one("form button[type=submit]").click()
        browser.shows("Nobody has voted in the study votes on next yet.")
        browser.check()
    tasks = bea.get("/console/v1/studies/tasks?study=votes+on+next").json()["tasks"]
    assert len({task["question"] for task in tasks}) == 6
    assert all("version" not in str(task) for task in tasks), "the vote is blind"
    body = {"task": tasks[0]["task"], "choices": {"better": "left"}}
    assert bea.post("/console/v1/studies/ratings", body).status_code == 200
    assert (
        "1 blind votes"
        in Visitor(gateway.url, gateway.keys.client_key()).get("/console/experiments/shadow?name=next").text
    )


@pytest.mark.browser
def test_the_page_feedback_shows_who_rates_what_by_version_and_what_fails(gateway):
    if "warmer answers" not in {one.name for one in gateway.services.experiments.store.list()}:
        gateway.services.experiments.store.start("warmer answers", DESIGN, 0.5)
        users_come(gateway, 240, (0.4, 0.9))
    store = ArtifactStore(gateway.settings.home / "artifacts")
    gap = QuestionGap(
        question="Where is the sauna?",
        count=9,
        users=7,
        first_at="2026-11-01T00:00:00+00:00",
        last_at=datetime.now(UTC).isoformat(),
        recent=8,
        expected=2.0,
        examples=(),
    )
    store.set_current(store.write_records("unanswered_questions", [gap]))
    store.set_current(store.write_records("chunks", gateway.chunks))
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ria", "reviewer"), "/console/feedback")
        browser.shows("By version")
        browser.shows("safety.md")
        browser.shows("Who invented it?")
        browser.shows("Where is the sauna?")
        browser.shows("more than before")
        browser.check()


def test_an_unknown_name_is_explained_and_an_application_sees_no_experiments(gateway):
    ola = Visitor(gateway.url, gateway.key("ola2", "operator"))
    for kind in ("experiment", "shadow"):
        missing = ola.get(f"/console/experiments/{kind}?name=nowhere")
        assert missing.status_code == 404
        assert "nowhere" in missing.text
    assert Visitor(gateway.url, gateway.key("app", "application")).get("/console/experiments").status_code == 403
    empty = ola.get("/console/feedback?days=1")
    assert empty.status_code == 200
