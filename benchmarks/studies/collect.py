"""Writes what a study and the reviews of a home say: `python -m benchmarks.studies.collect --home HOME --study NAME`.

It calls the same code as `ragtune evaluate agreement` and `ragtune review agreement`, and compares the evidence model
with the readers as the report of a candidate does. README.md in this folder says who the readers were.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from ragtune.backends.catalog import evidence_from
from ragtune.dataset.reviews.decisions import newest_verdicts, pair_key
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.calibration import calibrations
from ragtune.evaluation.judges import EvidenceJudge
from ragtune.evaluation.review_agreement import review_agreement
from ragtune.evaluation.studies.results import people_labels, rated_answers, study_results
from ragtune.records import content_id
from ragtune.settings import Settings, load_settings
from ragtune_serving.reviewing import ReviewDesk
from ragtune_serving.studies import StudyDesk
from ragtune_serving.study_schema import ReviewAgreementReport, StudyReport

FOLDER = Path(__file__).parent


def main() -> None:
    """Write `answers.json` and `pairs.json` into this folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--study", required=True)
    options = parser.parse_args()
    settings = load_settings({"home": options.home})
    common = {"measured_on": time.strftime("%Y-%m-%d", time.gmtime()), "seed": settings.seed, "hardware": hardware()}
    for name, facts in (("answers", answers(settings, options.study)), ("pairs", pairs(settings))):
        (FOLDER / f"{name}.json").write_text(json.dumps({**common, **facts}, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}.json: {len(facts['agreement'])} questions")


def answers(settings: Settings, study: str) -> dict[str, Any]:
    """Return the agreement on the answers of a study, what readers say of each way of answering, and of the judge."""
    desk = StudyDesk(settings)
    results = study_results(desk.store, study)
    report = StudyReport.of(results).model_dump()
    rated = rated_answers(desk.store, [study])
    judged = EvidenceJudge(evidence_from(settings)).judge(rated)
    compared = calibrations(judged, people_labels(desk.store, [study]), settings.seed)
    choices = {question: Counter[str]() for question in results.study.questions}
    seconds = []
    for rating in desk.store.newest_ratings(study).values():
        seconds.append(rating.seconds)
        for question, choice in rating.choices.items():
            choices[question][choice] += 1
    items = desk.store.items(study).values()
    return {
        **report,
        "items_sha256": content_id(*(item.id for item in items)),
        "choices": {question: dict(counts) for question, counts in choices.items()},
        "median_seconds_a_task": round(median(seconds), 1) if seconds else None,
        "settled_answers": len(rated),
        "judges": [asdict(one) for one in compared],
    }


def pairs(settings: Settings) -> dict[str, Any]:
    """Return the agreement of the reviewers of pairs, and how often each gave which verdict."""
    desk = ReviewDesk(settings)
    decisions = desk.reviews.decisions()
    verdicts = newest_verdicts(decisions)
    counts: dict[str, Counter[str]] = {}
    for of_pair in verdicts.values():
        for name, one in of_pair.items():
            counts.setdefault(name, Counter())[one.verdict] += 1
    dataset = desk.dataset()
    kinds = Counter(dataset.by_key[key].kind for key in verdicts if key in dataset.by_key)
    rejected = {
        key
        for key, of_pair in verdicts.items()
        if sum(one.verdict == "reject" for one in of_pair.values()) * 2 > len(of_pair)
    }
    return {
        **ReviewAgreementReport.of(review_agreement(decisions, seed=settings.seed)).model_dump(),
        "pairs_sha256": content_id(*sorted(verdicts)),
        "verdicts": {name: dict(of_name) for name, of_name in sorted(counts.items())},
        "kinds": dict(kinds.most_common()),
        "rejected_by_most": dict(Counter(dataset.by_key[key].kind for key in rejected).most_common()),
        "dataset_pairs": len(dataset.pairs),
        "reviewed_in_the_dataset": sum(pair_key(pair) in verdicts for pair in dataset.pairs),
    }


if __name__ == "__main__":
    main()
