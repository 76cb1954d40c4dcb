"""What a person reads when the cluster is away, wrong, closed to them or full."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ragtune.backends.elastic_index import ElasticIndex
from ragtune.backends.elastic_lease import WriterLease
from ragtune.errors import SearchIndexError
from ragtune.records import Chunk, content_id
from tests.support.elastic import REQUIRED, VARIABLE, elastic_opener, elastic_url

VECTOR = np.ones(8, dtype=np.float32) / np.sqrt(np.float32(8))


def chunk(number: int) -> Chunk:
    return Chunk(
        id=content_id(str(number)),
        document_id=f"d{number}",
        source="folder:x",
        title="Title",
        heading_path=(),
        text=f"herring {number}",
        position=number,
    )


@contextmanager
def server(status: int, body: dict[str, object], product: str = "Elasticsearch") -> Iterator[str]:
    """Serve one answer to every request, as a cluster of another kind would."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if product:
                self.send_header("X-Elastic-Product", product)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def error_of(url: str, tmp_path: Path) -> str:
    index = ElasticIndex(url, "", "docs", "one", 8, tmp_path)
    with pytest.raises(SearchIndexError) as caught:
        index.search_text("herring", 3)
    index.close()
    return str(caught.value)


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    message = error_of("http://127.0.0.1:1", tmp_path)
    assert "Elasticsearch at http://127.0.0.1:1/docs did not answer" in message
    assert "index.url" in message


@pytest.mark.parametrize("version", ["7.17.9", "8.11.4", "10.0.0", "OpenSearch"])
def test_a_wrong_version_is_named_with_the_right_ones(version: str, tmp_path: Path) -> None:
    with server(200, {"version": {"number": version}}) as url:
        message = error_of(url, tmp_path)
    assert f"is Elasticsearch {version}." in message
    assert "8.12 or later, or 9" in message


def test_another_product_is_refused(tmp_path: Path) -> None:
    with server(200, {"version": {"number": "8.19.5"}}, product="") as url:
        assert "is not Elasticsearch" in error_of(url, tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_missing_rights_are_listed(status: int, tmp_path: Path) -> None:
    body = {"error": {"type": "security_exception", "reason": "action is unauthorized"}, "status": status}
    with server(status, body) as url:
        message = error_of(url, tmp_path)
    assert f"refused the request ({status})" in message
    assert "create_index" in message
    assert "RAGTUNE_INDEX__API_KEY" in message


@pytest.mark.elasticsearch
def test_a_full_disk_says_so_and_the_old_state_stays_readable(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from elasticsearch import Elasticsearch

    index = elastic_opener(request, tmp_path)("one", 8)
    index.apply([(chunk(1), VECTOR)], [])
    with Elasticsearch(elastic_url()) as client:
        # This is the block that a cluster sets itself when a disk passes the flood-stage watermark.
        client.indices.put_settings(index=index.name, settings={"index.blocks.read_only_allow_delete": True})
        with pytest.raises(SearchIndexError, match="disk is nearly full"):
            index.apply([(chunk(2), VECTOR)], [])
        assert [hit.chunk for hit in index.search_text("herring", 5)] == [chunk(1)]
        client.indices.put_settings(index=index.name, settings={"index.blocks.read_only_allow_delete": None})
    index.apply([(chunk(2), VECTOR)], [])
    assert len(index.search_text("herring", 5)) == 2


@pytest.mark.elasticsearch
def test_a_writer_that_lost_its_lease_publishes_nothing(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from elasticsearch import Elasticsearch

    opener = elastic_opener(request, tmp_path)
    index = opener("one", 8)
    index.apply([(chunk(1), VECTOR)], [])
    with index.updating():
        with Elasticsearch(elastic_url()) as client:
            client.delete(index=f"{index.name}-writer", id="writer")
        with pytest.raises(SearchIndexError, match="Another writer took over"):
            index.apply([(chunk(2), VECTOR)], [])
    assert len(index.search_text("herring", 5)) == 1


@pytest.mark.elasticsearch
def test_the_lease_of_a_dead_process_of_this_machine_is_free_at_once(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import socket

    from elasticsearch import Elasticsearch

    name = elastic_opener(request, tmp_path)("one", 8).name
    with Elasticsearch(elastic_url()) as client:
        dead = subprocess.Popen(["true"])
        dead.wait()
        document = {"owner": f"{socket.gethostname()}:{dead.pid}:x", "expires": time.time() + 60}
        client.index(index=f"{name}-writer", id="writer", document=document)
        lease = WriterLease(client, f"{name}-writer")
        lease.acquire()
        lease.release()
        assert time.time() < document["expires"]


@pytest.mark.elasticsearch
def test_a_lease_of_another_machine_is_waited_for_until_it_ends(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from elasticsearch import Elasticsearch

    name = elastic_opener(request, tmp_path)("one", 8).name
    with Elasticsearch(elastic_url()) as client:
        expires = time.time() + 3
        document = {"owner": f"elsewhere:{os.getpid()}:x", "expires": expires}
        client.index(index=f"{name}-writer", id="writer", document=document)
        lease = WriterLease(client, f"{name}-writer")
        lease.acquire()
        assert time.time() >= expires
        lease.release()


@pytest.mark.elasticsearch
def test_an_alias_on_two_indices_is_refused(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from elasticsearch import Elasticsearch

    opener: Callable[..., ElasticIndex] = elastic_opener(request, tmp_path)
    index = opener("one", 8)
    with Elasticsearch(elastic_url()) as client:
        for suffix in ("a", "b"):
            client.indices.create(index=f"{index.name}-{suffix}", aliases={index.name: {}})
    with pytest.raises(SearchIndexError, match="one index"):
        index.versions()


def test_without_a_node_the_tests_are_skipped_or_fail_if_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=VARIABLE):
        elastic_url()
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=VARIABLE):
        elastic_url()
