"""Reviewers work over HTTP and on the command line, on a dataset on disk."""

import csv
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.reviews.decisions import newest_verdicts, pair_key
from ragtune.settings import child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_serving.api import build_api
from ragtune_serving.cli import app
from ragtune_serving.feedback_tokens import FeedbackTokens
from ragtune_serving.guard import Guard
from ragtune_serving.keys import KeyStore
from ragtune_serving.metrics import Metrics
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.routes import Services
from ragtune_serving.studies import StudyDesk
from tests.support.api_pages import articles, chunk, shop

CHUNKS = [chunk(document) for document in [*shop(), *articles(12)]]
PAIRS = ExtractiveWriter(2).write(CHUNKS)


def with_dataset(home):
    store = ArtifactStore(home / "artifacts")
    for name, records in (("chunks", CHUNKS), ("qa_candidates", PAIRS), ("qa_dataset", PAIRS[1:])):
        store.set_current(store.write_records(name, records))


class Served:
    """The review routes behind the guard, on a free loopback port."""

    def __init__(self, home, **dataset):
        settings = load_settings({"home": home, "dataset": dataset})
        self.keys = KeyStore(home / "keys")
        self.desk = ReviewDesk(settings)
        nothing = [None] * 7
        services = Services(*nothing, Metrics(), 0.0, self.desk, StudyDesk(settings), None, None)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        app = Guard(build_api(services), self.keys, FeedbackTokens(self.keys.folder))
        config = uvicorn.Config(app, log_level="warning", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def reviewer(self, name):
        key = self.keys.create(name, "reviewer")
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=f"{self.url}/v1/review", headers=headers, timeout=30)

    def close(self):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
        self.desk.reviews.close()


@pytest.fixture
def served(tmp_path):
    with_dataset(tmp_path)
    running = Served(tmp_path)
    yield running
    running.close()


def test_a_reviewer_gets_pairs_decides_them_and_sees_the_progress(served):
    with served.reviewer("ada") as ada:
        assert ada.post("/assignments", json={"count": 3}).json() == {"given": 3, "open": 3}
        page = ada.get("/pairs").json()
        assert (page["total"], len(page["pairs"])) == (3, 3)
        first = page["pairs"][0]
        assert first["question"] == PAIRS[1].question
        assert first["text"] == next(passage.text for passage in CHUNKS if passage.id == PAIRS[1].chunk_id)
        assert first["reviewers"] == ["ada"]
        stored = ada.post("/decisions", json={"key": first["key"], "verdict": "reject", "comment": "Odd."}).json()
        assert (stored["reviewer"], stored["verdict"], stored["created_at"][:2]) == ("ada", "reject", "20")
        ada.post("/decisions", json={"key": first["key"], "verdict": "comment", "comment": "Really."})
        assert ada.get("/pairs").json()["total"] == 2
        pair = ada.get("/pairs", params={"show": "all", "limit": 1}).json()["pairs"][0]
        assert [decision["comment"] for decision in pair["decisions"]] == ["Odd.", "Really."]
        assert ada.get("/pairs", params={"show": "open"}).json()["total"] == len(PAIRS) - 2
        progress = ada.get("/progress").json()
    assert (progress["pairs"], progress["rejected"], progress["undecided"]) == (len(PAIRS), 1, len(PAIRS) - 1)
    assert progress["reviewers"] == [{"reviewer": "ada", "decided": 1, "assigned": 3}]


def test_programs_get_no_verdict_that_could_lead_their_reviewer(tmp_path):
    with_dataset(tmp_path)
    served = Served(tmp_path, reviews_per_pair=2)
    try:
        desk = served.desk.reviews
        disputed, last = PAIRS[1:3]
        desk.decide(disputed, "bob", "reject", comment="Odd.")
        desk.decide(disputed, "cleo", "accept")
        desk.assign([last], ["ada"])

        def seen(client):
            pairs = client.get("/pairs", params={"show": "all", "limit": 200}).json()["pairs"]
            of_pair = next(pair for pair in pairs if pair["key"] == pair_key(disputed))["decisions"]
            return [one["reviewer"] for one in of_pair], len(client.get("/agreement").json()["disputed"])

        with served.reviewer("ada") as ada, served.reviewer("rita") as rita:
            assert seen(ada) == ([], 0)
            assert seen(rita) == (["bob", "cleo"], 1), "nothing is left to her, so she settles conflicts"
            ada.post("/decisions", json={"key": pair_key(disputed), "verdict": "reject"})
            assert seen(ada) == (["bob", "cleo", "ada"], 1)
    finally:
        served.close()


def test_reviewers_who_work_at_once_lose_nothing_and_get_different_pairs(served):
    clients = {f"r{number}": served.reviewer(f"r{number}") for number in range(6)}

    def work(client):
        with client:
            client.post("/assignments", json={"count": 4})
            keys = [pair["key"] for pair in client.get("/pairs").json()["pairs"]]
            answers = [client.post("/decisions", json={"key": key, "verdict": "accept"}) for key in keys]
            assert all(answer.status_code == 200 for answer in answers)
            return keys

    with ThreadPoolExecutor(6) as pool:
        assigned = [key for keys in pool.map(work, clients.values()) for key in keys]
    assert len(assigned) == len(set(assigned)) == min(24, len(PAIRS) - 1)
    decisions = served.desk.reviews.decisions()
    assert sorted(decision.pair_key for decision in decisions) == sorted(assigned)
    assert {decision.reviewer for decision in decisions} <= set(clients)


def test_reviewers_over_http_and_by_file_at_the_same_time_lose_nothing_and_their_conflicts_are_counted(tmp_path):
    """Two reviewers a pair: Ada and Bob work over HTTP, Cleo and Dan with files in their own processes."""
    with_dataset(tmp_path)
    served = Served(tmp_path, reviews_per_pair=2)
    environment = child_environment(RAGTUNE_HOME=str(tmp_path), RAGTUNE_DATASET__REVIEWS_PER_PAIR="2")

    def over_http(name, verdict):
        with served.reviewer(name) as client:
            for _ in range(4):
                client.post("/assignments", json={"count": 3})
                for pair in client.get("/pairs").json()["pairs"]:
                    answer = client.post("/decisions", json={"key": pair["key"], "verdict": verdict})
                    assert answer.status_code == 200, answer.text
            return client.get("/pairs").json()["total"]

    def by_file(name, verdict):
        file = tmp_path / f"{name}.csv"
        command = [sys.executable, "-m", "ragtune_serving.cli", "review"]
        claim = [*command, "export", str(file), "--reviewer", name, "--count", "12"]
        subprocess.run(claim, env=environment, check=True, timeout=120)
        rows = read(file)
        write(file, [{**row, "verdict": verdict} for row in rows])
        subprocess.run([*command, "import", str(file)], env=environment, check=True, timeout=120)
        subprocess.run([*command, "export", str(file), "--reviewer", name], env=environment, check=True, timeout=120)
        return len(read(file))

    try:
        with ThreadPoolExecutor(4) as pool:
            open_pairs = [
                pool.submit(over_http, "ada", "accept"),
                pool.submit(over_http, "bob", "reject"),
                pool.submit(by_file, "cleo", "accept"),
                pool.submit(by_file, "dan", "accept"),
            ]
            assert [count.result() for count in open_pairs] == [0, 0, 0, 0]
        reviewers, decisions = served.desk.reviews.assignments(), newest_verdicts(served.desk.reviews.decisions())
        progress = served.desk.progress()
    finally:
        served.close()
    assert {key: set(by_reviewer) for key, by_reviewer in decisions.items()} == reviewers
    assert len(served.desk.reviews.decisions()) == sum(len(names) for names in reviewers.values())
    counts = [Counter(decision.verdict for decision in by_reviewer.values()) for by_reviewer in decisions.values()]
    assert all(count.total() == 2 or count == {"accept": 2, "reject": 1} for count in counts if count.total() > 1)
    decided = [count for count in counts if count.total() > 1]
    assert progress["accepted"] == sum(count["accept"] > count["reject"] for count in decided)
    assert progress["conflicts"] == sum(count["accept"] == count["reject"] for count in decided)
    assert progress["rejected"] == 0
    assert progress["undecided"] == len(PAIRS) - len(decided)
    finished = {row["reviewer"]: row["decided"] == row["assigned"] for row in progress["reviewers"]}
    assert finished == dict.fromkeys(("ada", "bob", "cleo", "dan"), True)


def test_a_pair_on_which_two_reviewers_disagree_goes_to_a_third_who_settles_it(tmp_path):
    with_dataset(tmp_path)
    served = Served(tmp_path, reviews_per_pair=2)
    try:
        for name, verdict in (("ada", "accept"), ("bob", "reject")):
            with served.reviewer(name) as client:
                assert client.post("/assignments", json={"count": 2}).json()["given"] == 2
                for pair in client.get("/pairs").json()["pairs"]:
                    client.post("/decisions", json={"key": pair["key"], "verdict": verdict})
                progress = client.get("/progress").json()
        assert (progress["conflicts"], progress["rejected"]) == (2, 0)
        with served.reviewer("ada") as ada:
            assert ada.post("/assignments", json={"count": 1}).json()["given"] == 1
            assert ada.get("/pairs").json()["pairs"][0]["decisions"] == []
        with served.reviewer("cleo") as cleo, served.reviewer("dan") as dan:
            cleo.post("/assignments", json={"count": 2})
            conflicts = cleo.get("/pairs").json()["pairs"]
            assert [pair["decisions"] for pair in conflicts] == [[], []], "a third reviewer judges blind"
            dan.post("/assignments", json={"count": 2})
            assert all(len(pair["decisions"]) < 2 for pair in dan.get("/pairs").json()["pairs"])
            for pair in conflicts:
                cleo.post("/decisions", json={"key": pair["key"], "verdict": "reject"})
            progress = cleo.get("/progress").json()
            shown = {pair["key"]: pair["decisions"] for pair in cleo.get("/pairs?show=all").json()["pairs"]}
        assert (progress["conflicts"], progress["rejected"]) == (0, 2)
        assert [len(shown[pair["key"]]) for pair in conflicts] == [3, 3]
    finally:
        served.close()


def test_a_candidate_that_is_not_in_the_dataset_can_still_be_decided(served):
    with served.reviewer("ada") as ada:
        assert ada.post("/decisions", json={"key": pair_key(PAIRS[0]), "verdict": "accept"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "message"),
    [
        ("POST", "/decisions", {"json": {"key": "q0", "verdict": "accept"}}, 404, "q0"),
        ("POST", "/decisions", {"json": {"key": "q0", "verdict": "maybe"}}, 400, "'comment'"),
        ("POST", "/decisions", {"json": {"key": "q0", "verdict": "accept", "who": "eve"}}, 400, "Valid fields: key"),
        ("POST", "/assignments", {"json": {"count": 0}}, 400, "count"),
        ("GET", "/pairs", {"params": {"show": "theirs"}}, 400, "'open'"),
    ],
)
def test_an_error_about_a_wrong_request_lists_what_is_valid(served, method, path, arguments, status, message):
    with served.reviewer("ada") as ada:
        answer = ada.request(method, path, **arguments)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_an_empty_correction_is_refused(served):
    with served.reviewer("ada") as ada:
        key = ada.get("/pairs", params={"show": "all"}).json()["pairs"][0]["key"]
        answer = ada.post("/decisions", json={"key": key, "verdict": "correct"})
    assert answer.status_code == 400
    assert "The correction is empty." in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["pairs", "progress", "decisions", "assignments"])
def test_without_a_key_every_review_route_answers_401(served, path):
    method = "GET" if path in ("pairs", "progress") else "POST"
    assert httpx.request(method, f"{served.url}/v1/review/{path}").status_code == 401


def test_before_the_first_dataset_the_error_says_what_to_run(tmp_path):
    running = Served(tmp_path)
    try:
        with running.reviewer("ada") as ada:
            answer = ada.get("/pairs")
        assert answer.status_code == 503
        assert "ragtune materialize" in answer.json()["error"]["message"]
    finally:
        running.close()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_command_line_exports_imports_and_shows_the_progress(tmp_path, monkeypatch, ending):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    with_dataset(tmp_path / "home")
    file = tmp_path / f"ada.{ending}"
    assert "5 pairs in" in invoke("export", str(file), "--reviewer", "ada", "--count", "5").stdout
    rows = read(file)
    rows[0]["verdict"] = rows[1]["verdict"] = "accept"
    write(file, rows)
    assert "2 new decisions" in invoke("import", str(file)).stdout
    assert "0 new decisions" in invoke("import", str(file)).stdout
    progress = json.loads(invoke("status", "--json").stdout)
    assert (progress["accepted"], progress["reviewers"]) == (2, [{"reviewer": "ada", "decided": 2, "assigned": 5}])
    assert "ada: 2 decided, 5 assigned" in invoke("status").stdout
    assert "3 pairs in" in invoke("export", str(file), "--reviewer", "ada").stdout


def test_agreement_is_shown_over_http_to_reviewers_only_and_on_the_command_line(served, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path))
    assert "No pair has verdicts of two reviewers yet." in invoke("agreement").stdout
    for name in ("ada", "bob"):
        for number, pair in enumerate(PAIRS[1:9]):
            reject = number == 0 and name == "bob"
            served.desk.reviews.decide(pair, name, "reject" if reject else "accept", comment="Odd." if reject else "")
    with served.reviewer("rita") as rita:
        report = rita.get("/agreement").json()
    assert (report["pairs"], report["between"][0]["annotators"]) == (8, ["ada", "bob"])
    assert {one["question"]: one["percent"] for one in report["agreement"]} == {"verdict": 0.875, "kept": 0.875}
    assert report["disputed"][0]["comments"] == {"bob": "Odd."}
    assert json.loads(invoke("agreement", "--json").stdout) == report
    said = invoke("agreement").stdout
    assert "verdict, ada and bob: 88% equal, alpha" in said
    assert "ada accept, bob reject" in said
    headers = {"Authorization": f"Bearer {served.keys.create('ann', 'annotator')}"}
    assert httpx.get(f"{served.url}/v1/review/agreement", headers=headers).status_code == 403


def test_a_key_for_a_reviewer_is_created_on_the_command_line(served, tmp_path, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path))
    key = invoke("key", "bob").stdout.strip()
    answer = httpx.get(f"{served.url}/v1/review/progress", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    assert served.keys.user(key) == "bob"


def invoke(*arguments):
    result = CliRunner().invoke(app, ["review", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def read(file):
    with file.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream)) if file.suffix == ".csv" else [json.loads(line) for line in stream]


def write(file, rows):
    with file.open("w", newline="", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, fieldnames=rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
