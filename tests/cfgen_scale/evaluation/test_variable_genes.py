import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.variable_genes import excess_variance, local_quadratic, variable_genes

RANDOM = np.random.default_rng(0)


def test_the_trend_reproduces_a_quadratic() -> None:
    x = RANDOM.uniform(-2, 3, 500)
    y = 0.5 - 2 * x + 0.7 * x**2
    # exact at the grid; in between, linear interpolation over a step h errs by at most y'' h^2 / 8
    np.testing.assert_allclose(local_quadratic(x, y, n_grid=300), y, atol=1e-3)


def test_the_trend_follows_neighbours_only() -> None:
    x = np.linspace(0, 1, 400)
    y = np.where(x < 0.5, 0.0, 5.0)
    far_from_the_step = (x < 0.3) | (x > 0.7)
    np.testing.assert_allclose(
        local_quadratic(x, y, span=0.1)[far_from_the_step], y[far_from_the_step], atol=1e-9
    )


@pytest.fixture
def counts_with_planted_genes() -> tuple[csr_matrix, list[int]]:
    """Poisson counts at many means; every tenth gene is switched on in half of the cells only."""
    mean = np.geomspace(0.05, 20, 200)
    on = np.ones((400, 200))
    planted = list(range(5, 200, 10))
    on[:, planted] = 2 * (RANDOM.random((400, 1)) < 0.5)
    return csr_matrix(RANDOM.poisson(mean * on).astype(float)), planted


def test_genes_that_vary_beyond_their_mean_come_first(
    counts_with_planted_genes: tuple[csr_matrix, list[int]],
) -> None:
    counts, planted = counts_with_planted_genes
    abundant = {gene for gene in planted if gene >= 100}
    assert abundant <= set(variable_genes(counts, 20).tolist())


def test_genes_are_ascending_and_constant_ones_last() -> None:
    counts = RANDOM.poisson(2.0, (100, 30)).astype(float)
    counts[:, [3, 17]] = 0
    excess = excess_variance(csr_matrix(counts))
    assert excess[[3, 17]].tolist() == [-1, -1]
    assert variable_genes(csr_matrix(counts), 28).tolist() == [g for g in range(30) if g not in (3, 17)]


def test_all_genes_where_there_are_no_more() -> None:
    counts = csr_matrix(RANDOM.poisson(2.0, (20, 6)).astype(float))
    assert variable_genes(counts, 2000).tolist() == list(range(6))
