import numpy as np
import pytest
from scipy import stats

from loaders.streaming.permutation import key, permute, subkey


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 63, 64, 65, 1000, 65_537])
def test_every_place_once(n: int) -> None:
    for seed in range(5):
        shuffled = permute(np.arange(n), n, key(seed, "test"))
        np.testing.assert_array_equal(np.sort(shuffled), np.arange(n))


def test_sizes_and_keys_may_differ_by_entry() -> None:
    sizes, keys = np.array([5, 1000, 5]), subkey(key(0, "test"), np.array([1, 2, 1]))
    together = permute(np.array([3, 999, 3]), sizes, keys)
    alone = [permute(np.array([i]), int(n), k)[0] for i, n, k in zip([3, 999, 3], sizes, keys, strict=True)]
    assert together.tolist() == alone
    assert together[0] == together[2]


@pytest.mark.parametrize("n", [4, 30])
def test_every_place_is_as_likely_anywhere(n: int) -> None:
    draws = 20_000
    keys = subkey(key(0, "uniform"), np.arange(draws))
    first, second = (permute(np.full(draws, i), n, keys) for i in (0, 1))
    assert stats.chisquare(np.bincount(first, minlength=n)).pvalue > 1e-3
    # Pairs too: a batch's neighbours are not tied to each other.
    pairs = np.bincount(first * n + second, minlength=n * n)
    assert stats.chisquare(np.delete(pairs, np.arange(n) * (n + 1))).pvalue > 1e-3


def test_neighbouring_addresses_give_unrelated_orders() -> None:
    orders = [permute(np.arange(1000), 1000, key(0, "cells", epoch)) for epoch in range(20)]
    correlations = np.corrcoef(orders)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 0.15
