"""Draws the asset graph from the code location: `python docs/graph.py` writes `docs/images/graph.svg`.

An edge is drawn only if no longer way leads to the same asset, so that the picture shows the order of the work.
"""

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ragtune.settings import load_settings
from ragtune_assets.definitions import build_definitions

PICTURE = Path(__file__).parent / "images" / "graph.svg"
COLOURS = {
    "knowledge": "#d7e8fa",
    "feedback": "#fbe3d0",
    "dataset": "#dcf1dc",
    "model": "#e9def7",
    "evaluation": "#fff3c9",
    "release": "#f9d9dd",
    "experiments": "#d6f0ef",
}
WIDTH, HEIGHT, ACROSS, DOWN = 2.9, 0.5, 3.4, 1.05


def main() -> None:
    """Write the picture."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    specs = {spec.key.to_user_string(): spec for spec in build_definitions(load_settings()).resolve_all_asset_specs()}
    above = {name: {dep.asset_key.to_user_string() for dep in spec.deps} for name, spec in specs.items()}
    order = [*TopologicalSorter(above).static_order()]
    ancestors: dict[str, set[str]] = {}
    depth: dict[str, int] = {}
    for name in order:
        ancestors[name] = above[name].union(*(ancestors[one] for one in above[name]))
        depth[name] = max((depth[one] + 1 for one in above[name]), default=0)
    places = _places(order, depth, {name: specs[name].group_name or "" for name in order}, above)
    mpl.rcParams.update({"svg.hashsalt": "graph", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(11, 9.5))
    for name in order:
        for one in above[name]:
            if not any(one in ancestors[other] for other in above[name] - {one}):
                _arrow(axes, places[one], places[name])
    for name, (x, y) in places.items():
        colour = COLOURS[specs[name].group_name or ""]
        axes.add_patch(FancyBboxPatch((x, y), WIDTH, HEIGHT, "round,pad=0.02,rounding_size=0.12", fc=colour, ec="#555"))
        axes.text(x + WIDTH / 2, y + HEIGHT / 2, name, ha="center", va="center", fontsize=10)
    for place, (group, colour) in enumerate(COLOURS.items()):
        box = {"fc": colour, "ec": "#555", "boxstyle": "round,pad=0.3"}
        axes.text(3.2 * ACROSS, -DOWN * (4 + 0.6 * place), group, fontsize=11, bbox=box)
    axes.set_axis_off()
    axes.autoscale_view()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, bbox_inches="tight", metadata={"Date": None})


def _places(
    order: list[str], depth: dict[str, int], groups: dict[str, str], above: dict[str, set[str]]
) -> dict[str, tuple[float, float]]:
    """Return the lower left corner of each box: rows by depth, in a row near what the asset is made from."""
    rank = {group: place for place, group in enumerate(COLOURS)}
    places: dict[str, tuple[float, float]] = {}
    for row in range(max(depth.values()) + 1):
        names = [name for name in order if depth[name] == row]
        names.sort(key=lambda name: (_mean_left(above[name], places), rank[groups[name]], name))
        for place, name in enumerate(names):
            places[name] = (place * ACROSS, -row * DOWN)
    return places


def _mean_left(names: set[str], places: dict[str, tuple[float, float]]) -> float:
    lefts = [places[name][0] for name in names]
    return sum(lefts) / len(lefts) if lefts else 0.0


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "",
        xy=(end[0] + WIDTH / 2, end[1] + HEIGHT + 0.04),
        xytext=(start[0] + WIDTH / 2, start[1] - 0.04),
        arrowprops={"arrowstyle": "-|>", "color": "#777", "connectionstyle": "arc3,rad=0.06", "lw": 1},
    )


if __name__ == "__main__":
    main()
