"""The routes for operators, over a real gateway, and feedback by the key that got the answer."""

import pytest

from tests.support.live_gateway import ListRegistry, LiveGateway, ThreadEngine, until


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    gateway = LiveGateway(home, ListRegistry(home, 3), ThreadEngine(), experiments={"look_seconds": 0.2})
    yield gateway
    gateway.close()


def test_an_operator_starts_watches_changes_stops_and_replays_an_experiment(gateway):
    operator = gateway.keys.create("operator", "operator")

    def call(method: str, path: str, **body):
        answer = gateway.request(method, f"/v1/experiments{path}", operator, **({"json": body} if body else {}))
        return answer.status_code, answer.json()

    status, report = call("POST", "", name="first", candidates=["2"], ramp=0.5, users_per_step=5)
    assert (status, report["state"], report["versions"]) == (200, "running", ["1", "2"])
    gateway.wait_for("1", "2")
    for number in range(6):
        assert gateway.ask(user=f"user {number}").status_code == 200
    report = until(lambda: (now := call("GET", "/first")[1])["responses"] == 6 and now)
    assert report["candidates"][0]["declaration"] == "undecided"
    assert sum(report["candidates"][0]["users"]) == 6
    assert call("POST", "/first/actions", action="pause", reason="lunch")[1]["state"] == "paused"
    assert call("POST", "/first/actions", action="resume")[1]["state"] == "running"
    assert call("POST", "/first/actions", action="ramp", ramp=0.25)[1]["ramp"] == 0.25
    assert call("POST", "/first/actions", action="ramp")[0] == 400
    assert call("GET", "/first/replay")[0] == 409
    status, report = call("POST", "/first/actions", action="stop", reason="enough")
    assert (report["state"], report["events"][-1]["content"]["reason"]) == ("stopped", "enough")
    kinds = [event["kind"] for event in report["events"]]
    assert kinds == ["start", "pause", "resume", "ramp", "stop"]
    assert call("POST", "/first/actions", action="resume")[0] == 409
    status, replayed = call("GET", "/first/replay")
    assert (status, replayed["same"]) == (200, True)
    assert [one["state"] for one in call("GET", "")[1]["experiments"]] == ["stopped"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "x", "candidates": ["9"]}, 400, "no version '9'"),
        ({"name": "x", "candidates": ["1"]}, 400, "different versions"),
        ({"name": "x", "candidates": []}, 400, "candidates"),
        ({"name": "x", "candidates": ["2"], "metric": "joy"}, 400, "one of thumbs"),
        ({"name": "x", "candidates": ["2"], "colour": "red"}, 400, "users_per_step"),
    ],
)
def test_a_wrong_start_is_refused_with_what_is_valid(gateway, body, status, words):
    answer = gateway.request("POST", "/v1/experiments", json=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_only_operators_and_admins_may_call_the_routes(gateway):
    for role, status in (("application", 403), ("reviewer", 403), ("operator", 200), ("admin", 200)):
        key = gateway.keys.create(f"a {role}", role)
        for path in ("/v1/experiments", "/v1/shadows"):
            assert gateway.request("GET", path, key).status_code == status
    assert gateway.request("GET", "/v1/experiments/nowhere").status_code == 404


def test_an_operator_mirrors_requests(gateway):
    report = gateway.request("POST", "/v1/shadows", json={"name": "s", "versions": ["3"], "share": 1.0}).json()
    assert report["design"]["versions"] == ["3"]
    until(lambda: gateway.services.chat.shadowing.shadow)
    gateway.wait_for("3")
    gateway.ask("Mirrored?")
    until(lambda: gateway.request("GET", "/v1/shadows/s").json()["versions"][0]["pairs"] == 1)
    assert gateway.request("GET", "/v1/shadows").json() == {"shadows": ["s"], "running": "s"}
    stopped = gateway.request("POST", "/v1/shadows/s/stop").json()
    assert stopped["stopped_at"] > stopped["started_at"]
    assert gateway.request("POST", "/v1/shadows", json={"name": "s", "versions": ["3"]}).status_code == 409


def test_stars_and_tags_are_stored_once_and_only_the_key_that_got_the_answer_may_rate(gateway):
    mine, other = gateway.keys.create("mine"), gateway.keys.create("other")
    reviewer = gateway.keys.create("rita", "reviewer")
    response = gateway.ask(key=mine).json()["id"]

    def rate(key: str, **body):
        return gateway.request("POST", "/v1/feedback", key, json={"response_id": response, **body})

    first = rate(mine, rating=2, tags=["wrong unit"], comment="no").json()
    assert (first["rating"], first["stars"], first["tags"]) == ("down", 2, ["wrong unit"])
    assert rate(mine, rating=2, tags=["wrong unit"], comment="no").json() == first
    assert rate(mine, rating=3).json()["rating"] == "neutral"
    assert rate(mine, rating="up").json()["stars"] == 0
    refused = rate(other, rating="up")
    assert (refused.status_code, "got no response" in refused.text) == (404, True)
    assert rate(reviewer, rating=5).json()["rating"] == "up"
    for wrong in (0, 6, "meh"):
        assert rate(mine, rating=wrong).status_code == 400
    assert rate(mine, rating="up", tags=["x" * 51]).status_code == 400
    events = [event for event in gateway.services.log.events() if event.response_id == response]
    assert [(event.user, event.stars, event.tags) for event in events] == [
        ("mine", 2, ("wrong unit",)),
        ("mine", 3, ()),
        ("mine", 0, ()),
        ("rita", 5, ()),
    ]
