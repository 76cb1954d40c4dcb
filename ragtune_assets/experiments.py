"""What experiments with users show, and what feedback says, as tables and plots."""

from datetime import UTC, datetime

import dagster as dg

from ragtune.evaluation.feedback_trends import rated_responses, trends, worst_questions
from ragtune.evaluation.judges import RubricJudge
from ragtune.evaluation.question_gaps import question_gaps
from ragtune.evaluation.studies.store import StudyStore
from ragtune.experiments.pair_judging import judge_pairs
from ragtune.experiments.results import all_decisions, all_results
from ragtune.experiments.shadow_report import comparison_rows
from ragtune.ports import Embedder
from ragtune.records import ArtifactRef, Chunk
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.experiments import ExperimentStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.report_rows import ExperimentDecision
from ragtune.store.shadows import ShadowStore
from ragtune.store.warehouse import Warehouse
from ragtune_assets import experiment_pages as pages
from ragtune_assets.asset import asset
from ragtune_assets.display import materialized
from ragtune_assets.progress import LoggedProgress

WORST_QUESTIONS = 30
"""Questions on the page; chosen by hand."""


@asset(
    group_name="experiments",
    kinds={"duckdb"},
    owners=["team:release"],
    pool="duckdb",
    deps=["feedback_events", "released_model"],
)
def experiment_results(
    store: dg.ResourceParam[ArtifactStore],
    experiments: dg.ResourceParam[ExperimentStore],
    feedback_log: dg.ResourceParam[FeedbackLog],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """How every candidate of every experiment compares with its control, on every metric."""
    results = all_results(experiments, feedback_log, datetime.now(UTC))
    warehouse.append(results)
    return materialized(store.write_records("experiment_results", results), pages.results_page(results))


@asset(group_name="experiments", kinds={"duckdb"}, owners=["team:release"], pool="duckdb", deps=["experiment_results"])
def experiment_decisions(
    store: dg.ResourceParam[ArtifactStore],
    experiments: dg.ResourceParam[ExperimentStore],
    feedback_log: dg.ResourceParam[FeedbackLog],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """How every experiment ended, and whether its logs give the same decision again."""
    decisions = all_decisions(experiments, feedback_log)
    warehouse.append(new_decisions(decisions, warehouse.experiment_decisions()))
    return materialized(store.write_records("experiment_decisions", decisions), pages.decisions_page(decisions))


@asset(group_name="experiments", kinds={"parquet"}, owners=["team:release"], settings=("evaluation.judge", "seed"))
def shadow_comparisons(
    chunks: ArtifactRef,
    store: dg.ResourceParam[ArtifactStore],
    shadows: dg.ResourceParam[ShadowStore],
    studies: dg.ResourceParam[StudyStore],
    settings: dg.ResourceParam[Settings],
) -> dg.MaterializeResult[ArtifactRef]:
    """How mirrored answers compare with the live ones: checks, agreement, a judge if one is configured, blind votes."""
    judge_new_pairs(settings, shadows, store.read_records(chunks, Chunk))
    rows = comparison_rows(shadows, studies)
    return materialized(store.write_records("shadow_comparisons", rows), pages.shadows_page(rows))


@asset(group_name="feedback", kinds={"duckdb"}, owners=["team:feedback"], pool="duckdb", deps=["feedback_events"])
def feedback_trends(
    chunks: ArtifactRef,
    store: dg.ResourceParam[ArtifactStore],
    feedback_log: dg.ResourceParam[FeedbackLog],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """What people like, by day, version, topic, source, dial and document."""
    rated = rated_responses(feedback_log.all_responses(), feedback_log.events())
    rows = trends(rated, {chunk.id: chunk for chunk in store.read_records(chunks, Chunk)})
    warehouse.append(rows)
    page = pages.trends_page(rows, worst_questions(rated, WORST_QUESTIONS))
    return materialized(store.write_records("feedback_trends", rows), page)


@asset(
    group_name="feedback",
    kinds={"parquet"},
    owners=["team:feedback"],
    settings=("embedder",),
    deps=["feedback_events"],
)
def unanswered_questions(
    store: dg.ResourceParam[ArtifactStore],
    feedback_log: dg.ResourceParam[FeedbackLog],
    embedder: dg.ResourceParam[Embedder],
) -> dg.MaterializeResult[ArtifactRef]:
    """What people ask that the documents do not hold, in groups of similar questions."""
    gaps = question_gaps(feedback_log.all_responses(), embedder)
    return materialized(store.write_records("unanswered_questions", gaps), pages.gaps_page(gaps))


def judge_new_pairs(settings: Settings, shadows: ShadowStore, chunks: list[Chunk]) -> int:
    """Let the configured judge compare the pairs that it has not compared yet; return how many, 0 without a judge.

    It gets at most half as many pairs of each version as it may be asked questions: each pair takes two.
    """
    configured = settings.evaluation.judge
    if not configured.model:
        return 0
    judge = RubricJudge(configured, settings.home / "cache" / "answer_judge", settings.seed)
    most = configured.max_calls // 2
    return sum(judge_pairs(judge, shadow, shadows, chunks, most, LoggedProgress()) for shadow in shadows.list())


def new_decisions(decisions: list[ExperimentDecision], before: list[ExperimentDecision]) -> list[ExperimentDecision]:
    """Return the decisions that are not in the warehouse yet."""
    return [decision for decision in decisions if decision not in before]
