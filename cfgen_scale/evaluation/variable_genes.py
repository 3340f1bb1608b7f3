"""Which genes vary more than their mean explains: the ranking known as seurat_v3, or vst.

The variance of counts follows their mean along a smooth trend. A gene is standardised by the standard
deviation that the trend expects of it, its counts are clipped at sqrt(n) standard deviations, and genes are
ranked by the variance that is left (Stuart et al. 2019, "Comprehensive integration of single-cell data").
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from .normalise import FloatArray, mean_and_variance

TREND_SPAN = 0.3
TREND_GRID = 300
EDGE_WEIGHT = 1e-12
SMALLEST_BANDWIDTH = 1e-9


def variable_genes(counts: csr_matrix, n_genes: int) -> NDArray[np.int64]:
    """Columns of the ``n_genes`` most variable genes, ascending; all of them where there are no more.

    ``counts`` is a CSR matrix (n, G) of raw counts. Genes without variance come last.
    """
    if n_genes >= counts.shape[1]:
        return np.arange(counts.shape[1])
    excess = excess_variance(counts)
    return np.sort(np.argsort(-excess, kind="stable")[:n_genes])


def excess_variance(counts: csr_matrix) -> FloatArray:
    """Variance (G,) of the counts standardised by the trend and clipped; -1 for genes without variance."""
    n = counts.shape[0]
    mean, variance = mean_and_variance(counts)
    varies = variance > 0
    expected_sd = np.ones(len(mean))
    trend = local_quadratic(np.log10(mean[varies]), np.log10(variance[varies]))
    expected_sd[varies] = np.sqrt(10**trend)

    most = mean + np.sqrt(n) * expected_sd
    clipped = csr_matrix(
        (np.minimum(counts.data, most[counts.indices]), counts.indices, counts.indptr), shape=counts.shape
    )
    total = np.asarray(clipped.sum(axis=0)).ravel()
    total_square = np.asarray(clipped.multiply(clipped).sum(axis=0)).ravel()
    # sum of (x - mean)^2 over all cells, the zeros not stored included
    squares = total_square - 2 * mean * total + n * mean**2
    return np.where(varies, squares / ((n - 1) * expected_sd**2), -1.0)


def local_quadratic(
    x: FloatArray, y: FloatArray, *, span: float = TREND_SPAN, n_grid: int = TREND_GRID
) -> FloatArray:
    """A loess curve of degree 2 through (x, y), at every x: (n,).

    Each fit weighs the nearest ``span`` of the points by the tricube of their distance. It is made at
    ``n_grid`` quantiles of x and interpolated linearly in between.
    """
    order = np.argsort(x)
    x_sorted, y_sorted = x[order], y[order]
    n_near = max(int(np.ceil(span * len(x))), 4)
    grid = np.unique(np.quantile(x_sorted, np.linspace(0, 1, n_grid)))
    return np.interp(x, grid, [_fit_at(centre, x_sorted, y_sorted, n_near) for centre in grid])


def _fit_at(centre: float, x: FloatArray, y: FloatArray, n_near: int) -> float:
    """Value at ``centre`` of the weighted quadratic through the ``n_near`` nearest points; x ascends."""
    place = int(np.searchsorted(x, centre))
    window = slice(max(0, place - n_near), place + n_near)
    away = x[window] - centre
    nearest = np.argsort(np.abs(away), kind="stable")[:n_near]
    away, values = away[nearest], y[window][nearest]
    bandwidth = max(float(np.abs(away).max()), SMALLEST_BANDWIDTH)
    tricube = (1 - np.minimum(np.abs(away) / bandwidth, 1) ** 3) ** 3
    root_weight = np.sqrt(tricube + EDGE_WEIGHT)
    design = np.vander(away, 3, increasing=True) * root_weight[:, None]
    return float(np.linalg.lstsq(design, values * root_weight, rcond=None)[0][0])
