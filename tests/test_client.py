"""What the command line says to a gateway: feedback as applications give it, and patience while the gateway starts."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from ragtune.errors import SettingsError
from ragtune.settings import load_settings
from ragtune_serving.cli import app
from ragtune_serving.client import GatewayClient
from tests.support.live_gateway import ListRegistry, LiveGateway, ThreadEngine
from tests.support.scripted_upstream import ServedApp


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    home = tmp_path_factory.mktemp("home")
    gateway = LiveGateway(home, ListRegistry(home, 1), ThreadEngine())
    yield gateway
    gateway.close()


def invoke(gateway: LiveGateway, *arguments: str) -> str:
    environment = {"RAGTUNE_GATEWAY_URL": gateway.url, "RAGTUNE_API_KEY": gateway.key}
    result = CliRunner().invoke(app, list(arguments), env=environment)
    if result.exception:
        raise result.exception
    return result.stdout


def test_a_verdict_on_an_answer_is_given_with_the_id_that_ask_prints(gateway: LiveGateway) -> None:
    answer = invoke(gateway, "ask", "What is it?")
    response_id = answer.split("response ")[1].split()[0]
    stored = invoke(gateway, "feedback", "give", response_id, "--rating", "2", "--correction", "It is a gate.")
    (event,) = gateway.services.log.events()
    assert stored.startswith(f"Stored as {event.id}: down, on an answer of version 1.")
    assert f"ragtune feedback trace {event.id}" in stored
    assert (event.response_id, event.stars, event.correction) == (response_id, 2, "It is a gate.")


def test_an_unknown_rating_is_refused_before_anything_is_sent(gateway: LiveGateway) -> None:
    with pytest.raises(SettingsError, match=r"--rating is good\.\nExpected: up, down, or a number of stars"):
        invoke(gateway, "feedback", "give", "r", "--rating", "good")


@pytest.mark.parametrize("rating", ["good", 6, 0, 4.5, None, True, [], "x" * 5000])
def test_the_api_says_in_one_sentence_which_ratings_there_are(gateway: LiveGateway, rating: Any) -> None:
    answer = gateway.request("POST", "/v1/feedback", json={"response_id": "r", "rating": rating})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400
    assert message.endswith(', but "up", "down" or 1 to 5 is allowed.')
    assert len(message) < 200
    assert "\n" not in message


def test_the_api_says_which_field_is_missing(gateway: LiveGateway) -> None:
    answer = gateway.request("POST", "/v1/feedback", json={"response_id": "r"})
    assert answer.json()["error"]["message"] == "The field 'rating' is missing."


class StartingGateway:
    """A gateway that is not ready for the first looks; `status` is what it says of itself."""

    def __init__(self, looks: int, status_code: int = 200, **status: Any) -> None:
        self.status_code = status_code
        self.looks, self.left, self.status = 0, looks, {"live": None, "next": None, "error": "", **status}
        routes = [Route("/health/readiness", self.readiness), Route("/status", self.state)]
        self.served = ServedApp(Starlette(routes=routes))
        settings = {"gateway_url": self.served.url, "api_key": "k"}
        self.client = GatewayClient(load_settings(settings))

    async def readiness(self, _: Request) -> JSONResponse:
        self.looks += 1
        return JSONResponse({"status": "ready" if self.looks > self.left else "starting"})

    async def state(self, _: Request) -> JSONResponse:
        return JSONResponse(self.status, self.status_code)


@pytest.fixture
def starting() -> Iterator[Any]:
    gateways: list[StartingGateway] = []

    def make(looks: int, status_code: int = 200, **status: Any) -> StartingGateway:
        gateways.append(StartingGateway(looks, status_code, **status))
        return gateways[-1]

    yield make
    for gateway in gateways:
        gateway.client.close()
        gateway.served.close()


def test_a_question_waits_for_a_gateway_that_starts_and_says_so(starting: Any) -> None:
    gateway = starting(2, next={"state": "starting", "error": ""})
    said: list[str] = []
    gateway.client.wait_while_starting(60, lambda what, done, total: said.append(what))
    assert gateway.looks == 3
    assert said == ["waiting for the gateway, which loads its models (seconds)"] * 2


@pytest.mark.parametrize(
    "status", [{"error": "no index"}, {"next": {"state": "restarting", "error": "no room"}}], ids=["index", "engine"]
)
def test_a_question_does_not_wait_for_a_gateway_in_which_something_failed(starting: Any, status: Any) -> None:
    gateway = starting(99, **status)
    gateway.client.wait_while_starting(60)
    assert gateway.looks == 1


def test_a_key_that_may_not_read_the_status_asks_without_waiting(starting: Any) -> None:
    gateway = starting(99, 403)
    gateway.client.wait_while_starting(60)
    assert gateway.looks == 1


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.split()[0]) == (0, "ragtune")
    assert result.stdout.split()[1][0].isdigit()
