"""Checks pairs one by one with rules, then the rest as a whole with Great Expectations.

A pair that breaks a rule is dropped and listed with the reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragtune.dataset.checks.expectations import ExpectationResult, check_expectations
from ragtune.dataset.checks.personal import personal_data
from ragtune.dataset.minimums import least_pairs
from ragtune.dataset.question_words import first_question_words, question_words
from ragtune.dataset.reviews.decisions import REVIEWED
from ragtune.dataset.standalone import clean
from ragtune.records import Chunk, QAPair
from ragtune.settings import DatasetSettings
from ragtune.text.language import guess_language
from ragtune.text.segments import is_unspaced, word_count
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

LONGEST_ANSWER_WORDS = 60
"""Chosen by hand, not measured."""
LEAST_SHARE_IN_CHUNK = 0.5
"""Share of the answer's words that must stand in the chunk if the answer need not be verbatim; chosen by hand."""
Scorer = Callable[[list[QAPair]], list[QAPair]]
"""Takes pairs and returns them in the same order with additional scores."""

# A question that points at its passage means nothing to a reader who does not see it.
_POINTING_NOUN = (
    r"\b(?:this|that|these|those|the (?:above|below|following|given|said)) (?:function|class|method|parameter|argument|"
    r"section|page|passage|text|chunk|document|paragraph|table|sentence|code|article)\b|passage \d"
)
_POINTING = re.compile(rf"{_POINTING_NOUN}|\b(?:above|below)\b", re.IGNORECASE)
# People also ask what happens below a temperature or above a price.
_POINTING_OF_PEOPLE = re.compile(_POINTING_NOUN, re.IGNORECASE)
# Words that have no place in documentation; a short list of our own, in English only.
_TOXIC = re.compile(r"\b(?:fuck\w*|shit\w*|bitch\w*|asshole|cunt|nigg\w+|faggot|retard(?:ed)?|whore)\b", re.IGNORECASE)
_IMPERATIVES = ("give", "list", "summarise", "summarize", "define", "show", "compare", "who", "is", "are", "does", "do")
_ASKS = re.compile(rf"[?？؟]$|^(?:{'|'.join(sorted({*first_question_words(), *_IMPERATIVES}))})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class QualityReport:
    """The pairs that passed, the rejected ones with their reasons, and the verdicts on the dataset as a whole.

    `figures` are the shares and means that the expectations were checked on.
    """

    pairs: list[QAPair]
    rejected: list[tuple[QAPair, str]]
    results: list[ExpectationResult]
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True if no critical expectation failed."""
        return all(result.success for result in self.results if result.severity == "critical")


def check_pairs(
    pairs: Sequence[QAPair],
    chunks: Sequence[Chunk],
    settings: DatasetSettings,
    score: Scorer = list,
    docs: Path | None = None,
) -> QualityReport:
    """Return the pairs that may be trained on with their scores, the rejected ones, and the verdicts on the whole.

    Pairs keep their order. If a question is asked twice, the pair that people wrote or accepted wins. If there are
    more than `max_pairs`, pairs of the rule-based writer are dropped first, from the sources with the most of them. A
    pair to which a judge gave less than `judge.least` is rejected, unless people wrote it or decided about it. No rule
    of grammar applies to people's questions, and those that are rejected do not count against the writers.

    `score` adds further scores to the pairs that passed the rules, such as those of a judge. `docs` is a folder for
    Great Expectations' data docs.
    """
    chunk_by_id = {chunk.id: chunk for chunk in chunks}
    keys: set[tuple[str, ...]] = set()
    questions: set[str] = set()
    good: list[QAPair] = []
    rejected: list[tuple[QAPair, str]] = []
    for pair in sorted(pairs, key=_precedence):
        chunk = chunk_by_id.get(pair.chunk_id)
        reason = rejection_reason(pair, chunk)
        key, question = question_key(pair)
        if not reason and (key in keys or question in questions):
            reason = "the same question was asked before"
        if reason or chunk is None:
            rejected.append((pair, reason))
            continue
        keys.add(key)
        questions.add(question)
        good.append(replace(pair, scores={**pair.scores, **scores(pair, chunk)}))
    good, surplus = _limit_pairs(good, settings.max_pairs, chunk_by_id)
    position = {pair.id: number for number, pair in enumerate(pairs)}
    scored = score(sorted(good, key=lambda pair: position[pair.id]))
    good = [pair for pair in scored if not _fails_judge(pair, settings.judge.least)]
    poor = [pair for pair in scored if _fails_judge(pair, settings.judge.least)]
    rejected += [(pair, "the judge gave it too little") for pair in poor]
    rejected_of_writers = sum(pair.origin == "writer" for pair, _ in rejected)
    figures = {name: round(value, 4) for name, value in summary(good, rejected_of_writers).items()}
    rejected += [(pair, f"beyond max_pairs = {settings.max_pairs}") for pair in surplus]
    least = least_pairs(settings, sum(not chunk.duplicate_of for chunk in chunks))
    return QualityReport(good, rejected, check_expectations(good, figures, settings, least, docs), figures)


def _fails_judge(pair: QAPair, least: float) -> bool:
    """Return whether a judge's lowest score is below `least` and no person wrote the pair or decided about it."""
    judge_scores = [value for name, value in pair.scores.items() if name.startswith("judge_")]
    is_peoples = pair.origin != "writer" or REVIEWED in pair.scores
    return bool(judge_scores) and min(judge_scores) < least and not is_peoples


def _precedence(pair: QAPair) -> tuple[bool, bool, bool]:
    """Return a sort key: corrections, then what people wrote or reviewed, then a model's pairs, then the rules'."""
    is_peoples = pair.origin == "people" or REVIEWED in pair.scores
    return not pair.feedback_id, not is_peoples, pair.writer == "extractive"


def question_key(pair: QAPair) -> tuple[tuple[str, ...], str]:
    """Return what two pairs share if they ask the same: the words of the question, or the question itself."""
    return (pair.kind, *sorted(question_words(pair.question))), collapse_whitespace(pair.question).lower()


def rejection_reason(pair: QAPair, chunk: Chunk | None) -> str:
    """Return why the pair may not be trained on, or "" if it may."""
    if chunk is None:
        return "its chunk is gone"
    question, answer = pair.question.strip(), pair.answer.strip()
    private, is_written = personal_data(f"{question} {answer}"), pair.origin == "writer"
    pointing = _POINTING if is_written else _POINTING_OF_PEOPLE
    checks = (
        (not 2 <= word_count(question) <= 60, "the question is too short or too long"),
        (is_written and not _ASKS.search(question), "the question asks nothing"),
        (bool(pointing.search(question)), "the question points at text that the reader cannot see"),
        (is_written and question.count("`") % 2 == 1, "the question has broken markup"),
        (bool(private), f"it holds personal data or a secret: {private}"),
        (bool(_TOXIC.search(f"{question} {answer}")), "it holds abusive words"),
        (
            _is_foreign(question, answer, chunk.text),
            "it is neither in English nor in the language of its passage",
        ),
    )
    reason = next((reason for broken, reason in checks if broken), "")
    return reason or _answer_rejection_reason(pair, chunk, answer)


def _answer_rejection_reason(pair: QAPair, chunk: Chunk, answer: str) -> str:
    if not pair.answerable:
        return "an unanswerable pair has an answer" if answer or pair.span != (0, 0) else ""
    if not answer:
        return "the answer is empty"
    if word_count(answer) > LONGEST_ANSWER_WORDS:
        return f"the answer is longer than {LONGEST_ANSWER_WORDS} words"
    if gives_away(pair.question, answer):
        return "the question gives the answer away"
    if pair.feedback_id or pair.writer != "extractive":
        is_supported = share_in_text(answer, chunk.embedded_text) >= LEAST_SHARE_IN_CHUNK
        return "" if is_supported else "the answer does not stand in its chunk"
    start, end = pair.span
    if collapse_whitespace(chunk.text[start:end]) != answer:
        return "the answer is not the text of its span"
    if _splits_word(chunk.text, start, end):
        return "the answer begins or ends inside a word"
    return "" if clean(answer) else "the answer has broken markup"


def gives_away(question: str, answer: str) -> bool:
    """Return whether the question contains the answer as whole words."""
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?![\w.])", question, re.IGNORECASE) is not None


def _splits_word(text: str, start: int, end: int) -> bool:
    """Return whether the span begins or ends inside a word of the text."""
    edges = (text[start - 1 : start + 1] if start else "", text[end - 1 : end + 1])
    return any(len(edge) == 2 and edge.isalnum() and not any(map(is_unspaced, edge)) for edge in edges)


def _is_foreign(question: str, answer: str, passage: str) -> bool:
    """Return whether question or answer is clearly neither in English nor in the language of the passage."""
    allowed = {"en", guess_language(passage)}
    return any(guess_language(text) not in allowed for text in (question, answer, f"{question} {answer}"))


def share_in_text(answer: str, text: str) -> float:
    """Return the share of the answer's content words that stand in the text.

    An answer without content words, such as `[]`, gives 1.0 if the text contains it literally, and 0.0 if not.
    """
    words = content_words(answer)
    if not words:
        return float(collapse_whitespace(answer) in collapse_whitespace(text))
    return len(words & content_words(text)) / len(words)


def scores(pair: QAPair, chunk: Chunk) -> dict[str, float]:
    """Return the scores `grounded`, `self_contained` and `relevant` of one pair, each in 0..1."""
    words = content_words(pair.question)
    named = words & content_words(f"{chunk.title} {' '.join(chunk.heading_path)}")
    shared = words & content_words(chunk.embedded_text)
    return {
        # The text that `rejection_reason` looks at: otherwise a pair could pass it and stop the whole dataset.
        "grounded": round(share_in_text(pair.answer, chunk.embedded_text), 3) if pair.answerable else 1.0,
        "self_contained": float(bool(named) or len(shared) >= 3),
        "relevant": round(len(shared) / len(words), 3) if words else 0.0,
    }


def summary(pairs: Sequence[QAPair], rejected: int = 0) -> dict[str, float]:
    """Return the figures that the expectations are checked on.

    `rejected` is the number of the writers' pairs that broke a rule.
    """
    n = max(len(pairs), 1)
    written = sum(pair.origin == "writer" for pair in pairs) + rejected
    templates = Counter(pair.template for pair in pairs if pair.template)
    retrievable = [pair.scores["retrievable"] for pair in pairs if "retrievable" in pair.scores]
    return {
        "pairs": float(len(pairs)),
        "written": float(written),
        "rejected_share": rejected / max(written, 1),
        "unanswerable_share": sum(not pair.answerable for pair in pairs) / n,
        "largest_template_share": max(templates.values(), default=0) / n,
        "none_share": sum(pair.answer in ("None", "`None`") for pair in pairs) / n,
        "mean_relevance": sum(pair.scores.get("relevant", 0.0) for pair in pairs) / n,
        "kinds": float(len({pair.kind for pair in pairs if pair.answerable})),
        **({"mean_retrievable": sum(retrievable) / len(retrievable)} if retrievable else {}),
    }


def _limit_pairs(pairs: list[QAPair], limit: int, chunk_by_id: dict[str, Chunk]) -> tuple[list[QAPair], list[QAPair]]:
    """Return (at most `limit` pairs, the others).

    Within one precedence the sources take turns, so that a large source does not crowd out a small one.
    """
    if len(pairs) <= limit:
        return pairs, []
    counts: Counter[tuple[tuple[bool, ...], str]] = Counter()
    rank: dict[str, tuple[object, ...]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.id):
        precedence, source = _precedence(pair), chunk_by_id[pair.chunk_id].source
        rank[pair.id] = (*precedence, counts[precedence, source], pair.id)
        counts[precedence, source] += 1
    ranked = sorted(pairs, key=lambda pair: rank[pair.id])
    return ranked[:limit], ranked[limit:]
