"""Charts and diagrams of office files: the words and numbers that they show, read from their XML."""

from typing import Any

from lxml import etree

from ragtune.knowledge.readers.marks import table_text
from ragtune.text.whitespace import collapse_whitespace

_C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"


def chart_title(chart: bytes) -> str:
    """Return the title of a chart with those of its axes, or "" if it has none."""
    titles = (collapse_whitespace("".join(title.itertext(f"{_A}t"))) for title in _parse(chart).iter(f"{_C}title"))
    return "; ".join(title for title in titles if title)


def chart_tables(chart: bytes) -> list[str]:
    """Return the data of a chart as Markdown tables."""
    return [table_text(rows, head) for rows, head in chart_rows(chart)]


def chart_rows(chart: bytes) -> list[tuple[list[list[str]], bool]]:
    """Return the data of a chart: (rows of cells, whether the first names the columns) for each table.

    A table has a row per category and a column per series. Series with the same categories share a table. The values
    are those that the file keeps from the last time the chart was drawn.
    """
    columns: list[tuple[dict[int, str], list[tuple[str, dict[int, str]]]]] = []
    for series in _parse(chart).iter(f"{_C}ser"):
        categories = _points(series.find(f"{_C}cat")) or _points(series.find(f"{_C}xVal"))
        values = _points(series.find(f"{_C}val")) or _points(series.find(f"{_C}yVal"))
        if not columns or columns[-1][0] != categories:
            columns.append((categories, []))
        columns[-1][1].append((_label(series), values))
    return [_rows(categories, series) for categories, series in columns if categories or any(map(_values, series))]


def diagram_items(diagram: bytes) -> list[str]:
    """Return the texts of a SmartArt diagram, in the order of its points."""
    items = (
        " ".join("".join(paragraph.itertext(f"{_A}t")) for paragraph in point.iter(f"{_A}p"))
        for point in _parse(diagram).iter(f"{_DIAGRAM}pt")
    )
    return [item for item in map(collapse_whitespace, items) if item]


def _label(series: Any) -> str:
    name = series.find(f"{_C}tx")
    return collapse_whitespace(" ".join(name.itertext(f"{_C}v"))) if name is not None else ""


def _values(series: tuple[str, dict[int, str]]) -> dict[int, str]:
    return series[1]


def _rows(categories: dict[int, str], series: list[tuple[str, dict[int, str]]]) -> tuple[list[list[str]], bool]:
    places = sorted({place for _, values in series for place in values} | set(categories))
    rows = [[categories.get(place, ""), *(values.get(place, "") for _, values in series)] for place in places]
    labels = [label for label, _ in series]
    return ([["", *labels], *rows] if any(labels) else rows), any(labels)


def _points(data: Any) -> dict[int, str]:
    """Return {place: text} of the values that a chart keeps; the levels of categories are joined, outermost first."""
    points: dict[int, str] = {}
    if data is None:
        return points
    is_percentage = any("%" in (code.text or "") for code in data.iter(f"{_C}formatCode"))
    for level in reversed([*data.iter(f"{_C}lvl")] or [data]):
        for point in level.iter(f"{_C}pt"):
            place, text = int(point.get("idx") or 0), collapse_whitespace("".join(point.itertext(f"{_C}v")))
            text = _as_percentage(text) if is_percentage else text
            points[place] = f"{points[place]}, {text}" if place in points else text
    return points


def _as_percentage(number: str) -> str:
    try:
        return f"{round(float(number) * 100, 6):g}%"
    except ValueError:
        return number  # an error such as #N/A


def _parse(xml: bytes) -> Any:
    return etree.fromstring(xml, etree.XMLParser(resolve_entities=False))
