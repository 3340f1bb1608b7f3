"""The pictures of the report, each a matplotlib figure of its own: no global state, no display."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .cells import UNTOLD
from .embedding import Map
from .moments import library_sizes, zero_share
from .normalise import FloatArray, mean_and_variance
from .palette import FLOOR, GENERATED, GRID, INK, MUTED, OTHER_CLASSES, REAL, class_colours
from .verdicts import VARIANCE_GOOD

HISTOGRAM_BINS = 36
# classes with a smaller share of the cells are named in the legend alone
SHARE_NAMED_ON_MAP = 0.04
MOST_CLASSES = 30
DASHED = (0, (4, 3))
SIDES = ((REAL, "real"), (GENERATED, "generated"))
Names = NDArray[np.str_]


def map_figure(placed: Map, real_classes: Names, generated_classes: Names) -> Figure:
    """Three panels on equal axes: real cells by class, generated cells by class, both sources overlaid."""
    figure = Figure(figsize=(12.6, 4.9), layout="constrained")
    by_real, by_generated, overlaid = figure.subplots(1, 3, sharex=True, sharey=True)
    colours = class_colours(np.concatenate([real_classes, generated_classes]).tolist())
    size = float(np.clip(16_000 / (len(placed.real) + len(placed.generated)), 4, 22))
    for axes, points, classes, title in (
        (by_real, placed.real, real_classes, "Real, held out"),
        (by_generated, placed.generated, generated_classes, "Generated"),
    ):
        _scatter(axes, points, [colours[str(name)] for name in classes], size)
        _name_classes(axes, points, classes)
        axes.set_title(f"{title}: {len(points):,} cells")
    both = np.concatenate([placed.real, placed.generated])
    _scatter(overlaid, both, [REAL] * len(placed.real) + [GENERATED] * len(placed.generated), size, 0.55)
    overlaid.set_title("Both, overlaid")
    overlaid.legend(handles=[_dot(*side) for side in SIDES], loc="best", handletextpad=0.2)
    for axes in (by_real, by_generated, overlaid):
        axes.set(xticks=[], yticks=[], xlabel=f"{placed.method} 1")
        axes.margins(0.06)
    by_real.set_ylabel(f"{placed.method} 2")
    _class_legend(figure, colours)
    return figure


def mean_variance_figure(real: csr_matrix, generated: csr_matrix) -> Figure:
    """Variance against mean of the counts of every gene, both axes logarithmic, with the Poisson line."""
    figure = Figure(figsize=(5.9, 4.6), layout="constrained")
    axes = figure.subplots()
    genes, colours = [], []
    for counts, colour in ((real, REAL), (generated, GENERATED)):
        of_genes = np.column_stack(mean_and_variance(counts))
        genes.append(of_genes[(of_genes > 0).all(axis=1)])
        colours += [colour] * len(genes[-1])
    points = np.concatenate(genes)
    axes.set(xscale="log", yscale="log", xlabel="mean count of the gene", ylabel="variance of its counts")
    _scatter(axes, points, colours, 6, 0.4)
    line = [points[:, 0].min(), points[:, 0].max()]
    axes.plot(line, line, color=INK, lw=1.1, ls=DASHED)
    poisson = Line2D([], [], color=INK, lw=1.1, ls=DASHED, label="Poisson: variance = mean")
    axes.legend(handles=[*(_dot(*side) for side in SIDES), poisson], loc="upper left")
    axes.grid()
    return figure


def zeros_figure(real: csr_matrix, generated: csr_matrix) -> Figure:
    """Histograms of the share of genes without a count, per cell."""
    figure, axes = _histograms(zero_share(real), zero_share(generated), np.linspace)
    axes.set_xlabel("share of genes without a count, per cell")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    return figure


def library_figure(real: csr_matrix, generated: csr_matrix) -> Figure:
    """Histograms of the total counts per cell on a logarithmic axis; a cell without counts stands at 1."""
    totals, totals_generated = (np.maximum(library_sizes(counts), 1.0) for counts in (real, generated))
    figure, axes = _histograms(totals, totals_generated, np.geomspace)
    axes.set(xscale="log", xlabel="total counts per cell")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def per_class_figure(per_class: dict[str, Any], test_cells: dict[str, int]) -> Figure:
    """W2 of each class as a bar with its floor below, the ratio beside; the 30 highest ratios."""
    names = sorted(per_class, key=lambda name: per_class[name]["w2"]["ratio"] or 0.0)[-MOST_CLASSES:]
    figure = Figure(figsize=(6.4, 1.3 + 0.46 * len(names)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        w2, ends = per_class[name]["w2"], []
        for key, spread, up, colour in (
            ("value", "spread", 0.19, GENERATED),
            ("floor", "floor_spread", -0.19, FLOOR),
        ):
            if w2[key] is not None:
                axes.barh(place + up, w2[key], 0.36, color=colour, xerr=w2[spread], ecolor=INK)
                ends.append(w2[key] + (w2[spread] or 0.0))
        if w2["ratio"] is not None:
            axes.text(max(ends), place, f"  {w2['ratio']:.2f}×", va="center", color=MUTED)
    axes.set_xlabel("W2 to the test cells of the class")
    axes.margins(x=0.12)
    axes.grid(axis="x")
    _finish_classes(figure, axes, [f"{name} ({test_cells[name]})" for name in names])
    return figure


def variance_figure(per_class: dict[str, Any], test_cells: dict[str, int]) -> Figure:
    """Variance of each class over that of its test cells, with that of the floor; the 30 lowest."""
    names = sorted(per_class, key=lambda name: -(per_class[name]["value"] or 0.0))[-MOST_CLASSES:]
    figure = Figure(figsize=(6.4, 1.3 + 0.46 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(*VARIANCE_GOOD, color=GRID, lw=0)
    axes.axvline(1, color=INK, lw=1)
    for key, colour in (("floor", FLOOR), ("value", GENERATED)):
        shown = [(per_class[name][key], place) for place, name in enumerate(names) if per_class[name][key]]
        axes.scatter(
            [ratio for ratio, _ in shown], [place for _, place in shown], s=46, color=colour, zorder=3
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.45), max(high, 2.2))
    axes.set_xlabel("variance within the class, over that of the test cells")
    axes.grid(axis="y")
    _finish_classes(figure, axes, [f"{name} ({test_cells[name]})" for name in names])
    return figure


def _finish_classes(figure: Figure, axes: Axes, names: list[str]) -> None:
    axes.set_yticks(np.arange(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    sides = (_dot(GENERATED, "generated"), _dot(FLOOR, "other real cells (floor)"))
    figure.legend(handles=sides, loc="outside upper left", ncols=2, handletextpad=0.2)


def _histograms(
    real: FloatArray, generated: FloatArray, spaced: Callable[..., FloatArray]
) -> tuple[Figure, Axes]:
    """Two outlines over the same bins, ``spaced`` from the smallest to the largest value, with medians."""
    figure = Figure(figsize=(5.9, 4.0), layout="constrained")
    axes = figure.subplots()
    both = np.concatenate([real, generated])
    bins = spaced(both.min(), max(both.max(), both.min() * 1.001 + 1e-9), HISTOGRAM_BINS + 1).tolist()
    for values, (colour, _) in zip((real, generated), SIDES, strict=True):
        weights = np.full(len(values), 1 / len(values))
        axes.hist(values, bins, weights=weights, color=colour, alpha=0.22, histtype="stepfilled")
        axes.hist(values, bins, weights=weights, color=colour, lw=1.6, histtype="step")
        axes.axvline(float(np.median(values)), color=colour, lw=1.2, ls=DASHED)
    axes.legend(handles=[Line2D([], [], color=colour, lw=2, label=name) for colour, name in SIDES])
    axes.set_ylabel("share of cells")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.grid(axis="y")
    return figure, axes


def _scatter(axes: Axes, points: FloatArray, colours: list[str], size: float, alpha: float = 0.8) -> None:
    """Points (n, 2) drawn in a shuffled order, so that no class or source lies on top of all others."""
    order = np.random.default_rng(0).permutation(len(points))
    shuffled = [colours[i] for i in order]
    axes.scatter(points[order, 0], points[order, 1], s=size, c=shuffled, alpha=alpha, lw=0)


def _name_classes(axes: Axes, points: FloatArray, classes: Names) -> None:
    """The frequent classes written where their cells lie."""
    for name in np.unique(classes[classes != UNTOLD]):
        of_class = points[classes == name]
        if len(of_class) >= SHARE_NAMED_ON_MAP * len(points):
            halo = [withStroke(linewidth=2.6, foreground="white")]
            x, y = np.median(of_class, axis=0)
            axes.text(x, y, str(name), fontsize=8, ha="center", va="center", path_effects=halo)


def _class_legend(figure: Figure, colours: dict[str, str]) -> None:
    handles = [_dot(colour, name) for name, colour in colours.items() if colour != OTHER_CLASSES]
    if any(name != UNTOLD and colour == OTHER_CLASSES for name, colour in colours.items()):
        handles.append(_dot(OTHER_CLASSES, "other classes"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=5, handletextpad=0.2)


def _dot(colour: str, name: str) -> Line2D:
    return Line2D([], [], color=colour, marker="o", ls="", ms=6, label=name)
