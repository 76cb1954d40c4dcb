"""What Elasticsearch answers when something is wrong, in words that say how to fix it."""

from collections.abc import Mapping
from typing import Any

from ragtune.errors import SearchIndexError

OLDEST = (8, 12)
MAJORS = (8, 9)


def checked_version(url: str, info: Mapping[str, Any]) -> tuple[int, ...]:
    """Return (major, minor) of the server; raise SearchIndexError unless this code works with it."""
    found = str(info.get("version", {}).get("number", "unknown"))
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if len(numbers) < 2 or numbers < OLDEST or numbers[0] not in MAJORS:
        raise SearchIndexError(
            f"The server at {url} is Elasticsearch {found}.",
            expected="8.12 or later, or 9",
            fix="name another cluster in index.url, or set index.backend: lance",
        )
    return numbers


def explained(where: str, status: int, kind: str, detail: str) -> SearchIndexError:
    """Return the error to raise for a failed request; status 0 means that there was no answer."""
    if kind == "UnsupportedProductError":
        return SearchIndexError(
            f"The server at {where} is not an Elasticsearch, or an old one: {detail}",
            expected="Elasticsearch 8.12 or later, or 9",
            fix="correct index.url, or set index.backend: lance",
        )
    if status == 0:
        return SearchIndexError(
            f"No answer from Elasticsearch at {where}: {detail}",
            expected="a cluster that answers there",
            fix="start it, correct index.url, or set index.backend: lance",
        )
    if kind == "cluster_block_exception" or "flood-stage watermark" in detail:
        return SearchIndexError(
            f"Elasticsearch at {where} takes no writes, which it does when a disk is nearly full: {detail}",
            expected="disks below the flood-stage watermark (95%)",
            fix="free space, set index.blocks.read_only_allow_delete to null, and run the same command again",
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
        fix="read the cluster's log; the old state of the index is still there",
    )
