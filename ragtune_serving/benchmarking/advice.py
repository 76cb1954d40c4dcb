"""What to change: settings whose effect was measured, and settings that are worth trying, with what they can bring."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ragtune.evaluation.speed import PRESENT, in_words, percent
from ragtune.settings import Settings
from ragtune.store.speed_rows import LoadRow, SpeedRow
from ragtune_serving.benchmarking.breakdown import Breakdown
from ragtune_serving.benchmarking.comparing import MEMORY, Pair
from ragtune_serving.benchmarking.gateways import in_words as changes_in_words
from ragtune_serving.benchmarking.gateways import value_of

_MUCH = 0.25
"""Share of the time from which on a stage is worth a change. Chosen by hand."""
_GUESSES = 4
"""Tokens guessed per step on a CPU, see docs/decisions/speculative-tokens.md."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A setting that is worth trying: why, and what it can bring. Its effect was not measured."""

    setting: str
    why: str
    effect: str


def worth_trying(settings: Settings, breakdowns: Mapping[str, Breakdown], device: str) -> list[dict[str, str]]:
    """Return the changes that change no answer and that the breakdown gives a reason for."""
    tried: list[dict[str, str]] = []
    full = _full(breakdowns)
    if settings.engine.backend == "vllm" and full is not None:
        if settings.engine.eager:
            tried.append({"engine.eager": "false"})
        if full.share("tokens") > _MUCH:
            guessed = settings.engine.speculative_tokens
            guessing = guessed > 0 if guessed is not None else device == "cpu"
            tried.append({"engine.speculative_tokens": "0" if guessing else str(_GUESSES)})
    if full is not None and full.share("retrieval") + full.share("own code") > _MUCH:
        tried.append({"gateway.workers": str(settings.gateway.workers + 1)})
    return tried


def applied(history: Sequence[SpeedRow], settings: Settings) -> list[tuple[dict[str, str], Pair]]:
    """Return the recommended changes that the settings have now and whose effect was not measured since.

    Each is given as the settings before the change, and the comparison to make.
    """
    worth = []
    for changes, rows in _by_changes(history).items():
        values: dict[str, str] = json.loads(changes)
        best = _best(rows)
        if any(row.predicted for row in rows) or best is None:
            continue
        if all(value_of(settings, name) == value for name, value in values.items()):
            former: dict[str, str] = json.loads(rows[-1].former)
            name = changes_in_words(former)
            worth.append((former, Pair(before=name, after=PRESENT, settings=values, former=former, predicted=best)))
    return worth


def recommendations(rows: Sequence[SpeedRow], settings: Settings) -> Iterator[str]:
    """Yield a sentence per change that was measured: what to set, what it brings, and what it brought.

    A change that made something worse beyond the noise is not recommended; the sentence says what.
    """
    for changes, of_change in _by_changes(rows).items():
        values: dict[str, str] = json.loads(changes)
        words = changes_in_words(values)
        best, worse = _best(of_change), [row for row in of_change if row.verdict == "worse"]
        repeated = next((row for row in of_change if row.predicted), None)
        if repeated:
            yield _confirmed(words, repeated)
        elif all(value_of(settings, name) == value for name, value in values.items()):
            continue
        elif worse:
            gain = f" It is better elsewhere: {in_words(best)}." if best else ""
            yield f"Do not set `{words}`: {in_words(worse[0])} ({worse[0].workload}).{gain}"
        elif best:
            others = [in_words(row) for row in of_change if row.verdict == "better" and row is not best]
            more = f" Also {'; '.join(others)}." if others else ""
            yield (
                f"Set `{words}`: {in_words(best)} ({best.workload}; noise floor {best.floor:.1%}), and nothing got "
                f"worse beyond the noise.{more} After the change `ragtune benchmark run` measures what it brought."
            )
        else:
            yield f"`{words}` shows no difference beyond the noise; leave it."


def hints(
    breakdowns: Mapping[str, Breakdown], stress: Sequence[LoadRow], settings: Settings, precision: str
) -> Iterator[Hint]:
    """Yield what is worth trying, by where the time goes under a full load; `precision` is that of the model."""
    full = _full(breakdowns)
    if full is None:
        return
    advice = {
        "prompt": ("answer.shown_words", "shorter prompts are read faster; answers change, so measure them too"),
        "retrieval": ("embedder.precision", "int8 is twice as fast on a CPU with VNNI, and embeds all passages again"),
        "own code": ("gateway.workers", "several processes share the work of the gateway"),
    }
    if precision == "bf16":
        advice["tokens"] = ("quantization.serve", "released models have smaller weights, which write faster")
    for stage, (setting, why) in advice.items():
        if (share := full.share(stage)) > _MUCH:
            yield Hint(
                setting, f"{share:.0%} of the time is {stage}: {why}", f"at most {share:.0%} of the latency under load"
            )
    during = next((row for row in stress if row.part == "during"), None)
    if during and during.total_p95_ms > settings.load.answer_ms and during.answered:
        room = max(1, round(during.answered * settings.load.answer_ms / 1000))
        yield Hint(
            f"gateway.max_requests={room}",
            f"At twice the saturation the p95 is {during.total_p95_ms / 1000:.0f} s, because requests wait in the "
            f"engine; with {room} in progress at {during.answered:.2g} answers/s nobody who is let in waits longer "
            "than the service level, and the others are told to come back (Little's law)",
            f"p95 from {during.total_p95_ms / 1000:.0f} s to {settings.load.answer_ms / 1000:.0f} s under overload",
        )


def _full(breakdowns: Mapping[str, Breakdown]) -> Breakdown | None:
    """Return the breakdown of the first full load, or None."""
    return next((found for name, found in breakdowns.items() if "at once" in name and found.answers), None)


def _by_changes(rows: Sequence[SpeedRow]) -> dict[str, list[SpeedRow]]:
    """Return {changed settings as JSON: the rows of its newest run}."""
    groups: dict[str, list[SpeedRow]] = {}
    for row in rows:
        if row.settings != "{}":
            group = groups.setdefault(row.settings, [])
            if group and group[-1].run_id != row.run_id:
                group.clear()
            group.append(row)
    return groups


def _best(rows: Sequence[SpeedRow]) -> SpeedRow | None:
    """Return the row with the largest improvement of speed, or None if nothing became faster."""
    better = [row for row in rows if row.verdict == "better" and row.metric != MEMORY.name]
    return max(better, key=lambda row: (math.isfinite(row.change), abs(row.change)), default=None)


def _confirmed(words: str, row: SpeedRow) -> str:
    """Return what a change was expected to bring and what it brought."""
    change, low, high = json.loads(row.predicted)
    verdict = "as expected" if row.low <= high and low <= row.high else "not what was expected, so measure again"
    return (
        f"`{words}` was applied. Expected {percent(change)} [{percent(low)}, {percent(high)}], measured "
        f"{in_words(row)} ({row.workload}): {verdict}."
    )
