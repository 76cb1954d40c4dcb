"""A candidate with everything measured, on invented answers, for tests of its report."""

from dataclasses import replace

from ragtune.evaluation.agreement import agreement
from ragtune.evaluation.calibration import calibrate
from ragtune.evaluation.gate import GateEntry, ModelGain, decide, paired_gain
from ragtune.evaluation.judges import Preference, summarise_preferences
from ragtune.evaluation.report.measured import Measured
from ragtune.evaluation.scoring import ScoreIdentity, summarise
from ragtune.records import BenchmarkRow, RatedModel, ScoredAnswer
from ragtune.settings import EvaluationSettings
from tests.support.scored_answers import scored_answer

TOPICS = ("boats", "kilns", "keys")
LIVE, CANDIDATE, ROUNDED = "base bf16", "fine-tuned w8a8", "fine-tuned bf16"


def answers(right: float, count: int = 48) -> list[ScoredAnswer]:
    """Return answers of which about this share are right; the better model is right wherever the worse one is."""
    made = []
    for number in range(count):
        is_right = (number * 37 % 100) / 100 < right
        refused = number % 11 == 0 and not is_right
        metrics = {
            "token_f1": float(is_right),
            "citation": float(is_right),
            "false_refusal": float(refused),
            "refusal_accuracy": float(not refused),
            "retrieval_hit": float(number % 6 != 0),
        }
        made.append(
            replace(
                scored_answer(number, 1.0),
                question=f"How long is ticket {number} valid?",
                expected="Three years.",
                answer="It is valid for three years. [1]" if is_right else "Boats are <b>hired</b> on Sundays. [2]",
                kind="number" if number % 2 else "yes/no",
                origin="people" if number % 3 else "writer",
                refused=refused,
                metrics=metrics,
            )
        )
    return made


def measured_candidate(live: float = 0.4, candidate: float = 0.75) -> Measured:
    """Return what is known of a candidate with this share of right answers, tested against a live model."""
    settings = EvaluationSettings(bootstrap_samples=200, gate_looks=2)
    before, after = answers(live), answers(candidate)
    decision = decide(GateEntry("version 3", before), GateEntry("4f1b2c", after), settings, seed=1)
    parts = {f"p{number}": {"topic": TOPICS[number % 3], "language": "en"} for number in range(len(before))}
    scores = []
    for name, of_model in ((LIVE, before), (ROUNDED, after), (CANDIDATE, after)):
        model, _, precision = name.partition(" ")
        identity = ScoreIdentity(
            model=model, precision=precision, split="test", dataset_sha256="d4", model_version="4f1b2c", seed=1
        )
        scores += summarise(of_model, identity, 200, parts)
    gains = [
        ModelGain(LIVE, "fine-tuned", precision, paired_gain(before, after, metric, 0.025, 200))
        for precision in ("bf16", "w8a8")
        for metric in ("token_f1", "citation")
    ]
    gains.append(ModelGain(ROUNDED, "fine-tuned", "w8a8", paired_gain(after, answers(0.7), "token_f1", 0.025, 200)))
    ratings = {f"a{n}": {"ada": "yes" if n % 3 else "no", "bob": "yes" if n % 4 else "no"} for n in range(60)}
    preferences = [
        Preference(pair_id=str(n), score=n % 3 - 1, consistent=n % 3 != 1, first_side=1, decided=2, longer=n % 3 - 1.0)
        for n in range(30)
    ]
    return Measured(
        version="4",
        created_at="2026-11-30T12:00:00+00:00",
        decision=decision,
        models=(LIVE, CANDIDATE),
        scores=scores,
        gains=gains,
        live=before,
        candidate=after,
        benchmarks=[benchmark(1, 520.0), benchmark(8, 1900.0)],
        calibrations=[
            calibrate("evidence model", "supported", [n % 3 / 2 for n in range(60)], [n % 3 > 0 for n in range(60)]),
            calibrate("evidence model", "correct", [n % 2 / 2 for n in range(60)], [n % 3 > 0 for n in range(60)]),
        ],
        preferences=summarise_preferences(preferences),
        agreements=[agreement("correct", ratings, ("no", "partly", "yes"), "ordinal")],
        rated=[RatedModel(study="spring", model=CANDIDATE, question="correct", value=0.82, low=0.74, high=0.89, n=60)],
        raters="60 answers were rated by ada and bob.",
        planned_refusals=0.13,
        facts={"base model": "smollm2", "dataset": "d4c0ffee"},
    )


def benchmark(concurrency: int, milliseconds: float) -> BenchmarkRow:
    """Return a measurement of INT8 weights."""
    return BenchmarkRow(
        run_id="r",
        measured_at="2026-11-30T12:00:00+00:00",
        model="4f1b2c",
        precision="w8a8",
        concurrency=concurrency,
        requests=24,
        errors=0,
        p50_ms=milliseconds,
        p95_ms=2 * milliseconds,
        ttft_p50_ms=milliseconds / 3,
        ttft_p95_ms=milliseconds / 2,
        tokens_per_second=60.0,
        peak_memory_bytes=1 << 30,
        model_bytes=163 << 20,
        hardware="a processor, 2 cores, 16 GiB",
    )
