"""The page Review pairs in a real browser: without a mouse, with two reviewers, with a gateway that goes away."""

import shutil
import time

import httpx
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from ragtune.dataset.reviews.decisions import newest_verdicts, pair_key
from ragtune.dataset.reviews.guideline import REASONS
from ragtune.records import QAPair
from ragtune_serving.console.reviews import PairQueues
from ragtune_serving.reviewer import Reviewer
from tests.support.browser import Browser, browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.visitor import Visitor

HOSTILE = '<img src="x" onerror="window.stolen = 1"><script>window.stolen = 2</script>'
PAIRS = 120


def pairs(chunk, count: int) -> list[QAPair]:
    """Return pairs about one passage; the first one is hostile, the last one cannot be answered."""
    answer = "four hours"
    start = chunk.text.index(answer)
    return [
        QAPair(
            id=f"pair-{number}",
            question=f"How long is note {number} valid?" + (f" {HOSTILE}" if number == 0 else ""),
            answer="" if number == count - 1 else answer,
            answerable=number != count - 1,
            kind="clause",
            document_id=chunk.document_id,
            chunk_id=chunk.id,
            span=(0, 0) if number == count - 1 else (start, start + len(answer)),
        )
        for number in range(count)
    ]


@pytest.fixture
def gateway(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "safety.md").write_text(f"# Safety\n\nThe note is valid for four hours. {HOSTILE}\n")
    upstream = ScriptedUpstream()
    running = ConsoleGateway(tmp_path / "home", documents, upstream, dataset={"reviews_per_pair": 2})
    running.pairs = pairs(running.chunks[0], PAIRS)
    running.with_dataset(running.pairs)
    yield running
    running.close()
    upstream.close()


def test_pairs_of_a_queue_are_found_by_their_words_and_deciding_stays_among_them(gateway):
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "reviewer"), "/console/reviews?show=open")
        browser.press("/")
        browser.one("#find input[type=search]").send_keys("NOTE 11" + Keys.ENTER)
        browser.until(lambda: len(browser.all(".queue a[data-key]")) == 11, "notes 11 and 110 to 119")
        browser.press("a")
        browser.until(lambda: "110" in browser.text("#pair"), "the next of those found")
        assert len(browser.all(".queue a[data-key]")) == 11, "one of two verdicts settles nothing"
        browser.check()
        browser.open("/console/reviews?show=open&q=sauna")
        browser.shows("No pair of this queue contains “sauna”.")
    assert list(verdicts(gateway).values()) == [{"ada": "accept"}]


def verdicts(gateway: ConsoleGateway) -> dict[str, dict[str, str]]:
    """Return {pair id: {reviewer: verdict}}."""
    ids = {pair_key(pair): pair.id for pair in gateway.pairs}
    newest = newest_verdicts(gateway.services.reviews.reviews.decisions())
    return {ids[key]: {name: one.verdict for name, one in own.items()} for key, own in newest.items()}


def shown(browser: Browser) -> str:
    """Return the question of the pair on the page."""
    return browser.one("#pair").get_attribute("data-question")


def start(browser: Browser, gateway: ConsoleGateway, name: str) -> None:
    browser.sign_in(gateway.key(name, "reviewer"), "/console/reviews")
    browser.shows("No pair is assigned to you yet.")
    browser.press("g")
    browser.shows("You got 20 more pairs.")


def key_of(browser: Browser) -> str:
    """Return the key of the pair on the page, or "" if there is none."""
    return str(browser.script("return document.getElementById('pair')?.dataset.key ?? ''"))


def decide(browser: Browser, key: str) -> None:
    """Press a key that decides, and wait for the next pair."""
    before = key_of(browser)
    browser.press(key)
    browser.until(lambda: key_of(browser) != before, f"the pair after '{key}'")


@pytest.mark.browser
def test_a_reviewer_decides_corrects_comments_and_changes_their_mind_without_a_mouse(gateway):
    with browser_at(gateway.url) as browser:
        start(browser, gateway, "ada")
        browser.check()
        assert shown(browser) == gateway.pairs[0].question
        assert browser.script("return window.stolen === undefined")
        assert browser.text(".passage-text mark") == "four hours"
        decide(browser, "a")
        assert shown(browser) == gateway.pairs[1].question
        browser.press("c")
        browser.press("It says nothing about", Keys.ESCAPE)
        decide(browser, "r")
        browser.press("e")
        browser.press(" Really?", Keys.TAB, " at most")
        ActionChains(browser.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
        browser.until(lambda: shown(browser) == gateway.pairs[3].question)
        browser.press("u")
        browser.until(lambda: shown(browser) == gateway.pairs[2].question)
        browser.shows("you: correct", "#pair")
        decide(browser, "r")
        browser.press("j", "k", "?")
        browser.shows("accept the pair", "#keys")
        assert browser.violations() == []
        browser.press(Keys.ESCAPE, "1")
        browser.until(lambda: shown(browser) == gateway.pairs[3].question)
        browser.check()
    assert verdicts(gateway) == {
        "pair-0": {"ada": "accept"},
        "pair-1": {"ada": "reject"},
        "pair-2": {"ada": "reject"},
    }
    decisions = gateway.services.reviews.reviews.decisions()
    assert [(one.verdict, one.comment) for one in decisions[:2]] == [
        ("accept", ""),
        ("reject", "It says nothing about"),
    ]
    assert decisions[2].question == f"{gateway.pairs[2].question} Really?"
    assert decisions[2].answer == "four hours at most"


@pytest.mark.browser
def test_two_reviewers_at_once_lose_nothing_and_disagree_in_the_open(gateway):
    with browser_at(gateway.url) as first, browser_at(gateway.url) as second:
        start(first, gateway, "ada")
        start(second, gateway, "bob")
        for _ in range(5):
            assert shown(first) == shown(second)
            second.press("r")  # both decide the same pair at the same moment
            decide(first, "a")
            second.until(lambda: shown(second) == shown(first))
        expected = {f"pair-{number}": {"ada": "accept", "bob": "reject"} for number in range(5)}
        assert verdicts(gateway) == expected
        first.press("3")
        first.shows("The reviewers disagree about this pair.")
        first.shows("bob: reject", "#pair")
        first.check()
        decide(first, "r")  # she is convinced
        assert verdicts(gateway)["pair-0"] == {"ada": "reject", "bob": "reject"}
        first.shows("Conflicts 4")


@pytest.mark.browser
def test_a_verdict_of_somebody_else_stays_hidden_until_one_has_decided(gateway):
    gateway.services.reviews.reviews.decide(gateway.pairs[0], "bob", "reject", comment="Bad.")
    with browser_at(gateway.url) as browser:
        start(browser, gateway, "ada")
        browser.shows("1 verdict of others, hidden until you have decided and the pair has all it needs", "#pair")
        assert "Bad." not in browser.text("#pair")


def test_a_reviewer_who_has_decided_sees_no_verdict_of_others_before_the_pair_has_all_it_needs(gateway):
    desk, pair = gateway.services.reviews, gateway.pairs[0]
    desk.reviews_per_pair = 3
    queues = PairQueues(desk)

    def seen(user, leads=False, left=0):
        reviewer = Reviewer(user, leads, left)
        view = queues.view(pair_key(pair), reviewer, newest_verdicts(desk.reviews.decisions()))
        return [one.reviewer for one in view.others], view.hidden

    desk.reviews.decide(pair, "ada", "accept")
    desk.reviews.decide(pair, "bob", "accept")
    assert seen("ada") == ([], 1)
    assert seen("cleo") == ([], 2)
    desk.reviews.decide(pair, "cleo", "reject")
    assert seen("ada") == (["bob", "cleo"], 0)
    assert seen("dan") == ([], 3), "who has not decided sees none"
    assert seen("dan", leads=True) == ([], 3), "two of three agree, so there is nothing to settle"


def test_the_verdicts_of_a_conflict_are_shown_to_those_who_judged_it_and_to_those_who_settle_it(gateway):
    desk, pair = gateway.services.reviews, gateway.pairs[0]
    desk.reviews.decide(pair, "ada", "accept")
    desk.reviews.decide(pair, "bob", "reject")

    def sees(user, leads, left):
        return Reviewer(user, leads, left).may_see(newest_verdicts(desk.reviews.decisions())[pair_key(pair)], 2)

    assert sees("ada", leads=False, left=3)
    assert not sees("cleo", leads=False, left=0), "an annotator judges the pair without a guide"
    assert not sees("rita", leads=True, left=1), "a reviewer who still has pairs to judge is an annotator"
    assert sees("rita", leads=True, left=0)


@pytest.mark.browser
def test_a_reviewer_with_pairs_left_judges_a_conflict_blind_and_sees_what_others_decided_after_the_last(gateway):
    desk, (disputed, last) = gateway.services.reviews, gateway.pairs[1:3]
    desk.reviews.decide(disputed, "bob", "reject", comment="Too vague.")
    desk.reviews.decide(disputed, "cleo", "accept", comment="Plain enough.")
    desk.reviews.assign([last], ["ada"])
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "reviewer"), "/console/reviews?show=conflicts")
        browser.shows("2 verdicts of others, hidden until you have decided", "#pair")
        assert shown(browser) == disputed.question
        browser.shows("once you have decided the 1 pair that is assigned to you", "#progress")
        for leading in ("Too vague.", "Plain enough.", "bob: reject", "Rejected", "Alpha"):
            assert leading not in browser.text("main"), leading
        browser.check()
        browser.press("a")
        browser.shows("No pair is in conflict: each one with enough verdicts has a majority.")
        browser.open(f"/console/reviews?show=decided&key={pair_key(disputed)}")
        browser.shows("bob: reject", "#pair")
        browser.open("/console/reviews")
        decide(browser, "r")
        browser.shows("Agreement on 1 pair", "#progress")
        browser.shows("Rejected", "#progress")
    assert verdicts(gateway)["pair-1"] == {"bob": "reject", "cleo": "accept", "ada": "accept"}


@pytest.mark.browser
def test_a_pair_is_rejected_with_a_usual_reason_by_two_keys(gateway):
    with browser_at(gateway.url) as browser:
        start(browser, gateway, "ada")
        first = shown(browser)
        browser.press("x")
        browser.one("#reasons")
        browser.press("9")
        assert shown(browser) == first, "there is no ninth reason"
        browser.check()
        browser.press("2")
        browser.until(lambda: shown(browser) != first, "the next pair")
        browser.press("c")
        browser.one("#pair-comment").send_keys("no subject")
        browser.press(Keys.ESCAPE, "x")
        browser.one("#reasons")
        decide(browser, "4")
        browser.shows("2 decided", "#pace")
    said = [(one.verdict, one.comment) for one in gateway.services.reviews.reviews.decisions()]
    assert said == [("reject", REASONS[1]), ("reject", f"{REASONS[3]}: no subject")]


@pytest.mark.browser
def test_the_page_says_what_to_accept_what_was_done_last_and_searches_all_documents(gateway):
    with browser_at(gateway.url) as browser:
        start(browser, gateway, "ada")
        browser.one(".guideline summary").click()
        browser.shows("Would somebody ask this?", ".guideline")
        assert "**" not in browser.text(".guideline")
        decide(browser, "a")
        browser.shows("Accepted; u goes back. 1 decided", "#pace")
        question = shown(browser)
        browser.press("s")
        browser.until(lambda: len(browser.driver.window_handles) == 2, "the search in a new tab")
        browser.driver.switch_to.window(browser.driver.window_handles[1])
        browser.until(lambda: browser.one("input[name=q]").get_attribute("value") == question, "the question")
        browser.driver.close()
        browser.driver.switch_to.window(browser.driver.window_handles[0])
        browser.check()
        browser.sign_in(gateway.key("ann", "annotator"), "/console/reviews?show=all")
        browser.one("#pair")
        assert not browser.all("#search-all"), "an annotator may not search"


@pytest.mark.browser
def test_a_closed_tab_keeps_the_draft(gateway):
    with browser_at(gateway.url) as browser:
        start(browser, gateway, "ada")
        browser.press("e")
        browser.press(" A draft.")
        browser.driver.switch_to.new_window("tab")
        browser.driver.switch_to.window(browser.driver.window_handles[0])
        browser.driver.close()
        browser.driver.switch_to.window(browser.driver.window_handles[0])
        browser.open("/console/reviews")
        browser.shows("Your draft is back.")
        assert browser.one("#pair-question").get_attribute("value") == f"{gateway.pairs[0].question} A draft."
        browser.one("#cancel").click()
        browser.open("/console/reviews")
        assert shown(browser) == gateway.pairs[0].question
        assert "draft" not in browser.text("#pair")


@pytest.mark.browser
def test_a_decision_waits_in_the_browser_while_the_gateway_is_away(gateway):
    port = int(gateway.url.rsplit(":", 1)[1])
    with browser_at(gateway.url) as browser:
        start(browser, gateway, "ada")
        gateway.served.close()
        browser.press("a")
        browser.shows("1 decision waits in this browser")
        gateway.services = gateway._services()
        gateway.start(port)
        browser.open("/console/reviews")
        browser.until(lambda: verdicts(gateway) == {"pair-0": {"ada": "accept"}}, "the decision")
        browser.until(lambda: shown(browser) == gateway.pairs[1].question)


@pytest.mark.browser
def test_a_hundred_pairs_are_reviewed_without_a_mouse(gateway, record_property):
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "reviewer"), "/console/reviews")
        began = time.monotonic()
        for number in range(100):
            if number % 20 == 0:
                browser.press("g")
                browser.until(lambda: browser.all("#pair"), "pairs")
            decide(browser, "r" if number % 3 else "a")
        seconds = (time.monotonic() - began) / 100
        record_property("seconds a pair", round(seconds, 2))
        browser.shows("100 decided")
    assert len(verdicts(gateway)) == 100


@pytest.mark.browser
def test_the_one_who_leads_sees_the_progress_and_assigns_pairs_to_others(gateway):
    gateway.key("bob", "annotator")
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "reviewer"), "/console/reviews")
        browser.shows(f"of {PAIRS} pairs")
        browser.one("input[value=bob]").click()
        browser.one("#progress form button").click()
        browser.shows("Assigned: bob got 20.")
        browser.check()
    mine = gateway.services.reviews.reviews.pairs_to_review("bob", gateway.pairs)
    assert len(mine) == 20


def test_without_a_dataset_the_page_says_how_to_get_one(gateway):
    shutil.rmtree(gateway.settings.home / "artifacts" / "qa_dataset")
    visitor = Visitor(gateway.url, gateway.key("ada", "annotator"))
    page = visitor.get("/console/reviews")
    assert page.status_code == httpx.codes.OK
    assert "There is no dataset to review yet." in page.text
    assert "ragtune materialize" in page.text
    assert visitor.get("/console/reviews/progress").status_code == 403


def test_the_keys_of_ten_thousand_pairs_are_computed_once(gateway, monkeypatch):
    gateway.with_dataset(pairs(gateway.chunks[0], 10_000))
    queues = PairQueues(gateway.services.reviews)
    queues.queues("ada")  # the first look reads the dataset
    monkeypatch.setattr("ragtune_serving.console.reviews.pair_key", lambda _: pytest.fail("a key was computed again"))
    by_name, _ = queues.queues("ada")
    assert len(by_name["all"]) == 10_000
