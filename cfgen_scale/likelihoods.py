"""Distributions of counts given what the decoder says (METHOD 2, paper Eq. 5 and 9).

The likelihood is a function of its own to autograd, with the gradient written by hand. Left to autograd it
makes and keeps some twenty matrices (B, G); here one is kept, and the passes over it are made a few rows at a
time, while these lie in the processor's cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from .counts import SparseCounts

ROWS_IN_CACHE = 2**18  # elements of the rows that a CPU takes through all passes before the next ones


def negative_binomial_log_prob(
    counts: SparseCounts,
    logits: torch.Tensor,
    log_size_factor: torch.Tensor,
    log_theta: torch.Tensor,
    levels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Log-probability of each cell's counts, summed over features: (B,), float32 or as wide as the logits.

    logits           (B, G) of any floating dtype; the mean is mu = l * softmax(logits)
    log_size_factor  (B,) log l
    log_theta        (G,), or (L, G): the log inverse dispersion; the variance is mu + mu^2 / theta (Eq. 9)
    levels           (B,) int64, the row of ``log_theta`` of each cell; needed where it is (L, G)

    With s = log mu - log theta::

        log p(0) = -theta * softplus(s)
        log p(x) = log p(0) + lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) + x * (s - softplus(s))

    so that only the first line is dense; the rest is computed at the non-zeros. Where x = 1, as most counts
    are, the log-gammas add up to log theta; else they are taken in float64, since a difference of two large
    ones would lose its digits (theta of 1e4 and more).
    """
    table = log_theta[None] if log_theta.ndim == 1 else log_theta
    log_prob: torch.Tensor = _NegativeBinomial.apply(logits, log_size_factor, table, levels, counts)
    return log_prob


class _NegativeBinomial(torch.autograd.Function):
    """``negative_binomial_log_prob`` with log theta (L, G). Its derivatives, with p = mu / (mu + theta)::

        d/ds         = x - (x + theta) * p
        d/dlogits    = d/ds - softmax(logits) * sum_G d/ds
        d/dlog theta = theta * (p - softplus(s)) + theta * (digamma(x + theta) - digamma(theta)) - x * (1 - p)

    A float32 island: autocast is off in both directions.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        log_size_factor: torch.Tensor,
        log_theta: torch.Tensor,
        levels: torch.Tensor | None,
        counts: SparseCounts,
    ) -> torch.Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            log_l = log_size_factor.to(dtype)
            share = torch.empty(logits.shape, dtype=dtype, device=logits.device)
            log_prob, log_sum = torch.empty_like(log_l), torch.empty_like(log_l)
            theta = _Theta(log_theta.to(dtype), levels)
            for rows in _in_cache(logits):
                torch.softmax(logits[rows].to(dtype), 1, out=share[rows])
                log_prob[rows] = -theta.dot(_mean_over_theta(share, log_l, theta, rows).log1p_(), rows)
                log_sum[rows] = logits[rows].amax(1) - share[rows].amax(1).log()
            gammas = _Gammas(counts.values.to(dtype), theta.log_at(counts))
            s = logits[counts.cells, counts.features].to(dtype)
            s += (log_l - log_sum).index_select(0, counts.cells) - gammas.log_theta
            ctx.save_for_backward(share, log_l, log_theta, s)
            ctx.levels, ctx.counts, ctx.gammas, ctx.logits_dtype = levels, counts, gammas, logits.dtype
            at_counts = gammas.value().addcmul_(gammas.x, logsigmoid(s))
            return log_prob.index_add_(0, counts.cells, at_counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        share, log_l, log_theta, s = ctx.saved_tensors
        counts: SparseCounts = ctx.counts
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.to(share.dtype)
            theta = _Theta(log_theta.to(share.dtype), ctx.levels)
            x_unexplained = ctx.gammas.x * torch.sigmoid(-s)  # x * (1 - p)
            sum_ds = torch.zeros_like(log_l).index_add_(0, counts.cells, x_unexplained)
            grad_theta, grad_logits = torch.zeros_like(theta.value), torch.empty_like(share)
            for rows in _in_cache(share):
                ratio = _mean_over_theta(share, log_l, theta, rows)
                p = ratio / (ratio + 1)
                theta.add_columns(grad_theta, p - ratio.log1p_(), grad[rows], rows)
                sum_ds[rows] -= theta.dot(p, rows)
                p.mul_(theta.value_of(rows))
                torch.addcmul(p, share[rows], sum_ds[rows, None], out=grad_logits[rows])
                grad_logits[rows].mul_(-grad[rows, None])
            grad_x = grad.index_select(0, counts.cells)
            grad_logits.view(-1).index_add_(0, counts.flat, x_unexplained * grad_x)
            grad_theta.mul_(theta.value)
            if ctx.needs_input_grad[2]:
                theta.add_at(grad_theta, (ctx.gammas.slope() - x_unexplained) * grad_x, counts)
            return (
                grad_logits.to(ctx.logits_dtype),
                sum_ds * grad if ctx.needs_input_grad[1] else None,
                grad_theta.to(log_theta.dtype),
                None,
                None,
            )


class _Theta:
    """Inverse dispersions (L, G) and the row of each cell: ``levels`` (B,), or None where L is 1."""

    def __init__(self, log_value: torch.Tensor, levels: torch.Tensor | None) -> None:
        assert levels is not None or len(log_value) == 1
        self.log_value, self.levels = log_value, levels
        self.value, self.inverse = log_value.exp(), log_value.neg().exp()

    def value_of(self, rows: slice) -> torch.Tensor:
        """Theta of these cells, (n, G) or (1, G)."""
        return self.value if self.levels is None else self.value[self.levels[rows]]

    def inverse_of(self, rows: slice) -> torch.Tensor:
        """1 / theta of these cells, (n, G) or (1, G)."""
        return self.inverse if self.levels is None else self.inverse[self.levels[rows]]

    def dot(self, matrix: torch.Tensor, rows: slice) -> torch.Tensor:
        """Sum over features of theta * matrix: (n, G) -> (n,)."""
        if self.levels is None:
            return matrix @ self.value[0]
        return (matrix * self.value_of(rows)).sum(1)

    def add_columns(self, to: torch.Tensor, matrix: torch.Tensor, weight: torch.Tensor, rows: slice) -> None:
        """Add to (L, G) the sums over each level's cells of weight (n,) * matrix (n, G)."""
        if self.levels is None:
            to[0] += weight @ matrix
        else:
            to.index_add_(0, self.levels[rows], matrix * weight[:, None])

    def log_at(self, counts: SparseCounts) -> torch.Tensor:
        """Log theta at the non-zeros, (nnz,)."""
        return self.log_value.view(-1).index_select(0, self._places(counts))

    def add_at(self, to: torch.Tensor, values: torch.Tensor, counts: SparseCounts) -> None:
        """Add values (nnz,) at the non-zeros to (L, G)."""
        to.view(-1).index_add_(0, self._places(counts), values)

    def _places(self, counts: SparseCounts) -> torch.Tensor:
        if self.levels is None:
            return counts.features
        return self.levels.index_select(0, counts.cells) * counts.shape[1] + counts.features


def _in_cache(matrix: torch.Tensor) -> Iterator[slice]:
    """Slices of the rows of (B, G): a few at a time on a CPU, all at once on a GPU."""
    n, n_features = matrix.shape
    step = max(1, ROWS_IN_CACHE // n_features) if matrix.device.type == "cpu" else max(n, 1)
    return (slice(first, min(first + step, n)) for first in range(0, n, step))


def _mean_over_theta(share: torch.Tensor, log_l: torch.Tensor, theta: _Theta, rows: slice) -> torch.Tensor:
    """mu / theta = exp(s) of these cells, (n, G), in fresh memory."""
    return (share[rows] * log_l[rows, None].exp()).mul_(theta.inverse_of(rows))


class _Gammas:
    """lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) at the non-zeros (nnz,), and its slope."""

    def __init__(self, x: torch.Tensor, log_theta: torch.Tensor) -> None:
        self.x, self.log_theta = x, log_theta
        self.several = torch.nonzero(x != 1)[:, 0]
        self.x_several, self.theta = x[self.several].double(), log_theta[self.several].double().exp()

    def value(self) -> torch.Tensor:
        x, theta, value = self.x_several, self.theta, self.log_theta.clone()
        several = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        value[self.several] = several.to(value.dtype)
        return value

    def slope(self) -> torch.Tensor:
        """By log theta: theta * (digamma(x + theta) - digamma(theta)), which is 1 where x is 1."""
        slope = torch.ones_like(self.x)
        several = self.theta * (torch.digamma(self.x_several + self.theta) - torch.digamma(self.theta))
        slope[self.several] = several.to(slope.dtype)
        return slope
