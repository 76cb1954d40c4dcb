"""Judges pairs: rules for each pair, then the expectations of the whole over what is left.

A pair that breaks a rule is dropped with its reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragtune.dataset.checks.expectations import ExpectationResult, examine
from ragtune.dataset.checks.personal import personal_data
from ragtune.dataset.question_words import first_question_words, question_words
from ragtune.dataset.reviews.decisions import REVIEWED
from ragtune.dataset.sentences import clean, collapse_whitespace, content_words
from ragtune.knowledge.language import guess_language
from ragtune.records import Chunk, QAPair
from ragtune.settings import DatasetSettings

LONGEST_ANSWER_WORDS = 60
Scorer = Callable[[list[QAPair]], list[QAPair]]
"""Returns the pairs, in their order, with more scores."""

_POINTING = re.compile(
    r"\b(?:this|that|these|those|the (?:above|below|following|given|said)) (?:function|class|method|parameter|argument|"
    r"section|page|passage|text|chunk|document|paragraph|table|sentence|code|article)\b|\b(?:above|below)\b|passage \d",
    re.IGNORECASE,
)
_TOXIC = re.compile(r"\b(?:fuck\w*|shit\w*|bitch\w*|asshole|cunt|nigg\w+|faggot|retard(?:ed)?|whore)\b", re.IGNORECASE)
_IMPERATIVES = ("give", "list", "summarise", "summarize", "define", "show", "compare", "who", "is", "are", "does", "do")
_ASKS = re.compile(rf"\?$|^(?:{'|'.join(sorted({*first_question_words(), *_IMPERATIVES}))})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class QualityReport:
    """The pairs that passed, those that did not with the reason, and the verdicts on the whole."""

    kept: list[QAPair]
    rejected: list[tuple[QAPair, str]]
    results: list[ExpectationResult]
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no critical expectation failed."""
        return all(result.success for result in self.results if result.severity == "critical")


def check_pairs(
    pairs: Sequence[QAPair],
    chunks: Sequence[Chunk],
    settings: DatasetSettings,
    score: Scorer = list,
    docs: Path | None = None,
) -> QualityReport:
    """Return what may be trained on, what may not and why, and the verdicts of Great Expectations.

    Pairs keep their order; each kept one carries its scores, those of `score` included. Above `max_pairs`
    extractive pairs are left out first, from the sources with the most of them; what people wrote or accepted
    stays. A pair that a judge gave less than `judge.least` goes, unless people decided. `docs` is a folder for
    the data docs.
    """
    texts = {chunk.id: chunk for chunk in chunks}
    seen: set[tuple[str, ...]] = set()
    kept: list[QAPair] = []
    rejected: list[tuple[QAPair, str]] = []
    for pair in sorted(pairs, key=_precedence):
        chunk = texts.get(pair.chunk_id)
        reason = rejection(pair, chunk)
        key = (pair.kind, *sorted(question_words(pair.question)))
        if not reason and key in seen:
            reason = "the same question was asked before"
        if reason or chunk is None:
            rejected.append((pair, reason))
            continue
        seen.add(key)
        kept.append(replace(pair, scores={**pair.scores, **scores(pair, chunk)}))
    kept, surplus = _at_most(kept, settings.max_pairs, texts)
    order = {pair.id: place for place, pair in enumerate(pairs)}
    scored = score(sorted(kept, key=lambda pair: order[pair.id]))
    kept = [pair for pair in scored if not _judged_poor(pair, settings.judge.least)]
    poor = [pair for pair in scored if _judged_poor(pair, settings.judge.least)]
    rejected += [(pair, "the judge gave it too little") for pair in poor]
    figures = {name: round(value, 4) for name, value in summary(kept, len(rejected)).items()}
    rejected += [(pair, f"beyond max_pairs = {settings.max_pairs}") for pair in surplus]
    return QualityReport(kept, rejected, examine(kept, figures, settings, docs), figures)


def _judged_poor(pair: QAPair, least: float) -> bool:
    judged = [value for name, value in pair.scores.items() if name.startswith("judge_")]
    return bool(judged) and min(judged) < least and not pair.feedback_id and REVIEWED not in pair.scores


def _precedence(pair: QAPair) -> tuple[bool, bool, bool]:
    """Order users' corrections before what reviewers settled, and both before a model's and the rules' pairs."""
    return not pair.feedback_id, REVIEWED not in pair.scores, pair.writer == "extractive"


def rejection(pair: QAPair, chunk: Chunk | None) -> str:
    """Return why one pair may not be trained on; empty when it may."""
    if chunk is None:
        return "its chunk is gone"
    question, answer = pair.question.strip(), pair.answer.strip()
    personal = personal_data(f"{question} {answer}")
    checks = (
        (not 2 <= len(question.split()) <= 60, "the question is too short or too long"),
        (not _ASKS.search(question), "the question asks nothing"),
        (bool(_POINTING.search(question)), "the question points at text that the reader cannot see"),
        (question.count("`") % 2 == 1, "the question has broken markup"),
        (bool(personal), f"it holds personal data or a secret: {personal}"),
        (bool(_TOXIC.search(f"{question} {answer}")), "it holds abusive words"),
        (_foreign(question, answer, chunk.text), "it is neither in English nor in the language of its passage"),
    )
    found = next((reason for broken, reason in checks if broken), "")
    return found or _answer_rejection(pair, chunk, answer)


def _answer_rejection(pair: QAPair, chunk: Chunk, answer: str) -> str:
    if not pair.answerable:
        return "an unanswerable pair has an answer" if answer or pair.span != (0, 0) else ""
    if not answer:
        return "the answer is empty"
    if len(answer.split()) > LONGEST_ANSWER_WORDS:
        return f"the answer is longer than {LONGEST_ANSWER_WORDS} words"
    if gives_away(pair.question, answer):
        return "the question gives the answer away"
    if pair.feedback_id or pair.writer != "extractive":
        return "" if grounding(answer, chunk.embedded_text) >= 0.5 else "the answer does not stand in its chunk"
    start, end = pair.span
    if collapse_whitespace(chunk.text[start:end]) != answer:
        return "the answer is not the text of its span"
    if _cut(chunk.text, start, end):
        return "the answer begins or ends inside a word"
    return "" if clean(answer) else "the answer has broken markup"


def gives_away(question: str, answer: str) -> bool:
    """Return whether the answer stands in the question, as whole words."""
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?![\w.])", question, re.IGNORECASE) is not None


def _cut(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return (before.isalnum() and text[start].isalnum()) or (after.isalnum() and text[end - 1].isalnum())


def _foreign(question: str, answer: str, passage: str) -> bool:
    """Return whether question or answer is plainly in a language that neither the passage nor the prompts are in."""
    known = {"en", guess_language(passage)}
    return any(guess_language(text) not in known for text in (question, answer, f"{question} {answer}"))


def grounding(answer: str, text: str) -> float:
    """Return the share of the answer's meaningful words that stand in the text, 1.0 when it has none."""
    words = content_words(answer)
    return (
        len(words & content_words(text)) / len(words)
        if words
        else float(collapse_whitespace(answer) in collapse_whitespace(text))
    )


def scores(pair: QAPair, chunk: Chunk) -> dict[str, float]:
    """Return the figures of one pair, each in 0..1: grounded, self-contained, relevant."""
    asked = content_words(pair.question)
    named = asked & content_words(f"{chunk.title} {' '.join(chunk.heading_path)}")
    shared = asked & content_words(chunk.embedded_text)
    return {
        "grounded": round(grounding(pair.answer, chunk.text), 3) if pair.answerable else 1.0,
        "self_contained": float(bool(named) or len(shared) >= 3),
        "relevant": round(len(shared) / len(asked), 3) if asked else 0.0,
    }


def summary(kept: Sequence[QAPair], rejected: int = 0) -> dict[str, float]:
    """Return the figures of a dataset that its expectations are about; shares in 0..1."""
    n = max(len(kept), 1)
    templates = Counter(pair.template for pair in kept if pair.template)
    found = [pair.scores["retrievable"] for pair in kept if "retrievable" in pair.scores]
    return {
        "pairs": float(len(kept)),
        "rejected_share": rejected / max(len(kept) + rejected, 1),
        "unanswerable_share": sum(not pair.answerable for pair in kept) / n,
        "largest_template_share": max(templates.values(), default=0) / n,
        "none_share": sum(pair.answer in ("None", "`None`") for pair in kept) / n,
        "mean_relevance": sum(pair.scores.get("relevant", 0.0) for pair in kept) / n,
        "kinds": float(len({pair.kind for pair in kept if pair.answerable})),
        **({"mean_retrievable": sum(found) / len(found)} if found else {}),
    }


def _at_most(pairs: list[QAPair], most: int, texts: dict[str, Chunk]) -> tuple[list[QAPair], list[QAPair]]:
    """Split off what is too many, so that a large source does not crowd out a small one."""
    if len(pairs) <= most:
        return pairs, []
    taken: Counter[tuple[tuple[bool, ...], str]] = Counter()
    rank: dict[str, tuple[object, ...]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.id):
        group = (_precedence(pair), texts[pair.chunk_id].source)
        rank[pair.id] = (*group[0], taken[group], pair.id)
        taken[group] += 1
    ranked = sorted(pairs, key=lambda pair: rank[pair.id])
    return ranked[:most], ranked[most:]
