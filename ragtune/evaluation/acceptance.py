"""Looks up every criterion that a home has to meet, and says whether it is met, missed, stale or was not run.

Nothing is measured here, and no result is written down: each criterion reads what the graph, the registry or people
left in the home. A result counts only if it belongs to the dataset, the index and the model that are current.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ragtune.evaluation.benchmark import folder_bytes
from ragtune.evaluation.gate import PairedGain, paired_gain
from ragtune.evaluation.speed import PRESENT, THROUGHPUT, VLLM_DEFAULTS, interval, percent
from ragtune.records import AgreementRow, AnswerSet, ArtifactRef, BenchmarkRow, QAPair, ScoredAnswer, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse

Verdict = Literal["met", "missed", "stale", "not run"]
PAIRS = 1000
GAIN = 0.10
SMALLER, LOST = 0.40, 0.02
FASTER = 0.30
AGREEMENT = 0.4
"""The bound of "moderate" agreement (Landis and Koch 1977); the other targets are those of the plan."""
RECALL = 0.9
"""Share of test questions whose passage is among the first ten hits. Chosen by hand."""
_BOTH_BOUNDS = 0.025
_COMPARED = ("token_f1", "citation", "refusal_accuracy", "rouge_l", "chrf", "bertscore_f1")
_RAW, _BASE, _CANDIDATE = "raw", "base", "fine-tuned"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked up for a criterion: the measured value with its interval as text, n, when, and the verdict."""

    measured: str
    n: int
    when: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Criterion:
    """What has to hold, the target in words, the command that measures it, and how the result is looked up."""

    name: str
    target: str
    command: str
    look_up: Callable[["Home"], Finding]


@dataclass(frozen=True, slots=True)
class Row:
    """A criterion with its finding."""

    criterion: Criterion
    finding: Finding


class NotRun(Exception):  # noqa: N818 - it ends a look-up as planned
    """What a criterion needs is not in the home yet."""


class Stale(Exception):  # noqa: N818 - it ends a look-up as planned
    """A result is there, but it belongs to another dataset, index or model."""


class Home:
    """What a home holds, read when a criterion asks for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = ArtifactStore(settings.home / "artifacts")
        self.registry = ModelRegistry(settings)
        self.warehouse = Warehouse(settings.home / "warehouse.duckdb")

    def ref(self, name: str) -> ArtifactRef:
        """Return the current artefact of a name; raise NotRun if there is none."""
        ref = self.store.current(name)
        if ref is None:
            raise NotRun(f"There is no {name} yet.")
        return ref

    def test_answers(self) -> dict[tuple[str, str], Sequence[ScoredAnswer]]:
        """Return {(model, precision): answers to the test questions}; raise Stale if the model or the split changed."""
        sets = [s for s in self.store.read_records(self.ref("eval_answers"), AnswerSet) if s.split == "test"]
        current = self.ref("quantized_model").sha256[:12]
        if any(answers.model == _CANDIDATE and answers.version != current for answers in sets):
            raise Stale("The answers are those of an earlier candidate.")
        pairs = {item.pair.id for item in self.store.read_records(self.ref("qa_splits"), SplitItem)}
        if any(answer.pair_id not in pairs for answers in sets for answer in answers.answers):
            raise Stale("The answers are those to questions of an earlier dataset.")
        return {(answers.model, answers.precision): answers.answers for answers in sets}

    def candidate(self) -> Sequence[ScoredAnswer]:
        """Return the test answers of the candidate at the precision that is served."""
        answers = self.test_answers()
        served = [release.manifest.served_precision for release in self.registry.versions()][-1:]
        if not served or (_CANDIDATE, served[0]) not in answers:
            raise NotRun("No candidate has answered the test questions at the served precision.")
        return answers[_CANDIDATE, served[0]]


def validate(settings: Settings, criteria: Sequence[Criterion]) -> list[Row]:
    """Return a row per criterion."""
    home = Home(settings)
    return [Row(criterion, _finding(criterion, home)) for criterion in criteria]


def _finding(criterion: Criterion, home: Home) -> Finding:
    try:
        return criterion.look_up(home)
    except NotRun as reason:
        return Finding(str(reason), 0, "", "not run")
    except Stale as reason:
        return Finding(str(reason), 0, "", "stale")


def _verdict(met: bool) -> Verdict:
    return "met" if met else "missed"


def _gain(before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer], metric: str) -> PairedGain:
    ids = {answer.pair_id for answer in before} & {answer.pair_id for answer in after}
    old, new = ([answer for answer in answers if answer.pair_id in ids] for answers in (before, after))
    if not any(metric in answer.metrics for answer in old):
        raise NotRun(f"Both models answered no common question with the metric {metric}.")
    return paired_gain(old, new, metric, alpha=_BOTH_BOUNDS)


def _tracked(home: Home) -> Finding:
    versions = home.registry.versions()
    if not versions:
        raise NotRun("No model was released yet.")
    complete = [v for v in versions if v.manifest.mlflow_run_id and v.manifest.dataset_sha256 and v.manifest.files]
    share = len(complete) / len(versions)
    return Finding(f"{share:.0%}", len(versions), versions[-1].manifest.created_at, _verdict(share == 1))


def _enough_pairs(home: Home) -> Finding:
    pairs = home.store.read_records(home.ref("qa_dataset"), QAPair)
    return Finding(f"{len(pairs)} pairs", len(pairs), "", _verdict(len(pairs) >= PAIRS))


def _no_leak(home: Home) -> Finding:
    items = home.store.read_records(home.ref("qa_splits"), SplitItem)
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items:
        splits[item.cluster].add(item.split)
    torn = sum(len(names) > 1 for names in splits.values())
    return Finding(f"{torn} of {len(splits)} clusters in two splits", len(items), "", _verdict(torn == 0))


def _recall(home: Home) -> Finding:
    rows = home.warehouse.retrieval()
    if not rows or not rows[-1].n:
        raise NotRun("Retrieval was not measured on test questions yet.")
    row = rows[-1]
    if (row.index_sha256, row.dataset_sha256) != (home.ref("search_index").sha256, home.ref("qa_splits").sha256):
        raise Stale("Retrieval was measured on an earlier index or dataset.")
    measured = f"{row.recall_10:.3f}, p95 {row.p95_ms:.0f} ms"
    return Finding(measured, row.n, row.measured_at, _verdict(row.recall_10 >= RECALL))


def _over_raw(origin: str) -> Callable[[Home], Finding]:
    """Return a look-up of the relative gain over the raw model on questions of one origin, or on all for ""."""

    def look_up(home: Home) -> Finding:
        raw = home.test_answers().get((_RAW, "bf16"))
        if raw is None:
            raise NotRun("The raw model did not answer test questions (`evaluation.raw_items`).")
        raw = [answer for answer in raw if not origin or answer.origin == origin]
        gain = _gain(raw, home.candidate(), "token_f1")
        before = sum(answer.metrics["token_f1"] for answer in raw) / len(raw)
        needed = GAIN * before
        measured = f"{gain.gain:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {before:.3f}"
        return Finding(measured, gain.n, "", _verdict(gain.low >= needed and gain.low > 0))

    return look_up


def _over_live(home: Home) -> Finding:
    versions = home.registry.versions()
    if not versions:
        raise NotRun("No candidate was tested against the live model yet.")
    gate, created_at = versions[-1].manifest.gate, versions[-1].manifest.created_at
    measured = f"{gate['gain']:+.3f} [{gate['low']:+.3f}, {gate['high']:+.3f}] over {gate['live_version']}"
    return Finding(measured, gate["n"], created_at, _verdict(gate["promoted"]))


def _all_metrics(home: Home) -> Finding:
    base = home.test_answers().get((_BASE, "bf16"))
    if base is None:
        raise NotRun("The base model did not answer the test questions.")
    candidate = home.candidate()
    names = [m for m in _COMPARED if any(m in answer.metrics for answer in base)]
    gains = {metric: _gain(base, candidate, metric) for metric in names}
    worse = [metric for metric, gain in gains.items() if gain.high < 0]
    better = [metric for metric, gain in gains.items() if gain.low > 0]
    measured = f"better by {', '.join(better) or 'none'}; worse by {', '.join(worse) or 'none'}"
    return Finding(measured, len(base), "", _verdict(bool(better) and not worse))


def _rounded(home: Home) -> Finding:
    """Return the size and the loss of every rounded precision; one that meets both is enough."""
    answers = home.test_answers()
    full = answers.get((_CANDIDATE, "bf16"))
    if full is None:
        raise NotRun("The unrounded candidate did not answer the test questions.")
    merged, packed = home.store.folder(home.ref("merged_model")), home.store.folder(home.ref("quantized_model"))
    parts, met, n = [], False, 0
    for precision in ("w4a16", "w8a8", "awq", "mixed"):
        if (_CANDIDATE, precision) in answers:
            smaller = 1 - folder_bytes(packed / precision) / folder_bytes(merged)
            loss = _gain(full, answers[_CANDIDATE, precision], "token_f1")
            parts.append(f"{precision} {smaller:.0%} smaller, {loss.gain:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]")
            met, n = met or (smaller >= SMALLER and loss.low > -LOST), loss.n
    if not parts:
        raise NotRun("No rounded candidate answered the test questions.")
    return Finding("; ".join(parts), n, "", _verdict(met))


def _faster(home: Home) -> Finding:
    rows = home.store.read_records(home.ref("benchmark_runs"), BenchmarkRow)
    if any(row.model != home.ref("quantized_model").sha256[:12] for row in rows):
        raise Stale("The speed is that of an earlier candidate.")
    speeds = {(row.precision, row.concurrency): row for row in rows}
    ratios = {
        (precision, level): row.tokens_per_second / speeds["bf16", level].tokens_per_second - 1
        for (precision, level), row in speeds.items()
        if precision != "bf16" and ("bf16", level) in speeds
    }
    if not ratios:
        raise NotRun("bf16 is not among `benchmark.precisions`, so there is nothing to compare with.")
    (precision, level), best = max(ratios.items(), key=lambda pair: pair[1])
    measured = f"{precision} {best:+.0%} tokens/s over bf16, {level} at once; one run, no interval"
    return Finding(measured, speeds[precision, level].requests, rows[0].measured_at, _verdict(best >= FASTER))


def _served_version(home: Home) -> str:
    """Return the version that a gateway over this home serves."""
    return home.registry.alias_version("champion") or "base"


def _over_vllm(home: Home) -> Finding:
    """Return how many answers a second the gateway gives with our settings over vLLM's own, on every work load."""
    pairs = [row for row in home.warehouse.speed_differences(newest=True) if row.metric == THROUGHPUT]
    rows = [row for row in pairs if (row.before, row.after) == (VLLM_DEFAULTS, PRESENT)]
    if not rows:
        raise NotRun("The gateway was not compared with vLLM's own defaults yet.")
    current = [row for row in rows if row.model_version == _served_version(home)]
    if not current:
        raise Stale("The comparison is that of another version.")
    measured = "; ".join(f"{row.workload} {percent(row.change)} {interval(row)}" for row in current)
    verdict = _verdict(all(row.low >= FASTER and row.verdict == "better" for row in current))
    return Finding(measured, current[-1].rounds, current[-1].measured_at, verdict)


def _overload(home: Home) -> Finding:
    """Return what became of requests at twice the saturation."""
    loads = [row for row in home.warehouse.loads() if (row.scenario, row.part) == ("stress", "during")]
    if not loads:
        raise NotRun("The gateway was not put under twice its saturation yet.")
    row = loads[-1]
    if row.model_version != _served_version(home):
        raise Stale("The load is that of another version.")
    measured = f"{row.limited} got a 429, {row.unhelpful} of them without Retry-After; {row.failed} failed otherwise"
    return Finding(measured, row.requests, row.measured_at, _verdict(not row.failed and not row.unhelpful))


def _annotators(home: Home) -> Finding:
    """Return the agreement on the question with the least, of all annotators of its study together."""
    together: dict[tuple[str, str], AgreementRow] = {}
    for row in home.warehouse.agreements():
        key = (row.study, row.question)
        if key not in together or len(row.annotators) > len(together[key].annotators):
            together[key] = row
    if not together:
        raise NotRun("No item of a study was rated by two people yet (`ragtune evaluate create`).")
    least = min(together.values(), key=lambda row: row.ac2_low)
    measured = f"{least.study}, {least.question}: AC2 {least.ac2:.2f} [{least.ac2_low:.2f}, {least.ac2_high:.2f}]"
    return Finding(measured, least.items, "", _verdict(least.ac2_low >= AGREEMENT))


def _feedback(home: Home) -> Finding:
    log = FeedbackLog(home.settings.feedback_url)
    try:
        verdicts, responses = len(log.events()), log.count_responses()
    finally:
        log.close()
    if not verdicts:
        raise NotRun(f"There is no verdict on {responses} responses yet.")
    learnt = sorted({name for version in home.registry.versions() for name in version.manifest.feedback_ids})
    measured = f"{verdicts} verdicts on {responses} responses, {len(learnt)} corrections trained on"
    return Finding(measured, verdicts, "", _verdict(bool(learnt)))


_MATERIALIZE = "ragtune materialize"
CRITERIA = (
    Criterion("Every release names its run, its data and its files", "100% of releases", _MATERIALIZE, _tracked),
    Criterion("Enough checked pairs", f"at least {PAIRS}", _MATERIALIZE, _enough_pairs),
    Criterion("No near-duplicate of a training text is tested", "0 clusters in two splits", _MATERIALIZE, _no_leak),
    Criterion("Search finds the passage", f"recall@10 of at least {RECALL}", _MATERIALIZE, _recall),
    Criterion(
        "Better than the raw model on test questions",
        f"lower bound of the gain at least {GAIN:.0%} of its score",
        _MATERIALIZE,
        _over_raw(""),
    ),
    Criterion(
        "Better than the raw model on people's questions",
        f"lower bound of the gain at least {GAIN:.0%} of its score",
        _MATERIALIZE,
        _over_raw("people"),
    ),
    Criterion("Better than the live model", "promoted by the gate", _MATERIALIZE, _over_live),
    Criterion("Better throughout", "better by a metric and worse by none", _MATERIALIZE, _all_metrics),
    Criterion(
        "Smaller without loss",
        f"at least {SMALLER:.0%} smaller, lower bound above -{LOST}",
        _MATERIALIZE,
        _rounded,
    ),
    Criterion("Faster than unrounded weights", f"at least {FASTER:.0%} more tokens/s", "ragtune materialize", _faster),
    Criterion(
        "Faster than vLLM's defaults",
        f"lower bound of at least {FASTER:.0%} more answers/s on every work load",
        "ragtune benchmark compare vllm-defaults",
        _over_vllm,
    ),
    Criterion(
        "Overload is refused, not failed",
        "only 429s with Retry-After",
        "ragtune benchmark run --only stress",
        _overload,
    ),
    Criterion(
        "Annotators agree", f"lower bound of AC2 at least {AGREEMENT}", "ragtune evaluate agreement", _annotators
    ),
    Criterion("Feedback is collected and trained on", "at least one correction", _MATERIALIZE, _feedback),
)
"""The criteria in the order of docs/acceptance.md."""
