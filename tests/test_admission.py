"""With too many requests in progress a further one gets a 429 at once, instead of waiting."""

import threading
import time
from pathlib import Path

import pytest

from ragtune.settings import load_settings
from ragtune_serving.admission import ELSEWHERE, ON_A_CPU, Admission, limit_of
from ragtune_serving.engine import ServedModel, ServingEngine
from ragtune_serving.limits import LimitError
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.served_gateway import ServedGateway, index_documents


def engine(in_flight: int) -> ServingEngine:
    made = ServingEngine(ServedModel("m", "1", Path(), "w8a8"), "route")
    for _ in range(in_flight):
        made.hold()
    return made


def settings(tmp_path, **gateway):
    return load_settings({"home": tmp_path, "device": "cpu", "gateway": gateway})


def test_the_limit_follows_the_device_unless_it_is_set(tmp_path):
    assert limit_of(settings(tmp_path)) == ON_A_CPU
    assert limit_of(settings(tmp_path, max_requests=3)) == 3
    elsewhere = {"backend": "openai", "url": "http://127.0.0.1:9/v1", "model": "m"}
    assert limit_of(load_settings({"home": tmp_path, "engine": elsewhere})) == ELSEWHERE


def test_several_workers_share_the_limit_and_none_has_no_room(tmp_path):
    assert Admission(settings(tmp_path, max_requests=10, workers=4)).limit == 3
    Admission(settings(tmp_path, max_requests=0)).check(engine(1000))
    admission = Admission(settings(tmp_path, max_requests=2))
    admission.check(engine(2))
    with pytest.raises(LimitError, match="answers 2 requests already"):
        admission.check(engine(3))


def test_a_full_gateway_answers_429_with_retry_after_and_the_others_go_on(tmp_path):
    index_documents(tmp_path)
    upstream = ScriptedUpstream()
    upstream.behaviour = "slow"  # 1.5 s
    gateway = ServedGateway(tmp_path, upstream, gateway={"max_requests": 2, "cache": {"entries": 10}})
    try:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(gateway.ask())) for _ in range(2)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while upstream.running < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        refused = gateway.ask("Another question about the cart?")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        upstream.behaviour = "answer"
        assert gateway.ask("Another question about the cart?").status_code == 200, "there is room again"
        metrics = gateway.request("GET", "/metrics").text
        assert 'ragtune_requests_total{model="ragtune",outcome="limited"} 1.0' in metrics
    finally:
        gateway.close()
        upstream.close()
