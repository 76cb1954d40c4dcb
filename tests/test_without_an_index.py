"""A gateway that was started before anything was indexed, and a browser that opens its address."""

import httpx
import pytest

from tests.support.live_gateway import ListRegistry, LiveGateway, ThreadEngine


@pytest.fixture
def gateway(tmp_path):
    gateway = LiveGateway(tmp_path, ListRegistry(tmp_path, 1), ThreadEngine())
    yield gateway
    gateway.close()


def test_an_answer_without_an_index_says_so_and_the_raw_model_does_not_need_one(gateway):
    [warning] = gateway.ask().json()["ragtune"]["warnings"]
    assert warning == "There is no index, so this answer is not from your documents. How to fix: run `ragtune index`."
    assert gateway.ask(model="ragtune-raw").json()["ragtune"]["warnings"] == []


def test_a_browser_that_opens_the_address_gets_the_console_and_a_client_an_error(gateway):
    page = httpx.get(gateway.url + "/", headers={"Accept": "text/html,*/*"})
    assert (page.status_code, page.headers["location"]) == (303, "/console")
    assert gateway.request("GET", "/").status_code == 404
