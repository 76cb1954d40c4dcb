"""A thousand bad corrections reach no dataset and stop none; their authors get to know why."""

import json
from dataclasses import replace

import httpx
import pytest
from typer.testing import CliRunner

from ragtune.dataset.reviews.decisions import pair_key
from ragtune.records import Chunk, ResponseRecord
from ragtune.settings import load_settings
from ragtune.store.feedback import FeedbackLog
from ragtune_assets.feedback import new_corrections
from ragtune_serving.cli import app
from ragtune_serving.reviewing import ReviewDesk
from tests.support.console_gateway import ConsoleGateway
from tests.support.dataset_home import Home
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.visitor import Visitor

BAD = 1000


def response(name: str, question: str, chunk: Chunk, key: str) -> ResponseRecord:
    return ResponseRecord(
        id=name,
        created_at="2026-01-01T00:00:00.000+00:00",
        question=question,
        answer="An answer.",
        model="ragtune",
        model_version="1",
        chunk_ids=(chunk.id,),
        cited_chunk_ids=(),
        refused=False,
        key=key,
    )


def bad_correction(number: int, chunk: Chunk) -> str:
    """Return a lie in the words of the passage, an invention, or a secret: what passes the checks and what does not."""
    lie = " ".join(chunk.text.split()[:12])
    return (lie, f"Purple zebras dance {number} times.", f"Use the key AKIAIOSFODNN7EXAM{number:03}. {lie}")[number % 3]


def poison(log: FeedbackLog, chunks: list[Chunk]) -> None:
    """Give a thousand bad corrections with ten keys."""
    rows = [(n, chunks[n % len(chunks)], f"eve-{n % 10}") for n in range(BAD)]
    log.record_responses([response(f"bad-{n}", f"When does device{n} fail?", chunk, key) for n, chunk, key in rows])
    for number, chunk, key in rows:
        log.add(f"bad-{number}", "down", correction=bad_correction(number, chunk), user=key)


def test_a_thousand_bad_corrections_leave_the_dataset_as_it_is_and_request_no_training(tmp_path):
    home = Home(tmp_path)
    home.run()
    before = {name: home.store.current(name).sha256 for name in ("qa_dataset", "qa_splits", "published_dataset")}
    chunks = home.store.read_records(home.store.current("chunks"), Chunk)
    log = FeedbackLog(home.settings.feedback_url)
    poison(log, chunks)
    assert new_corrections(home.settings, home.store, log, home.reviews) == []

    home.run()

    assert {name: home.store.current(name).sha256 for name in before} == before, "nothing was built to other content"
    assert not [pair for pair in home.pairs() if pair.feedback_id]
    page = home.metadata("qa_dataset")
    assert "| waiting |" in page["corrections"]
    assert "AKIA" not in page["corrections that do not train"]
    good = "Which honest question is there about it?"
    log.record_response(response("good", good, chunks[0], "ann"))
    log.add("good", "down", correction=" ".join(chunks[0].text.split()[:12]), user="ann")
    desk = ReviewDesk(home.settings)
    waiting = next(pair for pair in desk.dataset().corrections if pair.question == good)
    home.reviews.decide(waiting, "ada", "accept")
    assert len(new_corrections(home.settings, home.store, log, home.reviews)) == 1
    home.run()
    assert [pair.question for pair in home.pairs() if pair.feedback_id] == [good], "retraining goes on"
    for database in (desk, log, home):
        database.close()


def test_without_approval_a_key_still_has_only_its_places(tmp_path):
    home = Home(tmp_path)
    settings = load_settings({"home": tmp_path, "feedback": {"approval": False, "per_key": 3}})
    home.run()
    log = FeedbackLog(settings.feedback_url)
    poison(log, home.store.read_records(home.store.current("chunks"), Chunk))
    accepted = new_corrections(settings, home.store, log, home.reviews)
    keys = [one.event.user for one in accepted]
    assert len(keys) == 30
    assert max(keys.count(key) for key in keys) == 3
    log.close()
    home.close()


@pytest.fixture
def gateway(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "safety.md").write_text("# Safety\n\nA hot work note is valid for four hours.\n")
    upstream = ScriptedUpstream()
    running = ConsoleGateway(tmp_path / "home", documents, upstream)
    chunk = running.chunks[0]
    running.with_dataset([])
    for number in range(3):
        question = f"How long is note {number} valid?"
        running.services.log.record_response(response(f"r{number}", question, chunk, "ann"))
    yield running
    running.close()
    upstream.close()


class Client:
    """Somebody who calls the API with a key."""

    def __init__(self, gateway: ConsoleGateway, name: str, role: str) -> None:
        self.url, self.headers = gateway.url, {"Authorization": f"Bearer {gateway.key(name, role)}"}

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers, timeout=60)

    def post(self, path: str, **body: object) -> httpx.Response:
        return httpx.post(self.url + path, headers=self.headers, json=body, timeout=60)


def test_an_author_is_informed_of_the_decision_and_strangers_are_not(gateway):
    ann, eve = Client(gateway, "ann", "application"), Client(gateway, "eve", "application")
    ada = Client(gateway, "ada", "reviewer")
    right = "It is valid for four hours."
    sent = ann.post("/v1/feedback", response_id="r0", rating="down", correction=right).json()
    path = f"/v1/feedback/{sent['id']}"
    status = ann.get(path).json()
    assert (status["status"], status["correction"], status["versions"]) == ("waiting", right, [])
    assert eve.get(path).status_code == 404
    assert ann.get("/v1/feedback/nowhere").status_code == 404
    (pair,) = ada.get("/v1/review/pairs?show=open").json()["pairs"]
    assert (pair["question"], pair["answer"], pair["kind"]) == ("How long is note 0 valid?", right, "correction")
    assert ada.get("/v1/review/progress").json()["waiting"] == 1
    assert ada.post("/v1/review/decisions", key=pair["key"], verdict="reject", comment="Six hours.").status_code == 200
    for client in (ann, ada):
        assert client.get(path).json()["reason"] == "rejected by ada: Six hours."
    ada.post("/v1/review/decisions", key=pair["key"], verdict="accept")
    status = ann.get(path).json()
    assert (status["status"], status["reason"]) == (
        "accepted",
        "accepted by ada; it is in the dataset that is built next",
    )
    assert ada.get("/v1/review/pairs?show=open").json()["total"] == 0
    held = ann.post("/v1/feedback", response_id="r1", rating="down", correction=f"{right} Mail a.b@example.org.").json()
    assert ann.get(f"/v1/feedback/{held['id']}").json()["status"] == "held_back"
    assert ada.get("/v1/review/pairs?show=open").json()["total"] == 0, "nobody reads what is held back"
    thumb = ann.post("/v1/feedback", response_id="r2", rating="up").json()
    assert ann.get(f"/v1/feedback/{thumb['id']}").json()["status"] == "no_correction"


def test_the_queue_of_the_console_and_the_command_line_offer_what_waits(gateway, monkeypatch, tmp_path):
    log = gateway.services.log
    event = log.add("r0", "down", correction="It is valid for four hours.", user="ann")
    page = Visitor(gateway.url, gateway.key("ada", "reviewer")).get("/console/reviews?show=corrections").text
    assert "How long is note 0 valid?" in page
    assert "only if a reviewer accepts it" in page
    monkeypatch.setenv("RAGTUNE_HOME", str(gateway.settings.home))
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> str:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False).stdout

    assert invoke("feedback", "corrections").splitlines() == [
        "1 waiting",
        f"{event.id}  waiting   key ann: no reviewer has decided about it yet",
    ]
    file = tmp_path / "waiting.jsonl"
    assert "\n1 pair in " in invoke("review", "export", str(file), "--corrections")
    row = json.loads(file.read_text())
    file.write_text(json.dumps({**row, "verdict": "accept"}) + "\n")
    assert invoke("review", "import", str(file), "--reviewer", "bob").startswith("1 new decisions.")
    assert json.loads(invoke("feedback", "corrections", "--json"))[0]["reason"] == "accepted by bob"
    assert "accepted since" in invoke("feedback", "trace", event.id)
    assert invoke("feedback", "corrections", "--status", "over_cap") == "There is no correction.\n"


def test_the_queue_follows_new_corrections_without_a_new_dataset(gateway):
    desk, log = gateway.services.reviews, gateway.services.log
    assert desk.open_pairs() == []
    log.add("r0", "down", correction="It is valid for four hours.", user="ann")
    (pair,) = desk.open_pairs()
    desk.reviews.decide(pair, "ada", "correct", answer="It is valid for four hours at most.")
    assert desk.open_pairs() == []
    assert [one.pair.answer for one in desk.statuses()] == ["It is valid for four hours at most."]
    assert pair_key(replace(pair, id="other")) in desk.dataset().by_key
