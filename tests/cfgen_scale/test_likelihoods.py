"""The negative binomial against scipy, in value, gradient and draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

from cfgen_scale.counts import SparseCounts
from cfgen_scale.likelihoods import negative_binomial_log_prob, negative_binomial_sample


def scipy_log_prob(x, mean, theta):
    return stats.nbinom.logpmf(x, theta, theta / (theta + mean)).sum(1)


@pytest.mark.parametrize("theta", [1e-2, 0.7, 30.0, 1e5])
@pytest.mark.parametrize("mean", [1e-4, 0.3, 8.0, 2e3])
def test_log_prob_is_scipys(theta, mean):
    draws = np.random.default_rng(0)
    means = mean * draws.uniform(0.5, 2.0, (6, 30))
    x = stats.nbinom.rvs(theta, theta / (theta + means), random_state=1)
    x[0, :3] = [0, 1, 400]
    ours = negative_binomial_log_prob(
        SparseCounts.from_csr(csr_matrix(x)),
        torch.tensor(means).log(),
        torch.full((30,), theta).log().double(),
    )
    np.testing.assert_allclose(ours.numpy(), scipy_log_prob(x, means, theta), rtol=1e-7, atol=1e-7)


def test_theta_per_gene_and_level_is_taken_cell_by_cell():
    x = np.random.default_rng(0).poisson(1.0, (5, 12))
    means = np.random.default_rng(1).uniform(0.1, 3, (5, 12))
    theta = np.random.default_rng(2).uniform(0.5, 9, (5, 12))
    ours = negative_binomial_log_prob(
        SparseCounts.from_csr(csr_matrix(x)), torch.tensor(means).log(), torch.tensor(theta).log()
    )
    np.testing.assert_allclose(ours.numpy(), scipy_log_prob(x, means, theta), rtol=1e-7)


def test_gradient_is_that_of_the_dense_formula():
    x = np.random.default_rng(0).poisson(2.0, (4, 9))
    log_mean = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    log_theta = torch.randn(9, dtype=torch.float64, requires_grad=True)
    sparse = SparseCounts.from_csr(csr_matrix(x))

    def ours(mean, theta):
        return negative_binomial_log_prob(sparse, mean, theta)

    assert torch.autograd.gradcheck(ours, (log_mean, log_theta))


def test_extreme_libraries_are_finite_in_float32():
    x = csr_matrix(np.array([[1, 0, 0], [10**6, 0, 5]]))
    log_mean = torch.tensor([[-20.0, -5.0, 0.0], [13.8, -30.0, 2.0]], requires_grad=True)
    log_theta = torch.tensor([-7.0, 0.0, 12.0], requires_grad=True)
    log_prob = negative_binomial_log_prob(SparseCounts.from_csr(x), log_mean, log_theta)
    log_prob.sum().backward()
    for tensor in (log_prob, log_mean.grad, log_theta.grad):
        assert torch.isfinite(tensor).all()


def test_stays_in_float32_under_autocast():
    x = SparseCounts.from_csr(csr_matrix(np.random.default_rng(0).poisson(0.2, (8, 500))))
    log_mean = torch.randn(8, 500)
    log_theta = torch.randn(500)
    plain = negative_binomial_log_prob(x, log_mean, log_theta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = negative_binomial_log_prob(x, log_mean, log_theta)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain)


@pytest.mark.parametrize(("mean", "theta"), [(0.05, 0.5), (2.0, 1.5), (40.0, 10.0)])
def test_draws_follow_the_pmf(mean, theta):
    n = 40_000
    drawn = negative_binomial_sample(
        torch.full((n, 1), mean).log(), torch.tensor([theta]).log(), torch.Generator().manual_seed(3)
    ).numpy()
    pmf = stats.nbinom(theta, theta / (theta + mean))
    top = int(pmf.ppf(0.999))
    observed = np.bincount(np.minimum(drawn.ravel(), top + 1), minlength=top + 2)
    expected = n * np.append(pmf.pmf(np.arange(top + 1)), pmf.sf(top))
    wide = expected > 5
    observed, expected = observed[wide], expected[wide]
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
