"""What the models answer on held-out questions, what the answers are worth, and how fast the models are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import dagster as dg

from ragtune.answer.answering import Answerer, RememberingAnswerer
from ragtune.answer.lines import LineSimilarity
from ragtune.evaluation import out_of_domain
from ragtune.evaluation.alpha_spending import spent_questions
from ragtune.evaluation.benchmark import Load, MeasuredModel, folder_bytes, run_loads
from ragtune.evaluation.gate import ModelGain, bleu_gain, paired_gain
from ragtune.evaluation.held_out import Contender, Exam, HeldOutAnswers, held_out, resampling_groups
from ragtune.evaluation.retrieval import RetrievalRun, measure_retrieval
from ragtune.evaluation.scoring import ScoreIdentity, question_parts, summarise
from ragtune.evaluation.text_metrics import BLEU, with_text_metrics
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import chosen_device, reads_int4
from ragtune.model.base.pretrained import raw_model
from ragtune.ports import Engine, EvidenceModel, TokenEmbedder
from ragtune.records import (
    AnswerSet,
    ArtifactRef,
    BenchmarkRow,
    Chunk,
    Document,
    Message,
    Precision,
    Score,
    ScoredAnswer,
    Split,
    SplitItem,
)
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.speed_rows import SpeedRow
from ragtune.store.warehouse import Warehouse
from ragtune_assets import pages
from ragtune_assets.asset import asset
from ragtune_assets.compression_pages import rounding_table
from ragtune_assets.contenders import BASE, CANDIDATE, RAW, choose_contenders, precision_folders
from ragtune_assets.display import materialized
from ragtune_assets.progress import LoggedProgress
from ragtune_assets.run_logs import log_answers, log_benchmarks, log_retrieval, log_scores

OWNERS = ["team:evaluation"]
_GAIN_ALPHA = 0.025
"""One-sided level of the shown gains: both bounds together give the usual 95% interval."""
SHOWN_GAINS = ("refusal_accuracy", "citation", "rouge_l", "chrf", "bertscore_f1", BLEU)
"""Metrics whose gains are shown next to that of the gate's metric, so that one that moves alone is noticed."""
_INT4 = ("w4a16", "awq", "mixed")
"""Precisions with INT4 weights."""
_ENGINES_ON_A_CPU = 2
"""Models that answer at the same time on a CPU: one computes while the other waits.

See docs/decisions/two-models-at-once.md.
"""


@asset(
    group_name="evaluation",
    kinds={"python", "duckdb"},
    owners=OWNERS,
    settings=("index", "embedder", "evaluation", "seed"),
    tracks=log_retrieval,
    pool="duckdb",
)
def retrieval_scores(
    context: dg.AssetExecutionContext,
    search_index: ArtifactRef,
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """How well and how fast the index finds the passages of test questions, appended to the warehouse."""
    passages = [chunk for chunk in store.read_records(chunks, Chunk) if not chunk.duplicate_of]
    items = store.read_records(qa_splits, SplitItem)
    row = measure_retrieval(
        retriever,
        passages,
        held_out(items, "test", len(items), settings.seed),
        RetrievalRun(context.run.run_id[:8], search_index.sha256, qa_splits.sha256),
        settings.evaluation.retrieval_items,
    )
    warehouse.append([row])
    return materialized(store.write_records("retrieval_scores", [row]), pages.retrieval_page(warehouse.retrieval()))


@asset(
    group_name="evaluation",
    kinds={"python", "parquet"},
    owners=OWNERS,
    settings=("chunking", "embedder", "dataset", "evaluation", "answer", "seed"),
)
def out_of_domain_questions(
    raw_documents: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    retriever: dg.ResourceParam[Retriever],
) -> dg.MaterializeResult[ArtifactRef]:
    """Questions about something else, with their passages: what a model could do before must survive its training."""
    documents = store.read_records(raw_documents, Document)
    questions = out_of_domain.out_of_domain_questions(documents, retriever.embedder, settings, LoggedProgress())
    return materialized(store.write_records("out_of_domain_questions", questions), pages.questions_page(questions))


@asset(
    group_name="evaluation",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    settings=("evaluation", "answer", "index", "quantization", "engine", "seed"),
    tracks=log_answers,
    pool="gpu",
)
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
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
    tokens: dg.ResourceParam[TokenEmbedder],
    engine: dg.ResourceParam[Engine],
    registry: dg.ResourceParam[ModelRegistry],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """Answers of every model to the test questions, and of the live model and the candidate to the decisive ones."""
    items = store.read_records(qa_splits, SplitItem)
    others = store.read_records(out_of_domain_questions, out_of_domain.OutOfDomainQuestion)
    raw = raw_model(settings.base_model, store) if settings.evaluation.raw_items else None
    released = (base_model, merged_model, quantized_model, registry.usable_alias("champion"))
    pairs = [question.pair for question in others]
    spent = spent_questions(warehouse.gate_looks(), settings.evaluation)
    models = choose_contenders(settings, items, store, *released, raw, pairs, spent)
    deciding = (settings.answer, similarity, evidence)
    domain = Exam(RememberingAnswerer(retriever, *deciding), exam_context(search_index, settings))
    fixed = RememberingAnswerer(out_of_domain.FixedPassages(others), *deciding)
    outside = Exam(fixed, exam_context(out_of_domain_questions, settings))
    exams: dict[Split, Exam] = {"test": domain, "gate": domain, "out_of_domain": outside}
    answers = HeldOutAnswers(engine, exams, store, settings.evaluation, settings.seed, LoggedProgress())
    sets = answer_sets(answers, models, settings, resampling_groups(items), tokens)
    return materialized(store.write_records("eval_answers", sets), pages.answers_page(sets))


@asset(
    group_name="evaluation",
    kinds={"python", "duckdb"},
    owners=OWNERS,
    settings=("evaluation", "quantization", "seed"),
    tracks=log_scores,
    pool="duckdb",
    check_specs=[dg.AssetCheckSpec("rounding_loses_little", asset="eval_scores", blocking=True)],
)
def eval_scores(
    context: dg.AssetExecutionContext,
    eval_answers: ArtifactRef,
    qa_splits: ArtifactRef,
    chunks: ArtifactRef,
    settings: dg.ResourceParam[Settings],
    store: dg.ResourceParam[ArtifactStore],
    warehouse: dg.ResourceParam[Warehouse],
):
    """Every score with n and its 95% interval, appended to the warehouse together with the answers behind it."""
    sets = store.read_records(eval_answers, AnswerSet)
    parts = question_parts(store.read_records(qa_splits, SplitItem), store.read_records(chunks, Chunk))
    scores = [score for answers in sets for score in scores_of(answers, qa_splits.sha256, settings, parts)]
    for answers in sets:
        warehouse.append_answers(context.run.run_id, answers.model, answers.precision, answers.split, answers.answers)
    warehouse.append(scores)
    compared = gains(sets, settings)
    ref = store.write_records("eval_scores", scores)
    return materialized(ref, pages.scores_page(scores, compared), [rounding_check(compared, settings)])


@asset(
    group_name="evaluation",
    kinds={"vllm", "parquet"},
    owners=OWNERS,
    settings=("benchmark", "answer", "engine"),
    tracks=log_benchmarks,
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
    similarity: dg.ResourceParam[LineSimilarity],
    evidence: dg.ResourceParam[EvidenceModel],
    engine: dg.ResourceParam[Engine],
) -> dg.MaterializeResult[ArtifactRef]:
    """Latency, throughput and memory of each precision at each concurrency, with prompts like those of users."""
    prompts = benchmark_prompts(store.read_records(qa_splits, SplitItem), retriever, similarity, evidence, settings)
    folders = precision_folders(store, merged_model, quantized_model)
    version, run_id = quantized_model.sha256[:12], context.run.run_id[:8]
    rows = benchmark(engine, folders, prompts, version, run_id, settings)
    return materialized(store.write_records("benchmark_runs", rows), {"runs": pages.benchmark_table(rows)})


@asset(group_name="evaluation", kinds={"duckdb"}, owners=OWNERS, pool="duckdb")
def benchmark_tables(
    benchmark_runs: ArtifactRef,
    speed_comparison: ArtifactRef,
    store: dg.ResourceParam[ArtifactStore],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult[ArtifactRef]:
    """The history of every benchmark, appended and never overwritten."""
    warehouse.append(store.read_records(benchmark_runs, BenchmarkRow))
    warehouse.append(store.read_records(speed_comparison, SpeedRow))
    history = warehouse.benchmarks(newest=False)
    page = {"newest": pages.benchmark_table(warehouse.benchmarks()), "measurements so far": len(history)}
    return materialized(store.write_records("benchmark_tables", history), page)


def exam_context(passages: ArtifactRef, settings: Settings) -> str:
    """Return what shapes answers apart from model, questions and code: where passages come from, and settings."""
    return f"{passages.sha256} {settings.fingerprint('answer', 'index', 'engine')}"


def answer_sets(
    answers: HeldOutAnswers,
    models: Sequence[Contender],
    settings: Settings,
    groups: Mapping[str, str],
    tokens: TokenEmbedder,
) -> list[AnswerSet]:
    """Return the answers of each model to the questions of each split, with all metrics.

    `groups` names what they are resampled with.
    """
    default = _ENGINES_ON_A_CPU if chosen_device(settings.device) == "cpu" else 1
    by_model = answers.of_all(models, settings.evaluation.models_at_once or default)
    return [
        AnswerSet(
            model.model,
            model.precision,
            model.version,
            split,
            tuple(with_text_metrics(_in_groups(scored, groups), tokens)),
        )
        for model, by_split in zip(models, by_model, strict=True)
        for split, scored in by_split.items()
    ]


def _in_groups(answers: Sequence[ScoredAnswer], groups: Mapping[str, str]) -> list[ScoredAnswer]:
    return [replace(answer, group=groups.get(answer.pair_id, "")) for answer in answers]


def benchmark_prompts(
    items: Sequence[SplitItem],
    retriever: Retriever,
    similarity: LineSimilarity,
    evidence: EvidenceModel,
    settings: Settings,
) -> list[tuple[Message, ...]]:
    """Return one prompt per request that the benchmark sends, from test questions."""
    count = settings.benchmark.requests * len(settings.benchmark.concurrency)
    answerer = Answerer(retriever, settings.answer, similarity, evidence)
    return [answerer.prepare(pair.question).messages for pair in held_out(items, "test", count, settings.seed)]


def benchmark(
    engine: Engine,
    folders: Mapping[Precision, Path],
    prompts: Sequence[tuple[Message, ...]],
    version: str,
    run_id: str,
    settings: Settings,
) -> list[BenchmarkRow]:
    """Return one row per precision and concurrency of the settings."""
    knobs = settings.benchmark
    loads = [Load(level, knobs.requests, settings.answer.max_tokens, settings.seed) for level in knobs.concurrency]
    rows: list[BenchmarkRow] = []
    for precision in knobs.precisions:
        with engine.running(folders[precision], f"benchmark-{precision}") as running:
            model = MeasuredModel(version, precision_name(precision, settings), folder_bytes(folders[precision]))
            rows += run_loads(running, prompts, loads, model, run_id, LoggedProgress())
    return rows


def precision_name(precision: str, settings: Settings) -> str:
    """Return the name under which a precision is recorded; INT4 is unpacked first if no kernel reads it."""
    unpacked = precision in _INT4 and not reads_int4(chosen_device(settings.device))
    return f"{precision} unpacked" if unpacked else precision


def scores_of(
    answers: AnswerSet, dataset_sha256: str, settings: Settings, parts: Mapping[str, Mapping[str, str]]
) -> list[Score]:
    """Return the scores of one model on one split; see `summarise` for `parts`."""
    identity = ScoreIdentity(
        model=answers.model,
        precision=answers.precision,
        split=answers.split,
        dataset_sha256=dataset_sha256,
        model_version=answers.version,
        seed=settings.seed,
    )
    return summarise(answers.answers, identity, settings.evaluation.bootstrap_samples, parts)


def gains(sets: Sequence[AnswerSet], settings: Settings) -> list[ModelGain]:
    """Return what models gain over others on the test, paired by question.

    Every model is compared with the raw and the base model, and the candidate's rounded weights with its unrounded
    ones.
    """
    test = [answers for answers in sets if answers.split == "test"]
    rows = []
    for before in test:
        for after in test:
            is_older = before.model in (RAW, BASE) and after.model not in (RAW, before.model)
            is_rounded = before.model == after.model == CANDIDATE and before.precision == "bf16" != after.precision
            if is_older or is_rounded:
                names = shown_gains(before.answers, settings.evaluation.metric)
                rows += [gain_of(before, after, name, settings.seed) for name in names]
    return rows


def rounding_check(compared: Sequence[ModelGain], settings: Settings) -> dg.AssetCheckResult:
    """Return whether no rounded precision is shown to lose more than the settings allow.

    The check fails if the whole 95% interval of the paired loss lies beyond the limit. An interval that holds the limit
    shows neither; its metadata says so.
    """
    limit, metric = settings.quantization.lost_at_most, settings.evaluation.metric
    rounded = [
        (row.precision, row.gain)
        for row in compared
        if row.gain.metric == metric and row.over == f"{CANDIDATE} bf16" and row.model == CANDIDATE
    ]
    worse = [precision for precision, gain in rounded if gain.high < -limit]
    shown = [precision for precision, gain in rounded if gain.low > -limit]
    return dg.AssetCheckResult(
        passed=not worse,
        check_name="rounding_loses_little",
        description=f"{', '.join(worse)} loses more than {limit} of {metric}" if worse else None,
        metadata={
            "paired with bf16": rounding_table(rounded, metric),
            "shown to lose less": ", ".join(shown) or "none",
            "not compared": "" if rounded else "bf16 and a rounded precision have to be in evaluation.precisions",
        },
    )


def shown_gains(answers: Sequence[ScoredAnswer], metric: str) -> list[str]:
    """Return the metrics whose gains are shown, of those that apply to one of the answers; the gate's comes first."""
    present = {name for answer in answers for name in answer.metrics}
    present |= {BLEU} if "chrf" in present else set()
    return [name for name in dict.fromkeys((metric, *SHOWN_GAINS)) if name in present]


def gain_of(before: AnswerSet, after: AnswerSet, metric: str, seed: int) -> ModelGain:
    """Return the gain of `after` over `before` with its 95% interval."""
    # The raw model answers the first questions only.
    answers = after.answers[: len(before.answers)]
    if metric == BLEU:
        gain = bleu_gain(before.answers, answers, alpha=_GAIN_ALPHA, seed=seed)
    else:
        gain = paired_gain(before.answers, answers, metric, alpha=_GAIN_ALPHA, seed=seed)
    return ModelGain(f"{before.model} {before.precision}", after.model, after.precision, gain)
