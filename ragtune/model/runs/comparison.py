"""Compares two tracked runs: what differs in settings, data and code, their scores, and the paired gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragtune.errors import ExperimentError
from ragtune.evaluation.gate import PairedGain, paired_gain
from ragtune.evaluation.metrics import METRICS
from ragtune.model.runs.log import LoggedRun, RunLog
from ragtune.model.runs.record import CODE, DATA, PACKAGES_FILE
from ragtune.model.runs.scored import ANSWERS, read_answers
from ragtune.records import ScoredAnswer

SPLIT = "test"
"""The questions on which runs are compared: they decide nothing, so looking at them often spoils nothing."""
_ALPHA = 0.025
"""One-sided level of the gains: both bounds together give the usual 95% interval."""
_NO_MATTER = ("home", "gateway_url", "api_key")
_NO_MATTER_SECTIONS = ("alerts", "experiments", "gateway", "ports", "retention", "tracking")
"""Settings that shape no result of a run."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that differs between two runs; "" if a run has none."""

    name: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class LoggedScore:
    """A score with its 95% interval over n questions."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class ScorePair:
    """A metric of both runs at one precision, and what B gains, paired by question; None if it was not measured."""

    precision: str
    metric: str
    a: LoggedScore | None
    b: LoggedScore | None
    gain: PairedGain | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Everything that two runs differ in. `notes` say what could not be compared, and why."""

    a: LoggedRun
    b: LoggedRun
    settings: tuple[Difference, ...]
    data: tuple[Difference, ...]
    code: tuple[Difference, ...]
    scores: tuple[ScorePair, ...]
    notes: tuple[str, ...]


def compare(log: RunLog, a: LoggedRun, b: LoggedRun) -> RunComparison:
    """Return what differs between two runs, and what B gains over A on the questions of the test."""
    scores: list[ScorePair] = []
    notes: list[str] = []
    models = _same_precisions(log.scored(a), log.scored(b))
    if not models:
        notes.append("There is no precision at which both were scored, so there are no scores to compare.")
    for precision, (of_a, of_b) in models.items():
        before, after = (read_answers(log.file(run, f"{ANSWERS}.json"), SPLIT) for run in (of_a, of_b))
        gains, note = paired_gains(before, after, log.settings.seed)
        scores += score_pairs(precision, of_a.metrics, of_b.metrics, gains)
        notes += [f"{precision}: {note}"] if note else []
    return RunComparison(
        a=a,
        b=b,
        settings=tuple(differences(settings_of(a), settings_of(b))),
        data=tuple(differences(_with_prefix(a, DATA), _with_prefix(b, DATA))),
        code=tuple(differences(code_of(log, a), code_of(log, b))),
        scores=tuple(scores),
        notes=tuple(notes),
    )


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[Difference]:
    """Return the values that differ, sorted by name."""
    names = sorted(a.keys() | b.keys())
    return [Difference(name, a.get(name, ""), b.get(name, "")) for name in names if a.get(name, "") != b.get(name, "")]


def settings_of(run: LoggedRun) -> dict[str, str]:
    """Return the settings of a run that can shape its result."""
    return {
        name: value
        for name, value in run.params.items()
        if not name.startswith((DATA, CODE))
        and name not in _NO_MATTER
        and name.partition(".")[0] not in _NO_MATTER_SECTIONS
    }


def code_of(log: RunLog, run: LoggedRun) -> dict[str, str]:
    """Return what a run ran on: code, prompt, embedder, machine, and the version of every package."""
    try:
        lines = log.file(run, PACKAGES_FILE).decode().splitlines()
    except ExperimentError:
        lines = []  # a run of an earlier release, or one whose files were deleted
    return {
        **_with_prefix(run, CODE),
        **{name: version for name, _, version in (line.partition("==") for line in lines)},
    }


def paired_gains(
    before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer], seed: int
) -> tuple[dict[str, PairedGain], str]:
    """Return the gain of `after` over `before` by metric, on the questions that both answered.

    The second value says how many these are if it is not all of them, else it is "".
    """
    both = {answer.pair_id for answer in before} & {answer.pair_id for answer in after}
    old, new = ([answer for answer in answers if answer.pair_id in both] for answers in (before, after))
    measured = {name for answer in old for name in answer.metrics} & {name for one in new for name in one.metrics}
    gains = {metric: paired_gain(old, new, metric, alpha=_ALPHA, seed=seed) for metric in METRICS if metric in measured}
    if len(both) == len(before) == len(after):
        return gains, ""
    return gains, f"A answered {len(before)} questions and B {len(after)}; gains are over the {len(both)} of both."


def score_pairs(
    precision: str, a: Mapping[str, float], b: Mapping[str, float], gains: Mapping[str, PairedGain]
) -> list[ScorePair]:
    """Return the scores on all questions of the test that at least one of two runs has, in the order of METRICS."""
    names = {name.removeprefix(f"{SPLIT}/") for name in {*a, *b} if name.startswith(f"{SPLIT}/")}
    order = [*METRICS, *sorted(name for name in names if name not in METRICS and "/" not in name)]
    return [
        ScorePair(precision, name, _score(a, name), _score(b, name), gains.get(name)) for name in order if name in names
    ]


def _score(metrics: Mapping[str, float], name: str) -> LoggedScore | None:
    full = f"{SPLIT}/{name}"
    if full not in metrics:
        return None
    return LoggedScore(metrics[full], metrics[f"{full}/low"], metrics[f"{full}/high"], int(metrics[f"{full}/n"]))


def _same_precisions(a: Mapping[str, LoggedRun], b: Mapping[str, LoggedRun]) -> dict[str, tuple[LoggedRun, LoggedRun]]:
    """Return the scored runs of each precision that both have; two single models are compared in any case."""
    common = {precision: (a[precision], b[precision]) for precision in a if precision in b}
    if not common and len(a) == len(b) == 1:
        [(of_a, run_a)], [(of_b, run_b)] = a.items(), b.items()
        return {f"{of_a} and {of_b}": (run_a, run_b)}
    return common


def _with_prefix(run: LoggedRun, prefix: str) -> dict[str, str]:
    return {name: value for name, value in run.params.items() if name.startswith(prefix)}
