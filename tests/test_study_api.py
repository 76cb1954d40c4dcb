"""Annotators and reviewers over HTTP and on the command line."""

import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from ragtune.evaluation.judges import RUBRIC
from ragtune.evaluation.studies.results import study_results
from ragtune.evaluation.studies.study import shown
from ragtune.records import AnswerSet, QAPair, ResponseRecord, SplitItem
from ragtune.settings import load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.api import build_api
from ragtune_serving.cli import app
from ragtune_serving.feedback_tokens import FeedbackTokens
from ragtune_serving.guard import Guard
from ragtune_serving.keys import KeyStore
from ragtune_serving.metrics import Metrics
from ragtune_serving.routes import Services
from ragtune_serving.studies import StudyDesk, StudyPlan
from tests.test_studies import answers

YES = dict.fromkeys(RUBRIC, "yes")


@pytest.fixture
def home(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    sets = [
        AnswerSet("base", "bf16", "base", "test", tuple(answers("old"))),
        AnswerSet("fine-tuned", "w8a8", "4f1b", "test", tuple(answers("new"))),
    ]
    store.set_current(store.write_records("eval_answers", sets))
    return tmp_path


class Served:
    """The routes of studies behind the guard, on a free loopback port."""

    def __init__(self, home):
        self.desk = StudyDesk(load_settings({"home": home}))
        self.keys = KeyStore(home / "keys")
        services = Services(None, None, None, None, None, None, None, Metrics(), 0.0, None, self.desk, None, None)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1/studies"
        app = Guard(build_api(services), self.keys, FeedbackTokens(self.keys.folder))
        config = uvicorn.Config(app, log_level="warning", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def client(self, name, role="annotator"):
        headers = {"Authorization": f"Bearer {self.keys.create(name, role)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def close(self):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
        self.desk.store.close()


@pytest.fixture
def served(home):
    running = Served(home)
    yield running
    running.close()


def test_an_annotator_gets_tasks_rates_skips_and_sees_the_progress(served):
    served.desk.create(StudyPlan(name="spring", mode="rating", models=("base bf16",), count=10))
    served.desk.store.assign("spring", ["ada"], 1)
    with served.client("ada") as ada:
        (card,) = ada.get("/mine").json()
        assert (card["name"], card["questions"], card["rated"], card["tasks"]) == ("spring", list(RUBRIC), 0, 11)
        page = ada.get("/tasks", params={"study": "spring", "limit": 2}).json()
        assert (page["open"], len(page["tasks"])) == (11, 2)
        first, second = page["tasks"]
        assert first["answers"][0]["sources"][0].startswith("source")
        assert "base" not in json.dumps(page)
        stored = ada.post("/ratings", json={"task": first["task"], "choices": YES, "comment": "Good.", "seconds": 9})
        assert (stored.json()["choices"], stored.json()["skipped"], stored.json()["open"]) == (YES, False, 10)
        skipped = ada.post("/ratings", json={"task": second["task"]}).json()
        assert (skipped["skipped"], skipped["open"]) == (True, 10)
        assert ada.get("/mine").json()[0]["rated"] == 1


def test_a_comparison_over_http_comes_back_with_the_side_that_was_chosen(served):
    plan = StudyPlan(name="duel", mode="pairwise", models=("base bf16", "fine-tuned w8a8"), count=6)
    served.desk.create(plan)
    served.desk.store.assign("duel", ["ada"], 1)
    with served.client("ada") as ada:
        for task in ada.get("/tasks", params={"study": "duel"}).json()["tasks"]:
            assert len(task["answers"]) == 2
            side = "left" if task["answers"][0]["text"].startswith("new") else "right"
            stored = ada.post("/ratings", json={"task": task["task"], "choices": {"better": side}}).json()
            assert stored["choices"] == {"better": side}
    with served.client("rita", "reviewer") as rita:
        report = rita.get("/agreement", params={"study": "duel"}).json()
    (model,) = report["models"]
    assert (model["model"], model["value"], model["n"]) == ("fine-tuned w8a8 over base bf16", 1.0, 6)
    assert (report["repeats"], report["consistency"]) == (1, {"better": 1.0})


def test_a_reviewer_sees_disputed_items_and_settles_them(served):
    served.desk.create(StudyPlan(name="spring", mode="rating", models=("base bf16",), count=4))
    served.desk.store.assign("spring", ["ada", "bob"], 2)
    for name, choice in (("ada", "yes"), ("bob", "no")):
        for task in served.desk.store.open_tasks("spring", name):
            served.desk.store.rate(task.id, name, {**YES, "correct": choice})
    with served.client("rita", "reviewer") as rita:
        report = rita.get("/agreement", params={"study": "spring"}).json()
        assert {one["question"]: one["percent"] for one in report["agreement"]} == {
            **dict.fromkeys(RUBRIC, 1.0),
            "correct": 0.0,
        }
        disputed = report["disputed"]
        assert {one["question"] for one in disputed} == {"correct"}
        body = {"study": "spring", "item": disputed[0]["item"], "question": "correct", "choice": "partly"}
        assert rita.post("/adjudications", json=body).json()["adjudicator"] == "rita"
        assert rita.get("/agreement", params={"study": "spring"}).json()["disputed"][-1]["adjudicated"] == "partly"
        assert rita.post("/adjudications", json={**body, "choice": "left"}).status_code == 400


def test_a_reviewer_sees_no_dispute_about_an_item_that_she_still_has_to_rate(served):
    served.desk.create(StudyPlan(name="spring", mode="rating", models=("base bf16",), count=4))
    served.desk.store.assign("spring", ["ada", "bob", "rita"], 3)
    for name, choice in (("ada", "yes"), ("bob", "no")):
        for task in served.desk.store.open_tasks("spring", name):
            served.desk.store.rate(task.id, name, {**YES, "correct": choice})
    with served.client("rita", "reviewer") as rita:
        report = rita.get("/agreement", params={"study": "spring"}).json()
        assert (report["disputed"], report["hidden"]) == ([], 4)
        task = served.desk.store.open_tasks("spring", "rita")[0]
        rita.post("/ratings", json={"task": task.id, "choices": YES})
        report = rita.get("/agreement", params={"study": "spring"}).json()
        assert ([one["item"] for one in report["disputed"]], report["hidden"]) == ([task.item_id], 3)


def test_results_are_computed_again_only_after_a_rating_a_settled_item_or_a_new_task(served, monkeypatch):
    desk, computed = served.desk, []

    def counting(store, name):
        computed.append(name)
        return study_results(store, name)

    monkeypatch.setattr("ragtune_serving.studies.study_results", counting)
    desk.create(StudyPlan(name="spring", mode="rating", models=("base bf16",), count=4))
    desk.store.assign("spring", ["ada"], 1)
    task = desk.store.open_tasks("spring", "ada")[0]

    def settle():
        desk.store.adjudicate("spring", task.item_id, "correct", "no", "rita")

    changes = (
        lambda: None,
        lambda: desk.store.rate(task.id, "ada", YES),
        settle,
        lambda: desk.store.assign("spring", ["bob"], 1),
        lambda: desk.store.assign("spring", ["ada", "bob"], 2),
    )
    for number, change in enumerate(changes):
        change()
        first = desk.results("spring")
        assert desk.results("spring") is first
        assert len(computed) == [1, 2, 3, 3, 4][number], "bob gets nothing of items that ada has"
    assert first.ratings == 1
    assert served.desk.results("spring").models == study_results(desk.store, "spring").models


def test_annotators_see_neither_agreement_nor_tasks_of_others(served):
    served.desk.create(StudyPlan(name="spring", mode="rating", models=("base bf16",), count=4))
    served.desk.store.assign("spring", ["ada", "bob"], 1)
    theirs = served.desk.store.open_tasks("spring", "bob")[0]
    with served.client("ada") as ada:
        assert ada.get("/agreement", params={"study": "spring"}).status_code == 403
        assert ada.post("/ratings", json={"task": theirs.id, "choices": YES}).status_code == 404
        mine = served.desk.store.open_tasks("spring", "ada")[0]
        wrong = ada.post("/ratings", json={"task": mine.id, "choices": {**YES, "clear": "left"}})
        assert wrong.status_code == 400
        assert "cannot judge" in wrong.json()["error"]["message"]
        assert ada.get("/tasks", params={"study": "autumn"}).status_code == 404
    assert httpx.get(f"{served.url}/mine").status_code == 401


def test_a_study_is_made_assigned_rated_in_a_file_and_read_on_the_command_line(home, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(home))
    made = invoke("create", "spring", "--model", "base bf16", "--model", "fine-tuned w8a8", "--count", "8")
    assert "8 items of base bf16, fine-tuned w8a8 on test" in made
    assert invoke("assign", "spring", "ada", "bob") == "ada: 8 new items\nbob: 8 new items\n"
    for name in ("ada", "bob"):
        file = home / f"{name}.jsonl"
        assert "Read the question and the answer, then the sources" in invoke(
            "export", "spring", str(file), "--annotator", name
        )
        rows = [json.loads(line) | YES for line in file.read_text().splitlines()]
        rows[0]["correct"] = "no" if name == "ada" else "yes"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert invoke("import", "spring", str(file), "--annotator", name) == f"9 ratings of {name}.\n"
    assert "ada: 9 of 9 rated" in invoke("status")
    assert json.loads(invoke("status", "--json"))[0]["annotators"]["bob"] == {"rated": 9, "tasks": 9}
    report = json.loads(invoke("agreement", "spring", "--json"))
    assert {row["model"] for row in report["models"]} == {"base bf16", "fine-tuned w8a8"}
    text = invoke("agreement", "spring")
    assert "clear, ada and bob: 100% equal" in text
    (disputed,) = report["disputed"]
    assert disputed["item"] in text
    settled = invoke("adjudicate", "spring", disputed["item"], "correct", "yes", "--by", "cleo")
    assert settled == f"{disputed['item']} correct: yes, by cleo.\n"


def test_approved_answers_are_written_as_pairs_without_held_out_questions(home, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(home))
    invoke("create", "spring", "--model", "base bf16", "--count", "4")
    invoke("assign", "spring", "ada", "--per-item", "1")
    desk = StudyDesk(load_settings({"home": home}))
    file = home / "approved.jsonl"
    refused = CliRunner().invoke(app, ["evaluate", "pairs", "spring", str(file)])
    assert "4 are not settled as right" in str(refused.exception)
    for task in desk.store.open_tasks("spring", "ada"):
        desk.store.rate(task.id, "ada", YES)
    tested = desk.store.items("spring")[desk.store.tasks("spring", "ada")[0].item_id].question
    pair = QAPair(id="p", question=tested, answer="e", kind="clause", document_id="d", chunk_id="c", span=(0, 1))
    split = SplitItem(pair=pair, split="gate", cluster="c")
    store = ArtifactStore(home / "artifacts")
    store.set_current(store.write_records("qa_splits", [split]))
    said = invoke("pairs", "spring", str(file))
    assert "3 pairs in" in said
    assert "1 to held-out questions" in said
    assert tested not in file.read_text()
    desk.store.close()


def test_answers_that_users_got_can_be_rated(home):
    settings = load_settings({"home": home})
    log = FeedbackLog(settings.feedback_url)
    for number in range(3):
        log.record_response(
            ResponseRecord(
                id=f"r{number}", created_at=f"2026-11-0{number + 1}", question=f"q{number}", answer=f"a{number}",
                model="ragtune", model_version="3", chunk_ids=(), cited_chunk_ids=(), refused=False,
            )
        )  # fmt: skip
    assert [response.id for response in log.newest_responses(2)] == ["r2", "r1"]
    log.close()
    desk = StudyDesk(settings)
    study, items = desk.create(StudyPlan(name="week", mode="rating", count=2))
    assert (study.source, items) == ("live traffic", 2)
    desk.store.assign("week", ["ada"], 1)
    task = desk.store.open_tasks("week", "ada")[0]
    assert shown(desk.store.items("week")[task.item_id], task)[0].model == "ragtune 3"
    desk.store.close()


def test_a_plan_that_does_not_fit_is_refused(home, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(home))
    for arguments, message in (
        (("duel", "--mode", "pairwise", "--model", "base bf16"), "two models or two files"),
        (("spring", "--mode", "duel"), "rating, pairwise"),
        (("spring", "--mode", "rating", "--shadow", "next"), "leave out --mode"),
        (("spring", "--shadow", "next", "--model", "base bf16"), "leave out --shadow"),
        (("spring", "--model", "base w4a16"), "one of base bf16, fine-tuned w8a8"),
    ):
        result = CliRunner().invoke(app, ["evaluate", "create", *arguments])
        assert result.exit_code == 1
        assert message in str(result.exception)


def invoke(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout
