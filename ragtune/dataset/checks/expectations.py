"""Checks a dataset as a whole with Great Expectations.

A critical expectation that fails stops the dataset; a failed warning is only shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragtune.dataset.minimums import within_chance
from ragtune.records import QAPair
from ragtune.settings import DatasetSettings
from ragtune.text.segments import word_count

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["critical", "warning"]
ENOUGH_PAIRS = "enough pairs"
"""Name of the expectation that counts the pairs; `minimums.shortage` says what to do if it fails."""
# The limits here and in `_expectations` were chosen by hand, far from what a healthy dataset shows. docs/dataset.md
# ("Figures") has the values of one corpus, such as 1.3% for the most frequent wording.
MAX_TEMPLATE_SHARE = 0.10
MAX_NONE_SHARE = 0.04
MAX_REJECTED_SHARE = 0.20


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """The verdict on one expectation; `observed` and `expected` are texts for people."""

    name: str
    severity: Severity
    success: bool
    observed: str
    expected: str


@dataclass(frozen=True, slots=True)
class _Expectation:
    """An expectation on one column of a frame, `pairs` (a row per pair) or `figures` (one row of shares and means).

    Without bounds the values of the column must be unique. Without a column the bounds are for the number of rows.
    """

    name: str
    severity: Severity
    frame: str
    column: str
    bounds: dict[str, float]

    @property
    def class_name(self) -> str:
        """Name of Great Expectations' class for it."""
        if not self.bounds:
            return "ExpectColumnValuesToBeUnique"
        return "ExpectColumnValuesToBeBetween" if self.column else "ExpectTableRowCountToBeBetween"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of that class."""
        column = {"column": self.column} if self.column else {}
        return {**column, **self.bounds, "severity": self.severity}


def _pairs_frame(pairs: Sequence[QAPair]) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        {
            "id": pair.id,
            "question": pair.question,
            "kind": pair.kind,
            "question_words": word_count(pair.question),
            "answer_words": word_count(pair.answer) if pair.answerable else 1,
            "span": pair.span[1] - pair.span[0],
            **{name: pair.scores.get(name, 0.0) for name in ("grounded", "self_contained", "relevant")},
        }
        for pair in pairs
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


def _expectations(settings: DatasetSettings, least: int, n: int, written: int) -> list[_Expectation]:
    """Return the expectations of `n` pairs, of which the writers proposed `written`.

    The limits of shares are wider for few pairs, as far as chance goes.
    """
    unanswerable = settings.unanswerable_share
    margin = within_chance(unanswerable, n) - unanswerable + 0.1
    return [
        _Expectation(ENOUGH_PAIRS, "critical", "pairs", "", {"min_value": least}),
        _Expectation("every pair once", "critical", "pairs", "id", {}),
        _Expectation("every question once", "critical", "pairs", "question", {}),
        _Expectation("answers stand in their chunks", "critical", "pairs", "grounded", {"min_value": 0.5}),
        _Expectation(
            "questions of 2 to 60 words", "critical", "pairs", "question_words", {"min_value": 2, "max_value": 60}
        ),
        _Expectation(
            "answers of 1 to 60 words", "critical", "pairs", "answer_words", {"min_value": 1, "max_value": 60}
        ),
        _Expectation(
            "questions name their object", "warning", "pairs", "self_contained", {"min_value": 1.0, "mostly": 0.95}
        ),
        _Expectation("questions resemble their chunks", "warning", "figures", "mean_relevance", {"min_value": 0.3}),
        _share("few pairs thrown away", "critical", "rejected_share", within_chance(MAX_REJECTED_SHARE, written)),
        _share("no wording floods", "warning", "largest_template_share", within_chance(MAX_TEMPLATE_SHARE, n)),
        _share("few answers that only say None", "warning", "none_share", within_chance(MAX_NONE_SHARE, n)),
        _Expectation(
            "the wanted share of unanswerable questions",
            "warning",
            "figures",
            "unanswerable_share",
            {"min_value": max(round(unanswerable - margin, 4), 0.0), "max_value": round(unanswerable + margin, 4)},
        ),
        _Expectation("the index finds the passages", "warning", "figures", "mean_retrievable", {"min_value": 0.6}),
        _Expectation("several kinds of questions", "warning", "figures", "kinds", {"min_value": 4 if n >= 40 else 1}),
    ]


def _share(name: str, severity: Severity, column: str, limit: float) -> _Expectation:
    return _Expectation(name, severity, "figures", column, {"max_value": round(limit, 4)})


def check_expectations(
    pairs: Sequence[QAPair],
    figures: dict[str, float],
    settings: DatasetSettings,
    least: int,
    docs: Path | None = None,
) -> list[ExpectationResult]:
    """Return the verdict on each expectation; `least` is the number of pairs that the dataset needs.

    If `docs` is a folder, Great Expectations' data docs are written there.
    """
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("dataset")
    results: list[ExpectationResult] = []
    for name, frame in (("pairs", _pairs_frame(pairs)), ("figures", pd.DataFrame([figures]))):
        # `mean_retrievable` is missing if no search was made.
        expectations = [
            expectation
            for expectation in _expectations(settings, least, len(pairs), int(figures["written"]))
            if expectation.frame == name and expectation.column in ("", *frame.columns)
        ]
        suite = context.suites.add(gx.ExpectationSuite(name=name))
        for expectation in expectations:
            suite.add_expectation(
                getattr(gxe, expectation.class_name)(**expectation.arguments, meta={"name": expectation.name})
            )
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        outcome = validation.run(batch_parameters={"dataframe": frame})
        verdicts = {result.expectation_config.meta["name"]: result for result in outcome.results}
        results += [_result(expectation, verdicts[expectation.name]) for expectation in expectations]
    if docs is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        site = {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index}
        context.add_data_docs_site("dataset", site)
        context.build_data_docs(site_names=["dataset"])
    return results


def _result(expectation: _Expectation, result: Any) -> ExpectationResult:
    """Convert a result of Great Expectations; an expectation whose metric raised has failed and shows the error."""
    detail = result.result
    error = str((result.exception_info or {}).get("exception_message") or "")
    observed = error or str(detail.get("observed_value", ""))
    if not observed:
        unexpected, total = detail.get("unexpected_count", 0), detail.get("element_count", 0)
        examples = detail.get("partial_unexpected_list", [])[:3]
        observed = f"{unexpected} of {total} break it" + (f": {examples}" if examples else "")
    return ExpectationResult(
        expectation.name,
        expectation.severity,
        bool(result.success),
        observed,
        f"{expectation.column or 'rows'} {expectation.bounds or 'unique'}",
    )
