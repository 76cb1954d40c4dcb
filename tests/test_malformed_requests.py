"""A gateway answers malformed requests with errors that its description names, never with a 500."""

from benchmarks.serving.malformed import send_many
from tests.support.served_gateway import scripted_gateway

COUNT = 120
"""A thousand are sent by benchmarks/serving/malformed.py."""


def test_malformed_requests_get_documented_errors(tmp_path):
    with scripted_gateway(tmp_path) as gateway:
        findings = send_many(gateway.url, gateway.key, COUNT)
    assert findings.wrong == []
    assert findings.statuses[400] > COUNT / 4, "most requests should be wrong"
