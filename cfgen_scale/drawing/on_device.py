"""Drawing on a GPU, in PyTorch's operations: the same random bits and the same steps as the compiled kernel.

The comparison that finds most zeros is made for all features; the rest is made for the few that are left, as
one long list; steps that some of them need more of than others are repeated for those alone. Counts differ
from the compiled kernel's where the last bits of a logarithm decide, about never.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..counter_draws import GOLDEN, mixed, shifted, signed
from . import compiled
from .compiled import BERNOULLI, LARGEST_COUNT, LARGEST_INVERTED, LEAST_PTRS, NEGATIVE_BINOMIAL, POISSON, TINY
from .distributions import Distribution, cannot_be
from .on_processor import CsrParts

# Entries of the means that are there at once: 256 MB, and some five times as much of what is made of them. A
# product of another number of rows may round otherwise, so that this number is part of what a seed means.
DENSE = 2**26
FIRST_WIDTH, LARGEST_WIDTH = 8, 1024  # counts that inversion tries at once
WEYL = int(compiled.WEYL) - 2**32
SHIFTS = (17, 11, 15)
MULTIPLIERS = tuple(int(odd) - (2**32 if odd >= 2**31 else 0) for odd in compiled.ROUNDS_32)


def draw_counts_on_device(means: torch.Tensor, keys: torch.Tensor, distribution: Distribution) -> csr_matrix:
    """As `draw_counts`, of tensors on any device: means (B, G) float32, keys (B,) int64.

    Only the counts above 0 are copied to the host.
    """
    return draw_rows_on_device(means.__getitem__, means.shape[1], keys, distribution)


def draw_rows_on_device(
    means_of: Callable[[slice], torch.Tensor],
    n_features: int,
    keys: torch.Tensor,
    distribution: Distribution,
) -> csr_matrix:
    """As `draw_counts_on_device`, of means that ``means_of`` makes of a few rows at a time: as many as
    ``DENSE`` holds, however many cells there are."""
    n_cells, parts = len(keys), CsrParts(n_features)
    thetas, levels = distribution.of_cells(n_cells, n_features)
    theta, of_cells = thetas.on(keys.device), torch.from_numpy(levels).to(keys.device)
    step = max(1, DENSE // max(n_features, 1))
    for first in range(0, n_cells, step):
        rows = slice(first, min(first + step, n_cells))
        means = means_of(rows)
        _require_means(means, distribution, first)
        parts.append(*_rows(means, keys[rows], theta, of_cells[rows], distribution.code))
        del means  # before the next ones are made
    return parts.matrix()


def _rows(
    means: torch.Tensor, keys: torch.Tensor, theta: torch.Tensor, levels: torch.Tensor, kind: int
) -> Iterator[NDArray[np.int32]]:
    """Of rows of means (n, G) on the host: counts a cell (n,), and the features and counts (nnz,)."""
    cells, features = torch.nonzero(_possible(means, keys), as_tuple=True)
    of_entries = means[cells, features].double(), theta[levels[cells], features]
    counts = _counts(kind, features, keys[cells], *of_entries)
    kept = counts > 0
    lengths = torch.bincount(cells[kept], minlength=len(means))
    return (part.int().cpu().numpy() for part in (lengths, features[kept], counts[kept]))


def _require_means(means: torch.Tensor, distribution: Distribution, first: int) -> None:
    most = 1.0 if distribution.kind == "bernoulli" else compiled.LARGEST_MEAN
    right = ((means >= 0) & (means <= most)).all(1)
    if not right.all():
        raise cannot_be(first + int(right.int().argmin()), distribution.kind)


# ---------------------------------------------------------------------- random bits


def _first_bits(features: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """`compiled.first_bits` as int32, of features (int32) and keys (int64) that broadcast."""
    low, high = keys.int(), (keys >> 32).int()
    x = features * WEYL + low
    for i, (shift, odd) in enumerate(zip(SHIFTS, MULTIPLIERS, strict=True)):
        x = (x ^ _shifted_32(x, shift)).mul_(odd)
        x = x.bitwise_xor_(high) if i == 0 else x
    return x ^ _shifted_32(x, 14)


def _shifted_32(x: torch.Tensor, shift: int) -> torch.Tensor:
    """The 32 bits shifted right, with zeros behind them."""
    return (x >> shift).bitwise_and_(2 ** (32 - shift) - 1)


def _number(state: torch.Tensor, i: int) -> torch.Tensor:
    """Number ``i``, from 1, of the SplitMix64 that begins at each state."""
    return mixed(state, torch.full_like(state, i - 1))


def _open_uniform(bits: torch.Tensor) -> torch.Tensor:
    return (shifted(bits, 12).double() + 0.5) * 2.0**-52


def _possible(means: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Where the count may be above 0, (B, G) bool: P(x > 0) is at most the mean."""
    features = torch.arange(means.shape[1], dtype=torch.int32, device=means.device)
    u = _shifted_32(_first_bits(features, keys[:, None]), 8).float()
    return u <= means * 2.0**24


# ---------------------------------------------------------------------- counts


def _counts(
    kind: int, features: torch.Tensor, keys: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor
) -> torch.Tensor:
    """The counts (n,) float64 of n cells and features."""
    first = _first_bits(features.int(), keys).long().bitwise_and_(2**32 - 1)
    bits = mixed(keys, features)
    u = ((first << 21) | shifted(bits, 43)).double() * 2.0**-53
    if kind == BERNOULLI:
        return (u < mean).double()
    counts = torch.empty_like(mean)
    large = mean > LARGEST_INVERTED
    counts[large] = _by_rejection(kind, bits[large], mean[large], theta[large])
    u, mean, theta = (part[~large] for part in (u, mean, theta))
    if kind == POISSON:
        counts[~large] = _inverted(u, -mean, mean, torch.zeros_like(mean))
    else:
        p = mean / (mean + theta)
        counts[~large] = _inverted(u, -theta * torch.log1p(mean / theta), theta * p, p)
    return counts


def _inverted(u: torch.Tensor, log_zero: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`compiled._inverted`, trying several counts at once, and more where the first ones were too few."""
    zero, left = log_zero.exp(), -torch.expm1(log_zero)
    counts = torch.zeros_like(u)
    at = torch.nonzero(u < left)[:, 0]
    counts[at] = 1.0
    u, left, share, a, b = (part[at] for part in (u, left, zero * a, a, b))
    width = FIRST_WIDTH
    while len(at):
        steps = torch.arange(1, width + 1, device=u.device)
        tried = counts[at, None] + steps - 1
        factors = (a[:, None] + b[:, None] * tried) / (tried + 1)
        shares = share[:, None] * torch.cat([torch.ones_like(factors[:, :1]), factors[:, :-1]], 1).cumprod(1)
        ends = left[:, None] - shares.cumsum(1)
        passed = ((u[:, None] < ends) & (shares > TINY)).sum(1)
        counts[at] += passed
        rest = passed == width
        share, left = (shares[:, -1] * factors[:, -1])[rest], ends[rest, -1]
        at, u, a, b = at[rest], u[rest], a[rest], b[rest]
        width = min(2 * width, LARGEST_WIDTH)
    return counts


def _by_rejection(kind: int, state: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """A Poisson draw, whose rate is Gamma(theta, mean / theta) if the count is negative binomial."""
    rate = mean
    if kind == NEGATIVE_BINOMIAL:
        rate, state = _gamma_rates(state, mean, theta)
    return _poisson(state, rate.clamp(max=LARGEST_COUNT)).clamp_(max=LARGEST_COUNT)


def _gamma_rates(
    state: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`compiled._gamma_rate`: the rates, and the states where the random bits go on."""
    d = torch.where(theta >= 1, theta, theta + 1) - 1 / 3
    log_gamma, state = torch.empty_like(mean), state.clone()
    at = torch.arange(len(mean), device=mean.device)
    while len(at):
        of_at, d_at = state[at], d[at]
        radius = (-2 * _open_uniform(_number(of_at, 1)).log()).sqrt()
        x = radius * (2 * math.pi * _open_uniform(_number(of_at, 2))).cos()
        log_u = _open_uniform(_number(of_at, 3)).log()
        state[at] += signed(3 * GOLDEN % 2**64)
        v = 1 + x / (9 * d_at).sqrt()
        v = v * v * v
        log_v = v.clamp(min=1e-300).log()
        taken = (v > 0) & (log_u < 0.5 * x * x + d_at - d_at * v + d_at * log_v)
        log_gamma[at[taken]] = (d_at * v)[taken].log()
        at = at[~taken]
    small = theta < 1
    log_gamma[small] += _open_uniform(_number(state[small], 1)).log() / theta[small]
    state[small] += signed(GOLDEN)
    return (log_gamma + (mean / theta).log()).exp(), state


def _poisson(state: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """`compiled._poisson`."""
    low = rate < LEAST_PTRS
    counts = torch.empty_like(rate)
    of_low = rate[low]
    u = _open_uniform(_number(state[low], 1))
    counts[low] = _inverted(u, -of_low, of_low, torch.zeros_like(of_low))
    counts[~low] = _transformed_rejection(state[~low], rate[~low])
    return counts


def _transformed_rejection(state: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """Hoermann's PTRS, of rates from 10."""
    b = 0.931 + 2.53 * rate.sqrt()
    a = -0.059 + 0.02483 * b
    log_alpha = (1.1239 + 1.1328 / (b - 3.4)).log()
    v_sure = 0.9277 - 3.6224 / (b - 2)
    counts, at = torch.empty_like(rate), torch.arange(len(rate), device=rate.device)
    while len(at):
        u, v = (_open_uniform(_number(state, i)) for i in (1, 2))
        u -= 0.5
        state = state + signed(2 * GOLDEN % 2**64)
        width = 0.5 - u.abs()
        count = ((2 * a / width + b) * u + rate + 0.43).floor()
        sure = (width >= 0.07) & (v <= v_sure)
        never = (count < 0) | ((width < 0.013) & (v > width))
        log_ratio = v.log() + log_alpha - (a / (width * width) + b).log()
        taken = sure | (~never & (log_ratio <= _log_poisson(count.clamp(min=0), rate)))
        counts[at[taken]] = count[taken]
        left = ~taken
        at, state, rate, a, b, log_alpha, v_sure = (
            part[left] for part in (at, state, rate, a, b, log_alpha, v_sure)
        )
    return counts


def _log_poisson(count: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """`compiled._log_poisson`."""
    few = count * rate.log() - rate - torch.lgamma(count + 1)
    x = (count - rate) / rate
    away = rate * ((1 + x) * torch.log1p(x) - x)
    many = count.clamp(min=compiled.STIRLING)
    square = 1 / (many * many)
    series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / many
    return torch.where(count < compiled.STIRLING, few, -away - 0.5 * (2 * math.pi * many).log() - series)
