"""The page Candidates: released versions, the gate's decision and why, experiments; promote and roll back."""

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request, Response

from ragtune.evaluation.alpha_spending import power_with
from ragtune.experiments.status import ExperimentStatus, status_now
from ragtune.records import GateDecision, ModelManifest, Score
from ragtune.settings import Settings
from ragtune.store.disk_use import disk_bytes, in_words
from ragtune.store.experiments import Experiment, ExperimentStore
from ragtune.store.registry import ModelRegistry, RegistryEntry, read_manifest, verify
from ragtune.store.warehouse import Warehouse
from ragtune_serving.audit import actor_of
from ragtune_serving.console.pages import render, session_of
from ragtune_serving.routes import Services

_CHANGING = "/console/models"
"""Who may call this path promotes and rolls back."""
_PATIENCE_SECONDS = 2.0
"""How long to wait for another process that has the scores open. Chosen by hand: a page should not hang."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Version:
    """A version with what the gate decided about it, and its manifest; None if there is none."""

    entry: RegistryEntry
    manifest: ModelManifest | None
    decision: GateDecision | None

    @property
    def power(self) -> float:
        """The chance that the gate's questions find the planned gain; 0 if that is not known."""
        gate = self.decision
        return power_with(gate.n, gate.questions_needed, gate.alpha) if gate else 0.0


@dataclass(frozen=True, slots=True)
class Compared:
    """An experiment, and where it stands; None if it was stopped, because then its last event says it."""

    experiment: Experiment
    status: ExperimentStatus | None


def add_candidate_pages(app: FastAPI, services: Services, settings: Settings) -> None:
    """Add the page Candidates."""
    registry = ModelRegistry(settings)
    warehouse_file = settings.home / "warehouse.duckdb"

    def decisions() -> list[GateDecision]:
        return Warehouse(warehouse_file, _PATIENCE_SECONDS).decisions() if warehouse_file.is_file() else []

    def versions() -> list[Version]:
        latest = {decision.candidate_version: decision for decision in decisions()}
        return [
            Version(entry, None if entry.problem else read_manifest(Path(entry.folder)), latest.get(entry.version))
            for entry in reversed(registry.entries())
        ]

    @app.get("/console/candidates")
    def candidates(request: Request) -> Response:
        rows = versions()
        live = services.deployment.live
        return render(
            request,
            "candidates.html",
            versions=rows,
            live=live.model.version if live else "",
            previous=next((row.entry.version for row in rows if "previous" in row.entry.aliases), ""),
            champion=next((row.entry.version for row in rows if "champion" in row.entry.aliases), ""),
            compared=_compared(settings, services),
            may_change=session_of(request).key.may_call(_CHANGING),
        )

    @app.get("/console/candidates/{version}")
    def candidate(request: Request, version: str) -> Response:
        match = next((row for row in versions() if row.entry.version == version), None)
        if match is None:
            message = f"There is no version {version}. It may have been removed since."
            return render(request, "message.html", 404, title="No such version", message=message, fix="")
        size = in_words(disk_bytes(Path(match.entry.folder))) if match.entry.folder else ""
        return render(
            request,
            "candidate.html",
            version=match,
            scores=_scores(warehouse_file, version, match.manifest),
            size=size,
            planned_gain=settings.evaluation.gate_gain,
        )

    @app.post("/console/models/promote")
    def promote(request: Request, version: Annotated[str, Form()]) -> Response:
        verify(Path(registry.version(version).folder))
        registry.move("champion", version)
        actor_of(request.scope).target = f"version {version}"
        logger.warning("%s made version %s the champion in the console", session_of(request).key.name, version)
        return Response(headers={"HX-Refresh": "true"})

    @app.post("/console/models/roll-back")
    def roll_back(request: Request) -> Response:
        model = registry.rollback()
        actor_of(request.scope).target = f"version {model.version}"
        logger.warning("%s rolled back to version %s in the console", session_of(request).key.name, model.version)
        return Response(headers={"HX-Refresh": "true"})


def _compared(settings: Settings, services: Services) -> list[Compared]:
    """Return all experiments, the newest first."""
    store = ExperimentStore(settings.feedback_url)
    try:
        at = datetime.now(UTC)
        return [
            Compared(one, None if one.stopped else status_now(one, store, services.log, at))
            for one in reversed(store.list())
        ]
    finally:
        store.close()


def _scores(file: Path, version: str, manifest: ModelManifest | None) -> list[dict[str, Any]]:
    """Return the scores of a version: those of the warehouse, or those that its manifest has."""
    rows = Warehouse(file, _PATIENCE_SECONDS).scores(newest=False) if file.is_file() else []
    own: dict[tuple[str, str, str], Score] = {}
    for row in rows:
        if row.model_version == version and not row.origin:
            own[row.metric, row.split, row.precision] = row
    if own:
        return [asdict(score) for score in own.values()]
    return [row for row in (manifest.scores if manifest else ()) if not row.get("origin")]
