"""Assets that turn thumbs and corrections into a training of preferences after SFT."""

import shutil
from pathlib import Path

import dagster as dg

from ragtune.answer.lines import LineSimilarity
from ragtune.dataset.corrections import correction_statuses
from ragtune.dataset.reviews.decisions import Decision
from ragtune.evaluation.out_of_domain import OutOfDomainQuestion
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import Machine
from ragtune.model.examples.dataset_conversations import DatasetConversations
from ragtune.model.examples.preferences import (
    PreferenceExample,
    ShownPrompts,
    UsableFeedback,
    choose_method,
    count_examples,
    usable_feedback,
)
from ragtune.model.runs.conversations import CONVERSATIONS_FILE, PREFERENCES_FILE, packed
from ragtune.model.training.preference import (
    PREFERENCE,
    PreferenceData,
    PreferenceJob,
    PreferenceReport,
    train_preference,
)
from ragtune.model.training.report import REPORT
from ragtune.model.training.tracking import MlflowTracker, with_files
from ragtune.ports import EvidenceModel
from ragtune.records import ArtifactRef, Chunk, FeedbackEvent, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import MANIFEST, ArtifactStore, files_sha256, folder_files
from ragtune_assets import preference_pages as pages
from ragtune_assets.asset import asset
from ragtune_assets.display import materialized
from ragtune_assets.progress import LOGGER, LoggedProgress
from ragtune_assets.run_logs import log_preference
from ragtune_assets.tracking import AssetTracking


@asset(
    group_name="feedback",
    kinds={"parquet"},
    owners=["team:feedback"],
    settings=("preference", "feedback.approval", "feedback.per_key", "dataset", "answer"),
)
def preference_examples(
    feedback_events: ArtifactRef,
    review_decisions: ArtifactRef,
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
) -> dg.MaterializeResult[ArtifactRef]:
    """Prompts with answers that people liked, disliked or corrected; empty while `preference.enabled` is off."""
    usable = UsableFeedback(examples=())
    if settings.preference.enabled:
        events, items = store.read_records(feedback_events, FeedbackEvent), store.read_records(qa_splits, SplitItem)
        passages, decisions = store.read_records(chunks, Chunk), store.read_records(review_decisions, Decision)
        statuses = correction_statuses(events, passages, decisions, settings.feedback, settings.dataset)
        prompts = ShownPrompts(passages, settings.answer, similarity, evidence)
        usable = usable_feedback(events, statuses, items, prompts, settings.feedback, settings.preference)
    ref = store.write_records("preference_examples", usable.examples)
    return materialized(ref, pages.examples_page(usable, settings.preference))


@asset(
    group_name="model",
    kinds={"trl", "mlflow"},
    owners=["team:model"],
    settings=("preference", "training", "answer", "index", "seed"),
    tracks=log_preference,
    resumes=True,
    pool="gpu",
    deps=["search_index"],
)
def preference_adapter(
    lora_adapter: ArtifactRef,
    preference_examples: ArtifactRef,
    base_model: ArtifactRef,
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    replay_questions: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
    tracking: dg.ResourceParam[AssetTracking],
) -> dg.MaterializeResult[ArtifactRef]:
    """The adapter moved towards the answers that people want, by KTO or DPO; the same adapter without enough feedback.

    A training replays conversations of SFT in every step, so that nothing is forgotten, and resumes if it was killed.
    """
    preferences = store.read_records(preference_examples, PreferenceExample)
    method, reason = choose_method(count_examples(preferences), settings.preference)
    if method is None:
        LOGGER.info("%s The adapter stays as it is after SFT.", reason)
        return materialized(same_adapter(store, lora_adapter), {"skipped": reason})
    items, passages = store.read_records(qa_splits, SplitItem), store.read_records(chunks, Chunk)
    questions = store.read_records(replay_questions, OutOfDomainQuestion)
    conversations = DatasetConversations(passages, retriever, similarity, evidence, with_few_examples(settings))
    replay = conversations.with_replay(items, "train", questions, progress=LoggedProgress())
    validation = conversations.with_replay(items, "validation", questions, progress=LoggedProgress())
    data = PreferenceData(method=method, examples=preferences, replay=replay, validation=validation)
    ref, report = train(store, base_model, lora_adapter, data, settings, tracking.child)
    return materialized(ref, pages.training_page(report))


def same_adapter(store: ArtifactStore, adapter: ArtifactRef) -> ArtifactRef:
    """Return the adapter after SFT under the name of this asset, with the same hash."""
    with store.stage("preference_adapter") as folder:
        source = store.folder(adapter)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
        return store.commit("preference_adapter", folder, rows=adapter.rows, identity=adapter.sha256)


def with_few_examples(settings: Settings) -> Settings:
    """Return settings with which only the conversations are built that the preference training replays."""
    preference = settings.preference
    rows = preference.batch_size * preference.max_steps * preference.replay_share / (1 - preference.replay_share)
    few = {"batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": max(1, round(rows)), "packing": False}
    return settings.model_copy(update={"training": settings.training.model_copy(update=few)})


def train(
    store: ArtifactStore,
    base: ArtifactRef,
    adapter: ArtifactRef,
    data: PreferenceData,
    settings: Settings,
    tracker: MlflowTracker,
) -> tuple[ArtifactRef, PreferenceReport]:
    """Train and return the adapter, identified by its weights; its checkpoints are deleted once it is complete."""
    checkpoints = settings.home / "work" / "preference_adapter"
    logged = {CONVERSATIONS_FILE: packed([data.replay, data.validation]), PREFERENCES_FILE: packed([data.examples])}
    tracker.record = with_files(tracker.record, logged)
    with store.stage("preference_adapter") as folder:
        job = PreferenceJob(
            base=store.folder(base),
            adapter=store.folder(adapter),
            training=settings.training,
            preference=settings.preference,
            seed=settings.seed,
            out=folder,
            checkpoints=checkpoints,
        )
        report = train_preference(job, data, tracker, Machine(settings.device, settings.threads), LoggedProgress())
        ref = store.commit("preference_adapter", folder, rows=report.steps, identity=weights_sha256(folder))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return ref, report


def weights_sha256(folder: Path) -> str:
    """Return a hash of everything in an adapter's folder but its reports, which have times."""
    files = folder_files(folder)
    return files_sha256({path: digest for path, digest in files.items() if path not in (REPORT, PREFERENCE)})
