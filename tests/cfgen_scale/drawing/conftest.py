"""Keys of cells, and counts of equal means."""

import numpy as np
import pytest
import torch

from cfgen_scale.counter_draws import CounterDraws
from cfgen_scale.drawing import Distribution, draw_counts


@pytest.fixture(scope="session")
def keys_of():
    """The keys (n,) of a chunk's cells as generation makes them."""

    def keys(n, *, seed=0, index=0, name="counts of rna"):
        bits = CounterDraws(seed, "generation", index).bits(name, torch.arange(n))
        return bits.numpy().view(np.uint64)

    return keys


@pytest.fixture(scope="session")
def draw(keys_of):
    """Counts (cells, genes) whose means are all ``mean``, CSR."""

    def equal(mean, theta=None, *, kind="negative_binomial", cells=1000, genes=1000, **address):
        table = None if theta is None else np.full((1, genes), float(theta))
        means = np.full((cells, genes), mean, np.float32)
        return draw_counts(means, keys_of(cells, **address), Distribution(kind, table))

    return equal
