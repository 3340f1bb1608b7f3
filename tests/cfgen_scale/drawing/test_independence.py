"""Counts of different cells and genes know nothing of each other."""

import numpy as np
import pytest
from scipy import stats

CELLS = GENES = 2000
MEAN, THETA = 0.7, 1.0
LAGS = (1, 2, 3, 16, 64, 256)


@pytest.fixture(scope="module")
def counts(draw):
    return draw(MEAN, THETA, cells=CELLS, genes=GENES).toarray()


def pairs(x):
    """Counts of neighbours, at several distances: of genes in a cell, of cells in a gene, and across both."""
    for lag in LAGS:
        yield x[:, :-lag], x[:, lag:]
        yield x[:-lag], x[lag:]
        yield x[:-lag, :-lag], x[lag:, lag:]
        yield x[:-lag, lag:], x[lag:, :-lag]


def test_neighbours_are_uncorrelated(counts):
    """Counts, and whether they are 0: 48 correlations of 4,000,000 pairs, each within 4 standard errors."""
    for one, other in pairs(counts):
        for a, b in ((one, other), (one > 0, other > 0)):
            r = np.corrcoef(a.ravel(), b.ravel())[0, 1]
            assert abs(r) < 4 / np.sqrt(a.size)


def test_pairs_of_counts_are_as_often_as_the_product_says(counts):
    """0, 1, 2 and more of two neighbours: chi-square of the 9 pairs against products of the exact pmf."""
    pmf = stats.nbinom(THETA, THETA / (THETA + MEAN)).pmf
    share = np.array([pmf(0), pmf(1), 1 - pmf(0) - pmf(1)])
    found = []
    for one, other in pairs(np.minimum(counts, 2)):
        observed = np.bincount((3 * one + other).ravel(), minlength=9)
        found.append(stats.chisquare(observed, one.size * np.outer(share, share).ravel()).pvalue)
    assert min(found) > 0.01 / len(found)


def test_totals_of_cells_and_of_genes_vary_as_sums_of_independent_counts(counts):
    """Any dependence within a row or a column, of whichever pairs, would show in the variance of its sum."""
    variance = MEAN + MEAN**2 / THETA
    for totals, n in ((counts.sum(1), GENES), (counts.sum(0), CELLS)):
        ratio = totals.var(ddof=1) * (len(totals) - 1) / (n * variance)
        assert 1e-3 < stats.chi2(len(totals) - 1).cdf(ratio) < 1 - 1e-3


def test_seeds_chunks_and_modalities_have_draws_of_their_own(draw, counts):
    first = counts[:500]
    for address in ({"seed": 1}, {"index": 1}, {"name": "counts of atac"}):
        other = draw(MEAN, THETA, cells=500, genes=GENES, **address).toarray()
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(first.size)


def test_the_zero_test_and_the_count_use_different_bits(draw):
    """That a count of a small mean is not 0 is known from the first bits, whether it is 1 from the others."""
    for mean in (2.0**-6, 2.0**-14):
        counts = draw(mean, THETA, cells=4000, genes=5000)
        p = mean / (mean + THETA)
        assert stats.binomtest(int((counts.data > 1).sum()), counts.nnz, p).pvalue > 1e-3
