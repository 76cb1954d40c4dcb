"""The page Ask in a real browser: answers as they are written, passages in their document, verdicts."""

import pytest
from selenium.webdriver.common.keys import Keys

from ragtune.store.artifacts import ArtifactStore
from tests.support.browser import Browser, browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.browser
HOSTILE = '<script>window.stolen = 1</script><img src="x" onerror="window.stolen = 2"> & {{ 7 * 7 }}'
SAFETY = f"""# Safety

## Hot work

You need a note signed by a technician. The note for hot work is valid for four hours.

## Markup

The hostile sentence says {HOSTILE} and then it ends.
"""


@pytest.fixture(scope="module")
def upstream():
    running = ScriptedUpstream()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, upstream):
    documents = tmp_path_factory.mktemp("documents")
    (documents / "safety.txt").write_text(SAFETY)
    running = ConsoleGateway(tmp_path_factory.mktemp("home"), documents, upstream)
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser(gateway):
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "application"), "/console/ask")
        yield browser


@pytest.fixture(autouse=True)
def _new_page(browser, upstream):
    browser.script("sessionStorage.clear()")
    browser.open("/console/ask")
    upstream.behaviour = "answer"
    browser.errors()


def ask(browser: Browser, question: str) -> None:
    browser.one("#question").send_keys(question + Keys.ENTER)


def answered(browser: Browser, number: int = 1) -> None:
    browser.until(lambda: len(browser.all(".answer .actions")) == number, f"{number} answers")


def test_an_answer_arrives_word_by_word_and_its_citation_opens_the_marked_words_in_the_document(browser, upstream):
    upstream.words = ["The", "note", "for", "hot", "work", "is", "valid", "for", "four", "hours.", "[1]"]
    upstream.behaviour = "slow"
    ask(browser, "How long is the note for hot work valid?")
    browser.shows("The note for hot work", ".answer .text")
    answered(browser)
    assert browser.text(".answer .text").startswith("The note for hot work is valid for four hours.")
    browser.all(".answer button.mark")[0].send_keys(Keys.ENTER)
    browser.shows("You need a note signed", "#panel")
    assert [mark.text for mark in browser.all("#panel mark")] == ["The note for hot work is valid for four hours"]
    assert "## Markup" in browser.one("#panel .document").text  # the text around the passage
    assert browser.violations() == []
    browser.press(Keys.ESCAPE)
    browser.until(lambda: not browser.one("dialog#panel") if browser.all("dialog[open]") else True)
    browser.check()


def test_a_quotation_is_marked_as_one(browser, upstream):
    upstream.words = ["I", "could", "not", "find", "this", "in", "the", "documents."]
    ask(browser, "note for hot work valid four hours")
    answered(browser)
    assert browser.text(".answer q").strip('"') == "The note for hot work is valid for four hours."
    assert [tag.text for tag in browser.all(".answer .from .tag")] == ["quotation"]


def test_the_tag_of_an_answer_says_what_was_delivered_also_if_the_model_itself_quotes(browser, upstream):
    upstream.words = ["The", "note", "for", "hot", "work", "is", "valid", "for", "four", "hours.", "[1]"]
    ask(browser, "How long is the note for hot work valid?")
    answered(browser)
    assert browser.all(".answer .from .tag") == [], "an answer in the model's own words has no tag"
    texts = {
        "answer_and_quotation": "answer with a quotation",
        "quotation": "quotation",
        "refusal": "not in the documents",
    }
    shown = browser.script(
        "return Object.fromEntries(['answer', 'answer_and_quotation', 'quotation', 'refusal'].map((delivered) => {"
        "  const answer = document.querySelector('.answer').cloneNode(true);"
        "  answer.querySelector('.from').replaceChildren();"
        "  showResult(answer, 'text', { delivered, quoted: true, citations: [], closest: [], warnings: [],"
        "    model_version: 'base', retrieval_ms: 1, response_id: 'r' });"
        "  return [delivered, answer.querySelector('.from .tag')?.textContent ?? ''];"
        "}))"
    )
    assert shown == {"answer": "", **texts}


def test_a_refusal_shows_the_closest_passages_and_opens_them(browser):
    ask(browser, "Which technician invented printing, bookbinding and cotton weaving?")
    answered(browser)
    assert "not in the documents" in browser.text(".answer .from")
    closest = browser.all(".answer .sources button")
    assert closest
    sentence = closest[0].find_element("css selector", "span:nth-child(2)").text
    closest[0].click()
    browser.shows("Safety", "#panel h2")
    assert browser.text("#panel mark") in sentence


def test_markup_in_a_passage_is_shown_and_never_run(browser, upstream):
    upstream.words = [*f"The hostile sentence says {HOSTILE}".split(" "), "[1]"]
    ask(browser, "What does the hostile sentence say?")
    answered(browser)
    assert HOSTILE in browser.text(".answer .text")
    browser.all(".answer .sources button")[0].click()
    browser.shows("window.stolen = 1", "#panel .document")
    assert browser.script("return window.stolen === undefined")
    browser.open(browser.one("#panel a").get_attribute("href").removeprefix(browser.url))
    browser.shows("window.stolen = 1", ".document")
    assert browser.script("return window.stolen === undefined")
    browser.check()


def test_a_verdict_and_a_correction_are_stored_for_the_person_who_gave_them(browser, gateway):
    ask(browser, "What does a technician sign?")
    answered(browser)
    before = gateway.services.log.count_since(0)
    up, down, correct = browser.all(".answer .actions > .row > button")
    up.click()
    browser.shows("Thank you.", ".answer .actions")
    assert up.get_attribute("aria-pressed") == "true"
    correct.click()
    browser.one(".answer .correction textarea").send_keys("A technician signs the note.")
    browser.one(".answer .correction .primary").click()
    browser.shows("The correction is stored.")
    assert (up.get_attribute("aria-pressed"), down.get_attribute("aria-pressed")) == ("false", "true")
    events = gateway.services.log.events()[before:]
    assert [(event.user, event.rating, event.correction) for event in events] == [
        ("ada", "up", ""),
        ("ada", "down", "A technician signs the note."),
    ]


def test_the_author_of_a_correction_sees_what_became_of_it(browser, gateway):
    store = ArtifactStore(gateway.settings.home / "artifacts")
    store.set_current(store.write_records("chunks", gateway.chunks))
    browser.sign_in(gateway.key("cora", "application"), "/console/ask")
    assert not browser.all("#corrections details")
    ask(browser, "How long is the note for hot work valid?")
    answered(browser)
    browser.all(".answer .actions > .row > button")[2].click()
    browser.one(".answer .correction textarea").send_keys("The note for hot work is valid for four hours.")
    browser.one(".answer .correction .primary").click()
    browser.one("#corrections summary").click()
    browser.shows("waits for a reviewer", "#corrections")
    reviews = gateway.services.reviews
    made = next(one.made for one in reviews.statuses() if one.event.user == "cora")
    reviews.reviews.decide(made, "rita", "reject", comment="The page changed.")
    browser.open("/console/ask")
    browser.one("#corrections summary").click()
    browser.shows("rejected by rita: The page changed.", "#corrections")
    browser.check()
    browser.sign_in(gateway.key("dan", "application"), "/console/ask")
    browser.until(lambda: browser.script("return document.readyState === 'complete'"))
    assert "The page changed." not in browser.text("body"), "corrections of others are not shown"
    browser.sign_in(gateway.key("ada", "application"), "/console/ask")


def test_dials_switches_and_the_conversation_reach_the_model(browser, upstream):
    ask(browser, "What does a technician sign?")
    answered(browser)
    browser.script(
        "const dial = document.getElementById('dial-creativity'); dial.value = 0.7;"
        "dial.dispatchEvent(new Event('input'));"
    )
    browser.one("input[name=citations]").click()
    ask(browser, "Which note does the technician sign for hot work?")
    answered(browser, 2)
    sent = upstream.requests[-1]
    assert sent["temperature"] == 0.7
    assert "What does a technician sign?" in str(sent["messages"])
    systems = [request["messages"][0]["content"] for request in upstream.requests[-2:]]
    assert ["number of its passage" in system for system in systems] == [True, False]


def test_two_models_answer_next_to_each_other(browser):
    browser.one("#second").send_keys("ragtune-raw")
    ask(browser, "What does a technician sign?")
    answered(browser, 2)
    names = [answer.find_element("css selector", "strong").text for answer in browser.all(".answers.two .answer")]
    assert names == ["ragtune", "ragtune-raw"]
    first, second = browser.all(".answers.two .answer")
    assert abs(first.rect["y"] - second.rect["y"]) < 2
    browser.check()


def test_a_reload_keeps_the_conversation_and_a_button_starts_a_new_one(browser):
    ask(browser, "What does a technician sign?")
    answered(browser)
    browser.open("/console/ask")
    browser.shows("What does a technician sign?", "#conversation")
    browser.one("#new-conversation").click()
    browser.shows("Ask something that your documents answer.")


def test_an_answer_can_be_stopped(browser, upstream):
    upstream.behaviour = "endless"
    ask(browser, "How long is the note for hot work valid?")
    browser.one("#stop").click()
    browser.shows("Stopped.", ".answer")
    assert browser.one("#question").get_attribute("value") == "How long is the note for hot work valid?"


def test_an_engine_that_fails_leaves_a_message_and_the_question(browser, upstream):
    upstream.behaviour = "broken"
    ask(browser, "How long is the note for hot work valid?")
    message = browser.text(".answer .note.bad")
    assert "10.0.0.1" not in message  # what an engine says of its own network stays inside
    assert browser.one("#question").get_attribute("value")


def test_a_gateway_that_is_away_is_said_and_the_page_works_again_when_it_is_back(browser, gateway):
    port = int(gateway.url.rsplit(":", 1)[1])
    gateway.served.close()
    try:
        ask(browser, "How long is the note for hot work valid?")
        browser.shows("The gateway does not answer.", ".answer")
    finally:
        gateway.services = gateway._services()
        gateway.start(port)
    browser.errors()
    ask(browser, "")
    answered(browser)
