"""Judges of answers: the evidence model, which needs no server, and a language model if one is configured.

A judge is an instrument: what it says counts only after `calibration` compared it with people's ratings. Each judges by
the rubric that people rate by (`RUBRIC`), from 0 to 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from ragtune.answer.units import text_units
from ragtune.evaluation.agreement import Estimate, bootstrapped
from ragtune.language_model import LanguageModel
from ragtune.ports import EvidenceModel, Progress, silent
from ragtune.records import Message, ScoredAnswer, content_id
from ragtune.settings import ModelSettings
from ragtune.text.words import content_words

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RUBRIC = {
    "correct": "Does the answer say what is right? Compare it with the expected answer if there is one.",
    "supported": "Does everything that the answer says stand in its sources?",
    "complete": "Does it answer the whole question?",
    "clear": "Can it be understood at once, without the sources?",
}
"""{question of the rubric: what it asks}."""
Level = Literal["no", "partly", "yes"]
LEVELS: tuple[Level, ...] = ("no", "partly", "yes")
"""The answers to a question of the rubric, worst first."""
LEVEL_SCORES: dict[str, float] = {"no": 0.0, "partly": 0.5, "yes": 1.0}
_NO_SOURCES = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge says of an answer to one question of the rubric; `score` is from 0 (no) to 1 (yes).

    `answer_key` is the same for the same answer to the same question, also if another model gave it.
    """

    answer_key: str
    judge: str
    question: str
    score: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Which of two answers to a question a judge prefers, judged twice with the sides swapped.

    `score` is 1 if the second answer is better, -1 if the first is, 0 if neither is or the two verdicts differ.
    `consistent` says whether the verdicts agree. `decided` of the two verdicts name a winner, `first_side` of them the
    answer that was shown first. `longer` is by how much the second answer is longer: the logarithm of the ratio of
    word counts.
    """

    pair_id: str
    score: int
    consistent: bool
    first_side: int
    decided: int
    longer: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSummary:
    """What a judge prefers over all questions, and how much position and length decide.

    `share` is the mean score from -1 to 1 with its 95% interval. `first_side` is the share of decided verdicts for the
    answer shown first; 0.5 is fair. `verbosity` is the change of the score if the second answer is e times as long.
    """

    n: int
    share: Estimate
    consistent: float
    first_side: float
    verbosity: Estimate


class Verdict(BaseModel):
    """The shape of a language model's judgement of one answer."""

    model_config = ConfigDict(extra="ignore")

    reason: str = ""
    correct: Level
    supported: Level
    complete: Level
    clear: Level


class Comparison(BaseModel):
    """The shape of a language model's comparison of two answers."""

    model_config = ConfigDict(extra="ignore")

    reason: str = ""
    better: Literal["A", "B", "neither"]


def answer_key(question: str, answer: str) -> str:
    """Return the key under which judgements and ratings of an answer meet; it begins with a letter."""
    return "a" + content_id("answer", question, answer)


class EvidenceJudge:
    """Judges `correct` and `supported` by the evidence model; refusals are not judged.

    Supported is the mean of two things for the unit of the cited passages that has most of both: the share of the
    answer's words that it holds, and how likely it goes with the answer. Correct is how likely the answer goes with the
    question followed by the expected answer; docs/decisions/judges-are-calibrated.md compares that with alternatives.
    """

    def __init__(self, evidence: EvidenceModel) -> None:
        self.evidence = evidence
        self.name = f"evidence model {evidence.name}"

    def judge(self, answers: Sequence[ScoredAnswer], progress: Progress = silent) -> list[Judgement]:
        """Return the judgements of the answers that are no refusals."""
        judgements = []
        for done, answer in enumerate(answers, 1):
            progress("judging answers by evidence", done, len(answers))
            if answer.refused or not answer.scored_text:
                continue
            scores = {"supported": self.supported(answer)}
            if answer.answerable:
                scores["correct"] = self.correct(answer)
            key = answer_key(answer.question, answer.answer)
            judgements += [
                Judgement(answer_key=key, judge=self.name, question=question, score=score)
                for question, score in scores.items()
            ]
        return judgements

    def correct(self, answer: ScoredAnswer) -> float:
        """Return from 0 to 1 how likely the answer is right, given the expected one."""
        [probability] = self.evidence.probabilities(f"{answer.question} {answer.expected}", [answer.scored_text])
        return probability

    def supported(self, answer: ScoredAnswer) -> float:
        """Return from 0 to 1 how well a unit of the cited passages supports the answer; 0 without a citation."""
        units = [unit.scored_text for text in answer.cited_texts for unit in text_units(text)]
        if not units:
            return 0.0
        words = content_words(answer.scored_text) - content_words(answer.question)
        likely = self.evidence.probabilities(answer.scored_text, units)
        shares = [len(words & content_words(unit)) / len(words) if words else 1.0 for unit in units]
        return max((share + probability) / 2 for share, probability in zip(shares, likely, strict=True))


class RubricJudge:
    """A language model that judges by the rubric, and compares two answers with their sides swapped."""

    def __init__(self, settings: ModelSettings, cache: Path, seed: int) -> None:
        self.name = settings.model
        self.verdicts = LanguageModel(settings, Verdict, cache, seed)
        self.comparisons = LanguageModel(settings, Comparison, cache, seed)

    def judge(self, answers: Sequence[ScoredAnswer], progress: Progress = silent) -> list[Judgement]:
        """Return a judgement per question of the rubric of every answer that the model gave a usable reply for."""
        replies = self.verdicts.ask_all([_rating(answer) for answer in answers], "judging answers", progress)
        return [
            Judgement(
                answer_key=answer_key(answer.question, answer.answer),
                judge=self.name,
                question=question,
                score=LEVEL_SCORES[getattr(reply, question)],
                reason=reply.reason,
            )
            for answer, reply in zip(answers, replies, strict=True)
            if reply is not None
            for question in RUBRIC
        ]

    def compare(
        self, before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer], progress: Progress = silent
    ) -> list[Preference]:
        """Return which answers to the same questions are better; equal answers are not sent.

        A question without two usable replies is left out.
        """
        second = {answer.pair_id: answer for answer in after}
        pairs = [(answer, second[answer.pair_id]) for answer in before if answer.pair_id in second]
        pairs = [(old, new) for old, new in pairs if old.answer != new.answer]
        conversations = [_comparison(*sides) for old, new in pairs for sides in ((old, new), (new, old))]
        replies = self.comparisons.ask_all(conversations, "comparing answers", progress)
        preferences = []
        for place, (old, new) in enumerate(pairs):
            straight, swapped = replies[2 * place], replies[2 * place + 1]
            if straight is not None and swapped is not None:
                preferences.append(_preference(old, new, straight.better, swapped.better))
        return preferences


def summarise_preferences(preferences: Sequence[Preference], seed: int = 17) -> PreferenceSummary | None:
    """Return what the preferences say, or None if there are none."""
    import numpy as np

    if not preferences:
        return None
    scores = np.array([preference.score for preference in preferences], dtype=float)
    longer = np.array([preference.longer for preference in preferences])
    first = sum(preference.first_side for preference in preferences)
    decided = sum(preference.decided for preference in preferences)
    return PreferenceSummary(
        n=len(scores),
        share=bootstrapped(lambda draw: float(scores[draw].mean()), len(scores), seed),
        consistent=sum(preference.consistent for preference in preferences) / len(scores),
        first_side=first / decided if decided else 0.5,
        verbosity=bootstrapped(lambda draw: _slope(longer[draw], scores[draw]), len(scores), seed),
    )


def _slope(longer: "npt.NDArray[np.float64]", scores: "npt.NDArray[np.float64]") -> float:
    """Return the slope of the least-squares line; 0 if all answers are equally long."""
    spread = longer - longer.mean()
    variance = float(spread @ spread)
    return float(spread @ scores) / variance if variance > 0 else 0.0


def _preference(old: ScoredAnswer, new: ScoredAnswer, straight: str, swapped: str) -> Preference:
    """Return the preference of two verdicts; in `straight` A is the old answer, in `swapped` it is the new one."""
    first, second = {"A": -1, "B": 1, "neither": 0}[straight], {"A": 1, "B": -1, "neither": 0}[swapped]
    return Preference(
        pair_id=old.pair_id,
        score=first if first == second else 0,
        consistent=first == second,
        first_side=(straight == "A") + (swapped == "A"),
        decided=(straight != "neither") + (swapped != "neither"),
        longer=math.log(max(1, len(new.answer.split())) / max(1, len(old.answer.split()))),
    )


def _rating(answer: ScoredAnswer) -> list[Message]:
    asked = "\n".join(f"`{name}`: {question}" for name, question in RUBRIC.items())
    task = (
        f"You judge an answer to a question about some documents. Say yes, partly or no to each of these:\n{asked}\n"
        "A refusal is correct if the documents do not answer the question, which is so if there is no expected answer. "
        "First write one short `reason`. Do not prefer long answers. Reply with JSON."
    )
    return [Message("system", task), Message("user", f"{_facts(answer)}\n\nAnswer: {answer.answer}")]


def _comparison(first: ScoredAnswer, second: ScoredAnswer) -> list[Message]:
    task = (
        "You compare two answers, A and B, to a question about some documents. The better one is right, stands in the "
        "documents, answers the whole question and is clear, in this order. Do not prefer an answer because it is "
        "longer or comes first. First write one short `reason`, then `better`: A, B or neither. Reply with JSON."
    )
    answers = f"Answer A: {first.answer}\n\nAnswer B: {second.answer}"
    return [Message("system", task), Message("user", f"{_facts(first)}\n\n{answers}")]


def _facts(answer: ScoredAnswer) -> str:
    sources = "\n\n".join(answer.cited_texts) or _NO_SOURCES
    expected = answer.expected if answer.answerable else "(the documents do not answer this)"
    return f"Question: {answer.question}\n\nExpected answer: {expected}\n\nSources of the answer:\n{sources}"
