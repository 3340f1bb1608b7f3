"""Distributions without a dispersion: Poisson counts, and Bernoulli for binarised ones, such as open peaks.

As the negative binomial's (likelihoods.py), each is one function to autograd, with its gradient written by
hand: the non-zeros are few, and what remains for all (B, G) is one pass forwards and one backwards, made a
few rows at a time, while these lie in the processor's cache. Both are float32 islands: autocast is off in
both directions.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from .counts import SparseCounts

ROWS_IN_CACHE = 2**18  # elements of the rows that a CPU takes through all passes before the next ones


def poisson_log_prob(
    counts: SparseCounts, logits: torch.Tensor, log_size_factor: torch.Tensor
) -> torch.Tensor:
    """Log-probability (B,) of counts whose means are mu = l * softmax(logits); float32 or wider.

    logits           (B, G) of any floating dtype
    log_size_factor  (B,) log l

    Means add up to l, so that the zeros need no pass but that of the softmax's sum::

        log p(x) = -l + sum over x > 0 of x * (log l + log_softmax(logits)) - lgamma(x + 1)
    """
    log_prob: torch.Tensor = _Poisson.apply(logits, log_size_factor, counts)
    return log_prob


class _Poisson(torch.autograd.Function):
    """``poisson_log_prob``. Its derivatives, with T the sum of a cell's counts::

    d/dlogits = x - T * softmax(logits)
    d/dlog l  = T - l
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, log_size_factor: torch.Tensor, counts: SparseCounts
    ) -> torch.Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            log_l, x = log_size_factor.to(dtype), counts.values.to(dtype)
            log_sum = torch.empty_like(log_l)
            for rows in _in_cache(logits):
                torch.logsumexp(logits[rows].to(dtype), 1, out=log_sum[rows])
            totals = torch.zeros_like(log_l).index_add_(0, counts.cells, x)
            ctx.save_for_backward(logits, log_l, log_sum, totals)
            ctx.counts = counts
            at_counts = x * logits[counts.cells, counts.features].to(dtype) - torch.lgamma(x + 1)
            log_prob = totals * (log_l - log_sum) - log_l.exp()
            return log_prob.index_add_(0, counts.cells, at_counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, log_l, log_sum, totals = ctx.saved_tensors
        counts: SparseCounts = ctx.counts
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.to(log_l.dtype)
            grad_logits = torch.empty(logits.shape, dtype=log_l.dtype, device=logits.device)
            for rows in _in_cache(logits):
                share = torch.sub(logits[rows].to(log_l.dtype), log_sum[rows, None], out=grad_logits[rows])
                share.exp_().mul_((-grad * totals)[rows, None])
            at_counts = counts.values.to(log_l.dtype) * grad.index_select(0, counts.cells)
            grad_logits.view(-1).index_add_(0, counts.flat, at_counts)
            grad_log_l = (totals - log_l.exp()) * grad if ctx.needs_input_grad[1] else None
            return grad_logits.to(logits.dtype), grad_log_l, None


def _in_cache(matrix: torch.Tensor) -> Iterator[slice]:
    """Slices of the rows of (B, G): a few at a time on a CPU, all at once on a GPU."""
    n, n_features = matrix.shape
    step = max(1, ROWS_IN_CACHE // n_features) if matrix.device.type == "cpu" else max(n, 1)
    return (slice(first, min(first + step, n)) for first in range(0, n, step))


def bernoulli_log_prob(counts: SparseCounts, logits: torch.Tensor) -> torch.Tensor:
    """Log-probability (B,) of which features each cell has, with probability sigmoid(logits) (Eq. 6).

    ``logits`` (B, G) of any floating dtype. Whatever its count is, a non-zero is a feature the cell has::

        log p(b) = sum over b = 1 of logit - sum of softplus(logits)
    """
    log_prob: torch.Tensor = _Bernoulli.apply(logits, counts)
    return log_prob


class _Bernoulli(torch.autograd.Function):
    """``bernoulli_log_prob``; its derivative by the logits is b - sigmoid(logits)."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, counts: SparseCounts) -> torch.Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            log_prob = torch.empty(len(logits), dtype=dtype, device=logits.device)
            for rows in _in_cache(logits):
                log_prob[rows] = -softplus(logits[rows].to(dtype)).sum(1)
            ctx.save_for_backward(logits)
            ctx.counts = counts
            return log_prob.index_add_(0, counts.cells, logits[counts.cells, counts.features].to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        counts: SparseCounts = ctx.counts
        with torch.autocast(grad.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            grad = grad.to(dtype)
            grad_logits = torch.empty(logits.shape, dtype=dtype, device=logits.device)
            for rows in _in_cache(logits):
                torch.sigmoid(logits[rows].to(dtype), out=grad_logits[rows]).mul_(-grad[rows, None])
            grad_logits.view(-1).index_add_(0, counts.flat, grad.index_select(0, counts.cells))
            return grad_logits.to(logits.dtype), None
