import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.basis import Basis
from cfgen_scale.evaluation.normalise import log_normalise

RANDOM = np.random.default_rng(3)


def poisson(n_cells: int, n_genes: int) -> csr_matrix:
    activity = RANDOM.normal(size=(n_cells, 4)) @ RANDOM.normal(size=(4, n_genes))
    return csr_matrix(RANDOM.poisson(np.exp(0.5 * activity)).astype(float))


@pytest.mark.parametrize("n_cells", [40, 300], ids=["more genes than cells", "more cells than genes"])
def test_scores_are_those_of_principal_components(n_cells: int) -> None:
    counts = poisson(n_cells, 60)
    basis = Basis.fit(counts, n_genes=50, n_components=5)
    scores = basis.project(counts)
    expression = log_normalise(counts)[:, basis.genes].toarray()
    centred = expression - expression.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), singular[:5], rtol=1e-8)
    np.testing.assert_allclose(basis.components.T @ basis.components, np.eye(5), atol=1e-10)
    assert basis.explained == pytest.approx((singular[:5] ** 2).sum() / (singular**2).sum())


def test_uncentred_scores_are_off_by_one_constant() -> None:
    basis = Basis.fit(poisson(80, 40), n_components=5)
    others = poisson(30, 40)
    offset = basis.project(others, centred=False) - basis.project(others)
    np.testing.assert_allclose(offset, np.tile(basis.centre, (30, 1)))


@pytest.mark.parametrize("shape", [(30, 200), (200, 29)])
def test_too_few_cells_or_genes_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 31 cells and 30 genes"):
        Basis.fit(poisson(*shape), n_components=30)
