"""What the pages about quantisation show in Dagster."""

from collections.abc import Sequence

import dagster as dg

from ragtune.evaluation.gate import PairedGain
from ragtune.model.compression.errors import QuantizationErrors
from ragtune.store.report_rows import CompressionRow
from ragtune_assets.display import Page, curve, table


def compression_page(reports: Sequence[QuantizationErrors], rows: Sequence[CompressionRow]) -> Page:
    """Show size and predictions of each precision, plots of what each layer loses, and the worst prompts."""
    rounded = [report for report in reports if report.precision != "bf16"]
    tail = [(report.precision, *(_small(value) for _, value in report.percentiles)) for report in reports]
    worst = [(report.precision, _small(prompt.kl), prompt.question) for report in rounded for prompt in report.worst]
    layers = [
        (layer.name, *(f"{r.layers[i].weight_db:.1f} / {r.layers[i].output_db:.1f}" for r in rounded))
        for i, layer in enumerate(reports[0].layers)
    ]
    return {
        "precisions": _summary(reports, rows),
        "KL percentiles": table(["precision", *(f"{p:g}%" for p, _ in reports[0].percentiles)], tail),
        "output of each layer": _plot(rounded, "output", "output_db"),
        "weight of each layer": _plot(rounded, "weight", "weight_db"),
        "layers, dB of weight / output": table(["layer", *(report.precision for report in rounded)], layers),
        "worst prompts": table(["precision", "mean KL", "question"], worst),
    }


def rounding_table(rounded: Sequence[tuple[str, PairedGain]], metric: str) -> dg.MarkdownMetadataValue:
    """Return what each rounded precision gains over bf16 on the same questions; a loss is negative."""
    rows = [(name, metric, gain.gain, f"{gain.low:+.3f} to {gain.high:+.3f}", gain.n) for name, gain in rounded]
    return table(["precision", "metric", "gain", "95% interval", "n"], rows)


def _summary(reports: Sequence[QuantizationErrors], rows: Sequence[CompressionRow]) -> dg.MarkdownMetadataValue:
    header = [
        "precision",
        "method",
        "bytes",
        "smaller by",
        "mean KL",
        "KL of answers",
        "same top token",
        "95% interval",
    ]
    header += ["change of probability", "its RMS", "perplexity ratio", "tokens"]
    cells = [
        (
            *(row.precision, row.method, row.bytes, f"{row.smaller_by:.0%}"),
            *(_small(report.mean_kl), _small(report.answer_kl), f"{report.same_top:.2%}"),
            f"{report.same_top_low:.2%} to {report.same_top_high:.2%}",
            *(f"{report.change:+.4f}", f"{report.change_rms:.4f}", f"{report.perplexity_ratio:.4f}", report.tokens),
        )
        for row, report in zip(rows, reports, strict=True)
    ]
    return table(header, cells)


def _plot(rounded: Sequence[QuantizationErrors], what: str, field: str) -> dg.MarkdownMetadataValue:
    series: dict[str, list[tuple[float, float]]] = {
        report.precision: [(float(place), getattr(layer, field)) for place, layer in enumerate(report.layers)]
        for report in rounded
    }
    return curve(series, f"Signal to quantisation noise of the {what}", "layer", "dB")


def _small(value: float) -> str:
    return f"{value:.3g}"
