"""What in a home needs a person: one record for `ragtune status`, `ragtune doctor` and alerts."""

from dataclasses import dataclass
from typing import Literal

from ragtune.errors import RagTuneError
from ragtune.settings import Settings
from ragtune.store.disk_use import in_words
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse

Kind = Literal["stuck", "failed", "stale", "full", "broken", "refused", "worse"]
_PATIENCE_SECONDS = 5.0
"""How long to wait for another process that has the scores open. Chosen by hand; a transaction takes well under 1 s."""


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
    problems = _full(settings, free_bytes)
    for subject, look in (("registry", _broken), ("scores", _worse)):
        try:
            problems += look(settings)
        except RagTuneError as error:  # a server that is away, a file that another program keeps open
            problems.append(Problem("broken", subject, error.found, error.fix))
    return problems


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


def _worse(settings: Settings) -> list[Problem]:
    """Compare the last measurement of the index with the one before it."""
    file = settings.home / "warehouse.duckdb"
    history = Warehouse(file, _PATIENCE_SECONDS).retrieval() if file.is_file() else []
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
