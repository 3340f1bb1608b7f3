"""The negative binomial against scipy and against its plain form, in value, gradient and draws."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from scipy.sparse import csr_matrix

from cfgen_scale import compiled_likelihood, likelihoods
from cfgen_scale.counts import SparseCounts
from cfgen_scale.likelihoods import negative_binomial_log_prob

LEVELS = torch.tensor([1, 0, 2, 2, 1, 0, 0])


def scipy_log_prob(x, mean, theta):
    return stats.nbinom.logpmf(x, theta, theta / (theta + mean)).sum(1)


def plain_log_prob(x, logits, log_l, log_theta):
    """Eq. 9 as it stands, on dense matrices (B, G)."""
    theta, mean = log_theta.exp(), log_l.exp()[:, None] * torch.softmax(logits, 1)
    gammas = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    total = torch.log(theta + mean)
    return (gammas + theta * (log_theta - total) + x * (mean.log() - total)).sum(1)


def draws(dtype=torch.float64, levels=None, n=7, g=11):
    """Counts with zeros, ones and large ones; logits, log size factors and log theta that want a gradient."""
    random = np.random.default_rng(0)
    x = random.poisson(random.gamma(0.3, 5.0, (n, g)))
    x[0, :3] = [0, 1, 900]
    numbers = torch.Generator().manual_seed(0)
    shapes = [(n, g), (n,), (g,) if levels is None else (3, g)]
    wanted = [torch.randn(shape, generator=numbers, dtype=dtype) for shape in shapes]
    wanted[1] += 4
    return torch.from_numpy(x).to(dtype), tuple(tensor.requires_grad_() for tensor in wanted)


def sparse(x):
    return SparseCounts.from_csr(csr_matrix(np.asarray(x)))


@pytest.mark.parametrize("theta", [1e-2, 0.7, 30.0, 1e5])
@pytest.mark.parametrize("mean", [1e-4, 0.3, 8.0, 2e3])
def test_log_prob_is_scipys(theta, mean):
    random = np.random.default_rng(0)
    means = mean * random.uniform(0.5, 2.0, (6, 30))
    x = stats.nbinom.rvs(theta, theta / (theta + means), random_state=1)
    x[0, :3] = [0, 1, 400]
    ours = negative_binomial_log_prob(
        sparse(x),
        torch.tensor(means).log() + 3.0,
        torch.tensor(means.sum(1)).log(),
        torch.full((30,), theta).log().double(),
    )
    np.testing.assert_allclose(ours.numpy(), scipy_log_prob(x, means, theta), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("levels", [None, LEVELS], ids=["theta per gene", "theta per gene and level"])
def test_value_and_gradient_are_those_of_the_plain_form(levels):
    x, (logits, log_l, log_theta) = draws(levels=levels)
    weight = torch.arange(1.0, 8.0, dtype=torch.float64)
    of_cells = log_theta.expand(7, 11) if levels is None else log_theta[levels]
    plain = plain_log_prob(x, logits, log_l, of_cells)
    ours = negative_binomial_log_prob(sparse(x), logits, log_l, log_theta, levels)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    wanted = (logits, log_l, log_theta)
    for ours_of, plain_of in zip(
        torch.autograd.grad(ours @ weight, wanted), torch.autograd.grad(plain @ weight, wanted), strict=True
    ):
        torch.testing.assert_close(ours_of, plain_of, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("levels", [None, LEVELS], ids=["theta per gene", "theta per gene and level"])
def test_gradient_is_the_slope(levels):
    x, wanted = draws(levels=levels)
    counts = sparse(x)
    assert torch.autograd.gradcheck(
        lambda logits, log_l, log_theta: negative_binomial_log_prob(counts, logits, log_l, log_theta, levels),
        wanted,
    )


def test_float32_keeps_five_digits():
    x, wanted = draws(torch.float32, n=40, g=2000)
    ours = negative_binomial_log_prob(sparse(x), *wanted)
    double = tuple(tensor.detach().double().requires_grad_() for tensor in wanted)
    exact = plain_log_prob(x.double(), *double)
    torch.testing.assert_close(ours.double(), exact, rtol=5e-6, atol=0)
    gradients = torch.autograd.grad(ours.sum(), wanted), torch.autograd.grad(exact.sum(), double)
    for ours_of, exact_of in zip(*gradients, strict=True):
        torch.testing.assert_close(ours_of.double(), exact_of, rtol=1e-4, atol=1e-4)


def pytorch_form(counts, logits, log_l, log_theta, levels):
    """The form that a GPU takes, in PyTorch's operations."""
    table = log_theta if levels is not None else log_theta[None]
    return likelihoods._NegativeBinomial.apply(logits, log_l, table, levels, counts)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("levels", [None, LEVELS], ids=["theta per gene", "theta per gene and level"])
def test_the_compiled_form_is_that_of_pytorch(levels, threads, monkeypatch):
    """In value and slopes, also where rows of logits do not lie one behind the other."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, (logits, log_l, log_theta) = draws(torch.float32, levels=levels)
    counts, weight = sparse(x), torch.arange(1.0, 8.0)
    apart = torch.zeros(7, 16)[:, :11].copy_(logits.detach()).requires_grad_()
    assert not apart.is_contiguous()
    ours = negative_binomial_log_prob(counts, apart, log_l, log_theta, levels)
    theirs = pytorch_form(counts, logits, log_l, log_theta, levels)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-5)
    for ours_of, theirs_of in zip(
        torch.autograd.grad(ours @ weight, (apart, log_l, log_theta)),
        torch.autograd.grad(theirs @ weight, (logits, log_l, log_theta)),
        strict=True,
    ):
        torch.testing.assert_close(ours_of, theirs_of, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("theta", [1e-3, 0.7, 30.0, 1e5])
def test_log_gammas_of_any_count_are_scipys(theta):
    """Products of up to 32 factors, and differences of log-gammas beyond."""
    for x in (2.0, 3.0, 32.0, 33.0, 400.0, 1e6):
        value, slope = compiled_likelihood._log_gammas(x, theta)
        exact = special.gammaln(x + theta) - special.gammaln(theta) - special.gammaln(x + 1)
        assert value == pytest.approx(exact, rel=1e-9, abs=1e-8)
        assert slope == pytest.approx(theta * (special.digamma(x + theta) - special.digamma(theta)), rel=1e-9)


@pytest.mark.parametrize(("levels", "says"), [([0, 2], "a level"), ([-1, 0], "a level")])
def test_a_level_that_is_none_is_refused(levels, says):
    """The compiled loops would read and write foreign memory."""
    x, log_theta = sparse([[1, 0, 2], [0, 0, 3]]), torch.zeros(2, 3)
    with pytest.raises(IndexError, match=says):
        negative_binomial_log_prob(x, torch.zeros(2, 3), torch.ones(2), log_theta, torch.tensor(levels))


def test_a_feature_that_is_none_is_refused():
    x = sparse([[1, 0, 2], [0, 0, 3]])
    with pytest.raises(IndexError, match="a feature"):
        negative_binomial_log_prob(x, torch.zeros(2, 2), torch.ones(2), torch.zeros(2))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_give_no_number(wrong):
    """A row of -inf, or any NaN or inf: the stage must see it and stop."""
    logits = torch.zeros(2, 3)
    logits[1] = wrong
    log_prob = negative_binomial_log_prob(
        sparse([[1, 0, 2], [0, 0, 3]]), logits, torch.ones(2), torch.zeros(3)
    )
    assert torch.isfinite(log_prob).tolist() == [True, False]


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("n_levels", [None, 2])
def test_extreme_libraries_are_finite(autocast, n_levels):
    """A cell of 1 count and one of a million, logits far apart, theta at both ends of its range."""
    x = sparse([[1, 0, 0, 0], [10**6, 0, 5, 1]])
    log_theta = torch.tensor([-7.0, 0.0, 12.0, -7.0])
    levels = None
    if n_levels:
        log_theta, levels = torch.stack([log_theta, -log_theta.clamp(max=7)]), torch.tensor([0, 1])
    logits = torch.tensor([[-200.0, -5.0, 0.0, 90.0], [13.8, -300.0, 2.0, -80.0]], requires_grad=True)
    log_theta.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        scaled = logits.bfloat16() if autocast else logits
        log_prob = negative_binomial_log_prob(x, scaled, x.totals().log(), log_theta, levels)
    log_prob.sum().backward()
    for tensor in (log_prob, logits.grad, log_theta.grad):
        assert torch.isfinite(tensor).all()


def test_stays_in_float32_under_autocast():
    x, (logits, log_l, log_theta) = draws(torch.float32, n=8, g=500)
    counts, logits = sparse(x), logits.detach().bfloat16()
    plain = negative_binomial_log_prob(counts, logits.float(), log_l, log_theta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = negative_binomial_log_prob(counts, logits, log_l, log_theta)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain)
