"""The routes for operators: start, watch, pause, stop and replay experiments, and shadow deployments."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from ragtune.errors import ExperimentError, RegistryError, SettingsError
from ragtune.evaluation.judges import PreferenceSummary
from ragtune.experiments.assignment import shares_at
from ragtune.experiments.control import advise, replay_decision
from ragtune.experiments.pair_judging import Votes
from ragtune.experiments.shadow_report import report, start_shadow
from ragtune.experiments.starting import Wish, start
from ragtune.experiments.status import look_now, status_of
from ragtune.store.experiments import Experiment
from ragtune.store.shadows import Shadow, ShadowDesign
from ragtune_serving.audit import actor_of
from ragtune_serving.experiment_control import ExperimentControl
from ragtune_serving.experiment_schema import (
    ExperimentAction,
    ExperimentCandidate,
    ExperimentEvent,
    ExperimentList,
    ExperimentReplay,
    ExperimentReport,
    ExperimentRequest,
    ExperimentSummary,
    JudgedPairs,
    ShadowList,
    ShadowReport,
    ShadowRequest,
    ShadowVersion,
    VotedPairs,
)
from ragtune_serving.problems import problem
from ragtune_serving.schema import ErrorBody

_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "a wrong field; the message lists the valid ones"},
    401: {"model": ErrorBody, "description": "no key, or a key that is not accepted"},
    403: {"model": ErrorBody, "description": "the role of the key does not include this route"},
}
_CONFLICT: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "there is none of this name"},
    409: {"model": ErrorBody, "description": "it cannot be done now; the message says why"},
}
_COMMON: dict[str, Any] = {"tags": ["experiments"], "responses": {**_RESPONSES, **_CONFLICT}}


def add_experiment_routes(router: APIRouter, control: ExperimentControl) -> None:
    """Add the routes below `/v1/experiments` and `/v1/shadows`."""
    _add_experiments(router, control)
    _add_shadows(router, control)


def _add_experiments(router: APIRouter, control: ExperimentControl) -> None:
    @router.get("/v1/experiments", tags=["experiments"], responses=_RESPONSES, summary="List experiments")
    def experiments() -> ExperimentList:
        return ExperimentList(experiments=[_summary(one) for one in control.store.list()], error=control.error)

    @router.post("/v1/experiments", response_model=ExperimentReport, **_COMMON, summary="Start an experiment")
    def start_experiment(body: ExperimentRequest, request: Request) -> ExperimentReport | Response:
        actor_of(request.scope).target = body.name
        wish = body.model_dump()
        if body.promote is None:
            wish["promote"] = control.settings.experiments.promote
        try:
            return _report(control, start(Wish(**wish), control.settings, control.registry, control.store))
        except (ExperimentError, RegistryError) as error:
            return _refusal(error)

    @router.get("/v1/experiments/{name}", response_model=ExperimentReport, **_COMMON, summary="Where one stands")
    def experiment(name: str) -> ExperimentReport | Response:
        try:
            return _report(control, control.store.get(name))
        except ExperimentError as error:
            return _refusal(error)

    @router.post(
        "/v1/experiments/{name}/actions",
        response_model=ExperimentReport,
        **_COMMON,
        summary="Pause, resume or stop an experiment, or set its ramp",
    )
    def act(name: str, body: ExperimentAction, request: Request) -> ExperimentReport | Response:
        actor_of(request.scope).target = f"{body.action} {body.ramp}" if body.ramp else body.action
        try:
            return _report(control, _act(control, control.store.get(name), body))
        except ExperimentError as error:
            return _refusal(error)

    @router.get(
        "/v1/experiments/{name}/replay",
        response_model=ExperimentReplay,
        **_COMMON,
        summary="Compute the decision of a stopped experiment again from the logs",
    )
    def replay(name: str) -> ExperimentReplay | Response:
        try:
            recorded, replayed = replay_decision(control.store.get(name), control.store, control.log)
        except ExperimentError as error:
            return _refusal(error)
        return ExperimentReplay(same=recorded == replayed, recorded=recorded, replayed=replayed)


def _add_shadows(router: APIRouter, control: ExperimentControl) -> None:
    @router.get("/v1/shadows", tags=["experiments"], responses=_RESPONSES, summary="List shadow deployments")
    def shadows() -> ShadowList:
        running = control.shadows.running()
        names = [shadow.name for shadow in control.shadows.list()]
        return ShadowList(shadows=names, running=running.name if running else "")

    @router.post("/v1/shadows", response_model=ShadowReport, **_COMMON, summary="Mirror requests to further versions")
    def start_mirroring(body: ShadowRequest, request: Request) -> ShadowReport | Response:
        actor_of(request.scope).target = body.name
        fields = body.model_dump(exclude={"name"})
        design = ShadowDesign(**{**fields, "versions": tuple(body.versions)})
        try:
            shadow = start_shadow(body.name, design, control.settings, control.registry, control.shadows)
            return _shadow_report(control, shadow)
        except (ExperimentError, RegistryError) as error:
            return _refusal(error)

    @router.get("/v1/shadows/{name}", response_model=ShadowReport, **_COMMON, summary="What the pairs show")
    def shadow(name: str) -> ShadowReport | Response:
        try:
            return _shadow_report(control, control.shadows.get(name))
        except ExperimentError as error:
            return _refusal(error)

    @router.post("/v1/shadows/{name}/stop", response_model=ShadowReport, **_COMMON, summary="Stop mirroring for good")
    def stop_mirroring(name: str) -> ShadowReport | Response:
        try:
            return _shadow_report(control, control.shadows.stop(name))
        except ExperimentError as error:
            return _refusal(error)


def _act(control: ExperimentControl, experiment: Experiment, body: ExperimentAction) -> Experiment:
    """Do what a person asks for; raise SettingsError or ExperimentError if it cannot be done."""
    name, store = experiment.name, control.store
    if body.action == "pause":
        return store.pause(name, body.reason)
    if body.action == "resume":
        return store.resume(name, body.reason)
    if body.action == "ramp":
        if body.ramp is None:
            raise SettingsError("The action 'ramp' has no ramp.", "the new share, above 0 and at most 1")
        shares_at(experiment.design.weights, body.ramp)
        return store.set_ramp(name, body.ramp, body.reason)
    status = status_of(look_now(experiment, store, control.log, datetime.now(UTC)))
    return store.stop(name, body.reason, status.decision())


def _refusal(error: ExperimentError | RegistryError) -> Response:
    """Return the response for what cannot be done: 404 for an unknown name, 400 for a version, 409 otherwise."""
    if isinstance(error, RegistryError):
        return problem(400, str(error), "candidates")
    return problem(404 if error.found.startswith("There is no") else 409, str(error), "name")


def _state(experiment: Experiment) -> Literal["running", "paused", "stopped"]:
    if experiment.stopped:
        return "stopped"
    return "paused" if experiment.paused else "running"


def _summary(experiment: Experiment) -> ExperimentSummary:
    return ExperimentSummary(
        name=experiment.name,
        state=_state(experiment),
        started_at=experiment.started_at,
        versions=list(experiment.design.versions),
        metric=experiment.design.metric,
        ramp=experiment.ramp,
    )


def _report(control: ExperimentControl, experiment: Experiment) -> ExperimentReport:
    status, advice = None, None
    if not experiment.stopped:
        status = status_of(look_now(experiment, control.store, control.log, datetime.now(UTC)))
        advice = advise(experiment, status)
    candidates = [
        ExperimentCandidate(
            version=one.version,
            declaration=one.comparison.declaration,
            difference=one.comparison.difference,
            low=one.comparison.low,
            high=one.comparison.high,
            p_value=one.comparison.p_value,
            users=list(one.users.assigned),
            words=list(one.words),
            harm=list(one.harm),
            path=list(one.comparison.path),
        )
        for one in (status.candidates if status else ())
    ]
    return ExperimentReport(
        **_summary(experiment).model_dump(),
        budget=experiment.design.budget,
        responses=status.responses if status else None,
        mismatch_p_value=status.mismatch_p_value if status else None,
        advice=f"{advice.action}: {advice.reason}" if advice else None,
        candidates=candidates,
        decision=dict(experiment.events[-1].content["decision"]) if experiment.stopped else None,
        events=[
            ExperimentEvent(kind=event.kind, created_at=event.created_at, content=dict(event.content))
            for event in experiment.events
        ],
    )


def _shadow_report(control: ExperimentControl, shadow: Shadow) -> ShadowReport:
    versions = [
        ShadowVersion(
            version=one.paired.version,
            counts=dict(one.counts),
            pairs=one.paired.pairs,
            agreement=one.paired.agreement,
            same_refusals=one.paired.same_refusals,
            same_citations=one.paired.same_citations,
            words=[*one.paired.words, *one.words],
            judges={name: _judged(summary) for name, summary in one.judges.items()},
            votes=[_voted(votes) for votes in one.votes],
        )
        for one in report(shadow, control.shadows, control.studies)
    ]
    return ShadowReport(
        name=shadow.name,
        started_at=shadow.started_at,
        stopped_at=shadow.stopped_at,
        design=asdict(shadow.design),
        versions=versions,
    )


def _judged(summary: PreferenceSummary) -> JudgedPairs:
    share = summary.share
    return JudgedPairs(
        n=summary.n, preference=share.value, low=share.low, high=share.high, consistent=summary.consistent
    )


def _voted(votes: Votes) -> VotedPairs:
    row = votes.preference
    return VotedPairs(
        study=votes.study,
        votes=votes.votes,
        annotators=votes.annotators,
        pairs=row.n if row else 0,
        preference=row.value if row else None,
        low=row.low if row else None,
        high=row.high if row else None,
        agreeing=votes.agreeing,
    )
