"""Does each class vary as its real cells do? Mean-variance curves of counts, class by class."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.sparse import csr_matrix

from .cells import CountedCells
from .moments import trend_curve, trend_gap
from .normalise import mean_and_variance
from .palette import GENERATED, INK, REAL

# The variance of a gene in fewer cells says little.
MIN_CELLS = 50
MOST_PANELS = 12
COLUMNS = 4


def dispersion_gaps(pool: CountedCells, test: CountedCells, classes: Sequence[str]) -> dict[str, float]:
    """Gap of the mean-variance curves of counts (`trend_gap`, log10 variance) of each of ``classes`` with 50
    cells on both sides, as many of the pool as of the test cells or all there are; NaN is left out."""
    gaps = {}
    for name, real, made in _sides(pool, test, classes):
        gaps[name] = trend_gap(*mean_and_variance(real), *mean_and_variance(made))
    return {name: gap for name, gap in gaps.items() if math.isfinite(gap)}


def dispersion_figure(pool: CountedCells, test: CountedCells, classes: Sequence[str]) -> Figure | None:
    """A panel for each of the 12 largest classes with 50 cells on both sides: every gene of real and of
    generated cells, and the two median curves. None without such a class."""
    sides = sorted(_sides(pool, test, classes), key=lambda side: -side[1].shape[0])[:MOST_PANELS]
    if not sides:
        return None
    n_columns = min(COLUMNS, len(sides))
    n_rows = -(-len(sides) // n_columns)
    size = (3.1 * n_columns, 0.6 + 2.7 * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, real, made) in zip(panels, sides, strict=False):
        _panel(axes, name, real, made)
    for axes in panels[len(sides) :]:
        axes.set_visible(False)
    figure.supxlabel("mean count of the gene in the class")
    figure.supylabel("variance of its counts")
    curves = [Line2D([], [], color=c, lw=2, label=n) for c, n in ((REAL, "real"), (GENERATED, "generated"))]
    poisson = Line2D([], [], color=INK, lw=1, ls=":", label="Poisson: variance = mean")
    figure.legend(handles=[*curves, poisson], loc="outside upper center", ncols=3)
    return figure


def _panel(axes: Axes, name: str, real: csr_matrix, made: csr_matrix) -> None:
    axes.set(xscale="log", yscale="log")
    moments = [mean_and_variance(counts) for counts in (real, made)]
    for (mean, variance), colour in zip(moments, (REAL, GENERATED), strict=True):
        varies = (mean > 0) & (variance > 0)
        axes.scatter(mean[varies], variance[varies], s=3, color=colour, alpha=0.15, lw=0)
    for (mean, variance), colour in zip(moments, (REAL, GENERATED), strict=True):
        x, y = trend_curve(*moments[0], mean, variance)
        axes.plot(10**x, 10**y, color=colour, lw=1.8)
    ends = np.array(axes.get_xlim())
    axes.plot(ends, ends, color=INK, lw=1, ls=":")
    gap = trend_gap(*moments[0], *moments[1])
    axes.set_title(f"{name} ({real.shape[0]:,}): gap {gap:.2f}", fontsize=9)
    axes.grid()


def _sides(
    pool: CountedCells, test: CountedCells, classes: Sequence[str]
) -> list[tuple[str, csr_matrix, csr_matrix]]:
    """Class, counts of its test cells, counts of as many cells of the pool."""
    found = []
    for name in classes:
        of_test = test.of_class(name)
        of_pool = pool.of_class(name)[: len(of_test)]
        if min(len(of_test), len(of_pool)) >= MIN_CELLS:
            found.append((name, test.counts[of_test], pool.counts[of_pool]))
    return found
