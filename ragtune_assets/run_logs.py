"""What the MLflow runs of assets show: the numbers of each kind of result, so that MLflow compares and ranks them.

Every model that is scored has a run of its own, with the same names of metrics. In MLflow's comparison of runs, models
are therefore ranked by quality. The run that trained a model gets the scores of the precision that is served.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields, replace
from statistics import fmean
from typing import Any

from ragtune.evaluation.benchmark import folder_bytes
from ragtune.model.runs.log import SCORED
from ragtune.model.runs.record import DATA
from ragtune.model.runs.scored import ANSWERS, MODEL, PRECISION, VERSION, score_metrics
from ragtune.model.training.adapters import earlier_adapter
from ragtune.model.training.preference import read_preference
from ragtune.records import AnswerSet, BenchmarkRow, RetrievalRow, Score, ScoredAnswer
from ragtune.store.artifacts import file_sha256
from ragtune.store.mlflow_files import ASSET, PARENT, TRAINING
from ragtune_assets.contenders import CANDIDATE, served_precision
from ragtune_assets.tracking import Computed

_IN_WORDS = ("run_id", "measured_at", "hardware", "model", "precision", "index_sha256", "dataset_sha256", "embedder")
"""Fields of measurements that are no numbers."""


def log_sizes(computed: Computed) -> None:
    """Log the bytes of the merged weights and of each precision, and by which share each is smaller."""
    merged = folder_bytes(computed.store.folder(computed.inputs["merged_model"]))
    metrics = {"bytes/bf16": float(merged)}
    for folder in sorted(computed.store.folder(computed.result).glob("*/")):
        size = folder_bytes(folder)
        metrics |= {f"bytes/{folder.name}": float(size), f"smaller_by/{folder.name}": 1 - size / merged}
    computed.tracking.child.log_metrics(metrics, 0)


def log_training(computed: Computed) -> None:
    """Log the hash of the adapter that the training continued from; training itself logs its curves and its adapter."""
    if earlier := earlier_adapter(computed.tracking.settings.training):
        computed.tracking.child.log_params({f"{DATA}start_from": file_sha256(earlier)})


def log_preference(computed: Computed) -> None:
    """Log how many answers of each kind were learnt; training itself logs its curves and its adapter."""
    report = read_preference(computed.store.folder(computed.result))
    if report is not None:
        counts = {name: float(getattr(report, name)) for name in ("chosen", "rejected", "pairs", "replayed")}
        computed.tracking.child.log_metrics(counts, report.steps)


def log_merge(computed: Computed) -> None:
    """Log the size of the merged weights."""
    size = folder_bytes(computed.store.folder(computed.result))
    computed.tracking.child.log_metrics({"bytes/bf16": float(size)}, 0)


def log_answers(computed: Computed) -> None:
    """Log the share of refusals and the latency of each model and split."""
    metrics = {}
    for answers in computed.store.read_records(computed.result, AnswerSet):
        name = f"{answers.split}/{_model_name(answers.model, answers.precision)}"
        metrics[f"{name}/refused"] = fmean(answer.refused for answer in answers.answers)
        metrics[f"{name}/latency_ms"] = fmean(answer.latency_ms for answer in answers.answers)
    computed.tracking.child.log_metrics(metrics, 0)


def log_scores(computed: Computed) -> None:
    """Log a run for each scored model, with its scores, their intervals and its answers, and the candidate's again."""
    tracking = computed.tracking
    scores: dict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in computed.store.read_records(computed.result, Score):
        scores[score.model, score.precision].append(score)
    sets = computed.store.read_records(computed.inputs["eval_answers"], AnswerSet)
    served = served_precision(tracking.settings)
    training = tracking.child.record.tags.get(TRAINING, "")
    for (model, precision), own in scores.items():
        metrics = score_metrics(own)
        answers = [one for one in sets if (one.model, one.precision) == (model, precision)]
        _log_model(computed, answers, metrics, training if model == CANDIDATE else "")
        if (model, precision) == (CANDIDATE, served):
            tracking.child.log_metrics(metrics, 0)
            trained = tracking.tracker("")
            if training and trained.open(training):
                trained.log_metrics(metrics, 0)


def log_benchmarks(computed: Computed) -> None:
    """Log latency, throughput and memory of each precision at each concurrency."""
    rows = computed.store.read_records(computed.result, BenchmarkRow)
    for row in rows:
        metrics = _numbers(asdict(row))
        computed.tracking.child.log_metrics(
            {f"{row.precision}/{row.concurrency}_at_once/{name}": value for name, value in metrics.items()}, 0
        )


def log_retrieval(computed: Computed) -> None:
    """Log how well and how fast the index finds passages."""
    for row in computed.store.read_records(computed.result, RetrievalRow):
        computed.tracking.child.log_metrics({f"retrieval/{k}": v for k, v in _numbers(asdict(row)).items()}, 0)


def _log_model(computed: Computed, sets: Sequence[AnswerSet], metrics: Mapping[str, float], training: str) -> None:
    """Log the run of one model at one precision, below the run that scored it."""
    tracking, [first, *_] = computed.tracking, sets
    scoring = tracking.child
    tags = {name: value for name, value in scoring.record.tags.items() if name != TRAINING}
    tags |= {PARENT: scoring.run_id, ASSET: SCORED}
    tags |= {MODEL: first.model, PRECISION: first.precision, VERSION: first.version}
    tags |= {TRAINING: training} if training else {}
    tracker = tracking.tracker(_model_name(first.model, first.precision), replace(scoring.record, tags=tags))
    tracker.start()
    tracker.log_metrics(metrics, 0)
    columns = ["split", *(field.name for field in fields(ScoredAnswer))]
    tracker.log_table(ANSWERS, columns, [(one.split, *astuple(answer)) for one in sets for answer in one.answers])
    tracker.end()


def _model_name(model: str, precision: str) -> str:
    return f"{model} {precision}"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in _IN_WORDS}
