"""Calibrates the evidence model on development questions: `python -m benchmarks.questions.calibrate`.

It writes `calibration.json` next to the weights, the trade-off to `evidence.json` in this folder, and the plot in
docs/measured/. No language model takes part: what is measured is the best unit of the passages that serving shows.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.questions.measure import HOMES, SETS, is_right, read_lines
from benchmarks.questions.offline import ROOT, answerer_of, settings_of
from ragtune.answer.passages import search_text
from ragtune.answer.units import chunk_units
from ragtune.backends.evidence.model import WEIGHTS, Calibration, MiniLmEvidence, evidence_embedder
from ragtune.records import Message
from ragtune.store.artifacts import write_json

CALIBRATED_ON = ("manual", "faq", "releases")
"""The English sets whose documents are part of this project."""
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PLOT = ROOT / "docs" / "images" / "refusals.svg"
_ANY = Calibration(slope=1.0, intercept=0.0, curve=((0.0, 0.0), (1.0, 1.0)))
Floats = Any


def main() -> None:
    """Score, calibrate, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--homes", type=Path, default=HOMES, help="folder with a home per set; indexes are built there")
    parser.add_argument("--sets", nargs="*", default=["manual", "faq", "releases", "german", "french"])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    model = MiniLmEvidence(evidence_embedder(1, "cpu", options.weights), _ANY)
    rows = {name: best_units(name, options.homes, model) for name in options.sets}
    pooled = [row for name in CALIBRATED_ON for row in rows[name]]
    slope, intercept = platt(pooled)
    calibration = Calibration(slope, intercept, ())
    # With share 0 nothing is refused, however unlikely.
    curve = [[0.0, 0.0]]
    curve += [[share, round(calibration.probability(quantile(pooled, share)), 4)] for share in SHARES[1:]]
    source = f"python -m benchmarks.questions.calibrate, on {', '.join(f'{name}.dev' for name in CALIBRATED_ON)}"
    write_json(
        options.weights / "calibration.json",
        {"slope": round(slope, 4), "intercept": round(intercept, 4), "curve": curve, "source": source},
    )
    facts = {name: trade_off(found, calibration) for name, found in {"pooled": pooled, **rows}.items()}
    (SETS / "evidence.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(facts)
    print(json.dumps(facts, indent=1))


def best_units(name: str, homes: Path, model: MiniLmEvidence) -> list[dict[str, Any]]:
    """Return for each question the cosine of its best unit, whether that is right, and whether it is answerable."""
    settings = settings_of(f"{name}.dev", homes, [])
    answerer = answerer_of(settings, None)
    rows = []
    for question in read_lines(SETS / f"{name}.dev.jsonl"):
        history = [Message(turn["role"], turn["content"]) for turn in question["history"]]
        prepared = answerer.prepare(question["question"], history)
        units = list(dict.fromkeys(unit for hit in prepared.passages or () for unit in chunk_units(hit.chunk)))
        if not units:
            continue
        cosines = model.cosines(search_text(question["question"], history), [unit.scored_text for unit in units])
        best = int(np.argmax(cosines))
        right = question["answerable"] and is_right(units[best].text, question["answers"])
        rows.append({"cosine": cosines[best], "right": right, "answerable": question["answerable"]})
    return rows


def platt(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return slope and intercept of the logistic regression of "the best unit is right" on its cosine."""
    from sklearn.linear_model import LogisticRegression

    cosines = np.array([[row["cosine"]] for row in rows])
    # Hardly any penalty: two numbers are fitted to hundreds of questions.
    fitted = LogisticRegression(C=1e4).fit(cosines, [row["right"] for row in rows])
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def quantile(rows: Sequence[dict[str, Any]], share: float) -> float:
    """Return the cosine below which the best units of this share of the answerable questions lie."""
    return float(np.quantile([row["cosine"] for row in rows if row["answerable"]], share))


def trade_off(rows: Sequence[dict[str, Any]], calibration: Calibration) -> dict[str, Any]:
    """Return what each threshold refuses and delivers, if the best unit is quoted whenever it reaches it."""
    answerable = [row for row in rows if row["answerable"]]
    others = [row for row in rows if not row["answerable"]]
    points = []
    for share in SHARES:
        threshold = quantile(rows, share)
        points.append(
            {
                "threshold": round(calibration.probability(threshold), 4),
                "answerable refused": share_of(answerable, lambda row, t=threshold: row["cosine"] < t),
                "unanswerable refused": share_of(others, lambda row, t=threshold: row["cosine"] < t),
                "right": share_of(answerable, lambda row, t=threshold: row["right"] and row["cosine"] >= t),
            }
        )
    ranks = [(first["cosine"] > second["cosine"]) for first in answerable for second in others]
    return {
        "answerable": len(answerable),
        "unanswerable": len(others),
        "area under the curve": round(float(np.mean(ranks)), 3),
        "points": points,
    }


def share_of(rows: Sequence[dict[str, Any]], condition: Any) -> float:
    """Return the share of the rows that meet the condition."""
    return round(float(np.mean([condition(row) for row in rows])), 3)


def draw(facts: dict[str, Any]) -> None:
    """Draw unanswerable questions refused, and right answers, over answerable questions refused."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ragtune"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
    for name, set_facts in facts.items():
        points = set_facts["points"]
        style = {"linewidth": 2.5, "color": "black"} if name == "pooled" else {"linewidth": 1.0}
        refused = [point["answerable refused"] for point in points]
        left.plot(refused, [point["unanswerable refused"] for point in points], label=name, **style)
        right.plot(refused, [point["right"] for point in points], label=name, **style)
    left.plot([0, 1], [0, 1], linestyle=":", color="grey")
    for axes, label in ((left, "unanswerable refused"), (right, "right")):
        axes.set(xlabel="answerable refused", ylabel=label, xlim=(0, 1), ylim=(0, 1))
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    main()
