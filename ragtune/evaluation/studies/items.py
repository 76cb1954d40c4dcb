"""Chooses the items of a study: from the answers of models to held-out questions, from live traffic, or from files."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ragtune.draws import draw
from ragtune.errors import DatasetError
from ragtune.evaluation.studies.study import UNANSWERABLE, ShownAnswer, StudyItem
from ragtune.records import AnswerSet, Chunk, ResponseRecord, ScoredAnswer, content_id


def model_names(sets: Sequence[AnswerSet], split: str) -> list[str]:
    """Return the models that answered the questions of a split, such as `fine-tuned w8a8`."""
    return [f"{answers.model} {answers.precision}" for answers in sets if answers.split == split]


def answers_of(sets: Sequence[AnswerSet], model: str, split: str) -> list[ScoredAnswer]:
    """Return a model's answers to the questions of a split; raise DatasetError if it answered none."""
    for answers in sets:
        if answers.split == split and f"{answers.model} {answers.precision}" == model:
            return list(answers.answers)
    raise DatasetError(
        f"No model '{model}' answered the questions of '{split}'.",
        f"one of {', '.join(model_names(sets, split)) or '(none)'}",
        "run `ragtune materialize`, or name another model or split",
    )


def rating_items(answers: Mapping[str, Sequence[ScoredAnswer]], count: int, seed: int) -> list[StudyItem]:
    """Return up to `count` answers to rate, as many of each model; the same answer to a question comes once.

    Args:
        answers: {model: its answers}.
        count: items in all.
        seed: seed of the choice.
    """
    by_key: dict[str, StudyItem] = {}
    orders = [_sample(of_model, len(of_model), seed) for of_model in answers.values()]
    # Question by question, so that answers which models share do not leave the study short of items.
    for to_question in zip_longest(*orders):
        for model, answer in zip(answers, to_question, strict=True):
            if answer is not None and len(by_key) < count:
                shown = ShownAnswer(answer.answer, answer.cited_texts, model)
                by_key.setdefault(content_id(answer.question, answer.answer), _item(answer, (shown,)))
    return list(by_key.values())


def pairwise_items(
    first: Sequence[ScoredAnswer], second: Sequence[ScoredAnswer], models: tuple[str, str], count: int, seed: int
) -> list[StudyItem]:
    """Return up to `count` questions with the different answers of two models; equal answers cannot be compared.

    Raises DatasetError if the models have no question in common to which they gave different answers.
    """
    others = {answer.pair_id: answer for answer in second}
    different = [a for a in first if a.pair_id in others and others[a.pair_id].answer != a.answer]
    if not different:
        raise DatasetError(
            f"{models[0]} and {models[1]} gave no different answers to the same questions.",
            "two models that answered the same questions",
            "compare other models, or rate single answers (--mode rating)",
        )
    return [
        _item(answer, tuple(ShownAnswer(a.answer, a.cited_texts, model) for a, model in zip(pair, models, strict=True)))
        for answer in _sample(different, count, seed)
        if (pair := (answer, others[answer.pair_id]))
    ]


def traffic_items(
    responses: Sequence[ResponseRecord], chunks: Sequence[Chunk], count: int, seed: int
) -> list[StudyItem]:
    """Return up to `count` answers that users got, with the passages that they cite as these are now."""
    texts = {chunk.id: chunk.text for chunk in chunks}
    sample = sorted(responses, key=lambda response: draw(seed, "study", response.id))[:count]
    return [
        StudyItem(
            id=_item_id(response.question, response.answer),
            question=response.question,
            expected="",
            answers=(
                ShownAnswer(
                    response.answer,
                    tuple(texts[name] for name in response.cited_chunk_ids if name in texts),
                    f"{response.model} {response.model_version}",
                ),
            ),
        )
        for response in sample
    ]


def read_answers(path: Path) -> list[ScoredAnswer]:
    """Return the answers of a JSON lines file with `question`, `answer` and, if known, `expected` and `sources`.

    Raises DatasetError that names every line without a question or an answer.
    """
    answers, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            answers.append(_scored(row))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"line {number}: {type(error).__name__}: {error}")
    if problems or not answers:
        raise DatasetError(
            f"{path} has {len(problems)} lines that are no answers:\n" + "\n".join(problems[:20]),
            'JSON lines such as {"question": "...", "answer": "...", "sources": ["..."]}',
        )
    return answers


def _scored(row: Mapping[str, Any]) -> ScoredAnswer:
    expected = str(row.get("expected", ""))
    return ScoredAnswer(
        pair_id=content_id(str(row["question"])),
        question=str(row["question"]),
        expected=expected,
        answer=str(row["answer"]),
        kind="",
        answerable=True,
        refused=False,
        retrieved=False,
        cited=(),
        metrics={},
        latency_ms=0.0,
        scored_text=str(row["answer"]),
        cited_texts=tuple(str(source) for source in row.get("sources", ())),
    )


def _sample(answers: Sequence[ScoredAnswer], count: int, seed: int) -> list[ScoredAnswer]:
    return sorted(answers, key=lambda answer: draw(seed, "study", answer.pair_id))[:count]


def _item(answer: ScoredAnswer, answers: tuple[ShownAnswer, ...]) -> StudyItem:
    expected = answer.expected if answer.answerable else UNANSWERABLE
    texts = [shown.text for shown in answers]
    return StudyItem(id=_item_id(answer.question, *texts), question=answer.question, expected=expected, answers=answers)


def _item_id(*parts: str) -> str:
    """Return an id that begins with a letter, so that no spreadsheet reads it as a number."""
    return "i" + content_id("item", *parts)
