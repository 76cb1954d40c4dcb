"""A gateway answers malformed requests with errors that its description names, never with a 500."""

from benchmarks.serving.malformed import send_many
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.served_gateway import ServedGateway, index_documents

COUNT = 120
"""A thousand are sent by benchmarks/serving/malformed.py."""


def test_malformed_requests_get_documented_errors(tmp_path):
    index_documents(tmp_path)
    upstream = ScriptedUpstream()
    gateway = ServedGateway(tmp_path, upstream)
    try:
        findings = send_many(gateway.url, gateway.key, COUNT)
        assert findings.wrong == []
        assert findings.statuses[400] > COUNT / 4, "most requests should be wrong"
    finally:
        gateway.close()
        upstream.close()
