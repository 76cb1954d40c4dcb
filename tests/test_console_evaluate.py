"""The page Evaluate in a real browser: people rate answers by keys, and see how far they agree."""

import json

import pytest
from selenium.webdriver.common.keys import Keys

from ragtune.evaluation.judges import RUBRIC
from ragtune.evaluation.studies.results import study_results
from ragtune.records import AnswerSet
from ragtune.store.artifacts import ArtifactStore
from ragtune_serving.studies import StudyPlan
from tests.support.browser import browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.test_studies import answers

pytestmark = pytest.mark.browser


@pytest.fixture
def gateway(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "safety.md").write_text("# Safety\n\nThe note is valid for four hours.\n")
    upstream = ScriptedUpstream()
    running = ConsoleGateway(tmp_path / "home", documents, upstream)
    store = ArtifactStore(running.settings.home / "artifacts")
    sets = [
        AnswerSet("base", "bf16", "base", "test", tuple(answers("old"))),
        AnswerSet("fine-tuned", "w8a8", "4f1b", "test", tuple(answers("new"))),
    ]
    store.set_current(store.write_records("eval_answers", sets))
    yield running
    running.close()
    upstream.close()


def test_an_annotator_rates_by_keys_and_a_reviewer_sees_agreement_and_settles_an_item(gateway):
    desk = gateway.services.studies
    desk.create(StudyPlan(name="spring", mode="rating", models=("base bf16",), count=4))
    desk.store.assign("spring", ["ada", "bob"], 2)
    with browser_at(gateway.url) as browser:
        for name, key in (("ada", "1"), ("bob", "3")):
            browser.sign_in(gateway.key(name, "reviewer"), "/console/evaluate")
            browser.one("#rubric")
            browser.check()
            tasks = len(desk.store.open_tasks("spring", name))
            for left in range(tasks, 0, -1):
                browser.shows(f"{left} left", "#rate")
                browser.press(*[key] * len(RUBRIC), Keys.ENTER)
            browser.shows("You have rated everything")
            assert desk.store.open_tasks("spring", name) == []
        browser.one("[data-part=results]").click()
        browser.shows("Agreement of all")
        browser.shows("by ada, bob")
        browser.check()
        browser.one("#results .card button").click()
        browser.shows("settled: ", "#results")
    results = study_results(desk.store, "spring")
    assert [one.adjudicated for one in results.disagreements if one.adjudicated]


def test_a_comparison_shows_two_answers_without_their_models_and_keeps_a_draft(gateway):
    desk = gateway.services.studies
    desk.create(StudyPlan(name="duel", mode="pairwise", models=("base bf16", "fine-tuned w8a8"), count=4))
    desk.store.assign("duel", ["ada"], 1)
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "annotator"), "/console/evaluate")
        browser.one("#rubric")
        assert len(browser.all(".answers.two .card")) == 2
        assert "fine-tuned" not in browser.text("main")
        browser.press("1")
        browser.until(lambda: browser.all("#rubric [aria-pressed=true]"), "the choice")
        browser.open("/console/evaluate")
        browser.until(lambda: browser.all("#rubric [aria-pressed=true]"), "the draft")
        browser.check()
        browser.press("n")
        browser.until(lambda: not browser.all("#rubric [aria-pressed=true]"), "the next task")


def test_without_a_study_the_page_says_how_to_make_one(gateway):
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "annotator"), "/console/evaluate")
        browser.shows("There is no study yet.")
        browser.check()


def test_a_rating_can_be_changed_later_by_going_back_and_the_rubric_says_what_it_asks(gateway):
    desk = gateway.services.studies
    desk.create(StudyPlan(name="spring", mode="rating", models=("base bf16",), count=4))
    desk.store.assign("spring", ["ada"], 1)
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "annotator"), "/console/evaluate")
        browser.shows(RUBRIC["supported"], "#rubric")
        browser.shows("Does the answer say what is right", ".guideline")
        assert "**" not in browser.text(".guideline")
        shown = browser.text("#rate")
        assert shown.index("old says") < shown.index("Expected: "), "the answer is read before the expected one"
        browser.press("u")
        browser.shows("You have not rated anything in this study yet.")
        browser.one(".guideline summary").click()  # Enter has to save, and not to open the guideline again
        first, second = rated_next(browser, "1"), rated_next(browser, "2")
        assert first != second
        browser.press("u")
        browser.until(lambda: browser.text("#rate h2") == second, "the task rated last")
        browser.shows("You rated this one already.")
        assert [one.text[:6] for one in browser.all("#rubric [aria-pressed=true]")] == ["partly"] * len(RUBRIC)
        browser.press("u")
        browser.until(lambda: browser.text("#rate h2") == first, "the one before")
        browser.check()
        browser.press(*"3333", Keys.ENTER)
        browser.shows("2 rated, 2 left")
    (changed,) = [one for one in desk.store.newest_ratings("spring").values() if "yes" in one.choices.values()]
    assert changed.choices == dict.fromkeys(RUBRIC, "yes")
    items = desk.store.items("spring")
    assert items[desk.store.task(changed.task_id).item_id].question == first


def rated_next(browser, key):
    """Rate the shown task and return its question once the next one is shown."""
    asked = browser.text("#rate h2")
    browser.press(*key * len(RUBRIC), Keys.ENTER)
    browser.until(lambda: browser.text("#rate h2") != asked, "the next task")
    return asked


def test_the_sources_of_an_answer_have_the_numbers_by_which_it_cites_them(gateway):
    desk = gateway.services.studies
    file = gateway.settings.home / "answers.jsonl"
    file.write_text(
        json.dumps(
            {
                "question": "How long?",
                "answer": "Four hours [4], a day [2].",
                "sources": ["First.", "Lights\n| Light | Meaning |\n| --- | --- |\n| Red | <b>Stop</b> |\nAfter it."],
            }
        )
    )
    desk.create(StudyPlan(name="cited", mode="rating", files=(file,), count=1))
    desk.store.assign("cited", ["ada"], 1)
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("ada", "annotator"), "/console/evaluate")
        browser.one("#rubric")
        first, second = browser.all(".source")
        assert first.text == "4 First."
        assert second.text.startswith("2 Lights")
        assert second.text.endswith("After it.")
        assert [cell.text for cell in browser.all(".source th, .source td")] == [
            "Light",
            "Meaning",
            "Red",
            "<b>Stop</b>",
        ]
        assert "| Red |" not in second.text
        browser.check()
