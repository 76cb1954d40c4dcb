"""Measures whether dials and switches do what they say: `python -m benchmarks.serving.dials --rows FILE`.

Each question is asked with a dial at every level and with every switch, and nothing else changed. The model's own text
and what people get are scored apart. Each text of the model is written to FILE, so that a run that was interrupted goes
on, and so that what people get can be measured again after a change of the answering path: a second run over the same
FILE asks no engine.
"""

import argparse
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.questions.measure import SETS, interval, is_right, read_lines
from benchmarks.questions.offline import Question, answerer_of, settings_of
from benchmarks.serving.served_home import facts as facts_of_run
from ragtune.answer.answering import NOT_GENERATED, Answerer, Prepared, generate
from ragtune.answer.citations import cited_numbers, sentences_with_marks, without_citations
from ragtune.answer.controls import NEUTRAL, with_controls
from ragtune.answer.styles import has_example, has_steps, term_share
from ragtune.backends.catalog import engine_from, evidence_from
from ragtune.backends.chat import OpenAIChat
from ragtune.errors import RagTuneError
from ragtune.ports import ChatModel
from ragtune.records import Completion, Message
from ragtune.text.sentences import split_sentences
from ragtune.text.words import content_words

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
SAMPLES = 3
"""Answers to one question at one level of creativity, with different seeds."""
_RESAMPLES, _SEED = 1000, 17
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_VOWELS = re.compile(r"[aeiouy]+")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to ask a question: at most one dial or switch differs from the neutral style."""

    dial: str = ""
    level: float = 0.5
    switch: str = ""
    on: bool = True
    sample: int = 0

    @property
    def name(self) -> str:
        """Return a name under which its rows are stored."""
        if self.dial:
            return f"{self.dial}={self.level:g}#{self.sample}"
        return f"{self.switch}={self.on}" if self.switch else "neutral"


def main() -> None:
    """Ask what is missing, then print and write the scores."""
    options = _options()
    chosen = chosen_questions(options.set, options.questions)
    trials = all_trials(options.levels)
    answerers = answerers_of(chosen, options.homes)
    _ask(options, chosen, trials, answerers)
    texts = {(text["id"], text["trial"]): text for text in stored_texts(options.rows)}
    with ThreadPoolExecutor(options.concurrency) as pool:
        rows = list(
            pool.map(
                lambda ask: delivered(ask[0], ask[1], answerers[set_of(ask[0])], texts[ask[0]["id"], ask[1].name]),
                itertools.product(chosen, trials),
            )
        )
    result = {
        **facts_of_run("benchmarks.serving.dials"),
        "questions": len(chosen),
        "levels": options.levels,
        **scores(chosen, rows, options.levels),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines file; rows in it are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--set", nargs="+", default=["manual.dev"], help="question sets with documents of this project")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--levels", type=float, nargs="+", default=list(LEVELS))
    parser.add_argument("--homes", type=Path, default=Path(".ragtune/questions"), help="indexes are built there")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--model-folder", type=Path, help="start an engine on it; default: the packaged model")
    parser.add_argument("--chat-url", default="", help="URL of a running server, ending in /v1")
    parser.add_argument("--model", default="", help="name of its model")
    parser.add_argument("--key-file", type=Path, help="file with its key")
    return parser.parse_args()


def all_trials(levels: Sequence[float]) -> list[Trial]:
    """Return every way to ask a question."""
    dials = [Trial(dial, level) for dial in ("depth", "technical_level") for level in levels]
    creative = [Trial("creativity", level, sample=n) for level in levels for n in range(SAMPLES)]
    switches = [Trial(switch="examples"), Trial(switch="step_by_step"), Trial(switch="citations", on=False)]
    return [Trial(), *dials, *creative, *switches]


def stored_texts(file: Path) -> list[Row]:
    """Return the model's texts in a file; empty if there is none."""
    return read_lines(file) if file.is_file() else []


def chosen_questions(sets: Sequence[str], count: int) -> list[Question]:
    """Return this many answerable questions of the sets, spread over them."""
    questions = [question for name in sets for question in read_lines(SETS / f"{name}.jsonl") if question["answerable"]]
    return questions[:: max(1, len(questions) // count)][:count]


def answerers_of(questions: Sequence[Question], homes: Path) -> dict[str, Answerer]:
    """Return the answering path of each set."""
    all_settings = {name: settings_of(name, homes, []) for name in sorted({set_of(one) for one in questions})}
    return {name: answerer_of(settings, evidence_from(settings)) for name, settings in all_settings.items()}


def set_of(question: Question) -> str:
    """Return the name of the set that a question belongs to."""
    name: str = question["id"].partition("-")[0]
    return name


def _ask(
    options: argparse.Namespace,
    questions: Sequence[Question],
    trials: Sequence[Trial],
    answerers: dict[str, Answerer],
) -> None:
    """Write the texts of the model that are missing."""
    known = {(text["id"], text["trial"]) for text in stored_texts(options.rows)}
    missing = [(q, trial) for q, trial in itertools.product(questions, trials) if (q["id"], trial.name) not in known]
    if not missing:
        return
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    with _chat(options) as chat, ThreadPoolExecutor(options.concurrency) as pool, options.rows.open("a") as stream:
        once = GeneratesOnce(chat)
        texts = pool.map(lambda ask: generated(ask[0], ask[1], answerers[set_of(ask[0])], once), missing)
        for text in texts:
            stream.write(json.dumps(text, ensure_ascii=False) + "\n")
            stream.flush()


@contextmanager
def _chat(options: argparse.Namespace) -> Iterator[ChatModel]:
    if options.chat_url:
        key = options.key_file.read_text().strip() if options.key_file else ""
        with OpenAIChat(options.chat_url, key, options.model) as chat:
            yield chat
        return
    from ragtune.model.base.pretrained import resolve_base_model
    from ragtune.settings import load_settings
    from ragtune.store.artifacts import ArtifactStore

    settings = load_settings({"home": options.homes})
    store = ArtifactStore(settings.home / "artifacts")
    folder = options.model_folder or store.folder(resolve_base_model(settings.base_model, store))
    with engine_from(settings).running(folder.resolve(), "dials") as running:
        yield running.chat()


def prepared_for(question: Question, trial: Trial, answerer: Answerer) -> Prepared:
    """Return a question that is ready to be asked in one way."""
    dials = {trial.dial: trial.level} if trial.dial else {}
    controls = with_controls(NEUTRAL, dials, {trial.switch: trial.on} if trial.switch else {})
    history = [Message(turn["role"], turn["content"]) for turn in question["history"]]
    return answerer.prepare(question["question"], history, controls)


class GeneratesOnce:
    """Asks an engine once for requests that it cannot tell apart: a dial in the middle is no dial.

    A greedy answer has no seed. Safe for several threads.
    """

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        self._lock = Lock()
        self._texts: dict[tuple[Any, ...], Future[Completion]] = {}

    def generate(self, prepared: Prepared, seed: int) -> Completion:
        """Return the text for a prepared question."""
        key = (prepared.messages, prepared.max_tokens, prepared.temperature, seed if prepared.temperature else 0)
        with self._lock:
            is_new = key not in self._texts
            text = self._texts.setdefault(key, Future())
        if is_new:
            try:
                text.set_result(generate(self._chat, prepared, seed))
            except RagTuneError as error:
                text.set_exception(error)
        return text.result()


def generated(question: Question, trial: Trial, answerer: Answerer, once: GeneratesOnce) -> Row:
    """Return the model's text for one question, asked in one way."""
    completion = once.generate(prepared_for(question, trial, answerer), trial.sample)
    return {
        "id": question["id"],
        "trial": trial.name,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
    }


def delivered(question: Question, trial: Trial, answerer: Answerer, text: Row, prepared: Prepared | None = None) -> Row:
    """Return a row with the model's text and with what people get of it; a `prepared` question is not searched for."""
    prepared = prepared or prepared_for(question, trial, answerer)
    completion = replace(NOT_GENERATED, text=text["text"], finish_reason=text["finish_reason"])
    given = answerer.finish(prepared, completion)
    shown = " ".join(hit.chunk.text for hit in prepared.passages or ())
    return {
        "id": question["id"],
        "trial": trial.name,
        "model": completion.text,
        "delivered": given.text,
        "refused": given.refused,
        "facts": {
            "model": facts(completion.text, question["question"], shown),
            "delivered": facts(given.text, question["question"], shown),
        },
    }


def scores(questions: Sequence[Question], rows: Sequence[Row], levels: Sequence[float]) -> dict[str, Any]:
    """Return correlations, obedience and correctness; of the model's text and of what was delivered."""
    return {side: _scores_of(side, questions, rows, levels) for side in ("model", "delivered")}


def _scores_of(
    side: str, questions: Sequence[Question], rows: Sequence[Row], levels: Sequence[float]
) -> dict[str, Any]:
    by_trial: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_trial.setdefault(row["trial"], {})[row["id"]] = row
    neutral = by_trial["neutral"]

    def table(dial: str, effect: Any) -> dict[str, list[float]]:
        """Return {question id: effect at each level}, of the questions that were not refused at any."""
        trials = [by_trial[f"{dial}={level:g}#0"] for level in levels]
        answered = [id_ for id_ in neutral if not any(rows_[id_]["refused"] for rows_ in trials)]
        return {id_: [effect(rows_[id_]) for rows_ in trials] for id_ in answered}

    def diversity_at(id_: str, level: float) -> float:
        return diversity([by_trial[f"creativity={level:g}#{n}"][id_][side] for n in range(SAMPLES)])

    accepted = {question["id"]: question["answers"] for question in questions}
    correlations = {
        "depth: words": table("depth", lambda row: len(row[side].split())),
        "depth: facts": table("depth", lambda row: row["facts"][side]),
        "technical_level: grade": table("technical_level", lambda row: grade(row[side])),
        "technical_level: terms": table("technical_level", lambda row: term_density(row[side])),
        "creativity: diversity": {
            id_: [diversity_at(id_, level) for level in levels] for id_, row in neutral.items() if not row["refused"]
        },
    }
    checks = {"examples=True": has_example, "step_by_step=True": has_steps, "citations=False": has_no_citation}
    return {
        "rank correlation": {name: correlation(effects, levels) for name, effects in correlations.items()},
        "obedience": {
            name: {
                "with": _share([check(row[side]) for row in by_trial[name].values() if not row["refused"]]),
                "without": _share([check(row[side]) for row in neutral.values() if not row["refused"]]),
            }
            for name, check in checks.items()
        },
        "right": {
            name: _share([holds_answer(row[side], accepted[id_]) for id_, row in rows_.items()])
            for name, rows_ in sorted(by_trial.items())
        },
    }


def correlation(effects: dict[str, list[float]], levels: Sequence[float]) -> list[float] | None:
    """Return Spearman's rank correlation of level and effect within questions, its 95% interval, and n.

    The effects of a question are counted from their mean, so that questions with long answers do not hide the effect of
    the dial. Questions are resampled. None if no effect differs from another.

    Args:
        effects: {question id: effect at each level}.
        levels: of the dial.
    """
    if not effects:
        return None
    # Rounded, so that equal effects stay equal.
    table = np.array([np.array(row, dtype=float) - np.mean(row) for row in effects.values()]).round(9)
    if not table.any():
        return None

    def rho(rows: np.ndarray) -> float:
        if not rows.any():
            return 0.0
        return float(spearmanr(np.tile(levels, len(rows)), rows.ravel()).statistic)

    draws = np.random.default_rng(_SEED).integers(len(table), size=(_RESAMPLES, len(table)))
    low, high = np.quantile([rho(table[draw]) for draw in draws], [0.025, 0.975])
    return [round(rho(table), 3), round(float(low), 3), round(float(high), 3), len(table)]


def facts(text: str, question: str, passages: str) -> int:
    """Return how many content words of the passages a text has that the question has not."""
    return len((content_words(without_citations(text)) & content_words(passages)) - content_words(question))


def grade(text: str) -> float:
    """Return the school grade that a text asks for, by Kincaid's formula of 1975; 0 for an empty text."""
    words = _WORD.findall(without_citations(text))
    if not words:
        return 0.0
    syllables = sum(max(1, len(_VOWELS.findall(word.lower().removesuffix("e")))) for word in words)
    return 0.39 * len(words) / max(1, len(split_sentences(text))) + 11.8 * syllables / len(words) - 15.59


def term_density(text: str) -> float:
    """Return the share of words that are identifiers, numbers or long words, without citation marks."""
    return term_share(without_citations(text))


def diversity(texts: Sequence[str]) -> float:
    """Return 1 minus the mean overlap (Jaccard) of the word pairs of each two texts: 0 if all texts are equal."""
    pairs = [set(itertools.pairwise(text.lower().split())) for text in texts]
    overlaps = [
        1.0 if one == other else len(one & other) / len(one | other) for one, other in itertools.combinations(pairs, 2)
    ]
    return 1.0 - sum(overlaps) / len(overlaps)


def has_no_citation(text: str) -> bool:
    """Return whether a text has no citation mark."""
    return not cited_numbers(text)


def holds_answer(text: str, accepted: Sequence[str]) -> bool:
    """Return whether a sentence of a text is right; a dial may make the whole longer than an answer may be."""
    return any(is_right(text[start:end], accepted) for start, end in sentences_with_marks(text))


def _share(values: Sequence[bool]) -> list[float]:
    """Return the mean, its 95% interval and n; each value is a question of its own."""
    return (
        interval([float(value) for value in values], [str(number) for number in range(len(values))]) if values else []
    )


if __name__ == "__main__":
    main()
