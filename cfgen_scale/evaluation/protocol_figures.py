"""The pictures of the protocols of guidance and imputation, each a matplotlib figure of its own."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .intersection import VARIANCE_WITHIN
from .palette import GENERATED, GRID, INK, MUTED, REAL

PANEL = 2.7
PAIRS_A_ROW = 3
DASHED = (0, (4, 3))
SECOND = "#009e73"  # of Okabe and Ito, as REAL and GENERATED


def intersection_figure(result: dict[str, Any]) -> Figure:
    """For each pair both probabilities and the variance ratio over the growing weight; real cells dashed."""
    pairs = result["pairs"]
    columns = min(PAIRS_A_ROW, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(PANEL * 1.6 * columns, PANEL * 1.1 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, of_pair in zip(panels, pairs, strict=False):
        _pair_panel(axes, of_pair)
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    growing = result["attributes"][result["growing"]]
    panels[0].set_xlabel(f"guidance weight of {growing}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _pair_panel(axes: Axes, of_pair: dict[str, Any]) -> None:
    weights = [row["weight"] for row in of_pair["generated"]]
    for name, colour, k in (("probability_first", REAL, 0), ("probability_second", GENERATED, 1)):
        values = [row[name] for row in of_pair["generated"]]
        spread = [row[f"{name}_spread"] for row in of_pair["generated"]]
        axes.errorbar(weights, values, spread, color=colour, marker="o", ms=4, label=f"p(attribute {k + 1})")
        axes.axhline(of_pair["real"][name], color=colour, lw=1, ls=DASHED)
    axes.axhspan(*VARIANCE_WITHIN, color=GRID, lw=0, zorder=0)
    ratios = [row["variance_ratio"] for row in of_pair["generated"]]
    axes.plot(weights, ratios, color=MUTED, marker="s", ms=3.5, lw=1, label="variance, over real")
    axes.set_title(" × ".join(of_pair["pair"]), fontsize=9)
    axes.set_ylim(0, max(1.3, *ratios))
    axes.set_xlabel("weight")


def guidance_figure(rows: Sequence[dict[str, Any]], attributes: Sequence[str]) -> Figure:
    """Cell-weighted W2 and unbiased MMD over the last attribute's weight, a line for each of the others'."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    panels = figure.subplots(1, 3)
    shown = (
        ("W2, over its floor", lambda row: row["conditional_cell_weighted"]["w2"]["ratio"]),
        ("MMD² unbiased", lambda row: row["conditional_cell_weighted"]["mmd2_unbiased"]["value"]),
        ("variance within classes, over real", lambda row: row["variance_ratio"]["value"]),
    )
    others = list(dict.fromkeys(tuple(row["weights"][:-1]) for row in rows))
    for axes, (title, figure_of) in zip(panels, shown, strict=True):
        for place, other in enumerate(others):
            of_line = [row for row in rows if tuple(row["weights"][:-1]) == other]
            label = ", ".join(f"{name} {w:g}" for name, w in zip(attributes, other, strict=False))
            shade = 0.25 + 0.75 * (place + 1) / len(others)
            x, y = [row["weights"][-1] for row in of_line], [figure_of(row) for row in of_line]
            axes.plot(x, y, color=GENERATED, alpha=shade, marker="o", ms=4, label=label or None)
        axes.set(title=title, xlabel=f"guidance weight of {attributes[-1]}")
        axes.grid(axis="y")
    for axes in (panels[0], panels[2]):
        axes.axhline(1, color=INK, lw=1, ls=DASHED)
    if len(attributes) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def imputation_figure(methods: Sequence[dict[str, Any]]) -> Figure:
    """Correlation and error over the step in noise, with the baselines as lines (Fig. A13)."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    steps = [m for m in methods if m["sigma"] is not None]
    flat = [m for m in methods if m["sigma"] is None]
    for axes, name, title in zip(
        figure.subplots(1, 2), ("pearson_log1p", "l1"), ("correlation of log(1 + count)", "L1"), strict=True
    ):
        axes.plot([m["sigma"] for m in steps], [m[name] for m in steps], color=GENERATED, marker="o")
        for method in flat:
            axes.axhline(method[name], color=MUTED, lw=1, ls=DASHED)
            axes.annotate(method["method"], (0, method[name]), fontsize=8, color=MUTED, va="bottom")
        axes.set(title=title, xlabel="sigma of the step in noise")
    return figure
