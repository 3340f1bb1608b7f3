"""The negative binomial's log-probability and slopes on a CPU, a cell at a time, by compiled loops.

What likelihoods.py writes as some twenty passes over matrices (B, G) is two here, in which a row stays in the
first cache; equations and names are those of `likelihoods.negative_binomial_log_prob`. Arrays are float32.
"""

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable

from .counts import SparseCounts
from .threads import in_parts
from .vector_math import exp_of_negative, largest_of, log_1_plus

VECTOR_MATH = "0d21256c07a2d986"  # digest of vector_math.py: compiled anew when it changes

# Sums in any order, fused products: of these loops, not of the functions that they call.
LOOSE_SUMS = {"reassoc", "contract", "nsz"}

# Up to here lgamma(x + theta) - lgamma(theta) is the logarithm of a product of x factors.
MOST_FACTORS = 32
INVERSE_FACTORIALS = np.array([1 / math.factorial(x) for x in range(MOST_FACTORS + 1)])
LARGEST_THETA = 1e9  # whose product of so many factors is a number


@njit(nogil=True, cache=True)
def log_prob_of_cells(
    first: int,
    last: int,
    logits: Any,
    stride: int,
    log_l: Any,
    theta: Any,
    log_theta: Any,
    levels: Any,
    begins: Any,
    features: Any,
    counts: Any,
    share: Any,
    log_prob: Any,
    unexplained: Any,
    by_log_theta: Any,
) -> None:
    """The log-probabilities of cells ``first`` to ``last``, and what their slopes are made of.

    logits        flat; row i begins at i * stride
    theta, log_theta   (L, G); ``levels`` (B,), the row of each cell
    begins, features, counts   the non-zeros, as `SparseCounts` has them
    share         (B, G), becomes softmax(logits)
    log_prob      (B,)
    unexplained   (nnz,), becomes x (1 - p)
    by_log_theta  (nnz,), becomes the log-gammas' slope: theta (digamma(x + theta) - digamma(theta))
    """
    for i in range(first, last):
        begin = np.uint64(i) * np.uint64(stride)
        row = logits[begin : begin + np.uint64(share.shape[1])]
        level = np.uint64(levels[i])
        share_i, theta_i = share[np.uint64(i)], theta[level]
        largest = largest_of(row)
        total = _exponentials(row, largest, share_i)
        of_zeros = _log_prob_of_zeros(share_i, theta_i, 1 / total, np.float32(math.exp(log_l[i])))
        shift = log_l[i] - largest - np.float32(math.log(total))
        some = slice(np.uint64(begins[i]), np.uint64(begins[i + 1]))
        x, g, of_level = counts[some], features[some], log_theta[level]
        _gather(row, of_level, shift, g, unexplained[some], by_log_theta[some])
        of_counts = _as_ones(x, by_log_theta[some], unexplained[some])
        of_counts += _of_larger_counts(theta_i, of_level, g, x, by_log_theta[some])
        log_prob[i] = of_zeros + of_counts


@njit(nogil=True, cache=True)
def slopes_of_cells(
    first: int,
    last: int,
    share: Any,
    log_l: Any,
    theta: Any,
    levels: Any,
    begins: Any,
    features: Any,
    unexplained: Any,
    by_log_theta: Any,
    weight: Any,
    by_logits: Any,
    by_theta: Any,
    by_log_l: Any,
) -> None:
    """Slopes of sum_i weight[i] * log_prob[i] over cells ``first`` to ``last``, from what
    `log_prob_of_cells` left: by the logits (B, G), by log theta, ADDED to (L, G), and by log l (B,)."""
    for i in range(first, last):
        level = np.uint64(levels[i])
        share_i, theta_i = share[np.uint64(i)], theta[level]
        by_logits_i, by_theta_i = by_logits[np.uint64(i)], by_theta[level]
        some = slice(np.uint64(begins[i]), np.uint64(begins[i + 1]))
        features_i, unexplained_i, slopes_i = features[some], unexplained[some], by_log_theta[some]
        scale = np.float32(math.exp(log_l[i]))
        total = -_slopes_of_zeros(share_i, theta_i, scale, weight[i], by_logits_i, by_theta_i)
        for k in range(len(unexplained_i)):
            total += unexplained_i[k]
        _through_softmax(share_i, total, weight[i], by_logits_i)
        for k in range(len(features_i)):
            g = np.uint64(features_i[k])
            by_logits_i[g] += weight[i] * unexplained_i[k]
            by_theta_i[g] += weight[i] * (slopes_i[k] - unexplained_i[k])
        by_log_l[i] = weight[i] * total


@njit(nogil=True, fastmath=LOOSE_SUMS, error_model="numpy")
def _exponentials(row: Any, largest: Any, out: Any) -> Any:
    """exp(row - largest) into ``out``; their sum."""
    total = np.float32(0)
    for g in range(len(row)):
        out[g] = exp_of_negative(row[g] - largest)
        total += out[g]
    return total


@njit(nogil=True, fastmath=LOOSE_SUMS, error_model="numpy")
def _log_prob_of_zeros(share: Any, theta: Any, normaliser: Any, scale: Any) -> Any:
    """The sum over features of log p(0); ``share`` is normalised."""
    total = np.float32(0)
    for g in range(len(share)):
        q = share[g] * normaliser
        share[g] = q
        total -= theta[g] * log_1_plus(q * scale / theta[g])
    return total


@njit(nogil=True)
def _gather(row: Any, log_theta: Any, shift: Any, features: Any, at_counts: Any, log_thetas: Any) -> None:
    """s = log mu - log theta and log theta at the non-zeros of a cell."""
    for k in range(len(features)):
        g = np.uint64(features[k])
        log_thetas[k] = log_theta[g]
        at_counts[k] = row[g] + shift - log_theta[g]


@njit(nogil=True, fastmath=LOOSE_SUMS, error_model="numpy")
def _as_ones(counts: Any, log_thetas: Any, at_counts: Any) -> Any:
    """What the non-zeros of a cell add to its log-probability, if their log-gammas were those of 1; s in
    ``at_counts`` becomes x (1 - p)."""
    total = np.float32(0)
    for k in range(len(counts)):
        s = at_counts[k]
        small = exp_of_negative(-abs(s))
        at_counts[k] = counts[k] * (small if s >= 0 else np.float32(1)) / (np.float32(1) + small)
        total += log_thetas[k] + counts[k] * ((s if s < 0 else np.float32(0)) - log_1_plus(small))
    return total


@njit(nogil=True, error_model="numpy")
def _of_larger_counts(theta: Any, log_theta: Any, features: Any, counts: Any, slopes: Any) -> float:
    """The log-gammas of counts above 1, beyond what `_as_ones` has of them; all slopes."""
    total = 0.0
    for k in range(len(features)):
        slopes[k] = np.float32(1)
        if counts[k] != np.float32(1):
            g = np.uint64(features[k])
            log_gammas, slope = _log_gammas(np.float64(counts[k]), np.float64(theta[g]))
            slopes[k] = slope
            total += log_gammas - log_theta[g]
    return total


@njit(nogil=True, error_model="numpy")
def _log_gammas(x: float, theta: float) -> tuple[float, float]:
    """lgamma(x + theta) - lgamma(theta) - lgamma(x + 1), and its slope by log theta.

    Of few counts it is the logarithm of theta (theta + 1) ... (theta + x - 1) / x!, whose slope is that
    product's: nothing is subtracted, so that no digits are lost.
    """
    if x <= MOST_FACTORS and theta < LARGEST_THETA and x == math.floor(x):
        product, slope = theta, 1.0
        for factor in range(1, int(x)):
            slope = slope * (theta + factor) + product
            product *= theta + factor
        return math.log(product * INVERSE_FACTORIALS[int(x)]), theta * slope / product
    log_gammas = math.lgamma(x + theta) - math.lgamma(theta) - math.lgamma(x + 1.0)
    return log_gammas, theta * (_digamma(x + theta) - _digamma(theta))


@njit(nogil=True, error_model="numpy")
def _digamma(x: float) -> float:
    """The slope of lgamma for x > 0: its recurrence up to 10, then its asymptotic series (Abramowitz and
    Stegun 6.3.5, 6.3.18)."""
    below = 0.0
    while x < 10.0:
        below -= 1.0 / x
        x += 1.0
    z = 1.0 / (x * x)
    series = z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z / 132))))
    return below + math.log(x) - 0.5 / x - series


@njit(nogil=True, fastmath=LOOSE_SUMS, error_model="numpy")
def _slopes_of_zeros(share: Any, theta: Any, scale: Any, weight: Any, by_logits: Any, by_theta: Any) -> Any:
    """theta p into ``by_logits``, and their sum; what zeros and non-zeros have in common by log theta."""
    total = np.float32(0)
    for g in range(len(share)):
        ratio = share[g] * scale / theta[g]
        p = ratio / (np.float32(1) + ratio)
        by_theta[g] += weight * theta[g] * (p - log_1_plus(ratio))
        by_logits[g] = theta[g] * p
        total += by_logits[g]
    return total


@njit(nogil=True, fastmath=LOOSE_SUMS)
def _through_softmax(share: Any, total: Any, weight: Any, by_logits: Any) -> None:
    for g in range(len(share)):
        by_logits[g] = -weight * (by_logits[g] + share[g] * total)


class CompiledNegativeBinomial(torch.autograd.Function):
    """`likelihoods.negative_binomial_log_prob` of float32 logits on a CPU: (B,) float32."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        log_size_factor: torch.Tensor,
        log_theta: torch.Tensor,
        levels: torch.Tensor | None,
        counts: SparseCounts,
    ) -> torch.Tensor:
        n, n_features = logits.shape
        _require_places(counts.features, n_features, "feature")
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        stride = logits.stride(0)
        flat = logits.as_strided(((n - 1) * stride + n_features,), (1,))
        log_l, table = log_size_factor.float().contiguous(), log_theta.float().contiguous()
        theta = table.exp()
        rows = torch.zeros(n, dtype=torch.int64) if levels is None else levels.contiguous()
        _require_places(rows, len(theta), "level")
        share, log_prob = torch.empty(n, n_features), torch.empty(n)
        unexplained, slopes = torch.empty_like(counts.values), torch.empty_like(counts.values)
        read: Any = [
            t.detach().numpy()
            for t in (log_l, theta, table, rows, counts.begins, counts.features, counts.values)
        ]
        written = [t.numpy() for t in (share, log_prob, unexplained, slopes)]
        whole = flat.detach().numpy()
        in_parts(n, lambda _, first, last: log_prob_of_cells(first, last, whole, stride, *read, *written))
        ctx.save_for_backward(share, log_l, theta, rows, counts.begins, counts.features, unexplained, slopes)
        ctx.dtypes = log_size_factor.dtype, log_theta.dtype
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        share, log_l, theta = ctx.saved_tensors[:3]
        by_logits, by_log_l = torch.empty_like(share), torch.empty_like(log_l)
        by_theta = torch.zeros(min(torch.get_num_threads(), len(share)), *theta.shape)
        read: Any = [t.numpy() for t in (*ctx.saved_tensors, grad.float().contiguous())]
        logits_out, theta_out, log_l_out = (t.numpy() for t in (by_logits, by_theta, by_log_l))

        def work(part: int, first: int, last: int) -> None:
            written: Any = logits_out, theta_out[part], log_l_out
            slopes_of_cells(first, last, *read, *written)

        in_parts(len(share), work)
        of_l, of_theta = ctx.dtypes
        return by_logits, by_log_l.to(of_l), by_theta.sum(0).to(of_theta), None, None


def _require_places(places: torch.Tensor, n: int, what: str) -> None:
    """The loops do not look whether a place is one: another one would be foreign memory."""
    if len(places) and (int(places.min()) < 0 or int(places.max()) >= n):
        raise IndexError(f"a {what} of the counts is not one of 0 to {n - 1}.")
