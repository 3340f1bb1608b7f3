"""Distributions of counts given what the decoder says (METHOD 2, paper Eq. 5 and 9).

The likelihood is a function of its own to autograd, with the gradient written by hand. Left to autograd it
makes and keeps some twenty matrices (B, G); here one is kept. On a CPU it is compiled, a cell at a time
(compiled_likelihood.py); what stands here is the form for GPUs, and for float64.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from .compiled_likelihood import CompiledNegativeBinomial
from .counts import SparseCounts


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
    on_cpu = logits.device.type == "cpu" and logits.dtype == torch.float32
    form = CompiledNegativeBinomial if on_cpu and len(logits) else _NegativeBinomial
    log_prob: torch.Tensor = form.apply(logits, log_size_factor, table, levels, counts)
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
            share = torch.softmax(logits.to(dtype), 1)
            theta = _Theta(log_theta.to(dtype), levels)
            log_prob = -theta.dot(_mean_over_theta(share, log_l, theta).log1p_())
            log_sum = logits.amax(1).to(dtype) - share.amax(1).log()
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
            ratio = _mean_over_theta(share, log_l, theta)
            p = ratio / (ratio + 1)
            grad_theta = theta.sum_columns(p - ratio.log1p_(), grad)
            sum_ds -= theta.dot(p)
            grad_logits = p.mul_(theta.of_cells(theta.value)).addcmul_(share, sum_ds[:, None])
            grad_logits.mul_(-grad[:, None])
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

    def of_cells(self, table: torch.Tensor) -> torch.Tensor:
        """The rows of a table (L, G) that these cells have: (B, G) or (1, G)."""
        return table if self.levels is None else table[self.levels]

    def dot(self, matrix: torch.Tensor) -> torch.Tensor:
        """Sum over features of theta * matrix: (B, G) -> (B,)."""
        if self.levels is None:
            return matrix @ self.value[0]
        return (matrix * self.of_cells(self.value)).sum(1)

    def sum_columns(self, matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Sums (L, G) over each level's cells of weight (B,) * matrix (B, G)."""
        if self.levels is None:
            return (weight @ matrix)[None]
        return torch.zeros_like(self.value).index_add_(0, self.levels, matrix * weight[:, None])

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


def _mean_over_theta(share: torch.Tensor, log_l: torch.Tensor, theta: _Theta) -> torch.Tensor:
    """mu / theta = exp(s), (B, G), in fresh memory."""
    return (share * log_l[:, None].exp()).mul_(theta.of_cells(theta.inverse))


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
