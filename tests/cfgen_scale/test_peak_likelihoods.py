"""Poisson and Bernoulli against scipy and against their plain forms, in value and gradient."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix
from torch.nn.functional import logsigmoid

from cfgen_scale import peak_likelihoods
from cfgen_scale.counts import SparseCounts
from cfgen_scale.peak_likelihoods import bernoulli_log_prob, poisson_log_prob


@pytest.fixture(params=["at once", "a few rows at a time"], autouse=True)
def _rows_in_cache(request, monkeypatch):
    if request.param != "at once":
        monkeypatch.setattr(peak_likelihoods, "ROWS_IN_CACHE", 40)


def draws(dtype=torch.float64, n=7, g=11):
    """Counts with zeros, ones and large ones; logits and log size factors that want a gradient."""
    random = np.random.default_rng(0)
    x = random.poisson(random.gamma(0.3, 5.0, (n, g)))
    x[0, :3], x[1] = [0, 1, 900], 0
    numbers = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((n, g), generator=numbers, dtype=dtype)
    log_l = 3 + torch.randn(n, generator=numbers, dtype=dtype)
    return x, logits.requires_grad_(), log_l.requires_grad_()


def sparse(x):
    return SparseCounts.from_csr(csr_matrix(np.asarray(x)))


def plain_poisson(x, logits, log_l):
    log_mean = torch.log_softmax(logits, 1) + log_l[:, None]
    return (x * log_mean - log_mean.exp() - torch.lgamma(x + 1)).sum(1)


def plain_bernoulli(x, logits):
    return torch.where(x > 0, logsigmoid(logits), logsigmoid(-logits)).sum(1)


def test_log_prob_is_scipys():
    x, logits, log_l = draws()
    mean = (torch.softmax(logits, 1) * log_l.exp()[:, None]).detach().numpy()
    ours = poisson_log_prob(sparse(x), logits, log_l).detach().numpy()
    np.testing.assert_allclose(ours, stats.poisson.logpmf(x, mean).sum(1), rtol=1e-10)
    ours = bernoulli_log_prob(sparse(x), logits).detach().numpy()
    exact = stats.bernoulli.logpmf(x > 0, torch.sigmoid(logits).detach().numpy()).sum(1)
    np.testing.assert_allclose(ours, exact, rtol=1e-10)


def test_value_and_gradient_are_those_of_the_plain_form():
    x, logits, log_l = draws()
    dense, weight = torch.from_numpy(x).double(), torch.arange(1.0, 8.0, dtype=torch.float64)
    for ours, plain, wanted in (
        (poisson_log_prob(sparse(x), logits, log_l), plain_poisson(dense, logits, log_l), (logits, log_l)),
        (bernoulli_log_prob(sparse(x), logits), plain_bernoulli(dense, logits), (logits,)),
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
        gradients = torch.autograd.grad(ours @ weight, wanted), torch.autograd.grad(plain @ weight, wanted)
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_gradient_is_the_slope():
    x, logits, log_l = draws()
    counts = sparse(x)
    assert torch.autograd.gradcheck(lambda *given: poisson_log_prob(counts, *given), (logits, log_l))
    assert torch.autograd.gradcheck(lambda given: bernoulli_log_prob(counts, given), (logits,))


def test_float32_keeps_five_digits():
    x, logits, log_l = draws(torch.float32, n=40, g=2000)
    exact = plain_poisson(torch.from_numpy(x).double(), logits.double(), log_l.double())
    torch.testing.assert_close(poisson_log_prob(sparse(x), logits, log_l).double(), exact, rtol=5e-6, atol=0)
    exact = plain_bernoulli(torch.from_numpy(x).double(), logits.double())
    torch.testing.assert_close(bernoulli_log_prob(sparse(x), logits).double(), exact, rtol=5e-6, atol=0)


def test_stays_in_float32_under_autocast():
    x, logits, log_l = draws(torch.float32, n=8, g=500)
    counts, rounded = sparse(x), logits.detach().bfloat16().requires_grad_()
    plain = poisson_log_prob(counts, rounded.float(), log_l), bernoulli_log_prob(counts, rounded.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = poisson_log_prob(counts, rounded, log_l), bernoulli_log_prob(counts, rounded)
    for one, other in zip(mixed, plain, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)
    torch.stack(mixed).sum().backward()
    assert rounded.grad.dtype == torch.bfloat16


def test_extreme_logits_are_finite():
    x = sparse([[1, 0, 0, 0], [10**6, 0, 5, 1]])
    logits = torch.tensor([[-200.0, -5.0, 0.0, 90.0], [13.8, -300.0, 2.0, -80.0]], requires_grad=True)
    (poisson_log_prob(x, logits, x.totals().log()) + bernoulli_log_prob(x, logits)).sum().backward()
    assert torch.isfinite(logits.grad).all()
