"""Distributions of counts given what the decoder says (METHOD 2, paper Eq. 5 and 9)."""

import torch
from torch.nn.functional import softplus

from .counts import SparseCounts


def negative_binomial_log_prob(
    counts: SparseCounts, log_mean: torch.Tensor, log_theta: torch.Tensor
) -> torch.Tensor:
    """Log-probability of each cell's counts, summed over features: (B,) float32.

    ``log_mean`` (B, G) is log mu; ``log_theta`` (G,) or (B, G) is the log inverse dispersion; the variance
    is mu + mu^2 / theta (paper Eq. 9). With s = log mu - log theta::

        log p(0) = -theta * softplus(s)
        log p(x) = log p(0) + lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) + x * (s - softplus(s))

    so that only the first line is dense; the rest is computed at the non-zeros, in float64, where a
    difference of two large log-gammas would otherwise lose its digits (theta of 1e4 and more).
    """
    at_zero = _log_prob_of_zeros(log_mean, log_theta)
    x = counts.values.double()
    if log_theta.ndim == 1:
        log_theta_x = log_theta.double().index_select(0, counts.features)
    else:
        log_theta_x = log_theta.flatten().index_select(0, counts.flat).double()
    theta_x = log_theta_x.exp()
    s = log_mean.flatten().index_select(0, counts.flat).double() - log_theta_x
    at_counts = (
        torch.lgamma(x + theta_x) - torch.lgamma(theta_x) - torch.lgamma(x + 1) + x * (s - softplus(s))
    )
    return at_zero.index_add(0, counts.cells, at_counts.to(at_zero.dtype))


def _log_prob_of_zeros(log_mean: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
    """Sum over features of log p(0), (B,); a float32 island under autocast, which would take the product
    in bfloat16."""
    with torch.autocast(log_mean.device.type, enabled=False):
        ratio, theta = softplus(log_mean - log_theta), log_theta.exp()
        return -(ratio @ theta) if theta.ndim == 1 else -(ratio * theta).sum(1)


def negative_binomial_sample(
    log_mean: torch.Tensor, log_theta: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Counts (B, G) int64: Poisson draws whose rate is Gamma(theta, scale = mu / theta) distributed."""
    theta = log_theta.exp().expand_as(log_mean).contiguous()
    rate = torch._standard_gamma(theta, generator=generator) * (log_mean - log_theta).exp()
    return torch.poisson(rate, generator=generator).long()
