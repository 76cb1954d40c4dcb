"""A real Elasticsearch for tests: the one that RAGTUNE_TEST_ELASTICSEARCH_URL names, or a skip that says so.

If RAGTUNE_TEST_REQUIRE_ELASTICSEARCH is 1, the tests fail instead of being skipped.
"""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ragtune.backends.elastic_index import ElasticIndex

VARIABLE = "RAGTUNE_TEST_ELASTICSEARCH_URL"
REQUIRED = "RAGTUNE_TEST_REQUIRE_ELASTICSEARCH"


def elastic_url() -> str:
    """Return the node's URL, or skip the test with the reason; fail it if a node is required."""
    url = os.environ.get(VARIABLE, "")
    if not url and os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED} is 1, but {VARIABLE} is not set")
    if not url:
        pytest.skip(f"{VARIABLE} is not set: no Elasticsearch to test against")
    return url


def elastic_opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., ElasticIndex]:
    """Return a function that opens an index of its own name, which is removed after the test."""
    url, name = elastic_url(), f"test-{uuid.uuid4().hex[:8]}"
    opened: list[ElasticIndex] = []

    def open_one(embedder: str = "one", dimension: int = 8) -> ElasticIndex:
        index = ElasticIndex(url, "", name, embedder, dimension, scratch=tmp_path / "unfinished")
        opened.append(index)
        return index

    def remove() -> None:
        from elasticsearch import Elasticsearch

        with Elasticsearch(url) as client:
            client.indices.delete(index=[*client.indices.get(index=f"{name}*")] or "none", ignore_unavailable=True)
        for index in opened:
            index.close()

    request.addfinalizer(remove)
    return open_one
