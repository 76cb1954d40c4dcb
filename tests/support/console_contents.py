"""Fills a home for the pictures of the console: users who ask, rate and correct, an experiment, mirrored requests.

The questions come from the pairs that are written from the documents. Who asked them, the verdicts and the times are
drawn with a fixed seed.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from ragtune.evaluation.question_gaps import question_gaps
from ragtune.experiments.routing import route
from ragtune.experiments.starting import GUARDRAILS
from ragtune.records import Exposure, QAPair, ResponseRecord
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.experiments import ExperimentDesign
from ragtune.store.shadows import ShadowDesign, ShadowPair, Side
from ragtune_serving.studies import StudyPlan
from tests.support.console_gateway import ConsoleGateway

REFUSAL = "I could not find this in the documents."
UNANSWERED = (
    "is there a sauna at the yard",
    "does the yard have a sauna",
    "where is the sauna at the yard",
    "can i charge an electric car at the yard",
    "can an electric car charge at the yard",
    "do you sell gift vouchers",
)
"""Questions that the documents of examples/manual do not answer, in the words of users."""
MIRRORED = (
    ("Who may stop my work?", "Technicians and wardens. [1]", "Technicians and wardens may stop any work at once. [1]"),
    ("How long is a hot work note good for?", "It is valid for four hours. [1]", "Four hours. [1]"),
    ("When are the sirens tested?", REFUSAL, "On the first Wednesday of the month at 12:00, for one minute. [1]"),
    ("Is ear protection free?", "Ear protection is free at the dispenser next to each workshop door. [1]", REFUSAL),
    (
        "May I use the bandsaw alone?",
        "They may be used alone with the dead man's pedal fitted. [1]",
        "Yes, with the dead man's pedal fitted. [1]",
    ),
)
DESIGN = ExperimentDesign(
    versions=("2", "3"),
    weights=(0.5, 0.5),
    metric="cited",
    smallest_difference=0.05,
    margin=0.02,
    alpha=0.05,
    budget=4000,
    window_hours=24.0,
    salt="pictures",
    guardrails=GUARDRAILS,
)


def fill_traffic(gateway: ConsoleGateway, pairs: Sequence[QAPair], draw: random.Random) -> None:
    """Let a month of users ask and rate; version 2 replaced version 1 after half of it, and people like it more."""
    log, at, began = gateway.services.log, datetime.now(UTC), 30
    days = [day for day in range(began) for _ in range(draw.randint(5, 11))]
    hours = [24 * day + draw.uniform(8, 20) for day in days] + [
        hour for hour in range(24) for _ in range(draw.randint(1, 8))
    ]
    responses = []
    for number, hour in enumerate(hours):
        version = "1" if hour > 24 * began / 2 else "2"
        responses.append(_response(f"r{number}", at - timedelta(hours=hour), _asked(pairs, draw), version, draw))
    log.record_responses(responses)
    for response in responses:
        liked = 0.15 if response.refused else {"1": 0.62, "2": 0.79}[response.model_version]
        if draw.random() < 0.3:
            log.add(response.id, "up" if draw.random() < liked else "down", user=response.user)
    for response, pair in zip(responses, pairs, strict=False):
        if response.question == pair.question and not response.refused:
            log.add(response.id, "down", correction=pair.answer, user="mara")
    store = ArtifactStore(gateway.settings.home / "artifacts")
    store.set_current(store.write_records("unanswered_questions", question_gaps(log.all_responses(), gateway.embedder)))


def fill_experiment(gateway: ConsoleGateway, pairs: Sequence[QAPair], draw: random.Random, users: int = 420) -> None:
    """Compare version 3 with version 2 on users of the last three days; version 3 refuses less and is liked more."""
    store, log = gateway.services.experiments.store, gateway.services.log
    store.start("longer-training", DESIGN, 0.1)
    experiment = store.set_ramp("longer-training", 0.5, "100 more users came, and no guardrail is broken")
    began = datetime.now(UTC) - timedelta(days=3)
    backdate(gateway, "experiment_events", {1: began, 2: began + timedelta(hours=7)})
    responses, exposures = [], []
    for number in range(users):
        at = began + timedelta(hours=8) + timedelta(hours=63) * number / users
        way = route(experiment, f"user {number}", "app", "")
        for turn in range(draw.randint(1, 2)):
            name = f"e{number}-{turn}"
            at += timedelta(minutes=draw.uniform(1, 9))
            response = _response(name, at, _asked(pairs, draw), way.version, draw, user=way.unit)
            responses.append(response)
            exposures.append(
                Exposure(
                    experiment=experiment.id,
                    response_id=name,
                    created_at=at.isoformat(),
                    unit=way.unit,
                    arm=way.arm,
                    shares=way.shares,
                    sequence=0,
                )
            )
    log.record_responses(responses, exposures)
    for response in responses:
        if draw.random() < 0.45:
            liked = {"2": 0.66, "3": 0.79}[response.model_version]
            log.add(response.id, "up" if draw.random() < liked else "down", user=response.user)


def fill_shadow(gateway: ConsoleGateway, pairs: Sequence[QAPair], draw: random.Random) -> None:
    """Mirror requests to version 3, and let two people vote on the pairs that differ."""
    shadows, desk = gateway.services.experiments.shadows, gateway.services.studies
    shadow = shadows.start("before-release", ShadowDesign(versions=("3",), share=0.2))
    answers = [(pair.question, f"{pair.answer} [1]", f"{pair.answer} [1]") for pair in pairs[:36]]
    answers += [(pair.question, f"{pair.answer} [1]", f"{pair.answer.split(', ')[0]} [1]") for pair in pairs[36:48]]
    for number, (question, live, mirrored) in enumerate([*answers, *MIRRORED]):
        shadows.add(
            shadow,
            ShadowPair(
                response_id=f"s{number}",
                user=f"user {number % 23}",
                question=question,
                chunk_ids=(gateway.chunks[number].id,),
                live=_side("2", live, draw),
                mirrored=_side("3", mirrored, draw),
            ),
        )
    shadows.record_counts(shadow, "3", "q", {"sampled": 61, "mirrored": len(answers) + len(MIRRORED)})
    desk.create(StudyPlan(name="votes on before-release", mode="pairwise", shadow=shadow.name))
    desk.store.assign("votes on before-release", ["bo", "cleo"], 2)
    for name in ("bo", "cleo"):
        items = desk.store.items("votes on before-release")
        for task in desk.store.open_tasks("votes on before-release", name):
            first, second = items[task.item_id].answers
            better = max((first, second), key=lambda answer: (answer.text != REFUSAL, len(answer.text)))
            side = "left" if (better is first) != task.swapped else "right"
            desk.store.rate(task.id, name, {"better": "neither" if draw.random() < 0.2 else side}, seconds=11.0)
    began = datetime.now(UTC) - timedelta(days=1, hours=5)
    backdate(gateway, "shadow_events", {1: began})


def backdate(gateway: ConsoleGateway, table: str, moments: dict[int, datetime]) -> None:
    """Move events with these sequence numbers to moments in the past: what is stored says when it was stored."""
    engine = sa.create_engine(gateway.settings.feedback_url)
    with engine.begin() as connection:
        for sequence, moment in moments.items():
            update = sa.text(f"update {table} set created_at = :at where sequence = :sequence")
            connection.execute(update, {"at": moment.isoformat(), "sequence": sequence})
    engine.dispose()


def _asked(pairs: Sequence[QAPair], draw: random.Random) -> QAPair | str:
    """Return what somebody asks: a pair of the first forty, some more often than others, or what nobody can answer."""
    if draw.random() < 0.12:
        return draw.choice(UNANSWERED)
    return pairs[min(int(draw.expovariate(0.08)), len(pairs) - 1)]


def _response(
    name: str, at: datetime, asked: QAPair | str, version: str, draw: random.Random, user: str = ""
) -> ResponseRecord:
    is_refused = isinstance(asked, str) or draw.random() < {"1": 0.12, "2": 0.07, "3": 0.03}[version]
    chunk = "" if isinstance(asked, str) else asked.chunk_id
    return ResponseRecord(
        id=name,
        created_at=at.isoformat(),
        question=asked if isinstance(asked, str) else asked.question,
        answer=REFUSAL if isinstance(asked, str) or is_refused else f"{asked.answer} [1]",
        model="ragtune",
        model_version=version,
        chunk_ids=(chunk,) if chunk else (),
        cited_chunk_ids=(chunk,) if chunk and not is_refused else (),
        refused=is_refused,
        user=user or f"user {draw.randrange(140)}",
        latency_ms=draw.lognormvariate(6.8, 0.4),
    )


def _side(version: str, answer: str, draw: random.Random) -> Side:
    words = len(answer.split())
    return Side(
        version=version,
        answer=answer,
        refused=answer == REFUSAL,
        cited_chunk_ids=() if answer == REFUSAL else ("cited",),
        failures=(),
        generation_ms=300.0 + 55.0 * words * draw.uniform(0.8, 1.3),
        prompt_tokens=draw.randint(420, 900),
        completion_tokens=round(1.4 * words),
    )
