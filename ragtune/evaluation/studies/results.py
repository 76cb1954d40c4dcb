"""What a study found: agreement, self-consistency, final labels, and what they say about the models."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ragtune.answer.citations import without_citations
from ragtune.answer.language_packs import packs
from ragtune.answer.refusals import is_refusal
from ragtune.evaluation.agreement import (
    Agreement,
    Estimate,
    Scale,
    agreement,
    bootstrapped,
    pairwise_agreement,
    worst_items,
)
from ragtune.evaluation.judges import LEVEL_SCORES, answer_key
from ragtune.evaluation.studies.store import StudyStore
from ragtune.evaluation.studies.study import CANNOT, UNANSWERABLE, Adjudication, Rating, Study, StudyItem, Task
from ragtune.records import RatedModel, ScoredAnswer

_PREFERENCE = {"first": -1.0, "neither": 0.0, "second": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An item on which annotators differ: what each chose, and the final choice if somebody adjudicated."""

    item: StudyItem
    question: str
    choices: Mapping[str, str]
    agreeing: float
    adjudicated: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """What is known of a study so far.

    `ratings` is the number of rated tasks without repeats, `cannot_judge` how many choices were that. `overall` and
    `pairs` are empty as long as no item has two ratings. `consistency` is the share of repeated tasks with the same
    choice by the same annotator, by question; it is None before the first. `models` has a row per model and question.
    """

    study: Study
    items: int
    annotators: tuple[str, ...]
    ratings: int
    cannot_judge: int
    overall: tuple[Agreement, ...]
    pairs: tuple[Agreement, ...]
    repeats: int
    consistency: Mapping[str, float] | None
    disagreements: tuple[Disagreement, ...]
    models: tuple[RatedModel, ...]


def study_results(store: StudyStore, name: str) -> StudyResults:
    """Return the results of a study so far; raise DatasetError if there is no such study."""
    study, items, adjudications = store.study(name), store.items(name), store.adjudications(name)
    rated = _rated(store.tasks(name), store.newest_ratings(name))
    by_question = {question: ratings_of(rated, question) for question in study.questions}
    scale: Scale = "ordinal" if study.mode == "rating" else "nominal"
    overall, pairs = [], []
    for question, ratings in by_question.items():
        if any(len(of_item) > 1 for of_item in ratings.values()):
            overall.append(agreement(question, ratings, study.categories, scale, study.seed))
            pairs += pairwise_agreement(question, ratings, study.categories, scale, study.seed)
    originals = [rating for task, rating in rated if not task.repeat]
    consistency = self_consistency(rated, study.questions)
    return StudyResults(
        study=study,
        items=len(items),
        annotators=tuple(sorted({rating.annotator for rating in originals})),
        ratings=len(originals),
        cannot_judge=sum(choice == CANNOT for rating in originals for choice in rating.choices.values()),
        overall=tuple(overall),
        pairs=tuple(pairs),
        repeats=len(_repeats(rated)),
        consistency=consistency,
        disagreements=tuple(_disagreements(study, items, by_question, adjudications)),
        models=tuple(_models(study, items, by_question, adjudications)),
    )


def ratings_of(rated: Iterable[tuple[Task, Rating]], question: str) -> dict[str, dict[str, str]]:
    """Return {item: {annotator: choice}} for a question, without repeats and without "cannot judge"."""
    ratings: dict[str, dict[str, str]] = defaultdict(dict)
    for task, rating in rated:
        if not task.repeat and rating.choices.get(question, CANNOT) != CANNOT:
            ratings[task.item_id][rating.annotator] = rating.choices[question]
    return dict(ratings)


def self_consistency(rated: Sequence[tuple[Task, Rating]], questions: Sequence[str]) -> dict[str, float] | None:
    """Return the share of repeats with the choice of the original, by question, or None before the first repeat."""
    pairs = _repeats(rated)
    if not pairs:
        return None
    return {
        question: sum(first.choices[question] == again.choices[question] for first, again in pairs) / len(pairs)
        for question in questions
    }


def final_choice(choices: Mapping[str, str], adjudicated: Adjudication | None) -> str:
    """Return the adjudicated choice, or that of more than half of the annotators, or "" if there is neither."""
    if adjudicated is not None:
        return adjudicated.choice
    if not choices:
        return ""
    choice, count = Counter(choices.values()).most_common(1)[0]
    return choice if 2 * count > len(choices) else ""


def people_labels(store: StudyStore, names: Sequence[str] | None = None) -> dict[tuple[str, str], bool]:
    """Return {(answer key, question of the rubric): whether people say yes}, for the calibration of judges.

    Only settled choices count; "partly" is no yes. `names` are the studies; None: all of them.
    """
    labels = {}
    for _, item, choices in settled_items(store, names):
        for question, choice in choices.items():
            labels[answer_key(item.question, item.answers[0].text), question] = choice == "yes"
    return labels


def rated_answers(store: StudyStore, names: Sequence[str] | None = None) -> list[ScoredAnswer]:
    """Return the answers with a settled choice, so that judges can be compared with people on these same answers.

    Without an expected answer an answer counts as not answerable: a judge cannot say whether it is correct. `names`
    are the studies; None: all of them.
    """
    answers = {}
    for study, item, _ in settled_items(store, names):
        text = item.answers[0].text
        answers[answer_key(item.question, text)] = ScoredAnswer(
            pair_id=item.id,
            question=item.question,
            expected=item.expected,
            answer=text,
            kind="",
            answerable=bool(item.expected) and not item.expected.startswith(UNANSWERABLE),
            refused=is_refusal(text, packs().values()),
            retrieved=False,
            cited=(),
            metrics={},
            latency_ms=0.0,
            group=study.name,
            scored_text=without_citations(text),
            cited_texts=item.answers[0].sources,
        )
    return list(answers.values())


def settled_items(
    store: StudyStore, names: Sequence[str] | None = None
) -> Iterator[tuple[Study, StudyItem, dict[str, str]]]:
    """Yield every item of the studies that rate single answers, with {question of the rubric: its final choice}."""
    for study in store.studies():
        if study.mode != "rating" or (names is not None and study.name not in names):
            continue
        items, adjudications = store.items(study.name), store.adjudications(study.name)
        rated = _rated(store.tasks(study.name), store.newest_ratings(study.name))
        by_question = {question: ratings_of(rated, question) for question in study.questions}
        for item in items.values():
            choices = {
                question: choice
                for question, ratings in by_question.items()
                if (choice := final_choice(ratings.get(item.id, {}), adjudications.get((item.id, question))))
            }
            if choices:
                yield study, item, choices


def _rated(tasks: Sequence[Task], newest: Mapping[str, Rating]) -> list[tuple[Task, Rating]]:
    return [(task, newest[task.id]) for task in tasks if task.id in newest and not newest[task.id].skipped]


def _repeats(rated: Sequence[tuple[Task, Rating]]) -> list[tuple[Rating, Rating]]:
    """Return (original, repeat) of every repeat whose original was rated as well."""
    originals = {(task.item_id, task.annotator): rating for task, rating in rated if not task.repeat}
    return [
        (originals[key], rating)
        for task, rating in rated
        if task.repeat and (key := (task.item_id, task.annotator)) in originals
    ]


def _disagreements(
    study: Study,
    items: Mapping[str, StudyItem],
    by_question: Mapping[str, Mapping[str, Mapping[str, str]]],
    adjudications: Mapping[tuple[str, str], Adjudication],
) -> list[Disagreement]:
    """Return the items on which annotators differ, those that nobody adjudicated and that differ most first."""
    results = []
    for question, ratings in by_question.items():
        for item_id, agreeing in worst_items(ratings, study.categories):
            adjudicated = adjudications.get((item_id, question))
            results.append(
                Disagreement(
                    item=items[item_id],
                    question=question,
                    choices=ratings[item_id],
                    agreeing=agreeing,
                    adjudicated=adjudicated.choice if adjudicated else "",
                )
            )
    return sorted(results, key=lambda one: (bool(one.adjudicated), one.agreeing))


def _models(
    study: Study,
    items: Mapping[str, StudyItem],
    by_question: Mapping[str, Mapping[str, Mapping[str, str]]],
    adjudications: Mapping[tuple[str, str], Adjudication],
) -> list[RatedModel]:
    """Return a row per model and question: the mean of the items' scores, resampled by item.

    An item's score is the adjudicated one or the mean over its annotators. For a comparison the row of the second
    model has the mean preference: 1 if it always wins, -1 if it always loses.
    """
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    values = LEVEL_SCORES if study.mode == "rating" else _PREFERENCE
    for question, ratings in by_question.items():
        for item_id, choices in ratings.items():
            adjudicated = adjudications.get((item_id, question))
            said = [adjudicated.choice] if adjudicated else list(choices.values())
            model = items[item_id].answers[-1].model
            if study.mode == "pairwise":
                model = f"{model} over {items[item_id].answers[0].model}"
            scores[model, question].append(sum(values[choice] for choice in said) / len(said))
    rows = []
    for (model, question), of_model in scores.items():
        estimate = _mean(of_model, study.seed)
        rows.append(
            RatedModel(
                study=study.name,
                model=model,
                question=question,
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                n=len(of_model),
            )
        )
    return rows


def _mean(values: Sequence[float], seed: int) -> Estimate:
    import numpy as np

    numbers = np.asarray(values, dtype=float)
    return bootstrapped(lambda draw: float(numbers[draw].mean()), len(numbers), seed)
