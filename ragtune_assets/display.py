"""Results of assets, and the Markdown tables and small plots in their metadata."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ragtune.records import ArtifactRef, Score
from ragtune.text.whitespace import collapse_whitespace

Page = dict[str, Any]
"""What Dagster shows of an asset: {title: value}."""
FEW, SOME, MANY, MOST = 4, 12, 30, 200
"""How many rows a table shows: what fits on a screen, or `MOST` if people look for a row. Chosen by hand."""
_LONGEST_CELL = 160
"""Characters of a table cell, about two lines on a page. Chosen by hand; not sensitive."""
_BINS = 30
"""Bars of a histogram. Chosen by hand; not sensitive."""


def materialized(
    ref: ArtifactRef, metadata: Mapping[str, Any], check_results: Sequence[dg.AssetCheckResult] = ()
) -> dg.MaterializeResult[ArtifactRef]:
    """Return the result of the asset that the reference names; its data version is the content hash.

    Assets with checks carry no return annotation: Dagster would read it as the type of every output.
    """
    return dg.MaterializeResult(
        asset_key=ref.name,
        value=ref,
        data_version=dg.DataVersion(ref.sha256[:16]),
        metadata={**metadata, "rows": ref.rows, "sha256": ref.sha256, "path": place_in_home(ref.uri)},
        check_results=list(check_results) or None,
    )


def place_in_home(path: str, parts: int = 3) -> dg.PathMetadataValue:
    """Return the last parts of a path: the place below the home, which stays right if the home is moved."""
    return dg.MetadataValue.path("/".join(Path(path).parts[-parts:]))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> dg.MarkdownMetadataValue:
    """Return a Markdown table; long cells are cut, line breaks become spaces, bars are escaped."""
    lines = [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]
    return dg.MetadataValue.md("\n".join(lines))


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    text = collapse_whitespace(text).replace("|", "\\|")
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…"


def curve(series: Mapping[str, Sequence[tuple[float, float]]], title: str, x: str, y: str) -> dg.MarkdownMetadataValue:
    """Return a line plot of named series of (x, y) points."""
    figure, axes = _figure(title)
    for name, points in series.items():
        axes.plot([point[0] for point in points], [point[1] for point in points], marker=".", label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend()
    return _picture(figure, title)


def score_bars(scores: Sequence[Score], title: str) -> dg.MarkdownMetadataValue:
    """Return grouped bars, one group per metric and one bar per model, with 95% intervals."""
    metrics = list(dict.fromkeys(score.metric for score in scores))
    models = list(dict.fromkeys((score.model, score.precision) for score in scores))
    values = {(score.model, score.precision, score.metric): score for score in scores}
    figure, axes = _figure(title)
    width = 0.8 / max(1, len(models))
    for position, (model, precision) in enumerate(models):
        measured = [(i, values[model, precision, m]) for i, m in enumerate(metrics) if (model, precision, m) in values]
        heights = [score.value for _, score in measured]
        # A percentile interval of few items need not hold the value itself.
        below = [max(0.0, score.value - score.low) for _, score in measured]
        above = [max(0.0, score.high - score.value) for _, score in measured]
        centres = [i + (position - (len(models) - 1) / 2) * width for i, _ in measured]
        axes.bar(centres, heights, width, yerr=[below, above], capsize=2, label=f"{model} {precision}")
    axes.set_xticks(range(len(metrics)), metrics, rotation=20)
    axes.set_ylim(0, 1.05)
    axes.legend()
    return _picture(figure, title)


def histogram(values: Sequence[float], title: str, x: str) -> dg.MarkdownMetadataValue:
    """Return a plot of how the values are distributed."""
    figure, axes = _figure(title)
    axes.hist(values, bins=_BINS)
    axes.set_xlabel(x)
    axes.set_ylabel("count")
    return _picture(figure, title)


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def _picture(figure: Any, title: str) -> dg.MarkdownMetadataValue:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")
