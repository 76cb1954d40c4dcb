"""What Great Expectations holds of a dataset as a whole: critical expectations block, warnings warn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragtune.records import QAPair
from ragtune.settings import DatasetSettings

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["critical", "warning"]
LARGEST_TEMPLATE_SHARE = 0.10
LARGEST_NONE_SHARE = 0.04
LARGEST_REJECTED_SHARE = 0.20


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """One expectation's verdict; `observed` and `expected` in words."""

    name: str
    severity: Severity
    success: bool
    observed: str
    expected: str


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
        _Rule("questions of 2 to 60 words", "critical", "pairs", "question_words", {"min_value": 2, "max_value": 60}),
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
        _Rule("the index finds the passages", "warning", "figures", "mean_retrievable", {"min_value": 0.6}),
        _Rule("several kinds of questions", "warning", "figures", "kinds", {"min_value": 4}),
    ]


def examine(
    kept: Sequence[QAPair], figures: dict[str, float], settings: DatasetSettings, docs: Path | None = None
) -> list[ExpectationResult]:
    """Return the verdict of each expectation; with `docs` also write Great Expectations' data docs there."""
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("dataset")
    results: list[ExpectationResult] = []
    for name, frame in (("pairs", _frame(kept)), ("figures", pd.DataFrame([figures]))):
        rules = [rule for rule in _suite(settings) if rule.frame == name and rule.column in ("", *frame.columns)]
        suite = context.suites.add(gx.ExpectationSuite(name=name))
        for rule in rules:
            suite.add_expectation(getattr(gxe, rule.expectation)(**rule.arguments, meta={"name": rule.name}))
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        outcome = validation.run(batch_parameters={"dataframe": frame})
        found = {result.expectation_config.meta["name"]: result for result in outcome.results}
        results += [_result(rule, found[rule.name]) for rule in rules]
    if docs is not None:
        place = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        site = {"class_name": "SiteBuilder", "store_backend": place, "site_index_builder": index}
        context.add_data_docs_site("dataset", site)
        context.build_data_docs(site_names=["dataset"])
    return results


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
