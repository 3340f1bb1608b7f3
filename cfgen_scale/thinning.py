"""Binomial thinning: a random share of a cell's molecules is kept, as if sequenced less deeply."""

from dataclasses import replace

import torch

from .counter_draws import CounterDraws
from .counts import SparseCounts

# Larger counts are thinned by the normal approximation, rounded: at 1,000 its distribution function is off by
# less than 0.01 for shares from 5 to 95 %. Up to here each molecule has a draw of its own, which is exact.
LARGEST_DRAWN = 1000
MOLECULES = 2**32  # of a cell, at most: so many draws are reserved for each


def thinned(
    counts: SparseCounts, share: torch.Tensor, draws: CounterDraws, positions: torch.Tensor, name: str
) -> SparseCounts:
    """Counts of which each molecule was kept with the probability ``share`` (B,) of its cell: B(x, share).

    The draws of a cell, addressed by ``name``, are functions of its place in ``positions`` (B,) and of its
    own counts. Features without a molecule left are not among the non-zeros.
    """
    few = counts.values <= LARGEST_DRAWN
    left = _drawn_one_by_one(counts, few, share, draws, positions, name)
    many = (~few).nonzero().squeeze(1)
    if len(many):
        left[many] = _drawn_as_normal(counts, many, share, draws, positions, name)
    kept = left > 0
    before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
    return replace(counts, begins=before[counts.begins], features=counts.features[kept], values=left[kept])


def _drawn_one_by_one(
    counts: SparseCounts,
    few: torch.Tensor,
    share: torch.Tensor,
    draws: CounterDraws,
    positions: torch.Tensor,
    name: str,
) -> torch.Tensor:
    """What is left of each count (nnz,) where it is ``few``, else 0: molecule by molecule."""
    molecules = torch.where(few, counts.values, 0).long()
    before = torch.cat([molecules.new_zeros(1), molecules.cumsum(0)])
    of = torch.repeat_interleave(torch.arange(len(molecules), device=molecules.device), molecules)
    cell = counts.cells[of]
    number_in_cell = torch.arange(len(of), device=of.device) - before[counts.begins[cell]]
    drawn = draws.uniform(f"{name}, molecules", positions[cell] * MOLECULES + number_in_cell)
    kept = (drawn < share[cell]).to(counts.values.dtype)
    return torch.zeros_like(counts.values).index_add(0, of, kept)


def _drawn_as_normal(
    counts: SparseCounts,
    many: torch.Tensor,
    share: torch.Tensor,
    draws: CounterDraws,
    positions: torch.Tensor,
    name: str,
) -> torch.Tensor:
    """What is left of the counts at ``many`` of the non-zeros."""
    cell, x = counts.cells[many], counts.values[many]
    p, address = share[cell], positions[cell] * counts.shape[1] + counts.features[many]
    noise = draws.normal(f"{name}, large counts", address, 1).squeeze(1)
    return (x * p + (x * p * (1 - p)).sqrt() * noise).round().clamp(min=0).minimum(x)
