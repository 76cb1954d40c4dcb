"""Judges pairs: rules for each pair, then Great Expectations over what is left.

A pair that breaks a rule is dropped with its reason; the expectations then hold for the
dataset as a whole, critical ones block and warnings warn.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ragtune.dataset.near_duplicates import question_words
from ragtune.dataset.review import REVIEWED
from ragtune.dataset.sentences import clean, content_words, flat
from ragtune.records import Chunk, QAPair
from ragtune.settings import DatasetSettings

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["critical", "warning"]
LONGEST_ANSWER_WORDS = 60
LARGEST_TEMPLATE_SHARE = 0.10
LARGEST_NONE_SHARE = 0.04
LARGEST_REJECTED_SHARE = 0.20

_POINTING = re.compile(
    r"\b(?:this|that|these|those|the (?:above|below|following|given|said)) (?:function|class|method|parameter|argument|"
    r"section|page|passage|text|chunk|document|paragraph|table|sentence|code|article)\b|\b(?:above|below)\b|passage \d",
    re.IGNORECASE,
)
_PERSONAL = re.compile(
    r"\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b|\b(?:\+\d{1,3}[ -])?(?:\(\d{2,4}\)|\d{2,4})[ -]\d{3,4}[ -]\d{3,4}\b"
    r"|\b\d{3}-\d{2}-\d{4}\b|\b(?:\d{4}[ -]){3}\d{4}\b|\b(?:sk|ghp|xox[bp])[-_][A-Za-z0-9]{16,}",
    re.IGNORECASE,
)
_TOXIC = re.compile(r"\b(?:fuck\w*|shit\w*|bitch\w*|asshole|cunt|nigg\w+|faggot|retard(?:ed)?|whore)\b", re.IGNORECASE)
_ASKS = re.compile(r"\?$|^(?:Tell|Explain|Describe|Name|Give|List|Summari[sz]e|Define|Show|Compare)\b")


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """One expectation's verdict; `observed` and `expected` in words."""

    name: str
    severity: Severity
    success: bool
    observed: str
    expected: str


@dataclass(frozen=True, slots=True)
class QualityReport:
    """The pairs that passed, those that did not with the reason, and the verdicts on the whole."""

    kept: list[QAPair]
    rejected: list[tuple[QAPair, str]]
    results: list[ExpectationResult]
    html: str
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no critical expectation failed."""
        return all(result.success for result in self.results if result.severity == "critical")


def check_pairs(pairs: Sequence[QAPair], chunks: Sequence[Chunk], settings: DatasetSettings) -> QualityReport:
    """Return what may be trained on, what may not and why, and the verdicts of Great Expectations.

    Pairs keep their order; each kept one carries its scores. Above `max_pairs` the extractive pairs with the
    largest ids are left out first; what people wrote or accepted stays.
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
    kept, surplus = _at_most(kept, settings.max_pairs)
    rejected += [(pair, f"beyond max_pairs = {settings.max_pairs}") for pair in surplus]
    order = {pair.id: place for place, pair in enumerate(pairs)}
    kept.sort(key=lambda pair: order[pair.id])
    figures = summary(kept, len(rejected) - len(surplus))
    figures = {name: round(value, 4) for name, value in figures.items()}
    results, html = _expectations(kept, figures, settings)
    return QualityReport(kept, rejected, results, html, figures)


def _precedence(pair: QAPair) -> tuple[bool, bool, bool]:
    """Order users' corrections before what reviewers settled, and both before a model's and the rules' pairs."""
    return not pair.feedback_id, REVIEWED not in pair.scores, pair.writer == "extractive"


def rejection(pair: QAPair, chunk: Chunk | None) -> str:
    """Return why one pair may not be trained on; empty when it may."""
    if chunk is None:
        return "its chunk is gone"
    question, answer = pair.question.strip(), pair.answer.strip()
    checks = (
        (not 3 <= len(question.split()) <= 60, "the question is too short or too long"),
        (not _ASKS.search(question), "the question asks nothing"),
        (bool(_POINTING.search(question)), "the question points at text that the reader cannot see"),
        (question.count("`") % 2 == 1, "the question has broken markup"),
        (bool(_PERSONAL.search(f"{question} {answer}")), "it holds personal data or a secret"),
        (bool(_TOXIC.search(f"{question} {answer}")), "it holds abusive words"),
        (_foreign(f"{question} {answer}"), "it is not in English"),
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
    if flat(chunk.text[start:end]) != answer:
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


def _foreign(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    return bool(letters) and sum(character.isascii() for character in letters) / len(letters) < 0.9


def grounding(answer: str, text: str) -> float:
    """Return the share of the answer's meaningful words that stand in the text, 1.0 when it has none."""
    words = content_words(answer)
    return len(words & content_words(text)) / len(words) if words else float(flat(answer) in flat(text))


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
    return {
        "pairs": float(len(kept)),
        "rejected_share": rejected / max(len(kept) + rejected, 1),
        "unanswerable_share": sum(not pair.answerable for pair in kept) / n,
        "largest_template_share": max(templates.values(), default=0) / n,
        "none_share": sum(pair.answer in ("None", "`None`") for pair in kept) / n,
        "mean_relevance": sum(pair.scores.get("relevant", 0.0) for pair in kept) / n,
        "kinds": float(len({pair.kind for pair in kept if pair.answerable})),
    }


def _at_most(pairs: list[QAPair], most: int) -> tuple[list[QAPair], list[QAPair]]:
    if len(pairs) <= most:
        return pairs, []
    ranked = sorted(pairs, key=lambda pair: (*_precedence(pair), pair.id))
    return ranked[:most], ranked[most:]


@dataclass(frozen=True, slots=True)
class _Rule:
    """An expectation about a column of the pairs or of the figures; no bounds: unique, no column: rows."""

    name: str
    severity: Severity
    frame: str
    column: str
    bounds: dict[str, float]

    @property
    def expectation(self) -> str:
        if not self.bounds:
            return "ExpectColumnValuesToBeUnique"
        return "ExpectColumnValuesToBeBetween" if self.column else "ExpectTableRowCountToBeBetween"

    @property
    def arguments(self) -> dict[str, Any]:
        column = {"column": self.column} if self.column else {}
        return {**column, **self.bounds, "severity": self.severity}


def _frame(kept: Sequence[QAPair]) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        {
            "id": pair.id,
            "question": pair.question,
            "kind": pair.kind,
            "question_words": len(pair.question.split()),
            "answer_words": len(pair.answer.split()) if pair.answerable else 1,
            "span": pair.span[1] - pair.span[0],
            **{name: pair.scores.get(name, 0.0) for name in ("grounded", "self_contained", "relevant")},
        }
        for pair in kept
    ]
    columns = [
        "id",
        "question",
        "kind",
        "question_words",
        "answer_words",
        "span",
        "grounded",
        "self_contained",
        "relevant",
    ]
    return pd.DataFrame(rows, columns=columns)


def _suite(settings: DatasetSettings) -> list[_Rule]:
    wanted = settings.unanswerable_share
    return [
        _Rule("enough pairs", "critical", "pairs", "", {"min_value": settings.min_pairs}),
        _Rule("every pair once", "critical", "pairs", "id", {}),
        _Rule("every question once", "critical", "pairs", "question", {}),
        _Rule("answers stand in their chunks", "critical", "pairs", "grounded", {"min_value": 0.5}),
        _Rule("questions of 3 to 60 words", "critical", "pairs", "question_words", {"min_value": 3, "max_value": 60}),
        _Rule("answers of 1 to 60 words", "critical", "pairs", "answer_words", {"min_value": 1, "max_value": 60}),
        _Rule("questions name their object", "warning", "pairs", "self_contained", {"min_value": 1.0, "mostly": 0.95}),
        _Rule("questions resemble their chunks", "warning", "figures", "mean_relevance", {"min_value": 0.3}),
        _Rule("few pairs thrown away", "critical", "figures", "rejected_share", {"max_value": LARGEST_REJECTED_SHARE}),
        _Rule(
            "no wording floods", "warning", "figures", "largest_template_share", {"max_value": LARGEST_TEMPLATE_SHARE}
        ),
        _Rule("few answers that only say None", "warning", "figures", "none_share", {"max_value": LARGEST_NONE_SHARE}),
        _Rule(
            "the wanted share of unanswerable questions",
            "warning",
            "figures",
            "unanswerable_share",
            {"min_value": max(wanted - 0.1, 0.0), "max_value": wanted + 0.1},
        ),
        _Rule("several kinds of questions", "warning", "figures", "kinds", {"min_value": 4}),
    ]


def _expectations(
    kept: Sequence[QAPair], figures: dict[str, float], settings: DatasetSettings
) -> tuple[list[ExpectationResult], str]:
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("dataset")
    results: list[ExpectationResult] = []
    pages: list[str] = []
    for name, frame in (("pairs", _frame(kept)), ("figures", pd.DataFrame([figures]))):
        rules = [rule for rule in _suite(settings) if rule.frame == name]
        suite = gx.ExpectationSuite(name=name)
        for rule in rules:
            suite.add_expectation(getattr(gxe, rule.expectation)(**rule.arguments, meta={"name": rule.name}))
        batch = (
            source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        )
        outcome = batch.validate(suite)
        found = {result.expectation_config.meta["name"]: result for result in outcome.results}
        results += [_result(rule, found[rule.name]) for rule in rules]
        pages.append(_page(outcome))
    return results, "\n".join(pages)


def _result(rule: _Rule, result: Any) -> ExpectationResult:
    """Turn a verdict of Great Expectations into ours; a metric that raised counts as failed and says why."""
    detail = result.result
    raised = str((result.exception_info or {}).get("exception_message") or "")
    observed = raised or str(detail.get("observed_value", ""))
    if not observed:
        broken, total = detail.get("unexpected_count", 0), detail.get("element_count", 0)
        examples = detail.get("partial_unexpected_list", [])[:3]
        observed = f"{broken} of {total} break it" + (f": {examples}" if examples else "")
    return ExpectationResult(
        rule.name, rule.severity, bool(result.success), observed, f"{rule.column or 'rows'} {rule.bounds or 'unique'}"
    )


def _page(outcome: Any) -> str:
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    return str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(outcome)))
