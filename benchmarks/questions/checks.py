"""Measures the checks of answers on planted errors: `python -m benchmarks.questions.checks`.

A good answer is the unit of the shown passages that holds an accepted answer of a development question, as it is, cut
to its first clause, or with a lead-in. From it rules make bad answers of six kinds, written for this file alone: the
evidence model was trained on people's questions and never saw them. Every text goes through the answering path as if
the language model had written it. Nothing is refused for want of evidence, so that only what is done about the text
counts.

Constants are chosen with the sets of `--sets`, and scores are reported on those of `--report`, which hold other
questions. `checks.json` has both, with what each threshold of relevance would do.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.questions.measure import HOMES, SETS, is_right, read_lines
from benchmarks.questions.offline import answerer_of, settings_of
from benchmarks.serving.served_home import facts
from ragtune.answer.answering import NOT_GENERATED, Answerer, Prepared
from ragtune.answer.evidence import Evidence
from ragtune.answer.failures import REPLACED, relevance_of
from ragtune.backends.catalog import evidence_from
from ragtune.backends.evidence.model import WEIGHTS
from ragtune.evaluation.resampling import mean_interval
from ragtune.records import Message
from ragtune.store.artifacts import file_sha256

GOOD = "good"
REASONS = {
    "number": "numbers",
    "name": "names",
    "negation": "negation",
    "wrong citation": "citation",
    "off topic": "relevance",
    "repeated": "repetition",
}
"""{kind of planted error: the reason that the check of it gives}."""
PARTS = ("sets", "report")
RELEVANCES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.:]\d+)?(?!\w)")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")
_VERB = re.compile(r"\b(is|are|was|were|can|may|must|has to|will|does)\b")
_SEED = 17


@dataclass(frozen=True, slots=True)
class Planted:
    """A text that stands for the model's, and what is wrong with it: a kind, or `good`."""

    kind: str
    text: str
    cited: int


def main() -> None:
    """Plant, check, score, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=["manual.dev", "faq.dev", "releases.dev"])
    parser.add_argument("--report", nargs="*", default=["manual.locked", "faq.locked", "releases.locked"])
    parser.add_argument("--homes", type=Path, default=HOMES, help="folder with a home per set; indexes are built there")
    parser.add_argument("--show", action="store_true", help="print what was judged wrongly")
    parser.add_argument("--out", type=Path, default=SETS / "checks.json")
    options = parser.parse_args()
    rows = {part: [row for name in options.__dict__[part] for row in judged(name, options.homes)] for part in PARTS}
    if options.show:
        for row in rows["sets"]:
            if row["flagged"] == (row["kind"] == GOOD):
                print(json.dumps(row, ensure_ascii=False))
    results = {
        **facts("benchmarks.questions.checks"),
        "seed": _SEED,
        "questions and evidence model": hashes([*options.sets, *options.report]),
        "development": {"sets": options.sets, "texts": len(rows["sets"]), **scores(rows["sets"])},
        "reported": {"sets": options.report, "texts": len(rows["report"]), **scores(rows["report"])},
        "relevance on development": {str(least): at_relevance(rows["sets"], least) for least in RELEVANCES},
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def hashes(names: Sequence[str]) -> dict[str, str]:
    """Return the hashes of question sets, and of the evidence model that judges."""
    files = [*(SETS / f"{name}.jsonl" for name in names), WEIGHTS / "adapter_model.safetensors"]
    return {file.name: file_sha256(file) for file in files}


def at_relevance(rows: Sequence[dict[str, Any]], least: float) -> dict[str, float]:
    """Return the shares of good and of off-topic texts that would be flagged with this threshold of relevance."""
    shares = {}
    for kind in (GOOD, "off topic"):
        of_kind = [row for row in rows if row["kind"] == kind]
        shares[kind] = sum(row["flagged without relevance"] or row["relevance"] < least for row in of_kind)
        shares[kind] = round(shares[kind] / len(of_kind), 4) if of_kind else 0.0
    return shares


def judged(name: str, homes: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each text that is planted for a set's answerable questions."""
    settings = settings_of(name, homes, [])
    settings = settings.model_copy(update={"answer": settings.answer.model_copy(update={"refused_share": 0.0})})
    answerer = answerer_of(settings, evidence_from(settings))
    draw = random.Random(_SEED)
    for question in read_lines(SETS / f"{name}.jsonl"):
        if not question["answerable"]:
            continue
        history = [Message(**turn) for turn in question["history"]]
        prepared = answerer.prepare(question["question"], history)
        right = [item for item in prepared.evidence if is_right(item.unit.text, question["answers"])]
        if not right:
            continue
        page = (question["sources"] or [""])[0].partition("#")[0]
        for planted in plant(prepared, right, question["answers"], draw):
            yield {"id": question["id"], "page": page, **judge(answerer, prepared, planted)}


def judge(answerer: Answerer, prepared: Prepared, planted: Planted) -> dict[str, Any]:
    """Return whether a text is delivered, and what was found wrong with it."""
    completion = replace(NOT_GENERATED, text=planted.text)
    first = answerer.finish(prepared, completion)
    answer = answerer.conclude(prepared, completion)
    reasons = {failure.reason for failure in first.failures}
    by_others = not first.own_words or bool(reasons & REPLACED - {"relevance"})
    corrected = planted.kind == "wrong citation" and planted.cited not in [c.number for c in answer.citations]
    return {
        "kind": planted.kind,
        "question": prepared.question,
        "text": planted.text,
        "by the decision": not first.own_words,
        "flagged": not answer.own_words or corrected,
        "flagged without relevance": by_others or corrected,
        "relevance": relevance_of(planted.text, prepared.question, prepared.evidence),
        "reasons": sorted(reasons),
    }


def plant(
    prepared: Prepared, right: Sequence[Evidence], answers: Sequence[str], draw: random.Random
) -> Iterator[Planted]:
    """Yield good answers and bad ones of every kind that the passages allow."""
    unit, number = right[0].unit.text.rstrip("."), right[0].number
    if len(unit.split()) > 40:
        return
    clause = re.split(r"[,;:] ", unit)[0]
    forms = [unit, f"According to the documents, {unit}"]
    if clause != unit and len(clause.split()) > 3 and is_right(clause, answers):
        forms.append(clause)
    for form in forms:
        yield Planted(GOOD, f"{form}. [{number}]", number)
    others = [item.unit.text for item in prepared.evidence]
    for kind, changed in (
        ("number", _other(unit, _NUMBER, others, draw)),
        ("name", _other(unit, _NAME, others, draw)),
        ("negation", _negated(unit)),
    ):
        if changed != unit:
            yield Planted(kind, f"{changed}. [{number}]", number)
    holders = {item.number for item in right}
    if wrong := [place for place in range(1, len(prepared.passages or ()) + 1) if place not in holders]:
        place = draw.choice(wrong)
        # Not word for word: the mark behind a literal copy is corrected before any check.
        yield Planted("wrong citation", f"According to the documents, {unit}. [{place}]", place)
    half = prepared.evidence[len(prepared.evidence) // 2 :]
    if off := [i for i in half if len(i.unit.text.split()) > 4 and not is_right(i.unit.text, answers)]:
        item = draw.choice(off)
        yield Planted("off topic", f"{item.unit.text.rstrip('.')}. [{item.number}]", item.number)
    yield Planted("repeated", " ".join([f"{unit}. [{number}]"] * 3), number)


def _other(text: str, pattern: re.Pattern[str], others: Sequence[str], draw: random.Random) -> str:
    """Return the text with one match replaced by another one from the passages, or a number by a near one."""
    matches = list(pattern.finditer(text))
    if not matches:
        return text
    match = draw.choice(matches)
    choices = sorted({found for other in others for found in pattern.findall(other)} - set(pattern.findall(text)))
    if not choices and pattern is _NAME:
        return text
    replacement = draw.choice(choices) if choices else str(int(float(match[0].replace(":", "."))) + 3)
    return text[: match.start()] + replacement + text[match.end() :]


def _negated(text: str) -> str:
    """Return the text with a "not" more, or with one less."""
    if re.search(r"\bnot ", text):
        return re.sub(r"\bnot ", "", text, count=1)
    return _VERB.sub(r"\1 not", text, count=1)


def scores(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return recall by kind, precision by reason, and false alarms, as [share, low, high, n] with 95% intervals.

    Texts are resampled by the page that holds the answer. A text is flagged if it is not delivered: replaced by the
    decision to quote, which is older, or by a failed check.
    """
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in (GOOD, *REASONS)}
    flagged = [row for row in rows if row["flagged"]]
    return {
        "false alarms": _share(kinds[GOOD], lambda row: row["flagged"]),
        "false alarms of the checks": _share(kinds[GOOD], lambda row: row["flagged"] and not row["by the decision"]),
        "precision of all": _share(flagged, lambda row: row["kind"] != GOOD),
        "recall of all": _share([row for row in rows if row["kind"] != GOOD], lambda row: row["flagged"]),
        "kinds": {
            kind: {
                "recall": _share(kinds[kind], lambda row: row["flagged"]),
                "recall of the decision alone": _share(kinds[kind], lambda row: row["by the decision"]),
                "precision of its reason": _share(
                    [row for row in rows if reason in row["reasons"]], lambda row: row["kind"] != GOOD
                ),
            }
            for kind, reason in REASONS.items()
        },
    }


def _share(rows: Sequence[dict[str, Any]], condition: Any) -> list[float] | None:
    """Return [share, low, high, n] of the rows that meet the condition, or None without rows."""
    if not rows:
        return None
    values = [float(condition(row)) for row in rows]
    mean, low, high = mean_interval(values, [row["page"] for row in rows], samples=2000, seed=_SEED)
    return [round(mean, 3), round(low, 3), round(high, 3), len(rows)]


if __name__ == "__main__":
    main()
