"""What the pages of assets show in Dagster: metadata built from what the asset computed.

Pages of the dataset, of preferences, of compression and of experiments have modules of their own.

Nothing here changes an artefact, so an edit makes no asset stale.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from ragtune.dataset.reviews.decisions import Decision
from ragtune.evaluation.agreement import Agreement
from ragtune.evaluation.alpha_spending import power_facts
from ragtune.evaluation.gate import ModelGain
from ragtune.evaluation.judges import Judgement
from ragtune.evaluation.out_of_domain import OutOfDomainQuestion
from ragtune.evaluation.report.pages import MARKDOWN_NAME
from ragtune.evaluation.speed import amount, interval, percent
from ragtune.knowledge.library import Library
from ragtune.knowledge.sources import Corpus, describe_ignored
from ragtune.model.training.report import AdapterReport
from ragtune.records import (
    AnswerSet,
    BenchmarkRow,
    Chunk,
    Document,
    FeedbackEvent,
    GateDecision,
    ModelManifest,
    Precision,
    RatedModel,
    RetrievalRow,
    Score,
)
from ragtune.store.speed_rows import LoadRow, SpeedRow
from ragtune_assets.display import FEW, MANY, MOST, SOME, Page, curve, histogram, place_in_home, score_bars, table

STATES = "states of the sources"
LAST_SEQUENCE = "last sequence"
REPORTS = {
    "report on its answers": "eval_scores",
    "report on its speed": "benchmark_tables",
    "report on its dataset": "quality_report",
}
"""The assets whose pages a release links to."""


def documents_page(library: Library, corpus: Corpus) -> Page:
    """Show each source with its last read, what could not be read, what was removed, and a preview."""
    quarantine = [(file.source, file.path, file.reason) for file in corpus.quarantine[:MOST]]
    shelves = [(s.spec, len(s.documents), len(s.pairs), len(s.quarantine), s.read_at) for s in library.shelves()]
    removed = [(document.id, document.path, document.removed_at) for document in library.decisions().removed]
    preview = [(document.title, document.kind, document.text) for document in corpus.documents[:SOME]]
    return {
        "sources": table(["source", "documents", "existing pairs", "not readable", "read at"], shelves),
        "quarantine": table(["source", "path", "reason"], quarantine),
        "files without a reader": describe_ignored(corpus.ignored, corpus.ignored_names) or "none",
        "removed": table(["id", "path", "since"], removed),
        STATES: dg.MetadataValue.json(corpus.states),
        "preview": table(["title", "kind", "text"], preview),
    }


def existing_page(corpus: Corpus) -> Page:
    """Show how many existing pairs each file holds, and the first of them."""
    counts = sorted(Counter(pair.source for pair in corpus.pairs).items())
    preview = [(pair.question, pair.answer, pair.place) for pair in corpus.pairs[:SOME]]
    return {
        "files": table(["source", "pairs"], counts),
        "preview": table(["question", "answer", "place"], preview),
    }


def chunks_page(documents: Sequence[Document], passages: Sequence[Chunk]) -> Page:
    """Show how many passages repeat others, how long passages are, and a preview."""
    words = [float(len(chunk.text.split())) for chunk in passages]
    preview = [(chunk.title, chunk.heading_path[-1:], chunk.text) for chunk in passages[:SOME]]
    return {
        "documents": len(documents),
        "duplicates": sum(bool(chunk.duplicate_of) for chunk in passages),
        "preview": table(["title", "under", "text"], preview),
        "lengths": histogram(words, "Words in a passage", "words"),
    }


def retrieval_page(history: Sequence[RetrievalRow]) -> Page:
    """Show how recall, latency and the size of the index developed: the newest numbers, plots and a table."""
    newest = history[-1]
    numbers: Page = {"p50 ms": newest.p50_ms, "p95 ms": newest.p95_ms, "index MiB": _mib(newest)}
    if newest.n:
        numbers |= {"recall@10": newest.recall_10, "MRR@10": newest.mrr_10}
    header = ["measured", "passages", "n", "recall@1", "recall@5", "recall@10", "MRR@10", "p50 ms", "p95 ms", "MiB"]
    rows = [
        (r.measured_at, r.chunks, r.n, r.recall_1, r.recall_5, r.recall_10, r.mrr_10, r.p50_ms, r.p95_ms, _mib(r))
        for r in reversed(history[-MANY:])
    ]
    numbered = [(float(number), row) for number, row in enumerate(history, 1)]
    times = {"p50": [(x, row.p50_ms) for x, row in numbered], "p95": [(x, row.p95_ms) for x, row in numbered]}
    recalls = {f"recall@{k}": [(x, getattr(row, f"recall_{k}")) for x, row in numbered if row.n] for k in (1, 5, 10)}
    return {
        **numbers,
        "retrieval so far": table(header, rows),
        "recall over time": curve(recalls, "Recall on the test questions", "measurement", "share found"),
        "latency over time": curve(times, "One search, embedding included", "measurement", "milliseconds"),
    }


def questions_page(questions: Sequence[OutOfDomainQuestion]) -> Page:
    """Show how many questions there are, and the first of them."""
    rows = [(q.pair.question, q.pair.answer, q.pair.kind, q.passages[0].title) for q in questions[:SOME]]
    return {"questions": len(questions), "preview": table(["question", "answer", "kind", "first passage"], rows)}


def base_model_page(name: str, config: Mapping[str, Any]) -> Page:
    """Show the model's name and the plain values of its configuration."""
    values = [(key, config[key]) for key in sorted(config) if isinstance(config[key], int | float | str)]
    return {"name": name, "configuration": table(["key", "value"], values)}


def adapter_page(report: AdapterReport) -> Page:
    """Show how training went, with its validations."""
    losses = {
        "training": [(float(step), loss) for step, loss in report.losses],
        "validation": [(float(v.step), v.loss) for v in report.validations if v.loss is not None],
    }
    answered = [validation for validation in report.validations if validation.n]
    shares = {
        "right": [(float(validation.step), validation.right) for validation in answered],
        "refused": [(float(validation.step), validation.refused) for validation in answered],
    }
    validations = {"validation answers": curve(shares, "Validation answers", "step", "share")} if answered else {}
    warnings = {"warnings": "\n".join(report.warnings)} if report.warnings else {}
    return {
        **warnings,
        "loss": curve(losses, "Loss", "step", "cross entropy"),
        **validations,
        "steps": report.steps,
        "best step": report.best_step,
        "tokens": report.tokens,
        "tokens per second": report.tokens_per_second,
        "validation loss": report.validation_loss,
        "stopped by": report.stopped_by,
    }


def weights_page(weights: Mapping[Precision, Mapping[str, Any]]) -> Page:
    """Show the layers and bytes of each precision; the first is the one that the others are smaller than."""
    largest = next(iter(weights.values()))["bytes"]
    rows = [
        (name, w["packed_int4"], w["int8"], w["plain"], w["bytes"], f"{1 - w['bytes'] / largest:.0%}")
        for name, w in weights.items()
    ]
    header = ["precision", "INT4 layers", "INT8 layers", "plain layers", "bytes", "smaller by"]
    return {"weights": table(header, rows)}


def answers_page(sets: Sequence[AnswerSet]) -> Page:
    """Show the first answers of each model."""
    rows = [
        (answers.model, answers.precision, answers.split, answer.question, answer.expected, answer.answer)
        for answers in sets
        for answer in answers.answers[:FEW]
    ]
    return {"preview": table(["model", "precision", "split", "question", "expected", "answer"], rows)}


def scores_page(scores: Sequence[Score], gains: Sequence[ModelGain]) -> Page:
    """Show every score with its interval, a plot of those on the test, and the paired gains."""
    test = [score for score in scores if score.split == "test" and not score.origin and not score.part]
    rows = [
        (s.split, s.origin or "all", s.model, s.precision, s.metric, s.value, f"{s.low:.3f} to {s.high:.3f}", s.n)
        for s in scores
        if not s.part
    ]
    by_part = [
        (s.split, s.part, s.model, s.precision, s.metric, s.value, f"{s.low:.3f} to {s.high:.3f}", s.n)
        for s in scores
        if s.part
    ]
    compared = [
        (
            *(g.over, g.model, g.precision, g.gain.metric, g.gain.gain),
            *(f"{g.gain.low:+.3f} to {g.gain.high:+.3f}", g.gain.smallest_detectable_gain, g.gain.n),
        )
        for g in gains
    ]
    return {
        "plot": score_bars(test, "Held-out test, with 95% intervals"),
        "scores": table(["split", "questions", "model", "precision", "metric", "value", "95% interval", "n"], rows),
        "by part": table(["split", "part", "model", "precision", "metric", "value", "95% interval", "n"], by_part),
        "gains": table(["over", "model", "precision", "metric", "gain", "95% interval", "found from", "n"], compared),
        "signatures": table(["signature"], [(name,) for name in sorted({score.signature for score in scores})]),
    }


def judgements_page(judgements: Sequence[Judgement], usage: Mapping[str, Any]) -> Page:
    """Show what each judge says on average; it counts only after the comparison with people in the report."""
    groups: dict[tuple[str, str], list[float]] = {}
    for judgement in judgements:
        groups.setdefault((judgement.judge, judgement.question), []).append(judgement.score)
    rows = [(*group, sum(scores) / len(scores), len(scores)) for group, scores in sorted(groups.items())]
    return {"judges": table(["judge", "question", "mean score, not calibrated", "n"], rows), **usage}


def ratings_page(models: Sequence[RatedModel], agreements: Sequence[Agreement], raters: str) -> Page:
    """Show what annotators say of the models, and how far they agree."""
    rated = [(m.study, m.model, m.question, m.value, f"{m.low:.3f} to {m.high:.3f}", m.n) for m in models]
    agreed = [(a.question, ", ".join(a.annotators), a.items, a.percent, str(a.alpha), str(a.ac2)) for a in agreements]
    return {
        "rated by": raters or "nobody yet: see `ragtune evaluate create`",
        "models": table(["study", "model", "question", "value", "95% interval", "n"], rated),
        "agreement": table(["question", "annotators", "items", "equal", "alpha", "AC2"], agreed),
    }


def report_page(page: Path) -> Page:
    """Show the report itself and where its page is."""
    return {
        "report": dg.MetadataValue.md(page.with_name(MARKDOWN_NAME).read_text()),
        "page": place_in_home(str(page)),
        "open": f"`ragtune report` prints where {page.name} is",
    }


def benchmark_table(rows: Sequence[BenchmarkRow]) -> dg.MarkdownMetadataValue:
    """Return a table with one row per load; latencies are in milliseconds."""
    header = ["model", "precision", "at once", "p50 ms", "p95 ms", "first token ms", "tokens/s", "GiB", "errors", "run"]
    cells = [
        (
            row.model,
            row.precision,
            row.concurrency,
            round(row.p50_ms),
            round(row.p95_ms),
            round(row.ttft_p50_ms),
            row.tokens_per_second,
            row.peak_memory_bytes / (1 << 30),
            row.errors,
            row.run_id,
        )
        for row in rows
    ]
    return table(header, cells)


def speed_table(rows: Sequence[SpeedRow]) -> dg.MarkdownMetadataValue:
    """Return a table with one row per difference."""
    header = ["of", "against", "work load", "metric", "before", "after", "change", "95% interval", "floor", "verdict"]
    cells = [
        (
            *(row.after, row.before, row.workload, row.metric),
            *(amount(row.before_value, row.unit), amount(row.after_value, row.unit), percent(row.change)),
            *(interval(row), f"{row.floor:.1%}", row.verdict),
        )
        for row in rows
    ]
    return table(header, cells)


def loads_page(loads: Sequence[LoadRow], differences: Sequence[SpeedRow]) -> Page:
    """Show with which rates gateways kept up, over versions and settings, and what changed settings did."""
    kept = [row for row in loads if row.scenario == "saturation"]
    header = [
        "measured",
        "version",
        "precision",
        "settings",
        "work load",
        "keeps up with /s",
        "good /s",
        "p50 ms",
        "p95 ms",
    ]
    cells = [
        (row.measured_at, row.model_version, row.precision, row.settings, row.workload, row.offered, row.good,
         round(row.total_p50_ms), round(row.total_p95_ms))
        for row in kept[-MANY:]
    ]  # fmt: skip
    page: Page = {
        "saturations": table(header, cells),
        "settings that were compared": speed_table(differences[-MANY:]),
        "how to measure": "`ragtune benchmark run`",
    }
    if kept:
        points: dict[str, list[tuple[float, float]]] = {}
        for place, row in enumerate(kept):
            points.setdefault(row.workload, []).append((float(place), row.offered))
        page["plot"] = curve(points, "Rate that the gateway kept up with", "measurement", "requests per second")
    return page


def release_page(version: str, folder: str, manifest: ModelManifest, mlflow: str, model: str) -> Page:
    """Show the version, the gate's decision, and the scores and packages of the manifest.

    Links lead to the run that trained it, to the version in the registry, and to the reports on its answers, its speed
    and its dataset; `mlflow` is the URL of MLflow's pages, `model` the name in the registry.
    """
    rows = [
        (s["model"], s["precision"], s["metric"], s["origin"] or "all", s["value"], s["n"]) for s in manifest.scores
    ]
    return {
        "version": version,
        "in the registry": dg.MetadataValue.url(f"{mlflow}/#/models/{quote(model)}/versions/{version}"),
        "mlflow run": _run_link(mlflow, manifest.mlflow_run_id),
        **{what: dg.MetadataValue.asset(dg.AssetKey(name)) for what, name in REPORTS.items()},
        "decision": dg.MetadataValue.md(manifest.gate["reason"]),
        "champion": manifest.gate["promoted"],
        "alpha left for these questions": manifest.gate["alpha_left"],
        **power_facts(manifest.gate),
        "served precision": manifest.served_precision,
        "feedback rows": len(manifest.feedback_ids),
        "folder": place_in_home(folder, parts=2),
        "gains by origin": manifest.gate["by_origin"],
        "scores": table(["model", "precision", "metric", "questions", "value", "n"], rows),
        "packages": table(["package", "version"], sorted(manifest.packages.items())),
    }


def feedback_page(events: Sequence[FeedbackEvent]) -> Page:
    """Show how many verdicts there are, and the newest."""
    newest = [(e.created_at, e.rating, e.question, e.correction or e.comment) for e in events[-SOME:]]
    return {
        LAST_SEQUENCE: max((event.sequence for event in events), default=0),
        "up": sum(event.rating == "up" for event in events),
        "down": sum(event.rating == "down" for event in events),
        "corrections": sum(bool(event.correction) for event in events),
        "newest": table(["when", "rating", "question", "text"], newest),
    }


def reviews_page(decisions: Sequence[Decision]) -> Page:
    """Show the verdicts by kind and by reviewer, and the newest."""
    newest = [(d.created_at, d.reviewer, d.verdict, d.pair["question"], d.answer or d.comment) for d in decisions]
    verdicts = Counter(decision.verdict for decision in decisions)
    reviewers = Counter(decision.reviewer for decision in decisions)
    return {
        LAST_SEQUENCE: max((decision.sequence for decision in decisions), default=0),
        "verdicts": table(["verdict", "pairs"], sorted(verdicts.items())),
        "reviewers": table(["reviewer", "verdicts"], sorted(reviewers.items())),
        "newest": table(["when", "reviewer", "verdict", "question", "text"], newest[-SOME:]),
    }


def gate_page(decision: GateDecision) -> Page:
    """Show the numbers of the gate's decision."""
    numbers = {name: value for name, value in asdict(decision).items() if isinstance(value, int | float)}
    return {**numbers, "decided on": decision.decided_on, "gains by origin": decision.by_origin}


def _run_link(mlflow: str, run_id: str) -> dg.UrlMetadataValue | str:
    """Return a link to the page of a run in MLflow, which finds the experiment by itself."""
    return dg.MetadataValue.url(f"{mlflow}/#/runs/{run_id}") if run_id else "not tracked"


def _mib(row: RetrievalRow) -> float:
    return row.index_bytes / (1 << 20)
