"""Turns errors of Elasticsearch into errors that say how to fix them."""

from collections.abc import Mapping
from typing import Any

from ragtune.errors import SearchIndexError

OLDEST = (8, 12)
MAJORS = (8, 9)
"""Versions that the code is written for. The tests run on 8.19."""


def checked_version(url: str, info: Mapping[str, Any]) -> tuple[int, ...]:
    """Return (major, minor) of the server; raise SearchIndexError if this code does not support it."""
    version = str(info.get("version", {}).get("number", "unknown"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) < 2 or numbers < OLDEST or numbers[0] not in MAJORS:
        raise SearchIndexError(
            f"The server at {url} is Elasticsearch {version}.",
            expected="8.12 or later, or 9",
            fix="name another cluster in index.url, or set index.backend: lance",
        )
    return numbers


def explained(where: str, status: int, kind: str, detail: str) -> SearchIndexError:
    """Return the error to raise for a failed request.

    Args:
        where: URL and name of the index, for the message.
        status: HTTP status; 0 if there was no reply.
        kind: the error's type, as Elasticsearch or its client names it.
        detail: what Elasticsearch said.
    """
    if kind == "UnsupportedProductError":
        return SearchIndexError(
            f"The server at {where} is not Elasticsearch, or is too old: {detail}",
            expected="Elasticsearch 8.12 or later, or 9",
            fix="correct index.url, or set index.backend: lance",
        )
    if status == 0:
        return SearchIndexError(
            f"Elasticsearch at {where} did not answer: {detail}",
            expected="a cluster that answers there",
            fix="start it, correct index.url, or set index.backend: lance",
        )
    if kind == "cluster_block_exception" or "flood-stage watermark" in detail:
        return SearchIndexError(
            f"Elasticsearch at {where} refuses writes, usually because a disk is nearly full: {detail}",
            expected="disks below the flood-stage watermark (95%)",
            fix="free some space, set index.blocks.read_only_allow_delete to null, and run the same command again",
        )
    if status in (401, 403):
        return SearchIndexError(
            f"Elasticsearch at {where} refused the request ({status}): {detail}",
            expected="an API key with the cluster right `monitor` and, on the indices `NAME` and `NAME-*`, "
            "`read`, `write`, `create_index`, `manage`",
            fix="set RAGTUNE_INDEX__API_KEY to such a key",
        )
    return SearchIndexError(
        f"Elasticsearch at {where} answered {status}: {detail}",
        expected="success",
        fix="read the cluster's log; readers still see the old state of the index",
    )
