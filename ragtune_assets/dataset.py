"""From passages and feedback to questions and answers that were checked and split."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.dataset.checks.expectations import ExpectationResult
from ragtune.dataset.checks.paraphrases import cached_embedder, paraphrase_pairs, with_nearness
from ragtune.dataset.checks.quality import QualityReport, Scorer, check_pairs
from ragtune.dataset.checks.retrievability import with_retrievability
from ragtune.dataset.corrections import corrected_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.llm.judge import LLMJudge
from ragtune.dataset.llm.writer import LLMWriter
from ragtune.dataset.publishing import diff_items, publish, read_published
from ragtune.dataset.reviews.decisions import REVIEWED, Decision
from ragtune.dataset.reviews.outcome import ReviewOutcome, apply_reviews
from ragtune.dataset.splits import leaks, split_pairs, topic_balance, widest_gap
from ragtune.knowledge.retrieval import Retriever
from ragtune.ports import Embedder, PairWriter
from ragtune.records import SPLITS, ArtifactRef, Chunk, Document, FeedbackEvent, Hit, QAPair, Split, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore, file_sha256, write_json
from ragtune_assets.display import histogram, materialized, table
from ragtune_assets.progress import LoggedProgress

OWNERS = ["team:dataset"]
RESULTS, MEMORY = "results.json", "memory.json"


@dg.asset(group_name="dataset", kinds={"python", "parquet"}, owners=OWNERS, code_version="5")
def qa_candidates(
    chunks: ArtifactRef,
    feedback_events: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
) -> dg.MaterializeResult[ArtifactRef]:
    """Questions written from the passages, and the corrections that people made."""
    passages = store.read_records(chunks, Chunk)
    authors = writers(settings)
    written = [pair for author in authors for pair in author.write(passages, LoggedProgress())]
    corrections = corrected_pairs(store.read_records(feedback_events, FeedbackEvent), passages)
    pairs = [*corrections.pairs, *written]
    metadata = {
        "written": table(["writer", "pairs"], sorted(Counter(pair.writer for pair in written).items())),
        "corrections": len(corrections.pairs),
        "corrections not usable": table(["question", "why"], [(e.question, why) for e, why in corrections.dropped]),
        "preview": _preview(pairs),
    }
    for author in authors:
        if isinstance(author, LLMWriter):
            metadata |= author.usage.labelled("writer")
            metadata["writer dropped"] = table(["question", "why"], author.dropped[:15])
    return materialized(store.write_records("qa_candidates", pairs), metadata)


@dg.asset(
    group_name="dataset",
    kinds={"python", "greatexpectations"},
    owners=OWNERS,
    code_version="3",
    deps=["search_index"],
    check_specs=[
        dg.AssetCheckSpec("expectations", asset="qa_dataset", blocking=True),
        dg.AssetCheckSpec("recommendations", asset="qa_dataset"),
    ],
)
def qa_dataset(
    qa_candidates: ArtifactRef,
    review_decisions: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
    retriever: dg.ResourceParam[Retriever],
):
    """The pairs as their reviewers left them that passed every rule, and a Great Expectations report."""
    passages = store.read_records(chunks, Chunk)
    decisions = store.read_records(review_decisions, Decision)
    candidates = store.read_records(qa_candidates, QAPair)
    reviewed = apply_reviews(candidates, decisions, passages, settings.dataset.reviews_per_pair)
    judge, usage = judging(settings, passages)
    embed, mode = cached_embedder(embedder.embed), settings.dataset.retrievable_by

    def search(questions: Sequence[str], limit: int) -> list[list[Hit]]:
        return retriever.search_many(questions, limit, mode, vectors=None if mode == "text" else embed(questions))

    def score(pairs: list[QAPair]) -> list[QAPair]:
        return judge(with_retrievability(with_nearness(pairs, embed), search))

    with store.stage("quality_report") as docs:
        report = check_pairs(reviewed.pairs, passages, settings.dataset, score, docs)
        page = _kept_docs(store, docs, report)
    metadata = {**_report_metadata(report, page), **_review_metadata(reviewed, report), **usage()}
    return materialized(store.write_records("qa_dataset", report.kept), metadata, _verdicts(report))


@dg.asset(
    group_name="dataset",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version="2",
    check_specs=[dg.AssetCheckSpec("no_leak", asset="qa_splits", blocking=True)],
)
def qa_splits(
    qa_dataset: ArtifactRef,
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    embedder: dg.ResourceParam[Embedder],
):
    """Every pair with its split; near-duplicate documents go to one split, corrected ones to training."""
    pairs = store.read_records(qa_dataset, QAPair)
    documents = store.read_records(raw_documents, Document)
    corrected = {pair.document_id for pair in pairs if pair.feedback_id}
    paraphrases = paraphrase_pairs(pairs, embedder.embed, settings.dataset.same_question)
    earlier = earlier_splits(store)
    items = split_pairs(pairs, documents, settings.dataset, settings.seed, corrected, earlier, paraphrases)
    remember_splits(store, earlier, items)
    found = leaks(items, documents, settings.dataset.jaccard, paraphrases)
    listed = table(["leak"], [(leak,) for leak in found[:20]])
    tight = dg.AssetCheckResult(passed=not found, check_name="no_leak", metadata={"leaks": listed})
    metadata = {**_split_metadata(items), "questions that mean the same": len(paraphrases)}
    return materialized(store.write_records("qa_splits", items), metadata, [tight])


def _split_metadata(items: list[SplitItem]) -> dict[str, Any]:
    counts = [(s, sum(i.split == s for i in items), len({i.cluster for i in items if i.split == s})) for s in SPLITS]
    topics = [(topic, *found.values()) for topic, found in topic_balance(items)[:30]]
    return {
        "splits": table(["split", "pairs", "clusters"], counts),
        "topics": table(["topic", *SPLITS], topics),
        "widest gap of a topic's held-out share": widest_gap(items),
    }


def _report_metadata(report: QualityReport, page: ArtifactRef) -> dict[str, Any]:
    reasons = Counter(reason for _, reason in report.rejected)
    examples = [(pair.question, why) for pair, why in report.rejected[:15]]
    found = [pair.scores["retrievable"] for pair in report.kept if "retrievable" in pair.scores]
    return {
        "rejected": table(["reason", "pairs"], sorted(reasons.items())),
        "rejected examples": table(["question", "reason"], examples),
        "retrievable": histogram(found, "1 / rank of the passage for its question", "1 / rank"),
        "data docs": dg.MetadataValue.path(f"{page.uri}/index.html"),
        "preview": _preview(report.kept),
    }


def _review_metadata(reviewed: ReviewOutcome, report: QualityReport) -> dict[str, Any]:
    """Return what reviewers changed; orphans are verdicts on pairs that are no longer written."""
    failed = [(pair.question, why) for pair, why in report.rejected if REVIEWED in pair.scores]
    conflicts = [
        (pair.question, " / ".join(f"{d.reviewer}: {d.verdict}" for d in ds)) for pair, ds in reviewed.conflicts
    ]
    orphans = [(d.created_at, d.reviewer, d.verdict, d.pair["question"]) for d in reviewed.orphans]
    return {
        "reviews accepted": reviewed.accepted,
        "reviews rejected": len(reviewed.rejected),
        "reviews corrected": len(reviewed.corrected),
        "reviews without effect": table(["question", "why"], failed),
        "reviews in conflict": table(["question", "verdicts"], conflicts),
        "orphaned reviews": table(["when", "reviewer", "verdict", "question"], orphans),
    }


@dg.asset(group_name="dataset", kinds={"parquet", "huggingface"}, owners=OWNERS, code_version="1")
def published_dataset(
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
) -> dg.MaterializeResult[ArtifactRef]:
    """The dataset for others: Parquet per split with a card, readable by Hugging Face `datasets`."""
    items = store.read_records(qa_splits, SplitItem)
    passages, documents = store.read_records(chunks, Chunk), store.read_records(raw_documents, Document)
    before = store.current("published_dataset")
    with store.stage("published_dataset") as folder:
        publish(folder, items, passages, documents, _results(store), settings.seed)
        card = (folder / "README.md").read_text()
        ref = store.commit("published_dataset", folder, len(items))
    metadata: dict[str, Any] = {"card": dg.MetadataValue.md(card.split("---\n", 2)[2])}
    if before is not None:
        metadata["since the last version"] = str(diff_items(read_published(store.folder(before)), items))
    return materialized(ref, metadata)


def writers(settings: Settings) -> list[PairWriter]:
    """Return the extractive writer, and the one by a language model where the settings name one."""
    share = settings.dataset.unanswerable_share
    found: list[PairWriter] = [ExtractiveWriter(settings.seed, unanswerable_share=share)]
    if settings.dataset.writer.model:
        found.append(LLMWriter(settings.dataset.writer, settings.home / "cache" / "writer", settings.seed, share))
    return found


def earlier_splits(store: ArtifactStore) -> dict[str, Split]:
    """Return {document id: split} of all documents that ever were split here, also of those that went since.

    A model may have been trained on any of them.
    """
    memory = store.root / "qa_splits" / MEMORY
    if memory.is_file():
        known: dict[str, Split] = json.loads(memory.read_text())
        return known
    ref = store.current("qa_splits")
    return {item.pair.document_id: item.split for item in store.read_records(ref, SplitItem)} if ref else {}


def remember_splits(store: ArtifactStore, earlier: dict[str, Split], items: list[SplitItem]) -> None:
    """Add the splits of these items to what `earlier_splits` returns."""
    write_json(store.root / "qa_splits" / MEMORY, {**earlier, **{item.pair.document_id: item.split for item in items}})


def judging(settings: Settings, passages: list[Chunk]) -> tuple[Scorer, Callable[[], dict[str, Any]]]:
    """Return what scores pairs by the judge of the settings, and tells what that took; without one it does nothing."""
    if not settings.dataset.judge.model:
        return list, dict
    judge = LLMJudge(settings.dataset.judge, settings.home / "cache" / "judge", settings.seed)
    return lambda pairs: judge.judge(pairs, passages, LoggedProgress()), lambda: judge.model.usage.labelled("judge")


def _kept_docs(store: ArtifactStore, docs: Path, report: QualityReport) -> ArtifactRef:
    """Keep the data docs with the results beside them; equal results keep the docs of the first time."""
    results = [asdict(result) for result in report.results]
    write_json(docs / RESULTS, results)
    ref = store.commit("quality_report", docs, len(results), file_sha256(docs / RESULTS))
    store.set_current(ref)
    return ref


def _results(store: ArtifactStore) -> list[ExpectationResult]:
    ref = store.current("quality_report")
    return [ExpectationResult(**row) for row in json.loads((store.folder(ref) / RESULTS).read_text())] if ref else []


def _verdicts(report: QualityReport) -> list[dg.AssetCheckResult]:
    """Return one check result per severity; every expectation is listed in its metadata."""
    levels = {
        "critical": ("expectations", dg.AssetCheckSeverity.ERROR),
        "warning": ("recommendations", dg.AssetCheckSeverity.WARN),
    }
    results = []
    for severity, (name, level) in levels.items():
        found = [result for result in report.results if result.severity == severity]
        rows = [("pass" if r.success else "FAIL", r.name, r.observed, r.expected) for r in found]
        listed = table(["verdict", "expectation", "observed", "expected"], rows)
        passed = all(result.success for result in found)
        results.append(
            dg.AssetCheckResult(passed=passed, check_name=name, severity=level, metadata={"expectations": listed})
        )
    return results


def _preview(pairs: list[QAPair]) -> dg.MarkdownMetadataValue:
    shown = pairs[:: max(1, len(pairs) // 12)]
    return table(["question", "answer", "kind", "writer"], [(p.question, p.answer, p.kind, p.writer) for p in shown])
