"""Simulated cells of a known distribution: real, generated, shuffled and collapsed ones are ours to make."""

from collections.abc import Callable

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

SIZES = {"B cells": 120, "NK cells": 80, "Monocytes": 60}
GENES = 150

Simulate = Callable[..., AnnData]


@pytest.fixture(scope="session")
def simulate() -> Simulate:
    """``simulate(seed, sizes=SIZES, spread=0.5)``: cells of a fixed population.

    Only the draw depends on the seed. ``spread`` scales how much cells of a class differ beyond their Poisson
    noise; 0 puts all at its mean.
    """
    population = np.random.default_rng(0)
    profiles = {name: population.gamma(0.6, 2.0, GENES) + 0.02 for name in SIZES}
    programs = population.normal(size=(3, GENES))

    def draw(seed: int, sizes: dict[str, int] = SIZES, spread: float = 0.5) -> AnnData:
        random = np.random.default_rng([1, seed])
        counts, labels = [], []
        for name, n in sizes.items():
            activity = spread * random.normal(size=(n, 3))
            rate = profiles[name] * np.exp(activity @ programs) * random.lognormal(0, 0.3, (n, 1))
            counts.append(random.poisson(rate))
            labels += [name] * n
        return make_adata(np.vstack(counts), labels)

    return draw


def make_adata(counts: np.ndarray, labels: list[str]) -> AnnData:
    adata = AnnData(csr_matrix(counts.astype(np.int32)))
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    adata.obs["cell_type"] = labels
    return adata


@pytest.fixture(scope="session")
def adata_of() -> Callable[[np.ndarray, list[str]], AnnData]:
    """``adata_of(counts, labels)``: an AnnData with genes named as those of ``simulate``."""
    return make_adata


@pytest.fixture(scope="session")
def train(simulate: Simulate) -> AnnData:
    return simulate(0, {name: 2 * n for name, n in SIZES.items()})


@pytest.fixture(scope="session")
def test_cells(simulate: Simulate) -> AnnData:
    return simulate(1)
