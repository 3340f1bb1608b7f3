"""Counts follow scipy's distributions, in the middle and in the tails; and the test would notice if not."""

import numpy as np
import pytest
from scipy import stats

from cfgen_scale.drawing import compiled

DRAWS = 1_000_000  # of each mean and theta: 1,000 cells x 1,000 genes
LEAST_EXPECTED = 10
LEVELS = np.concatenate([np.linspace(0, 1, 41), 1 - np.logspace(-2, -5, 7)])
MEANS = (1e-4, 1e-2, 0.3, 2.0, 15.9, 16.1, 300.0, 1e4)
THETAS = (1e-2, 0.2, 1.0, 10.0, 1e4)
WHOLE_GRID = len(MEANS) * len(THETAS)


def p_value(counts, distribution):
    """Chi-square of the counts (a sparse matrix), in bins of about equal expectation and some in the upper
    tail, pooled to at least LEAST_EXPECTED each."""
    n = counts.shape[0] * counts.shape[1]
    edges = np.unique(distribution.ppf(LEVELS[(LEVELS > 0) & (LEVELS < 1)]))
    above = n * np.concatenate([[1.0], distribution.sf(edges), [0.0]])
    kept = [0]
    for i in range(1, len(above)):
        if above[kept[-1]] - above[i] >= LEAST_EXPECTED and above[i] >= LEAST_EXPECTED:
            kept.append(i)
    bins = np.searchsorted(edges, counts.data, side="left")
    found = np.bincount(bins, minlength=len(edges) + 1)
    found[np.searchsorted(edges, 0, side="left")] += n - counts.nnz
    expected = -np.diff([*above[kept], 0.0])
    observed = np.add.reduceat(found, kept)
    assert len(expected) > 1, "one bin shows nothing"
    return stats.chisquare(observed, expected).pvalue


def nbinom(mean, theta):
    """Of the mean as it is drawn, in float32."""
    mean = float(np.float32(mean))
    return stats.nbinom(theta, theta / (theta + mean))


def test_negative_binomials_follow_the_pmf(draw):
    """The grid, of 1,000,000 draws each, is one test: the smallest p-value against its Bonferroni bound."""
    found = {
        (mean, theta): p_value(draw(mean, theta, index=i * 100 + j), nbinom(mean, theta))
        for i, mean in enumerate(MEANS)
        for j, theta in enumerate(THETAS)
    }
    worst = min(found, key=found.get)
    assert found[worst] > 0.01 / WHOLE_GRID, worst
    assert stats.kstest(list(found.values()), "uniform").pvalue > 1e-3, "p-values too close to 0 or to 1"


@pytest.mark.parametrize("mean", [0.3, 2.0, 15.0, 40.0, 1e4])
def test_the_same_test_notices_small_mistakes(draw, mean):
    """A mean that is 2 % off, and a theta that is 5 % off, at as many draws."""
    counts = draw(mean, 1.0)
    assert p_value(counts, nbinom(1.02 * mean, 1.0)) < 1e-6
    assert p_value(counts, nbinom(mean, 1.05)) < 1e-3
    assert p_value(counts, nbinom(mean, 1.0)) > 1e-3


def test_poissons_follow_the_pmf(draw):
    means = [1e-4, 1e-2, 0.3, 2.0, 9.0, 15.9, 16.1, 40.0, 1e3, 1e4]
    found = [
        p_value(draw(mean, kind="poisson", index=i), stats.poisson(float(np.float32(mean))))
        for i, mean in enumerate(means)
    ]
    assert min(found) > 0.01 / len(means), found


def test_bernoullis_have_their_probabilities(draw):
    for i, p in enumerate([1e-4, 1e-2, 0.5, 0.9]):
        counts = draw(p, kind="bernoulli", index=i)
        assert set(counts.data.tolist()) == {1}
        assert stats.binomtest(counts.nnz, DRAWS, float(np.float32(p))).pvalue > 1e-3
    assert draw(1.0, kind="bernoulli", cells=100).nnz == 100_000


@pytest.mark.parametrize("theta", [1e-3, 1e-2, 0.2, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("mean", [1e-4, 0.05, 1.0, 16.0])
def test_inversion_is_the_quantile_function_far_into_the_tail(mean, theta):
    """For a uniform draw u it is the least k with P(x > k) <= u, to 1e-14 of probability."""
    exact = nbinom(mean, theta)
    p = mean / (mean + theta)
    u = np.concatenate([np.linspace(0.001, 0.999, 301), np.logspace(-12, -3, 200)])
    counts = [compiled._inverted(v, -theta * np.log1p(mean / theta), theta * p, p) for v in u]
    assert (exact.sf(counts) <= u * (1 + 1e-9) + 1e-14).all()
    above = np.array(counts) > 0
    assert (exact.sf(np.array(counts)[above] - 1) > u[above] * (1 - 1e-9) - 1e-14).all()


def test_one_draw_in_a_million(draw):
    """200,000,000 draws of mean 0.05 and theta 1: P(x >= k) = (0.05 / 1.05)^k, to 2e-7."""
    counts = np.zeros(8, np.int64)
    for index in range(10):
        drawn = draw(0.05, 1.0, cells=1000, genes=20_000, index=index)
        counts += np.bincount(np.minimum(drawn.data, 7), minlength=8)
    for k in (1, 2, 3, 4, 5):
        expected = 200e6 * stats.nbinom(1.0, 1 / (1 + float(np.float32(0.05)))).sf(k - 1)
        assert abs(counts[k:].sum() - expected) < 4 * np.sqrt(expected), k


def test_ten_million_draws_by_rejection(draw):
    """Gamma and Poisson by rejection, to the 1e-5 tails of 10,000,000 draws."""
    counts = draw(100.0, 0.5, cells=10_000)
    exact = nbinom(100.0, 0.5)
    for level in (1e-5, 1e-4, 1e-3, 0.1):
        k = exact.isf(level)
        expected = 1e7 * exact.sf(k)
        assert abs((counts.data > k).sum() - expected) < 4 * np.sqrt(expected), level
    assert p_value(counts, exact) > 1e-3
