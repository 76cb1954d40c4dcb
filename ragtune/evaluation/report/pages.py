"""Turns a report into a self-contained HTML page and into Markdown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ragtune.evaluation.report.content import Plot, Report, SideBySide, Table
from ragtune.text.whitespace import collapse_whitespace

TEMPLATE = Path(__file__).parent / "report.html"
HTML_NAME, MARKDOWN_NAME = "report.html", "report.md"
REPORTS = "reports"
"""The folder of the home with a folder per version."""
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Drawn:
    """A line of a plot in percent of the width of the axis."""

    label: str
    left: float
    width: float
    point: float
    text: str


def report_folder(home: Path, version: str) -> Path:
    """Return the folder of the report about a version."""
    return home / REPORTS / version


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.html` and `report.md` into the folder and return the HTML file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN_NAME).write_text(as_markdown(report))
    page = folder / HTML_NAME
    page.write_text(as_html(report))
    return page


def as_html(report: Report) -> str:
    """Return the page: one file with its styles, which loads nothing and runs no script. All text is escaped."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(code=code, drawn=drawn, ticks=ticks, zero=zero)
    return environment.from_string(TEMPLATE.read_text()).render(report=report)


def as_markdown(report: Report) -> str:
    """Return the report as Markdown; plots become tables."""
    lines = [f"# {report.title}", "", _text(report.summary), ""]
    lines += [f"- **{card.label}**: {card.value} ({_text(card.note)})" for card in report.cards]
    for section in report.sections:
        lines += ["", f"## {section.title}"]
        if section.text:
            lines += ["", _text(section.text)]
        if section.items:
            lines += ["", *(f"{place}. {_text(item)}" for place, item in enumerate(section.items, 1))]
        for plot in section.plots:
            rows = tuple(
                (bar.label, f"{bar.value:.3f}", f"{bar.low:.3f} to {bar.high:.3f}", str(bar.n)) for bar in plot.bars
            )
            lines += _table(Table(("", "value", "95% interval", "n"), rows, plot.title))
        for table in section.tables:
            lines += _table(table)
        for pair in section.answers:
            lines += _pair(pair)
    return "\n".join(lines) + "\n"


def drawn(plot: Plot) -> Iterator[Drawn]:
    """Yield the bars of a plot with their places on the axis."""
    width = plot.most - plot.least

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - plot.least) / width)), 2)

    for bar in plot.bars:
        low, high = place(min(bar.low, bar.value)), place(max(bar.high, bar.value))
        sign = "+" if plot.least < 0 else ""
        text = f"{bar.value:{sign}.3f} [{bar.low:{sign}.3f}, {bar.high:{sign}.3f}]" + (f" n={bar.n}" if bar.n else "")
        yield Drawn(bar.label, low, round(high - low, 2), place(bar.value), text)


def ticks(plot: Plot) -> list[tuple[float, str]]:
    """Return (place in percent, number) of the marks below a plot."""
    steps = [place / (_TICKS - 1) for place in range(_TICKS)]
    return [(round(100 * step, 2), f"{plot.least + step * (plot.most - plot.least):.2f}") for step in steps]


def zero(plot: Plot) -> float | None:
    """Return the place of zero in percent, or None if it is an end of the axis."""
    return round(100 * -plot.least / (plot.most - plot.least), 2) if plot.least < 0 < plot.most else None


def code(text: str) -> str:
    """Return escaped HTML with `this` set as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _text(text: str) -> str:
    """Return text in one line, whose angle brackets are no markup."""
    return collapse_whitespace(text).replace("<", "&lt;")


def _table(table: Table) -> list[str]:
    rows = [table.header, ("---",) * len(table.header), *table.rows]
    lines = ["| " + " | ".join(_text(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["", *([f"### {table.title}", ""] if table.title else []), *lines]


def _pair(pair: SideBySide) -> list[str]:
    return [
        "",
        f"**{_text(pair.question)}**",
        "",
        f"- expected: {_text(pair.expected)}",
        f"- live ({pair.before_score:.2f}): {_text(pair.before)}",
        f"- candidate ({pair.after_score:.2f}): {_text(pair.after)}",
    ]
