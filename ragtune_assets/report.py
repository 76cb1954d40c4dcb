"""What judges and people say of the answers, and the report about each candidate."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import dagster as dg

from ragtune.evaluation.agreement import Agreement
from ragtune.evaluation.calibration import calibrations
from ragtune.evaluation.gate import ModelGain
from ragtune.evaluation.judges import EvidenceJudge, Judgement, Preference, RubricJudge, summarise_preferences
from ragtune.evaluation.report.content import build_report
from ragtune.evaluation.report.measured import Measured
from ragtune.evaluation.report.pages import report_folder, write_report
from ragtune.evaluation.studies.results import StudyResults, people_labels, rated_answers, study_results
from ragtune.evaluation.studies.store import StudyStore
from ragtune.model.training.tracking import MlflowTracker
from ragtune.ports import EvidenceModel
from ragtune.records import (
    AgreementRow,
    AnswerSet,
    ArtifactRef,
    BenchmarkRow,
    GateDecision,
    ModelManifest,
    RatedModel,
    Score,
    ScoredAnswer,
)
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.speed_rows import SpeedRow
from ragtune.store.warehouse import Warehouse
from ragtune_assets import pages
from ragtune_assets.asset import asset
from ragtune_assets.contenders import gate_sets
from ragtune_assets.display import materialized
from ragtune_assets.evaluation import gains
from ragtune_assets.progress import LoggedProgress
from ragtune_assets.release import Release
from ragtune_assets.tracking import Computed


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judges say of the answers to the gate's questions; preferences are a language model's.

    `rated` is what they say of the answers that people rated in studies: it only calibrates them.
    """

    judgements: tuple[Judgement, ...]
    preferences: tuple[Preference, ...]
    usage: dict[str, int | float | str]
    rated: tuple[Judgement, ...] = ()


@dataclass(frozen=True, slots=True)
class PeopleLabel:
    """Whether people say yes to a question of the rubric about an answer."""

    answer_key: str
    question: str
    yes: bool


@dataclass(frozen=True, slots=True)
class AnswerRatings:
    """What the studies found so far; `raters` says in a sentence who rated how much, `answers` are the rated ones."""

    labels: tuple[PeopleLabel, ...]
    agreements: tuple[Agreement, ...]
    models: tuple[RatedModel, ...]
    raters: str
    answers: tuple[ScoredAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """The report about a version: its page below the home."""

    version: str
    page: str
    title: str


def log_judgements(computed: Computed) -> None:
    """Log the mean of each judge on each question of the rubric to the run of the asset."""
    [judged] = computed.store.read_records(computed.result, Judged)
    scores: dict[str, list[float]] = defaultdict(list)
    for one in judged.judgements:
        scores[f"judge/{one.judge}/{one.question}"].append(one.score)
    computed.tracking.child.log_metrics({name: fmean(values) for name, values in scores.items()}, 0)


@asset(
    group_name="evaluation",
    kinds={"python", "parquet"},
    owners=["team:evaluation"],
    settings=("evaluation", "seed"),
    tracks=log_judgements,
)
def judgements(
    eval_answers: ArtifactRef,
    answer_ratings: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    evidence: dg.ResourceParam[EvidenceModel],
) -> dg.MaterializeResult[ArtifactRef]:
    """What judges say of the live model's, the candidate's and rated answers: evidence, and a model of the settings."""
    [ratings] = store.read_records(answer_ratings, AnswerRatings)
    judged = judge(gate_sets(store.read_records(eval_answers, AnswerSet)), evidence, settings, ratings.answers)
    return materialized(
        store.write_records("judgements", [judged]), pages.judgements_page(judged.judgements, judged.usage)
    )


@asset(group_name="feedback", kinds={"parquet", "duckdb"}, owners=["team:feedback"], settings=(), pool="duckdb")
def answer_ratings(
    store: dg.ResourceParam[ArtifactStore],
    studies: dg.ResourceParam[StudyStore],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """What people say of answers in studies so far, how far they agree, and what judges are compared with."""
    results = [study_results(studies, study.name) for study in studies.studies()]
    ratings = answer_ratings_of(results, people_labels(studies), rated_answers(studies))
    before, ref = store.current("answer_ratings"), store.write_records("answer_ratings", [ratings])
    if before is None or before.sha256 != ref.sha256:
        warehouse.append(ratings.models)
        warehouse.append([row for result in results for row in agreement_rows(result)])
    return materialized(ref, pages.ratings_page(ratings.models, ratings.agreements, ratings.raters))


@asset(
    group_name="release", kinds={"html", "mlflow"}, owners=["team:release"], settings=("evaluation", "answer", "seed")
)
def candidate_report(
    released_model: ArtifactRef,
    eval_answers: ArtifactRef,
    eval_scores: ArtifactRef,
    judgements: ArtifactRef,
    answer_ratings: ArtifactRef,
    benchmark_tables: ArtifactRef,
    speed_comparison: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult[ArtifactRef]:
    """A page about the candidate: scores, gains, answers, judges, people, what was decided and what to do next."""
    [release] = store.read_records(released_model, Release)
    [judged], [ratings] = store.read_records(judgements, Judged), store.read_records(answer_ratings, AnswerRatings)
    manifest, sets = registry.version(release.version).manifest, store.read_records(eval_answers, AnswerSet)
    scores, speed = store.read_records(eval_scores, Score), store.read_records(benchmark_tables, BenchmarkRow)
    compared = gains(sets, settings)
    known = measured(release.version, manifest, sets, scores, compared, speed, judged, ratings, settings)
    report = build_report(replace(known, differences=store.read_records(speed_comparison, SpeedRow)))
    page = write_report(report, report_folder(settings.home, release.version))
    link_in_mlflow(page.parent, release.version, manifest.mlflow_run_id, settings, registry)
    written = WrittenReport(release.version, page.relative_to(settings.home).as_posix(), report.title)
    return materialized(store.write_records("candidate_report", [written]), pages.report_page(page))


def judge(
    sets: tuple[AnswerSet, AnswerSet],
    evidence: EvidenceModel,
    settings: Settings,
    rated: Sequence[ScoredAnswer] = (),
) -> Judged:
    """Return what the judges say of the live model's and the candidate's answers, and of those that people rated."""
    live, candidate = sets
    answers = [*live.answers, *candidate.answers]
    by_evidence = EvidenceJudge(evidence)
    judgements, of_rated = by_evidence.judge(answers, LoggedProgress()), by_evidence.judge(rated, LoggedProgress())
    if not settings.evaluation.judge.model:
        return Judged(tuple(judgements), (), {}, tuple(of_rated))
    model = RubricJudge(settings.evaluation.judge, settings.home / "cache" / "answer_judge", settings.seed)
    judgements += model.judge(answers, LoggedProgress())
    of_rated += model.judge(rated, LoggedProgress())
    preferences = model.compare(live.answers, candidate.answers, LoggedProgress())
    usage = {**model.verdicts.usage.labelled("judge"), **model.comparisons.usage.labelled("comparison")}
    return Judged(tuple(judgements), tuple(preferences), usage, tuple(of_rated))


def answer_ratings_of(
    results: Sequence[StudyResults], labels: dict[tuple[str, str], bool], answers: Sequence[ScoredAnswer] = ()
) -> AnswerRatings:
    """Return what the studies found, as one record."""
    rated = [result for result in results if result.ratings]
    raters = "; ".join(
        f"{result.study.name}: {result.ratings} ratings of {result.items} items by {', '.join(result.annotators)}"
        for result in rated
    )
    return AnswerRatings(
        labels=tuple(PeopleLabel(key, question, yes) for (key, question), yes in sorted(labels.items())),
        agreements=tuple(one for result in rated for one in result.overall),
        models=tuple(row for result in rated for row in result.models),
        raters=raters,
        answers=tuple(answers),
    )


def agreement_rows(result: StudyResults) -> list[AgreementRow]:
    """Return the agreement of all annotators and of every pair as rows of the warehouse."""
    return [
        AgreementRow(
            study=result.study.name,
            question=one.question,
            annotators=", ".join(one.annotators),
            items=one.items,
            percent=one.percent,
            kappa=one.kappa.value,
            alpha=one.alpha.value,
            alpha_low=one.alpha.low,
            alpha_high=one.alpha.high,
            ac2=one.ac2.value,
            ac2_low=one.ac2.low,
            ac2_high=one.ac2.high,
        )
        for one in dict.fromkeys((*result.overall, *result.pairs))
    ]


def measured(
    version: str,
    manifest: ModelManifest,
    sets: Sequence[AnswerSet],
    scores: Sequence[Score],
    compared: Sequence[ModelGain],
    speed: Sequence[BenchmarkRow],
    judged: Judged,
    ratings: AnswerRatings,
    settings: Settings,
) -> Measured:
    """Return everything that is known of the candidate that was released as this version."""
    live, candidate = gate_sets(sets)
    decision = GateDecision(**manifest.gate)
    people = {(label.answer_key, label.question): label.yes for label in ratings.labels}
    facts = ("base_model", "base_sha256", "adapter_sha256", "dataset_sha256", "prompt_sha256", "code_version", "seed")
    return Measured(
        version=version,
        created_at=manifest.created_at,
        decision=decision,
        models=(f"{live.model} {live.precision}", f"{candidate.model} {candidate.precision}"),
        scores=scores,
        gains=compared,
        live=live.answers,
        candidate=candidate.answers,
        benchmarks=[row for row in speed if row.model == candidate.version],
        calibrations=calibrations([*judged.rated, *judged.judgements], people, settings.seed),
        preferences=summarise_preferences(judged.preferences, settings.seed),
        agreements=ratings.agreements,
        rated=ratings.models,
        raters=ratings.raters,
        planned_refusals=settings.answer.refused_share,
        facts={name.replace("_", " "): str(asdict(manifest)[name]) for name in facts},
    )


def link_in_mlflow(folder: Path, version: str, run_id: str, settings: Settings, registry: ModelRegistry) -> None:
    """Store the report with the run that trained the candidate, and name it in a tag of the version."""
    registry.tag(version, "report", folder.relative_to(settings.home).as_posix())
    if run_id:
        url, experiment = settings.tracking_url, settings.tracking.experiment
        MlflowTracker(url, experiment, f"version {version}", settings.run_files).attach(run_id, folder, "report")
