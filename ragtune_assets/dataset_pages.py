"""What the pages of the dataset's assets show in Dagster: pairs, why others were left out, and the splits."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from ragtune.dataset.checks.expectations import ExpectationResult
from ragtune.dataset.checks.quality import QualityReport
from ragtune.dataset.corrections import CorrectionStatus
from ragtune.dataset.existing import Match
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.llm.writer import LLMWriter
from ragtune.dataset.publishing import diff_items
from ragtune.dataset.reviews.decisions import REVIEWED, Decision
from ragtune.dataset.reviews.outcome import ReviewOutcome
from ragtune.dataset.splits import topic_balance, widest_gap
from ragtune.ports import PairWriter
from ragtune.records import (
    ORIGINS,
    SPLITS,
    ArtifactRef,
    QAPair,
    SplitItem,
)
from ragtune_assets.display import MANY, MOST, SOME, Page, histogram, place_in_home, table


def matches_page(matches: Sequence[Match]) -> Page:
    """Show how many existing pairs found their passage, and why the others did not."""
    unmatched = [(m.existing.question, m.existing.place, m.reason) for m in matches if m.pair is None]
    shortened = [(m.existing.question, m.pair.answer) for m in matches if m.pair is not None and m.shortened]
    return {
        "existing pairs": len(matches),
        "matched": len(matches) - len(unmatched),
        "not matched": table(["question", "place", "why"], unmatched[:MOST]),
        "answers cut to their first sentences": table(["question", "answer"], shortened[:SOME]),
        "preview": _pairs([match.pair for match in matches if match.pair is not None]),
    }


def candidates_page(writers: Sequence[PairWriter], pairs: Sequence[QAPair], existing: Sequence[QAPair]) -> Page:
    """Show who wrote how many pairs, and what a language model cost."""
    counts = sorted(Counter(pair.writer for pair in [*existing, *pairs]).items())
    page: Page = {
        "written": table(["writer", "pairs"], counts),
        "preview": _pairs([*existing, *pairs]),
    }
    for writer in writers:
        if isinstance(writer, ExtractiveWriter) and writer.unread:
            page["passages that the rules do not read: they write English only"] = table(
                ["language", "passages"], writer.unread.most_common()
            )
        if isinstance(writer, LLMWriter):
            page |= writer.usage.labelled("writer")
            page["writer dropped"] = table(["question", "why"], writer.dropped[:SOME])
    return page


def dataset_page(report: QualityReport, reviewed: ReviewOutcome, data_docs: ArtifactRef) -> Page:
    """Show which pairs were rejected and why, what reviewers changed, and reviews that had no effect.

    Orphaned reviews are verdicts on pairs that are no longer written.
    """
    reasons = Counter(reason for _, reason in report.rejected)
    examples = [(pair.question, reason) for pair, reason in report.rejected if pair.origin == "writer"][:SOME]
    of_people = [(pair.question, pair.imported_from, why) for pair, why in report.rejected if pair.origin != "writer"]
    ranks = [pair.scores["retrievable"] for pair in report.pairs if "retrievable" in pair.scores]
    failed = [(pair.question, reason) for pair, reason in report.rejected if REVIEWED in pair.scores]
    conflicts = [(pair.question, " / ".join(map(_verdict, verdicts))) for pair, verdicts in reviewed.conflicts]
    orphans = [(d.created_at, d.reviewer, d.verdict, d.pair["question"]) for d in reviewed.orphans]
    return {
        "origins": table(["origin", "pairs"], sorted(Counter(pair.origin for pair in report.pairs).items())),
        "rejected": table(["reason", "pairs"], sorted(reasons.items())),
        "rejected examples": table(["question", "reason"], examples),
        "rejected pairs of people": table(["question", "from", "reason"], of_people[:MOST]),
        "retrievable": histogram(ranks, "1 / rank of the passage for its question", "1 / rank"),
        "data docs": _data_docs(data_docs),
        "preview": _pairs(report.pairs),
        "reviews accepted": reviewed.accepted,
        "reviews rejected": len(reviewed.rejected),
        "reviews corrected": len(reviewed.corrected),
        "reviews without effect": table(["question", "why"], failed),
        "reviews in conflict": table(["question", "verdicts"], conflicts),
        "orphaned reviews": table(["when", "reviewer", "verdict", "question"], orphans),
    }


def corrections_part(corrections: Sequence[CorrectionStatus]) -> Page:
    """Show what became of the users' corrections, and why the others train nothing.

    The text of a correction that was held back is not shown.
    """
    counts = Counter(one.status for one in corrections)
    others = [one for one in corrections if one.status != "accepted"]
    rows = [
        (
            one.event.id,
            one.event.user,
            one.event.question if one.status != "held_back" else "(held back)",
            one.status,
            one.reason,
        )
        for one in others[-MOST:]
    ]
    return {
        "corrections": table(["status", "corrections"], sorted(counts.items())),
        "corrections that do not train": table(["id", "key", "question", "status", "why"], rows),
    }


def quality_page(results: Sequence[ExpectationResult], data_docs: ArtifactRef) -> Page:
    """Show every expectation with its verdict, and where the data docs are."""
    return {"expectations": expectations_table(results), "data docs": _data_docs(data_docs)}


def expectations_table(results: Sequence[ExpectationResult]) -> dg.MarkdownMetadataValue:
    """Return a table with one row per expectation."""
    rows = [("pass" if r.success else "FAIL", r.name, r.observed, r.expected) for r in results]
    return table(["verdict", "expectation", "observed", "expected"], rows)


def splits_page(items: Sequence[SplitItem], paraphrase_pairs: int, by_section: bool) -> Page:
    """Show each split's size and origins, how topics are spread over the splits, and how many questions are alike."""
    by_split = {split: [item for item in items if item.split == split] for split in SPLITS}
    counts = [
        (split, len(part), len({item.cluster for item in part}), *_by_origin([item.pair for item in part]))
        for split, part in by_split.items()
    ]
    topics = [(topic, *shares.values()) for topic, shares in topic_balance(list(items))[:MANY]]
    return {
        "splits": table(["split", "pairs", "clusters", *ORIGINS], counts),
        "split by": "section, because there are few documents" if by_section else "document",
        "topics": table(["topic", *SPLITS], topics),
        "widest gap of a topic's held-out share": widest_gap(list(items)),
        "questions that mean the same": paraphrase_pairs,
    }


def published_page(folder: Path, items: Sequence[SplitItem], previous: Sequence[SplitItem] | None) -> Page:
    """Show the dataset's card, and what changed since the last version if there is one."""
    card = (folder / "README.md").read_text()
    page: Page = {"card": dg.MetadataValue.md(card.split("---\n", 2)[2])}
    if previous is not None:
        page["since the last version"] = str(diff_items(list(previous), list(items)))
    return page


def _by_origin(pairs: Sequence[QAPair]) -> list[int]:
    counts = Counter(pair.origin for pair in pairs)
    return [counts[origin] for origin in ORIGINS]


def _pairs(pairs: Sequence[QAPair]) -> dg.MarkdownMetadataValue:
    """Return a table of pairs drawn evenly from the whole."""
    sample = pairs[:: max(1, len(pairs) // SOME)]
    return table(["question", "answer", "kind", "writer"], [(p.question, p.answer, p.kind, p.writer) for p in sample])


def _data_docs(report: ArtifactRef) -> dg.PathMetadataValue:
    return place_in_home(f"{report.uri}/index.html", parts=4)


def _verdict(decision: Decision) -> str:
    return f"{decision.reviewer}: {decision.verdict}"
