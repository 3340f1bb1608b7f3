"""Thinned counts are binomial, and a cell's do not depend on the cells beside it."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.counts import SparseCounts
from cfgen_scale.thinning import LARGEST_DRAWN, thinned

DRAWS = CounterDraws(0, "a test")


def left(counts, share, positions=None):
    positions = torch.arange(counts.shape[0]) if positions is None else positions
    return thinned(SparseCounts.from_csr(counts), share, DRAWS, positions, "rna")


@pytest.mark.parametrize("x", [1, 3, 12])
def test_what_is_left_is_binomial(x):
    n, p = 20_000, 0.3
    found = left(csr_matrix(np.full((n, 1), x)), torch.full((n,), p)).dense().squeeze(1).long()
    expected = n * stats.binom.pmf(np.arange(x + 1), x, p)
    enough = expected > 5
    seen = torch.bincount(found, minlength=x + 1).numpy()[enough]
    assert stats.chisquare(seen, expected[enough] * seen.sum() / expected[enough].sum()).pvalue > 1e-3


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_large_counts_are_nearly_so(p):
    n, x = 20_000, LARGEST_DRAWN + 1
    found = left(csr_matrix(np.full((n, 1), x)), torch.full((n,), p)).dense().squeeze(1).numpy()
    assert (found == found.round()).all()
    values = np.arange(x + 1)
    seen = np.searchsorted(np.sort(found), values, side="right") / n
    # 0.01 that the approximation may be off, and the spread of 20,000 draws.
    assert np.abs(seen - stats.binom.cdf(values, x, p)).max() < 0.01 + 2 / n**0.5


def test_genes_and_cells_are_thinned_independently():
    n = 20_000
    found = left(csr_matrix(np.full((n, 3), 4)), torch.full((n,), 0.5)).dense()
    assert (torch.corrcoef(found.T) - torch.eye(3)).abs().max() < 5 / n**0.5
    following = torch.corrcoef(torch.stack([found[1:, 0], found[:-1, 0]]))[0, 1]
    assert abs(following) < 5 / n**0.5


def mixed_counts():
    drawn = np.random.default_rng(0).poisson(1.0, (12, 30))
    drawn[3, 5], drawn[7] = 5000, 0
    return csr_matrix(drawn)


def test_each_cell_has_its_share_and_no_gene_more_than_it_had():
    counts, share = mixed_counts(), torch.linspace(0, 1, 12)
    found = left(counts, share)
    assert (found.values > 0).all()
    dense = found.dense()
    assert (dense[0] == 0).all()
    assert torch.equal(dense[11], torch.from_numpy(counts[11].toarray()[0]).float())
    assert (dense <= torch.from_numpy(counts.toarray())).all()
    assert dense[3, 5] == pytest.approx(5000 * 3 / 11, abs=150)
    assert found.begins[-1] == len(found.values)


def test_a_cell_is_thinned_alike_whoever_has_it():
    counts, share = mixed_counts(), torch.full((12,), 0.6)
    whole, mine = left(counts, share).dense(), torch.tensor([9, 3, 0, 7])
    assert torch.equal(left(counts[mine.numpy()], share[mine], mine).dense(), whole[mine])
    nobody = left(counts[:0], share[:0], mine[:0])
    assert nobody.shape == (0, 30)
    assert nobody.begins.tolist() == [0]
