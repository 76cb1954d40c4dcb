"""What in a home needs a person: one record for `ragtune status`, `ragtune doctor` and alerts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ragtune.records import RetrievalRow
from ragtune.settings import Settings
from ragtune.store.disk_use import in_words
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse

Kind = Literal["stuck", "failed", "stale", "full", "broken", "refused", "worse"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem: `what` was found, `fix` says what to do. `subject` stays the same as long as the problem does."""

    kind: Kind
    subject: str
    what: str
    fix: str


def problems_on_disk(settings: Settings, free_bytes: int) -> list[Problem]:
    """Return the problems that the files of a home show: a full disk, broken versions, a search that got worse.

    `free_bytes` is the room on the disk of the home.
    """
    retrieval = Warehouse(settings.home / "warehouse.duckdb").retrieval() if _has_warehouse(settings) else []
    return [*_full(settings, free_bytes), *_broken(settings), *_worse(settings, retrieval)]


def _full(settings: Settings, free: int) -> list[Problem]:
    if free >= settings.alerts.least_free_gib * (1 << 30):
        return []
    what = f"{in_words(free)} are free on the disk of {settings.home}"
    fix = "run `ragtune prune --dry-run`, then `ragtune prune`; `ragtune status` shows what uses the disk"
    return [Problem("full", "disk", what, fix)]


def _broken(settings: Settings) -> list[Problem]:
    problems = []
    for entry in ModelRegistry(settings).entries():
        if not entry.problem:
            continue
        names = f" ({', '.join(entry.aliases)})" if entry.aliases else ""
        fix = (
            "run `ragtune rollback`" if "champion" in entry.aliases else f"run `ragtune models remove {entry.version}`"
        )
        if "previous" in entry.aliases:
            fix = "release a model again (`ragtune materialize`); until then there is nothing to roll back to"
        subject = f"version {entry.version}"
        problems.append(Problem("broken", subject, f"{subject}{names} cannot be served: {entry.problem}", fix))
    return problems


def _worse(settings: Settings, history: Sequence[RetrievalRow]) -> list[Problem]:
    """Compare the last measurement of the index with the one before it."""
    if len(history) < 2:
        return []
    before, now = history[-2:]
    problems = []
    fix = "see `retrieval so far` on the page of `retrieval_scores` in Dagster, and what changed since"
    if before.n and now.n and before.recall_10 - now.recall_10 >= settings.alerts.recall_drop:
        what = f"recall@10 fell from {before.recall_10:.3f} to {now.recall_10:.3f} (n={now.n})"
        problems.append(Problem("worse", "recall", what, fix))
    if before.p95_ms and now.p95_ms / before.p95_ms >= settings.alerts.latency_growth:
        what = f"95% of the searches now take up to {now.p95_ms:.0f} ms instead of {before.p95_ms:.0f} ms"
        problems.append(Problem("worse", "latency of the search", what, fix))
    return problems


def _has_warehouse(settings: Settings) -> bool:
    return Path(settings.home / "warehouse.duckdb").is_file()
