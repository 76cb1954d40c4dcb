"""The page Experiments: A/B tests of models on real users, and mirrored requests, with what people can do with them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import FastAPI, Form, Request, Response

from ragtune.errors import DatasetError, ExperimentError, SettingsError
from ragtune.experiments.control import advise, replay_decision
from ragtune.experiments.imbalance import MISMATCH
from ragtune.experiments.outcomes import METRICS
from ragtune.experiments.shadow_report import report
from ragtune.experiments.status import CandidateStatus, ExperimentStatus, look_again, look_now, status_of
from ragtune.store.experiments import Experiment
from ragtune.store.shadows import ShadowPair
from ragtune_serving.audit import actor_of
from ragtune_serving.console.pages import render, session_of
from ragtune_serving.experiment_control import ExperimentControl
from ragtune_serving.keys import KeyStore
from ragtune_serving.problems import problem
from ragtune_serving.routes import Services
from ragtune_serving.studies import STUDY_ITEMS, StudyDesk, StudyPlan

PATH = "/console/experiments"
_PAIRS_SHOWN = 5
"""Pairs of answers on the page of a shadow deployment, the newest that differ; chosen by hand."""
_VOTING = "/v1/studies/ratings"
logger = logging.getLogger(__name__)
Action = Literal["pause", "resume", "stop"]


@dataclass(frozen=True, slots=True)
class Row:
    """An experiment in the list: its first sentences, and its state."""

    experiment: Experiment
    state: str
    words: tuple[str, ...]


def add_experiment_pages(app: FastAPI, services: Services, keys: KeyStore) -> None:
    """Add the page Experiments, and the pages of single experiments and shadow deployments."""
    _add_experiments(app, services.experiments)
    _add_shadows(app, services.experiments)
    _add_voting(app, services.studies, keys)


def _add_experiments(app: FastAPI, control: ExperimentControl) -> None:
    @app.get(PATH)
    def experiments(request: Request) -> Response:
        at = datetime.now(UTC)
        rows = [_row(control, one, at) for one in reversed(control.store.list())]
        shadows = list(reversed(control.shadows.list()))
        return render(request, "experiments.html", rows=rows, shadows=shadows, error=control.error)

    @app.get(PATH + "/experiment")
    def experiment(request: Request, name: str) -> Response:
        try:
            one = control.store.get(name)
        except ExperimentError as error:
            return render(request, "message.html", 404, title="No such experiment", message=str(error), fix="")
        status, of_stop = _status(control, one, datetime.now(UTC))
        advice = advise(one, status) if status and not one.stopped else None
        return render(
            request,
            "experiment.html",
            experiment=one,
            state=_state(one),
            now=status,
            of_stop=of_stop,
            advice=advice,
            charts=[interval_chart(one, candidate) for candidate in status.candidates] if status else [],
            metric=METRICS[one.design.metric],
            guardrails=[(METRICS[name], loss * METRICS[name].scale) for name, loss in one.design.guardrails],
            look_seconds=control.settings.experiments.look_seconds,
            mismatch=MISMATCH,
        )

    @app.get(PATH + "/replay")
    def replay(request: Request, name: str) -> Response:
        try:
            recorded, again = replay_decision(control.store.get(name), control.store, control.log)
        except ExperimentError as error:
            return problem(409, str(error))
        return render(request, "experiment_replay.html", same=recorded == again, recorded=recorded, again=again)

    @app.post(PATH + "/act")
    def act(request: Request, name: Annotated[str, Form()], action: Annotated[Action, Form()]) -> Response:
        who = session_of(request).key.name
        actor_of(request.scope).target = f"{action} {name}"
        reason = f"by {who} in the console"
        try:
            if action == "pause":
                control.store.pause(name, reason)
            elif action == "resume":
                control.store.resume(name, reason)
            else:
                one = control.store.get(name)
                status = status_of(look_now(one, control.store, control.log, datetime.now(UTC)))
                control.store.stop(name, reason, status.decision())
        except ExperimentError as error:
            return problem(409, str(error))
        logger.warning("%s: %s the experiment %s in the console", who, action, name)
        return Response(headers={"HX-Refresh": "true"})


def _add_shadows(app: FastAPI, control: ExperimentControl) -> None:
    @app.get(PATH + "/shadow")
    def shadow(request: Request, name: str) -> Response:
        try:
            one = control.shadows.get(name)
        except ExperimentError as error:
            return render(request, "message.html", 404, title="Nothing was mirrored", message=str(error), fix="")
        return render(
            request,
            "shadow.html",
            shadow=one,
            reports=report(one, control.shadows, control.studies),
            pairs={version: _differing(control.shadows.pairs(one, version)) for version in one.design.versions},
            judge=control.settings.evaluation.judge.model,
            study=f"votes on {one.name}",
            count=STUDY_ITEMS,
        )

    @app.post(PATH + "/stop-mirroring")
    def stop_mirroring(request: Request, name: Annotated[str, Form()]) -> Response:
        actor_of(request.scope).target = name
        try:
            control.shadows.stop(name)
        except ExperimentError as error:
            return problem(409, str(error))
        return Response(headers={"HX-Refresh": "true"})


def _add_voting(app: FastAPI, studies: StudyDesk, keys: KeyStore) -> None:
    @app.post(PATH + "/study")
    def study(
        request: Request,
        name: Annotated[str, Form()],
        version: Annotated[str, Form()],
        study: Annotated[str, Form()],
        people: Annotated[str, Form()],
        count: Annotated[int, Form(ge=1)] = STUDY_ITEMS,
    ) -> Response:
        actor_of(request.scope).target = f"{study} of {name}"
        try:
            # First, or the study would be stored and then not assigned.
            annotators = _voters(people, keys)
            made, items = studies.create(
                StudyPlan(name=study, mode="pairwise", shadow=name, version=version, count=count)
            )
            studies.store.assign(made.name, annotators, len(annotators))
        except (DatasetError, ExperimentError, SettingsError) as error:
            return problem(400, str(error))
        logger.warning("%s made the study %s of %d pairs in the console", session_of(request).key.name, study, items)
        return Response(headers={"HX-Redirect": f"{PATH}/shadow?{urlencode({'name': name})}"})


def _voters(people: str, keys: KeyStore) -> list[str]:
    """Return the names between the commas, each once; raise SettingsError for one whose key cannot vote."""
    names = list(dict.fromkeys(part.strip() for part in people.split(",") if part.strip()))
    able = sorted(key.name for key in keys.all() if key.may_call(_VOTING) and not key.expired)
    unable = [name for name in names if name not in able]
    if names and not unable:
        return names
    raise SettingsError(
        f"No valid key that may vote has the name {', '.join(unable)}." if unable else "Nobody is named.",
        f"names of keys with commas between, out of these: {', '.join(able) or 'none yet'}",
        "name some of them, or make a key with `ragtune keys add NAME --role annotator`",
    )


def interval_chart(experiment: Experiment, candidate: CandidateStatus) -> dict[str, Any]:
    """Return a chart of the running interval of the metric that decides, in the unit that people read."""
    metric, path = METRICS[experiment.design.metric], candidate.comparison.path
    return {
        "x": list(range(len(path))),
        "labels": [str(blocks) for blocks, _, _ in path],
        "unit": metric.unit,
        "series": [
            {"label": "upper end", "values": [round(high * metric.scale, 2) for _, _, high in path]},
            {"label": "lower end", "values": [round(low * metric.scale, 2) for _, low, _ in path]},
            {"label": "no difference", "values": [0.0] * len(path)},
        ],
    }


def _row(control: ExperimentControl, experiment: Experiment, at: datetime) -> Row:
    if experiment.stopped:
        return Row(experiment, "stopped", (str(experiment.events[-1].content["reason"]),))
    status = status_of(look_now(experiment, control.store, control.log, at))
    return Row(experiment, _state(experiment), tuple(one.words[0] for one in status.candidates))


def _status(control: ExperimentControl, experiment: Experiment, at: datetime) -> tuple[ExperimentStatus | None, bool]:
    """Return where an experiment stands, and whether that is what its last look saw; None if that look is not known."""
    if not experiment.stopped:
        return status_of(look_now(experiment, control.store, control.log, at)), False
    if "cut" not in experiment.events[-1].content["decision"]:
        return None, True
    return status_of(look_again(experiment, control.store, control.log)), True


def _state(experiment: Experiment) -> str:
    return "stopped" if experiment.stopped else "paused" if experiment.paused else "running"


def _differing(pairs: Sequence[ShadowPair]) -> list[ShadowPair]:
    """Return the newest pairs whose answers differ, the newest first."""
    return [pair for pair in reversed(pairs) if pair.live.answer != pair.mirrored.answer][:_PAIRS_SHOWN]
