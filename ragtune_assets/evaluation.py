"""What the models answer on held-out questions, what that is worth, and how fast they are."""

from collections.abc import Sequence

import dagster as dg

from ragtune.answer.answering import ANSWERING_VERSION, Answerer, RememberingAnswerer
from ragtune.evaluation import out_of_domain
from ragtune.evaluation.benchmark import Load, MeasuredModel, folder_bytes, run_loads
from ragtune.evaluation.gate import paired_gain
from ragtune.evaluation.held_out import Exam, HeldOutAnswers, held_out
from ragtune.evaluation.scoring import ScoreIdentity, summarise
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import chosen_device, reads_int4
from ragtune.model.base.pretrained import raw_model
from ragtune.ports import Engine
from ragtune.records import ArtifactRef, BenchmarkRow, Document, Score, Split, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse
from ragtune_assets.display import asked, materialized, score_bars, table
from ragtune_assets.line_up import BASE, CANDIDATE, RAW, AnswerSet, line_up, precision_folders
from ragtune_assets.progress import LoggedProgress

OWNERS = ["team:evaluation"]


@dg.asset(group_name="evaluation", kinds={"python", "parquet"}, owners=OWNERS, code_version="1")
def out_of_domain_questions(
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
) -> dg.MaterializeResult[ArtifactRef]:
    """Questions about something else, with their passages: what a model could do before must survive its training."""
    documents = store.read_records(raw_documents, Document)
    questions = out_of_domain.out_of_domain_questions(documents, retriever.embedder, settings, LoggedProgress())
    return materialized(store.write_records("out_of_domain_questions", questions), asked(questions))


@dg.asset(group_name="evaluation", kinds={"vllm", "parquet"}, owners=OWNERS, code_version="5", pool="gpu")
def eval_answers(
    qa_splits: ArtifactRef,
    out_of_domain_questions: ArtifactRef,
    search_index: ArtifactRef,
    base_model: ArtifactRef,
    merged_model: ArtifactRef,
    quantized_model: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    engine: dg.ResourceParam[Engine],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult[ArtifactRef]:
    """Answers of every model to the test questions, and of the live one and the candidate to those that decide."""
    items = store.read_records(qa_splits, SplitItem)
    others = store.read_records(out_of_domain_questions, out_of_domain.OutOfDomainQuestion)
    raw = raw_model(settings.base_model, store) if settings.evaluation.raw_items else None
    live = registry.alias("champion")
    asked = [question.pair for question in others]
    contenders = line_up(settings, items, store, base_model, merged_model, quantized_model, live, raw, asked)
    shaping = f"{settings.fingerprint('answer', 'index', 'engine')} {ANSWERING_VERSION}"
    home = Exam(RememberingAnswerer(retriever, settings.answer), f"{search_index.sha256} {shaping}")
    away = Exam(
        RememberingAnswerer(out_of_domain.FixedPassages(others), settings.answer),
        f"{out_of_domain_questions.sha256} {shaping}",
    )
    exams: dict[Split, Exam] = {"test": home, "gate": home, "out_of_domain": away}
    answers = HeldOutAnswers(engine, exams, store, settings.evaluation, settings.seed, LoggedProgress())
    at_once = settings.evaluation.models_at_once or (2 if chosen_device(settings.device) == "cpu" else 1)
    sets = [
        AnswerSet(one.model, one.precision, one.version, split, tuple(found))
        for one, told in zip(contenders, answers.of_all(contenders, at_once), strict=True)
        for split, found in told.items()
    ]
    shown = [(s.model, s.precision, s.split, a.question, a.expected, a.answer) for s in sets for a in s.answers[:4]]
    preview = table(["model", "precision", "split", "question", "expected", "answer"], shown)
    return materialized(store.write_records("eval_answers", sets), {"preview": preview})


@dg.asset(group_name="evaluation", kinds={"python", "duckdb"}, owners=OWNERS, code_version="1", pool="duckdb")
def eval_scores(
    context: dg.AssetExecutionContext,
    eval_answers: ArtifactRef,
    qa_splits: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """Every score with n and its 95% interval, appended to the warehouse with the answers behind it."""
    sets = store.read_records(eval_answers, AnswerSet)
    scores = [score for one in sets for score in _scores(one, qa_splits.sha256, settings)]
    test = [score for score in scores if score.split == "test"]
    rows = [(s.split, s.model, s.precision, s.metric, s.value, f"{s.low:.3f} to {s.high:.3f}", s.n) for s in scores]
    metadata = {
        "plot": score_bars(test, "Held-out test, with 95% intervals"),
        "scores": table(["split", "model", "precision", "metric", "value", "95% interval", "n"], rows),
        "gains": table(["over", "model", "precision", "metric", "gain", "95% interval", "n"], _gains(sets, settings)),
    }
    for one in sets:
        warehouse.append_answers(context.run.run_id, one.model, one.precision, one.split, one.answers)
    warehouse.append(scores)
    return materialized(store.write_records("eval_scores", scores), metadata)


@dg.asset(
    group_name="evaluation",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    code_version="1",
    pool="gpu",
    deps=["search_index"],
)
def benchmark_runs(
    context: dg.AssetExecutionContext,
    qa_splits: ArtifactRef,
    merged_model: ArtifactRef,
    quantized_model: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    engine: dg.ResourceParam[Engine],
) -> dg.MaterializeResult[ArtifactRef]:
    """Latency, throughput and memory of each precision at each concurrency, under prompts as users cause them."""
    knobs, folders = settings.benchmark, precision_folders(store, merged_model, quantized_model)
    packed = reads_int4(chosen_device(settings.device))
    items = store.read_records(qa_splits, SplitItem)
    pairs = held_out(items, "test", knobs.requests * len(knobs.concurrency), settings.seed)
    answerer = Answerer(retriever, settings.answer)
    prompts = [answerer.prepare(pair.question).messages for pair in pairs]
    loads = [Load(level, knobs.requests, settings.answer.max_tokens, settings.seed) for level in knobs.concurrency]
    rows: list[BenchmarkRow] = []
    for precision in knobs.precisions:
        with engine.running(folders[precision], f"benchmark-{precision}") as running:
            label = precision if packed or precision != "w4a16" else "w4a16 unpacked"
            model = MeasuredModel(quantized_model.sha256[:12], label, folder_bytes(folders[precision]))
            rows += run_loads(running, prompts, loads, model, context.run.run_id[:8], LoggedProgress())
    return materialized(store.write_records("benchmark_runs", rows), {"runs": _runs(rows)})


@dg.asset(group_name="evaluation", kinds={"duckdb"}, owners=OWNERS, code_version="1", pool="duckdb")
def benchmark_tables(
    benchmark_runs: ArtifactRef,
    store: dg.ResourceParam[ArtifactStore],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """The history of every benchmark, appended and never overwritten."""
    warehouse.append(store.read_records(benchmark_runs, BenchmarkRow))
    history = warehouse.benchmarks(newest=False)
    metadata = {"newest": _runs(warehouse.benchmarks()), "measurements so far": len(history)}
    return materialized(store.write_records("benchmark_tables", history), metadata)


def _scores(one: AnswerSet, dataset_sha256: str, settings: Settings) -> list[Score]:
    identity = ScoreIdentity(
        model=one.model,
        precision=one.precision,
        split=one.split,
        dataset_sha256=dataset_sha256,
        model_version=one.version,
        seed=settings.seed,
    )
    return summarise(one.answers, identity, settings.evaluation.bootstrap_samples)


def _gains(sets: Sequence[AnswerSet], settings: Settings) -> list[tuple[str, str, str, str, float, str, int]]:
    """Return what every model gains over the raw and the base model on the test, paired by question.

    And what the candidate's rounded weights lose against its unrounded ones, for citations too.
    """
    test = [one for one in sets if one.split == "test"]
    metric = settings.evaluation.metric
    steps = [(a, b, metric) for a in test if a.model in (RAW, BASE) for b in test if b.model not in (RAW, a.model)]
    mine = [one for one in test if one.model == CANDIDATE]
    rounded = [(a, b) for a in mine if a.precision == "bf16" for b in mine if b.precision != "bf16"]
    cited = ["citation"] if any("citation" in answer.metrics for one in mine for answer in one.answers) else []
    steps += [(a, b, each) for a, b in rounded for each in dict.fromkeys((metric, *cited))]
    rows = []
    for before, one, each in steps:
        after = one.answers[: len(before.answers)]  # the raw model is asked the first questions only
        gain = paired_gain(before.answers, after, each, alpha=0.025, seed=settings.seed)
        interval = f"{gain.low:+.3f} to {gain.high:+.3f}"
        over = f"{before.model} {before.precision}"
        rows.append((over, one.model, one.precision, gain.metric, gain.gain, interval, gain.n))
    return rows


def _runs(rows: Sequence[BenchmarkRow]) -> dg.MarkdownMetadataValue:
    header = ["model", "precision", "at once", "p50 ms", "p95 ms", "first token ms", "tokens/s", "GiB", "errors", "run"]
    gib = 1 << 30
    shown = [
        (
            row.model,
            row.precision,
            row.concurrency,
            round(row.p50_ms),
            round(row.p95_ms),
            round(row.ttft_p50_ms),
            row.tokens_per_second,
            row.peak_memory_bytes / gib,
            row.errors,
            row.run_id,
        )
        for row in rows
    ]
    return table(header, shown)
