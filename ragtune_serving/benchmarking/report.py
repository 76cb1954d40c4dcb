"""The report of a benchmark: what to change, where the time goes, what was measured, and what it was compared with."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ragtune.evaluation.report.content import Bar, Card, Plot, Report, Section, Table
from ragtune.evaluation.report.pages import write_report
from ragtune.evaluation.speed import THROUGHPUT, amount, in_words, interval, percent
from ragtune.store.speed_rows import LoadRow, SpeedRow
from ragtune_serving.benchmarking.advice import hints, recommendations
from ragtune_serving.benchmarking.breakdown import STAGES
from ragtune_serving.benchmarking.scenarios import SERVED, Curve
from ragtune_serving.benchmarking.suite import Results, facts

FOLDER = "speed"
"""The folder of the home with a folder per run."""
_OLDER = 12
"""Earlier saturations that are shown; chosen by hand."""
_LATE_SHARE = 0.1
"""Share of the median latency by which the generator itself may be late before the report says so. Chosen by hand."""
_ROWS = ("work load", "part", "asked/s", "answered/s", "good/s", "first p50", "first p95", "first p99", "token p50",
         "answer p50", "answer p95", "answer p99", "429", "failed")  # fmt: skip


def write(results: Results, history: Sequence[LoadRow], home: Path) -> Path:
    """Write the report of a run into the home, as HTML and Markdown, and return the HTML file."""
    return write_report(build(results, history), home / FOLDER / results.run.id)


def build(results: Results, history: Sequence[LoadRow]) -> Report:
    """Return the report; `history` holds all loads of this home, oldest first."""
    claims = [claim for scenario in results.scenarios for claim in scenario.claims]
    missed = [claim for claim in claims if not claim.held]
    run = results.run
    sections = [
        Section(title="What to do next", items=tuple(_next_steps(results))),
        _time(results),
        _curves(results),
        _comparisons(results),
        _stress(results),
        _history(results, history),
        Section(title="Where this comes from", text=_honest(results), tables=(_facts(results),)),
    ]
    badge = f"{len(missed)} of {len(claims)} claims not met" if missed else f"{len(claims)} claims met"
    return Report(
        title=f"Speed of version {run.version} {run.precision}".strip(),
        badge=badge if claims else "Measured",
        good=not missed,
        summary=_summary(results),
        cards=tuple(_cards(results)),
        sections=tuple(section for section in sections if section.text or section.items or section.tables),
    )


def _summary(results: Results) -> str:
    curve = results.curves[0]
    alone = _alone(results)
    return (
        f"One user waits {alone.first_p50_ms:.0f} ms for the first text and {alone.total_p50_ms:.0f} ms for the whole "
        f"answer (medians of `{curve.workload}`). The gateway keeps up with {curve.saturation:.2g} requests per second "
        f"and gives at most {curve.capacity:.2g} answers per second."
    )


def _alone(results: Results) -> LoadRow:
    return next(scenario.rows[0] for scenario in results.scenarios if scenario.name == "alone")


def _cards(results: Results) -> Iterator[Card]:
    curve, alone, level = results.curves[0], _alone(results), results.run.level
    best = max(curve.rows, key=lambda row: row.good)
    yield Card("keeps up with", f"{curve.saturation:.2g}/s", f"requests per second of `{curve.workload}`")
    served = f"{curve.served:.2g}/s" if curve.served else "not met"
    yield Card("in the service level up to", served, f"for {SERVED:.0%} of the requests")
    yield Card(
        "goodput", f"{best.good:.2g}/s",
        f"within {level.first_token_ms:.0f} ms to the first text and {level.answer_ms:.0f} ms in all",
    )  # fmt: skip
    yield Card("one user", f"{alone.total_p50_ms:.0f} ms", f"first text after {alone.first_p50_ms:.0f} ms")
    if memory := max(row.memory_bytes for row in curve.rows):
        yield Card("memory", amount(memory, "bytes"), "gateway and engines, peak")
    if gpu := max(row.gpu_bytes for row in curve.rows):
        yield Card("GPU memory", amount(gpu, "bytes"), "all programs, peak")
    if results.run.gateway.cold_start:
        yield Card("cold start", f"{results.run.gateway.cold_start:.0f} s", "until a question is answered")
    if best.cost:
        yield Card("1,000 answers", f"{best.cost:.2g}", f"at {level.price_per_hour:g} an hour and the best goodput")


def _next_steps(results: Results) -> Iterator[str]:
    for scenario in results.scenarios:
        for claim in scenario.claims:
            if not claim.held:
                yield f"Not met under {scenario.name}: {claim.what}; {claim.seen}."
    for row in results.differences:
        if row.settings == "{}" and row.metric == THROUGHPUT:
            yield f"{row.after} against {row.before}, `{row.workload}`: {in_words(row)}; {row.verdict}."
    yield from recommendations(results.differences, results.run.settings)
    stress = [row for scenario in results.scenarios if scenario.name == "stress" for row in scenario.rows]
    for hint in hints(results.breakdowns, stress, results.run.settings, results.run.precision):
        try_it = f" `ragtune benchmark compare {hint.setting}` measures it." if "=" in hint.setting else ""
        yield f"Worth trying, not measured: `{hint.setting}`. {hint.why}. Expected: {hint.effect}.{try_it}"


def _time(results: Results) -> Section:
    """Return where the time of an answer goes, and how far the engine is from what the machine can do."""
    tables = []
    answered = {name: one for name, one in results.breakdowns.items() if one.answers}
    if answered:
        stages = list(dict.fromkeys(stage for one in answered.values() for stage in one.stages))
        rows = [
            (stage, *(f"{one.stages.get(stage, 0.0):.0f} ms, {one.share(stage):.0%}" for one in answered.values()),
             STAGES.get(stage, "the engine, whose own metrics cannot be read"))
            for stage in stages
        ]  # fmt: skip
        rows.append(("together", *(f"{one.total:.0f} ms" for one in answered.values()), "in the gateway"))
        work = [one.engine for one in answered.values()]
        if all(work):
            cached = (f"{one.cached:.0%}" if one else "" for one in work)
            rows.append(("prompt in the cache", *cached, "tokens of prompts that the prefix cache had"))
            right = (f"{one.accepted:.0%}" if one else "" for one in work)
            rows.append(("guesses right", *right, "tokens guessed from the prompt that the model confirmed"))
        tables.append(Table(("stage", *answered, "what it is"), tuple(rows), "Mean time of an answer"))
    text = results.roofline.sentence() if results.roofline else "The engine's own metrics or its weights are not here."
    return Section(title="Where the time goes", text=text if tables else "", tables=tuple(tables))


def _curves(results: Results) -> Section:
    tables = []
    for curve in results.curves:
        rows = sorted(curve.rows, key=lambda row: row.offered)
        tables.append(Table(_ROWS, tuple(map(_cells, rows)), _title(curve)))
    singles = [row for scenario in results.scenarios if scenario.name in ("alone", "full") for row in scenario.rows]
    tables.append(Table(_ROWS, tuple(map(_cells, singles)), "One user, and many requests at the same moment"))
    text = (
        "Requests come as from many independent users, whether or not earlier ones are answered. Milliseconds count "
        "from the moment at which a request was due. `good` answers are within the service level; `token` is the time "
        "per token after the first."
    )
    return Section(title="Load curves", text=text, tables=tuple(tables))


def _title(curve: Curve) -> str:
    return f"{curve.workload}: keeps up with {curve.saturation:.2g}/s, at most {curve.capacity:.2g} answers/s"


def _cells(row: LoadRow) -> tuple[str, ...]:
    times = (row.first_p50_ms, row.first_p95_ms, row.first_p99_ms, row.between_p50_ms,
             row.total_p50_ms, row.total_p95_ms, row.total_p99_ms)  # fmt: skip
    rates = (row.offered, row.answered, row.good)
    return (row.workload, row.part or row.scenario, *(f"{rate:.2f}" for rate in rates), *(f"{ms:.0f}" for ms in times),
            str(row.limited), str(row.failed))  # fmt: skip


def _comparisons(results: Results) -> Section:
    tables, plots = [], []
    if results.differences:
        measured = [row for row in results.differences if row.high > row.low and math.isfinite(row.high)]
        widest = max((abs(bound) for row in measured for bound in (row.low, row.high)), default=0.1)
        bars = tuple(Bar(f"{row.after}: {row.metric}, {row.workload}", row.change, row.low, row.high, row.rounds)
                     for row in measured)  # fmt: skip
        plots = [Plot("Relative difference", bars, -min(widest, 2.0), min(widest, 2.0))] if bars else []
        tables.append(comparison_table(results.differences))
    if results.noise:
        tables.append(comparison_table(results.noise, "The same settings twice: the noise floor"))
    text = (
        "Both gateways run at the same time and get the same questions at the same moments in turn, a steady load and "
        "a burst in each round. A difference counts if its 95% interval excludes zero and it is larger than the noise "
        "floor: what two gateways with the same settings differ by."
    )
    return Section(title="Comparisons", text=text if tables else "", plots=tuple(plots), tables=tuple(tables))


def comparison_table(rows: Sequence[SpeedRow], title: str = "") -> Table:
    """Return one line per difference."""
    header = ("of", "against", "work load", "metric", "before", "after", "change", "95% interval", "floor", "verdict")
    cells = [
        (row.after, row.before, row.workload, row.metric, amount(row.before_value, row.unit),
         amount(row.after_value, row.unit), percent(row.change), interval(row), f"{row.floor:.1%}", row.verdict)
        for row in rows
    ]  # fmt: skip
    return Table(header, tuple(cells), title)


def _stress(results: Results) -> Section:
    chosen = [scenario for scenario in results.scenarios if scenario.name not in ("alone", "full")]
    claims = tuple(
        (scenario.name, claim.what, claim.seen, "yes" if claim.held else "no")
        for scenario in chosen
        for claim in scenario.claims
    )
    rows = [(scenario.name, row) for scenario in chosen for row in scenario.rows]
    tables = []
    if claims:
        tables.append(Table(("under", "what has to hold", "seen", "holds"), claims, "Claims"))
    if rows:
        tables.append(Table(("under", *_ROWS), tuple((name, *_cells(row)) for name, row in rows), "Loads"))
    for scenario in chosen:
        if len(scenario.memory.looks) > 1:
            began = scenario.memory.looks[0].at
            looks = scenario.memory.looks[:: max(1, len(scenario.memory.looks) // _OLDER)]
            cells = tuple((f"{look.at - began:.0f} s", amount(look.resident, "bytes"), amount(look.gpu, "bytes"))
                          for look in looks)  # fmt: skip
            tables.append(Table(("after", "gateway and engines", "GPUs"), cells, f"Memory over time, {scenario.name}"))
    text = "Overload, a sudden crowd, a long load, and an engine that is killed." if tables else ""
    return Section(title="Under stress", text=text, tables=tuple(tables))


def _history(results: Results, history: Sequence[LoadRow]) -> Section:
    """Return what was measured before on this machine."""
    rows = saturations(history, results.curves[0].workload)
    earlier = [row for row in rows if row.run_id != results.run.id and row.hardware == (rows[-1].hardware)]
    if not earlier:
        return Section(title="Over versions")
    text = (
        "Measured at other times, so the machine may have been in another state: only a comparison in turn shows a "
        "difference. The page of the candidate (`ragtune report`) has that of candidate and live model."
    )
    return Section(title="Over versions", text=text, tables=(history_table([*earlier, rows[-1]][-_OLDER:]),))


def saturations(history: Sequence[LoadRow], workload: str = "") -> list[LoadRow]:
    """Return the rows that say with which rate a gateway kept up, oldest first."""
    return [row for row in history if row.scenario == "saturation" and workload in ("", row.workload)]


def history_table(rows: Sequence[LoadRow]) -> Table:
    """Return one line per run and work load."""
    header = ("measured", "version", "precision", "settings", "work load", "keeps up with", "good/s", "answer p50",
              "answer p95", "memory", "run")  # fmt: skip
    cells = [
        (row.measured_at, row.model_version, row.precision, row.settings, row.workload, f"{row.offered:.2f}/s",
         f"{row.good:.2f}", f"{row.total_p50_ms:.0f} ms", f"{row.total_p95_ms:.0f} ms",
         amount(row.memory_bytes, "bytes"), row.run_id)
        for row in rows
    ]  # fmt: skip
    return Table(header, tuple(cells))


def _honest(results: Results) -> str:
    """Return what limits these numbers: what was left out, questions that were repeated, a late generator."""
    sentences = list(results.left_out)
    asked = sum(row.requests for scenario in results.scenarios for row in scenario.rows)
    asked += sum(row.requests for curve in results.curves for row in curve.rows)
    if asked > results.questions:
        sentences.append(
            f"{asked} requests asked {results.questions} different questions; the prefix cache of the engine helps "
            "with those that come again."
        )
    loads = [row for curve in results.curves for row in curve.rows]
    late = [row for row in loads if row.generator_ms > _LATE_SHARE * row.total_p50_ms > 0]
    if late:
        worst = max(late, key=lambda row: row.generator_ms)
        sentences.append(
            f"The load generator itself was late in {len(late)} of {len(loads)} loads, by up to "
            f"{worst.generator_ms:.0f} ms (p99), because it shares the machine. Its delay is part of the latencies."
        )
    return " ".join(sentences)


def _facts(results: Results) -> Table:
    return Table(("what", "value"), tuple(facts(results).items()))
