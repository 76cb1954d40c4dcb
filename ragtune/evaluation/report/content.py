"""What a report about a candidate says: its sections with tables, plots and answers, before they become a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ragtune.answer.citations import without_citations
from ragtune.evaluation.report.advice import advice
from ragtune.evaluation.report.measured import Measured
from ragtune.evaluation.speed import amount, interval, percent
from ragtune.records import ORIGINS, Score

MOST_ANSWERS = 6
"""Answers in each list of a report: what people read. Chosen by hand."""
_MIB = 1 << 20
_QUESTIONS = {
    "people": "Questions of people",
    "feedback": "Questions from feedback",
    "writer": "Questions of the writer",
}
_LESS_IS_BETTER = ("false_refusal",)


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of a plot: a value with its interval; `n` is the number of questions."""

    label: str
    value: float
    low: float
    high: float
    n: int = 0


@dataclass(frozen=True, slots=True)
class Plot:
    """Values with intervals on one axis from `least` to `most`; `zero` is marked by a line if it is inside."""

    title: str
    bars: tuple[Bar, ...]
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Table:
    """A table; numbers are already text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """The answers of the live model and of the candidate to one question, with their scores."""

    question: str
    expected: str
    before: str
    after: str
    before_score: float
    after_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report."""

    title: str
    text: str = ""
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    answers: tuple[SideBySide, ...] = ()
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """A number at the top of the report."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report about a candidate or a gateway; `badge` is its result in a word or two, `good` whether that is good."""

    title: str
    badge: str
    good: bool
    summary: str
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]


def build_report(measured: Measured) -> Report:
    """Return the report about a candidate."""
    decision = measured.decision
    verdict = "promoted" if decision.promoted else "not promoted"
    sections = [
        Section(title="What to do next", items=tuple(advice(measured))),
        _scores(measured),
        _gains(measured),
        _parts(measured),
        _refusals(measured),
        _changed(measured),
        _worst(measured),
        _precision_and_speed(measured),
        _judges_and_people(measured),
        Section(title="Where this comes from", tables=(_facts(measured),)),
    ]
    kept = [section for section in sections if section.text or section.items or section.plots or section.tables
            or section.answers]  # fmt: skip
    return Report(
        title=f"Version {measured.version}: {verdict}",
        badge=verdict.capitalize(),
        good=decision.promoted,
        summary=decision.reason,
        cards=_cards(measured),
        sections=tuple(kept),
    )


def number(value: float) -> str:
    """Return a score with three digits after the point."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """Return a gain with its sign."""
    return f"{value:+.3f}"


def _cards(measured: Measured) -> tuple[Card, ...]:
    decision = measured.decision
    cards = [
        Card(
            f"gain in {decision.metric}",
            signed(decision.gain),
            f"one-sided bounds {signed(decision.low)} to {signed(decision.high)}, n = {decision.n}",
        ),
        Card("live model", number(decision.live), decision.live_version),
        Card("candidate", number(decision.candidate), measured.models[1]),
        Card(
            "smallest gain found",
            number(decision.smallest_detectable_gain),
            f"in 80% of cases; {decision.questions_needed} questions find the planned gain",
        ),
    ]
    if decision.out_of_domain_n:
        interval = f"{signed(decision.out_of_domain_low)} to {signed(decision.out_of_domain_high)}"
        cards.append(
            Card("other topics", signed(decision.out_of_domain_gain), f"{interval}, n = {decision.out_of_domain_n}")
        )
    return tuple(cards)


def _model(score: Score) -> str:
    return f"{score.model} {score.precision}"


def _named(metric: str) -> str:
    """Return a metric's name, with a word about those of which less is better."""
    return f"{metric} (less is better)" if metric in _LESS_IS_BETTER else metric


def _scores(measured: Measured) -> Section:
    """Return every metric of every model on the test, of all questions and of each origin."""
    test = [score for score in measured.scores if score.split == "test" and not score.part]
    models = list(dict.fromkeys(_model(score) for score in test))
    tables = []
    for origin, title in (("", "All questions"), *((origin, _QUESTIONS[origin]) for origin in ORIGINS)):
        of_origin = [score for score in test if score.origin == origin]
        sizes = {score.n for score in of_origin}
        rows: dict[str, dict[str, str]] = {}
        for score in of_origin:
            cell = f"{number(score.value)} [{number(score.low)}, {number(score.high)}]"
            cell += f" n={score.n}" if len(sizes) > 1 else ""
            rows.setdefault(_named(score.metric), dict.fromkeys(models, ""))[_model(score)] = cell
        if rows:
            title += f", n = {sizes.pop()}" if len(sizes) == 1 else ""
            tables.append(Table(("metric", *models), tuple((m, *cells.values()) for m, cells in rows.items()), title))
    metric = measured.decision.metric
    bars = tuple(
        Bar(f"{_model(score)}, {score.origin or 'all questions'}", score.value, score.low, score.high, score.n)
        for score in test
        if score.metric == metric
    )
    plots = (Plot(f"{metric} on the test questions", bars, 0.0, 1.0),) if bars else ()
    text = (
        "Means over the held-out test questions with 95% intervals, resampled by document. Questions of writers, "
        "people and feedback are different kinds of questions: look at each."
    )
    return Section(title="Scores", text=text if tables else "", plots=plots, tables=tuple(tables))


def _gains(measured: Measured) -> Section:
    rows = tuple(
        (
            gain.over,
            f"{gain.model} {gain.precision}",
            gain.gain.metric,
            signed(gain.gain.gain),
            f"{signed(gain.gain.low)} to {signed(gain.gain.high)}",
            number(gain.gain.smallest_detectable_gain),
            str(gain.gain.n),
        )
        for gain in measured.gains
    )
    main = [gain for gain in measured.gains if gain.gain.metric == measured.decision.metric]
    bars = tuple(
        Bar(f"{g.model} {g.precision} over {g.over}", g.gain.gain, g.gain.low, g.gain.high, g.gain.n) for g in main
    )
    header = ("over", "model", "metric", "gain", "95% interval", "smallest gain found in 80% of cases", "n")
    text = "Each question is compared with itself. An interval that holds zero shows no difference." if rows else ""
    by_origin = f" At the gate by origin: {measured.decision.by_origin}." if measured.decision.by_origin else ""
    return Section(
        title="Paired gains",
        text=text + by_origin,
        plots=_around_zero(f"{measured.decision.metric}, question by question", bars),
        tables=(Table(header, rows),) if rows else (),
    )


def _around_zero(title: str, bars: Sequence[Bar]) -> tuple[Plot, ...]:
    if not bars:
        return ()
    widest = max(abs(bound) for bar in bars for bound in (bar.low, bar.high, 0.05))
    return (Plot(title, tuple(bars), -widest, widest),)


def _parts(measured: Measured) -> Section:
    """Return the candidate's accuracy by kind, topic, source and language, the worst part of each first."""
    metric = measured.decision.metric
    candidate = [s for s in measured.scores if s.part and s.metric == metric and s.split == "test"]
    names = list(dict.fromkeys(_model(s) for s in candidate if _model(s) == measured.models[1]))
    chosen = [s for s in candidate if _model(s) in names]
    plots = []
    for dimension in dict.fromkeys(score.part.partition("=")[0] for score in chosen):
        of_dimension = sorted(
            (s for s in chosen if s.part.partition("=")[0] == dimension), key=lambda score: score.value
        )
        bars = tuple(Bar(s.part.partition("=")[2], s.value, s.low, s.high, s.n) for s in of_dimension)
        plots.append(Plot(f"{metric} by {dimension}", bars, 0.0, 1.0))
    text = f"{measured.models[1]} on the test questions, the worst part first." if plots else ""
    return Section(title="By kind, topic, source and language", text=text, plots=tuple(plots))


def _refusals(measured: Measured) -> Section:
    """Return how often each model refuses what it should answer, and what it should refuse."""
    test = [s for s in measured.scores if s.split == "test" and not s.part and not s.origin]
    rows = []
    for model in dict.fromkeys(_model(score) for score in test):
        of_model = {score.metric: score for score in test if _model(score) == model}
        rows.append(
            (model, *(_interval(of_model.get(m)) for m in ("false_refusal", "refusal_recall", "refusal_accuracy")))
        )
    text = (
        f"The settings allow {measured.planned_refusals:.0%} of the answerable questions to be refused. The first "
        "column should be near that, the second near 1."
    )
    header = ("model", "answerable refused", "unanswerable refused", "rightly answered or refused")
    return Section(
        title="Calibration of refusals",
        text=text if rows else "",
        tables=(Table(header, tuple(rows)),) if rows else (),
    )


def _interval(score: Score | None) -> str:
    return f"{number(score.value)} [{number(score.low)}, {number(score.high)}] n={score.n}" if score else "not measured"


def side_by_side(measured: Measured) -> list[SideBySide]:
    """Return the answers of both models to each question of the gate that the metric applies to."""
    metric = measured.decision.metric
    after = {answer.pair_id: answer for answer in measured.candidate}
    return [
        SideBySide(
            question=answer.question,
            expected=answer.expected if answer.answerable else "(not answered by the documents: refuse)",
            before=without_citations(answer.answer),
            after=without_citations(after[answer.pair_id].answer),
            before_score=answer.metrics[metric],
            after_score=after[answer.pair_id].metrics[metric],
        )
        for answer in measured.live
        if metric in answer.metrics and answer.pair_id in after
    ]


def _changed(measured: Measured) -> Section:
    pairs = [pair for pair in side_by_side(measured) if pair.before_score != pair.after_score]
    lost = sorted((p for p in pairs if p.after_score < p.before_score), key=lambda p: p.after_score - p.before_score)
    won = sorted((p for p in pairs if p.after_score > p.before_score), key=lambda p: p.before_score - p.after_score)
    text = (
        f"{len(won)} answers became better and {len(lost)} worse by {measured.decision.metric}, of "
        f"{len(measured.live)} gate questions. Those that lost most come first, then those that won most."
    )
    half = MOST_ANSWERS // 2
    return Section(
        title="Answers that changed most", text=text if measured.live else "", answers=tuple(lost[:half] + won[:half])
    )


def _worst(measured: Measured) -> Section:
    changed = {pair.question for pair in _changed(measured).answers}
    worst = sorted((p for p in side_by_side(measured) if p.question not in changed), key=lambda pair: pair.after_score)
    kept = tuple(pair for pair in worst[:MOST_ANSWERS] if pair.after_score < 0.5)
    return Section(
        title="Worst answers of the candidate", text="Those that both models get wrong." if kept else "", answers=kept
    )


def _precision_and_speed(measured: Measured) -> Section:
    rounded = [gain for gain in measured.gains if gain.over.split(" ")[0] == gain.model]
    bars = tuple(
        Bar(f"{g.precision} against {g.over.split(' ')[-1]}, {g.gain.metric}", g.gain.gain, g.gain.low, g.gain.high,
            g.gain.n)
        for g in rounded
    )  # fmt: skip
    rows = tuple(
        (
            row.precision,
            str(row.concurrency),
            f"{row.p50_ms:.0f}",
            f"{row.p95_ms:.0f}",
            f"{row.ttft_p50_ms:.0f}",
            f"{row.tokens_per_second:.0f}",
            f"{row.model_bytes / _MIB:.0f}",
            f"{row.peak_memory_bytes / _MIB:.0f}",
            str(row.errors),
        )
        for row in measured.benchmarks
    )
    header = (
        "precision",
        "at once",
        "p50 ms",
        "p95 ms",
        "first token ms",
        "tokens/s",
        "model MiB",
        "memory MiB",
        "errors",
    )
    hardware = measured.benchmarks[0].hardware if measured.benchmarks else ""
    compared = Table(
        ("metric", "live model", "candidate", "change", "95% interval", "noise floor", "verdict"),
        tuple(
            (d.metric, amount(d.before_value, d.unit), amount(d.after_value, d.unit), percent(d.change), interval(d),
             f"{d.floor:.1%}", d.verdict)
            for d in measured.differences
        ),
        "Candidate against live model, measured in turn",
    )  # fmt: skip
    text = "What rounding the weights costs, and how fast each precision is" + (f" on {hardware}." if hardware else ".")
    tables = tuple(table for table in (Table(header, rows), compared) if table.rows)
    return Section(
        title="Quantisation and speed",
        text=text if bars or tables else "",
        plots=_around_zero("Loss by rounding", bars),
        tables=tables,
    )


def _judges_and_people(measured: Measured) -> Section:
    tables = [
        *_rated_table(measured),
        *_agreement_table(measured),
        *_calibration_table(measured),
        *_preference_table(measured),
    ]
    text = measured.raters or "Nobody has rated answers of this candidate yet, so no judge counts."
    return Section(title="Judges and people", text=text, tables=tuple(tables))


def _rated_table(measured: Measured) -> Iterator[Table]:
    """Yield what people say of each model: from 0 (no) to 1 (yes), from -1 to 1 for one model over another."""
    header = ("study", "model", "question", "mean", "95% interval", "items")
    rows = tuple(
        (one.study, one.model, one.question, f"{one.value:.2f}", f"{one.low:.2f} to {one.high:.2f}", str(one.n))
        for one in measured.rated
    )
    if rows:
        yield Table(header, rows, "What people say of the answers, from 0 (no) to 1 (yes); comparisons from -1 to 1")


def _calibration_table(measured: Measured) -> Iterator[Table]:
    header = ("judge", "question", "n", "agreement", "kappa", "bias", "yes/yes, judge, people, no/no", "verdict")
    rows = tuple(
        (
            c.judge,
            c.question,
            str(c.confusion.n),
            str(c.agreement),
            str(c.kappa),
            str(c.bias),
            f"{c.confusion.both_yes} / {c.confusion.judge_yes} / {c.confusion.people_yes} / {c.confusion.both_no}",
            "counts" if c.counts else f"does not count: {c.reason}",
        )
        for c in measured.calibrations
    )
    if rows:
        yield Table(header, rows, "Judges against people")


def _agreement_table(measured: Measured) -> Iterator[Table]:
    header = ("question", "annotators", "items", "equal", "alpha", "AC2", "kappa")
    rows = tuple(
        (a.question, ", ".join(a.annotators), str(a.items), f"{a.percent:.2f}", *map(str, (a.alpha, a.ac2, a.kappa)))
        for a in measured.agreements
    )
    if rows:
        yield Table(header, rows, "People with each other")


def _preference_table(measured: Measured) -> Iterator[Table]:
    preferences = measured.preferences
    if preferences is not None:
        header = ("n", "candidate better (-1 to 1)", "same verdict swapped", "first side wins", "verbosity slope")
        row = (
            str(preferences.n),
            str(preferences.share),
            f"{preferences.consistent:.2f}",
            f"{preferences.first_side:.2f}",
            str(preferences.verbosity),
        )
        yield Table(header, (row,), "Language model compares live model and candidate")


def _facts(measured: Measured) -> Table:
    signatures = sorted({score.signature for score in measured.scores})
    facts = [*measured.facts.items(), *(("signature", signature) for signature in signatures)]
    return Table(("what", "value"), (("written", measured.created_at), *facts))
