"""Gene-wise and cell-wise moments of counts: mean-variance curve, zeros, library sizes."""

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import ks_2samp, spearmanr, wasserstein_distance

from .normalise import FloatArray, log_normalise, mean_and_variance

TREND_BINS = 25


def moments(cells: csr_matrix, reference: csr_matrix) -> dict[str, float]:
    """How the raw counts ``cells`` (n, G) differ from those of ``reference`` (m, G). NaN: not defined.

    gene_mean_correlation           Pearson r of the genes' mean log-normalised expression
    gene_mean_rank_correlation      Spearman's rho of the same
    gene_mean_log_count_correlation Pearson r of log10 mean counts, genes that vary on both sides
    gene_variance_correlation       Pearson r of the genes' variance of log-normalised expression
    mean_variance_gap               gap of the mean-variance curves of counts, in log10 variance
    mean_variance_gap_log_normalised  the same of log-normalised expression
    log_variance_error              root mean square difference of log10 variances of counts, gene by gene
    gene_zero_share_error           mean difference of each gene's share of cells without a count
    cell_zero_share_ks, ..._w1      Kolmogorov-Smirnov and Wasserstein-1 distance of zeros per cell (a share)
    cell_zero_share_mean            mean share of genes without a count
    library_size_ks                 Kolmogorov-Smirnov distance of total counts per cell
    library_size_median             median of total counts per cell
    """
    mean, variance = mean_and_variance(cells)
    mean_r, variance_r = mean_and_variance(reference)
    log_mean, log_variance = mean_and_variance(log_normalise(cells))
    log_mean_r, log_variance_r = mean_and_variance(log_normalise(reference))
    both = (mean > 0) & (mean_r > 0) & (variance > 0) & (variance_r > 0)
    zeros, zeros_r = zero_share(cells), zero_share(reference)
    library, library_r = library_sizes(cells), library_sizes(reference)
    return {
        "gene_mean_correlation": _pearson(log_mean, log_mean_r),
        "gene_mean_rank_correlation": _spearman(log_mean, log_mean_r),
        "gene_mean_log_count_correlation": _pearson(np.log10(mean[both]), np.log10(mean_r[both])),
        "gene_variance_correlation": _pearson(log_variance, log_variance_r),
        "mean_variance_gap": trend_gap(mean_r, variance_r, mean, variance),
        "mean_variance_gap_log_normalised": trend_gap(log_mean_r, log_variance_r, log_mean, log_variance),
        "log_variance_error": _root_mean_square(np.log10(variance[both]) - np.log10(variance_r[both])),
        "gene_zero_share_error": float(np.abs(_gene_zero_share(cells) - _gene_zero_share(reference)).mean()),
        "cell_zero_share_ks": float(ks_2samp(zeros, zeros_r).statistic),
        "cell_zero_share_w1": float(wasserstein_distance(zeros, zeros_r)),
        "cell_zero_share_mean": float(zeros.mean()),
        "library_size_ks": float(ks_2samp(library, library_r).statistic),
        "library_size_median": float(np.median(library)),
    }


def zero_share(counts: csr_matrix) -> FloatArray:
    """Share of genes without a count, per cell: (n,). ``counts`` stores no explicit zeros."""
    return 1 - np.diff(counts.indptr) / counts.shape[1]


def library_sizes(counts: csr_matrix) -> FloatArray:
    """Total counts per cell: (n,)."""
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()


def trend_gap(
    mean: FloatArray, variance: FloatArray, mean_other: FloatArray, variance_other: FloatArray
) -> float:
    """Mean difference of the median log10 variance of two sets of genes over 25 bins of log10 mean.

    The bins hold equally many genes of the first set; genes outside its range and bins that are empty on a
    side are left out. NaN if none is left.
    """
    at, curve = trend_curve(mean, variance, mean, variance)
    at_other, curve_other = trend_curve(mean, variance, mean_other, variance_other)
    _, first, second = np.intersect1d(at, at_other, return_indices=True)
    return float(np.abs(curve[first] - curve_other[second]).mean()) if len(first) else float("nan")


def trend_curve(
    mean: FloatArray, variance: FloatArray, mean_other: FloatArray, variance_other: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The mean-variance curve of the second set of genes: centres of the bins of `trend_gap`, log10 mean, and
    the median log10 variance in each; bins that it has no gene in are left out."""
    x, _ = _positive_log10(mean, variance)
    x_other, y_other = _positive_log10(mean_other, variance_other)
    if len(x) == 0:
        return np.empty(0), np.empty(0)
    edges = np.unique(np.quantile(x, np.linspace(0, 1, TREND_BINS + 1)))
    inside = (x_other >= edges[0]) & (x_other <= edges[-1])
    bins = _bin(x_other[inside], edges)
    found = np.unique(bins)
    centres = (edges[found] + edges[np.minimum(found + 1, len(edges) - 1)]) / 2
    return centres, np.array([np.median(y_other[inside][bins == b]) for b in found])


def _positive_log10(mean: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    positive = (mean > 0) & (variance > 0)
    return np.log10(mean[positive]), np.log10(variance[positive])


def _bin(x: FloatArray, edges: FloatArray) -> FloatArray:
    return np.clip(np.searchsorted(edges, x) - 1, 0, max(len(edges) - 2, 0))


def _gene_zero_share(counts: csr_matrix) -> FloatArray:
    return 1 - counts.getnnz(axis=0) / counts.shape[0]


def _pearson(x: FloatArray, y: FloatArray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if _vary(x, y) else float("nan")


def _spearman(x: FloatArray, y: FloatArray) -> float:
    return float(spearmanr(x, y).statistic) if _vary(x, y) else float("nan")


def _vary(x: FloatArray, y: FloatArray) -> bool:
    """A correlation is defined where both sides have at least two different values."""
    return len(x) > 1 and bool(np.ptp(x) > 0) and bool(np.ptp(y) > 0)


def _root_mean_square(x: FloatArray) -> float:
    return float(np.sqrt(np.mean(x**2))) if len(x) else float("nan")
