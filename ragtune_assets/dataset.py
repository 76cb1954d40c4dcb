"""Assets that turn passages and feedback into questions and answers, and check and split them."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.dataset.checks.expectations import ENOUGH_PAIRS, ExpectationResult
from ragtune.dataset.checks.paraphrases import cached_embedder, paraphrase_pairs, with_nearness
from ragtune.dataset.checks.quality import QualityReport, Scorer, check_pairs
from ragtune.dataset.checks.retrievability import with_retrievability
from ragtune.dataset.corrections import CorrectionStatus, correction_statuses, trainable_pairs
from ragtune.dataset.existing import Match, match_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.llm.judge import LLMJudge
from ragtune.dataset.llm.writer import LLMWriter
from ragtune.dataset.minimums import shortage
from ragtune.dataset.publishing import publish, read_published
from ragtune.dataset.reviews.decisions import Decision
from ragtune.dataset.reviews.outcome import ReviewOutcome, apply_reviews
from ragtune.dataset.split_units import SplitUnits, choose_units
from ragtune.dataset.splits import leaks, split_pairs
from ragtune.evaluation.power import gate_power
from ragtune.knowledge.retrieval import Retriever
from ragtune.ports import Embedder, PairWriter
from ragtune.records import (
    SPLITS,
    ArtifactRef,
    Chunk,
    Document,
    ExistingPair,
    FeedbackEvent,
    Hit,
    QAPair,
    Split,
    SplitItem,
)
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore, file_sha256, write_json
from ragtune_assets import dataset_pages as pages
from ragtune_assets.asset import asset, multi_asset
from ragtune_assets.display import materialized, table
from ragtune_assets.progress import LoggedProgress

OWNERS = ["team:dataset"]
RESULTS = "results.json"
MEMORY = "memory.json"


@asset(
    group_name="dataset",
    kinds={"python", "parquet"},
    owners=OWNERS,
    settings=("index", "embedder"),
    deps=["search_index"],
)
def matched_pairs(
    existing_pairs: ArtifactRef,
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
) -> dg.MaterializeResult[ArtifactRef]:
    """Existing questions and answers with the passages that hold the answers; the others with the reason."""
    existing = store.read_records(existing_pairs, ExistingPair)
    matches = match_pairs(existing, partial(retriever.search_many, mode="text"), LoggedProgress())
    return materialized(store.write_records("matched_pairs", matches), pages.matches_page(matches))


@asset(group_name="dataset", kinds={"python", "parquet"}, owners=OWNERS, settings=("dataset", "seed"))
def qa_candidates(
    chunks: ArtifactRef,
    matched_pairs: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
) -> dg.MaterializeResult[ArtifactRef]:
    """Questions written from the passages, and those that people asked before."""
    passages = store.read_records(chunks, Chunk)
    existing = [match.pair for match in store.read_records(matched_pairs, Match) if match.pair is not None]
    writers = pair_writers(settings)
    pairs = [pair for writer in writers for pair in writer.write(passages, LoggedProgress())]
    ref = store.write_records("qa_candidates", [*existing, *pairs])
    return materialized(ref, pages.candidates_page(writers, pairs, existing))


@multi_asset(
    {
        "qa_dataset": "The pairs and the accepted corrections that passed every rule, as reviewers left them.",
        "quality_report": "What Great Expectations found in the dataset, with its data docs.",
    },
    name="qa_dataset",
    group_name="dataset",
    kinds={"python", "greatexpectations"},
    owners=OWNERS,
    settings=("dataset", "feedback.approval", "feedback.per_key", "index", "embedder", "seed"),
    deps=["search_index"],
    check_specs=[
        dg.AssetCheckSpec("expectations", asset="qa_dataset", blocking=True),
        dg.AssetCheckSpec("recommendations", asset="qa_dataset"),
    ],
)
def qa_dataset(
    qa_candidates: ArtifactRef,
    feedback_events: ArtifactRef,
    review_decisions: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
    retriever: dg.ResourceParam[Retriever],
):
    """The checked dataset, and the report of its checks: one step, because the report is about what it checks."""
    passages = store.read_records(chunks, Chunk)
    decisions = store.read_records(review_decisions, Decision)
    events = store.read_records(feedback_events, FeedbackEvent)
    corrections = correction_statuses(events, passages, decisions, settings.feedback, settings.dataset)
    reviewed = with_corrections(store.read_records(qa_candidates, QAPair), corrections, decisions, passages, settings)
    judge, usage = judging(settings, passages)
    with store.stage("quality_report") as folder:
        score = scoring(embedder, retriever, settings, judge)
        report = check_pairs(reviewed.pairs, passages, settings.dataset, score, folder)
        quality_report = commit_report(store, folder, report.results)
    dataset = store.write_records("qa_dataset", report.pairs)
    page = pages.dataset_page(report, reviewed, quality_report) | pages.corrections_part(corrections) | usage()
    yield materialized(dataset, page, expectation_checks(report, shortage(report.pairs, passages, settings.dataset)))
    yield materialized(quality_report, pages.quality_page(report.results, quality_report))


@asset(
    group_name="dataset",
    kinds={"python", "parquet"},
    owners=OWNERS,
    settings=("dataset", "embedder", "evaluation", "seed"),
    check_specs=[
        dg.AssetCheckSpec("no_leak", asset="qa_splits", blocking=True),
        dg.AssetCheckSpec("no_empty_split", asset="qa_splits", blocking=True),
        dg.AssetCheckSpec("gate_can_show_a_gain", asset="qa_splits"),
    ],
)
def qa_splits(
    qa_dataset: ArtifactRef,
    raw_documents: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
):
    """Every pair with its split; near-duplicate documents share a split, corrected ones go to training."""
    pairs, documents = store.read_records(qa_dataset, QAPair), store.read_records(raw_documents, Document)
    passages = store.read_records(chunks, Chunk)
    units = choose_units(pairs, documents, passages, settings.dataset)
    alike = paraphrase_pairs(pairs, embedder.embed_questions, settings.dataset.same_question)
    remembered = earlier_splits(store)
    earlier = units.earlier(remembered, passages)
    items, leaking = split_by_unit(pairs, units, settings, earlier, alike)
    write_json(store.root / "qa_splits" / MEMORY, {**remembered, **units.used(items)})
    checks = [leak_check(leaking), empty_split_check(items), power_check(items, settings)]
    ref = store.write_records("qa_splits", items)
    return materialized(ref, pages.splits_page(items, len(alike), units.by_section), checks)


@asset(group_name="dataset", kinds={"parquet", "huggingface"}, owners=OWNERS, settings=("seed",))
def published_dataset(
    qa_splits: ArtifactRef,
    quality_report: ArtifactRef,
    chunks: ArtifactRef,
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
) -> dg.MaterializeResult[ArtifactRef]:
    """The dataset for others: Parquet per split with a card, readable by Hugging Face `datasets`."""
    items = store.read_records(qa_splits, SplitItem)
    passages, documents = store.read_records(chunks, Chunk), store.read_records(raw_documents, Document)
    current = store.current("published_dataset")
    previous = read_published(store.folder(current)) if current else None
    with store.stage("published_dataset") as folder:
        publish(folder, items, passages, documents, read_results(store, quality_report), settings.seed)
        ref = store.commit("published_dataset", folder, len(items))
    return materialized(ref, pages.published_page(store.folder(ref), items, previous))


def with_corrections(
    candidates: Sequence[QAPair],
    corrections: Sequence[CorrectionStatus],
    decisions: Sequence[Decision],
    passages: Sequence[Chunk],
    settings: Settings,
) -> ReviewOutcome:
    """Return the candidates and the corrections after their reviews; only accepted corrections are among the pairs."""
    made = [one.made for one in corrections if one.made is not None]
    reviewed = apply_reviews([*made, *candidates], decisions, passages, settings.dataset.reviews_per_pair)
    written = [pair for pair in reviewed.pairs if not pair.feedback_id]
    return replace(reviewed, pairs=[*trainable_pairs(corrections), *written])


def pair_writers(settings: Settings) -> list[PairWriter]:
    """Return the extractive writer, and a language model that writes pairs if the settings name one."""
    share = settings.dataset.unanswerable_share
    writers: list[PairWriter] = [ExtractiveWriter(settings.seed, unanswerable_share=share)]
    if settings.dataset.writer.model:
        writers.append(LLMWriter(settings.dataset.writer, settings.home / "cache" / "writer", settings.seed, share))
    return writers


def judging(settings: Settings, passages: list[Chunk]) -> tuple[Scorer, Callable[[], dict[str, Any]]]:
    """Return a function that scores pairs by the judge of the settings, and one that returns what that cost.

    Without a judge the pairs stay as they are and cost nothing.
    """
    if not settings.dataset.judge.model:
        return list, dict
    judge = LLMJudge(settings.dataset.judge, settings.home / "cache" / "judge", settings.seed)
    return lambda pairs: judge.judge(pairs, passages, LoggedProgress()), lambda: judge.model.usage.labelled("judge")


def scoring(embedder: Embedder, retriever: Retriever, settings: Settings, judge: Scorer) -> Scorer:
    """Return a function that adds to pairs how near others are, how well search finds them, and the judge's scores."""
    embed, mode = cached_embedder(embedder.embed_questions), settings.dataset.retrievable_by

    def search(questions: Sequence[str], limit: int) -> list[list[Hit]]:
        vectors = None if mode == "text" else embed(questions)
        return retriever.search_many(questions, limit, mode, vectors=vectors)

    def score(pairs: list[QAPair]) -> list[QAPair]:
        return judge(with_retrievability(with_nearness(pairs, embed), search))

    return score


def commit_report(store: ArtifactStore, folder: Path, results: Sequence[ExpectationResult]) -> ArtifactRef:
    """Keep the data docs together with the results; equal results keep the docs that were written first."""
    write_json(folder / RESULTS, [asdict(result) for result in results])
    return store.commit("quality_report", folder, len(results), file_sha256(folder / RESULTS))


def read_results(store: ArtifactStore, report: ArtifactRef) -> list[ExpectationResult]:
    """Return the results that `commit_report` kept."""
    return [ExpectationResult(**row) for row in json.loads((store.folder(report) / RESULTS).read_text())]


def expectation_checks(report: QualityReport, missing: str = "") -> list[dg.AssetCheckResult]:
    """Return one check result per severity; its metadata lists every expectation.

    `missing` says what to do if there are too few pairs.
    """
    return [
        _expectation_check(report, "critical", "expectations", dg.AssetCheckSeverity.ERROR, missing),
        _expectation_check(report, "warning", "recommendations", dg.AssetCheckSeverity.WARN),
    ]


def _expectation_check(
    report: QualityReport, severity: str, name: str, level: dg.AssetCheckSeverity, missing: str = ""
) -> dg.AssetCheckResult:
    results = [result for result in report.results if result.severity == severity]
    failed = [result for result in results if not result.success]
    # `missing` says the same about the number of pairs, with the reason and a way out.
    others = [
        f"{result.name}: found {result.observed}, expected {result.expected}"
        for result in failed
        if not (missing and result.name == ENOUGH_PAIRS)
    ]
    reasons = [*([missing] if missing else []), *([f"Failed: {'; '.join(others)}."] if others else [])]
    return dg.AssetCheckResult(
        passed=not failed,
        check_name=name,
        asset_key="qa_dataset",
        severity=level,
        description=" ".join(reasons) if failed else None,
        metadata={"expectations": pages.expectations_table(results)},
    )


def leak_check(messages: Sequence[str]) -> dg.AssetCheckResult:
    """Return the check on leaks between splits, with the first of them in its metadata."""
    first = table(["leak"], [(message,) for message in messages[:20]])
    return dg.AssetCheckResult(passed=not messages, check_name="no_leak", metadata={"leaks": first})


def split_by_unit(
    pairs: Sequence[QAPair],
    units: SplitUnits,
    settings: Settings,
    earlier: Mapping[str, Split],
    alike: Sequence[tuple[str, str]],
) -> tuple[list[SplitItem], list[str]]:
    """Return the pairs with their splits, and a sentence for each leak between the splits."""
    corrected = {units.of(pair) for pair in pairs if pair.feedback_id}
    of_units, knobs = units.as_units(pairs), settings.dataset
    items = split_pairs(of_units, units.documents, knobs, settings.seed, corrected, earlier, alike)
    return units.as_documents(items, pairs), leaks(items, units.documents, knobs.jaccard, alike)


def empty_split_check(items: Sequence[SplitItem]) -> dg.AssetCheckResult:
    """Return whether there are questions to train on, to test and to decide with."""
    counts = Counter(item.split for item in items)
    empty = [split for split in ("train", "test", "gate") if not counts[split]]
    sizes = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    summary = (
        f"No question is left for {' and '.join(empty)} ({sizes}). Each needs at least one, from documents or sections "
        "that resemble no other. Add documents or existing questions (`ragtune sources add pairs:FILE`)."
    )
    return dg.AssetCheckResult(
        passed=not empty,
        check_name="no_empty_split",
        description=summary if empty else None,
        metadata={split: counts[split] for split in SPLITS},
    )


def power_check(items: Sequence[SplitItem], settings: Settings) -> dg.AssetCheckResult:
    """Return a warning if the gate has too few questions to show a gain that is worth a training."""
    power = gate_power(items, settings.evaluation, settings.seed)
    return dg.AssetCheckResult(
        passed=power.is_enough,
        check_name="gate_can_show_a_gain",
        severity=dg.AssetCheckSeverity.WARN,
        description=str(power),
        metadata=asdict(power),
    )


def gate_note(settings: Settings, store: ArtifactStore) -> str:
    """Return what a training could show at the gate, or "" if nothing was split yet."""
    ref = store.current("qa_splits")
    items = store.read_records(ref, SplitItem) if ref else []
    return str(gate_power(items, settings.evaluation, settings.seed)) if items else ""


def earlier_splits(store: ArtifactStore) -> dict[str, Split]:
    """Return {id: split} of every document and section that was ever split here, even if it is gone since.

    A model may have been trained on any of them.
    """
    memory = store.root / "qa_splits" / MEMORY
    if memory.is_file():
        splits: dict[str, Split] = json.loads(memory.read_text())
        return splits
    ref = store.current("qa_splits")
    return {item.pair.document_id: item.split for item in store.read_records(ref, SplitItem)} if ref else {}
