import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.peaks import PeakBasis, inverse_frequency, tf_idf


def peaks(n_cells: int, n_peaks: int, *, depth_sd: float, other: float = 0.05) -> csr_matrix:
    """Open or not; two kinds of cells of log-normal depth, half of the peaks at 0.3, half at ``other``."""
    random = np.random.default_rng(0)
    kind = np.arange(n_cells) % 2
    rate = np.where((np.arange(n_peaks) % 2)[None] == kind[:, None], 0.3, other)
    depth = np.exp(depth_sd * random.normal(size=(n_cells, 1)))
    return csr_matrix((random.random((n_cells, n_peaks)) < 1 - np.exp(-rate * depth)).astype(float))


def test_weights_by_hand() -> None:
    counts = csr_matrix(np.array([[1.0, 0, 1, 0], [0, 2, 0, 0]]))
    idf = inverse_frequency(counts)
    np.testing.assert_allclose(idf, [np.log(3), np.log(2), np.log(3), 0])
    expected = [
        [np.log1p(5e3) * np.log(3), 0, np.log1p(5e3) * np.log(3), 0],
        [0, np.log1p(1e4) * np.log(2), 0, 0],
    ]
    np.testing.assert_allclose(tf_idf(counts, idf).toarray(), expected)


def test_cells_without_a_peak_and_peaks_without_a_cell_stay_finite() -> None:
    basis = PeakBasis.fit(peaks(60, 40, depth_sd=0.1), 4)
    assert np.isfinite(basis.project(csr_matrix((3, 40)))).all()
    counts = peaks(60, 40, depth_sd=0.1).tolil()
    counts[:, 7] = 0
    lacking = PeakBasis.fit(csr_matrix(counts), 4)
    new = np.zeros((2, 40))
    new[:, [3, 7]] = 1
    assert np.isfinite(lacking.project(csr_matrix(new))).all()


def test_scores_are_those_of_principal_components() -> None:
    counts = peaks(120, 60, depth_sd=0.0)
    basis = PeakBasis.fit(counts, 5)
    assert not basis.depth_dropped
    weighted = tf_idf(counts, basis.idf).toarray()
    centred = weighted - weighted.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    scores = basis.project(counts)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), singular[:5], rtol=1e-6)
    assert basis.explained == pytest.approx((singular[:5] ** 2).sum() / (singular**2).sum(), rel=1e-6)
    offset = basis.project(counts, centred=False) - scores
    np.testing.assert_allclose(offset, np.tile(basis.centre, (120, 1)))


def test_a_first_component_that_follows_depth_is_left_out() -> None:
    counts = peaks(300, 200, depth_sd=1.0, other=0.15)
    basis = PeakBasis.fit(counts, 5)
    assert basis.depth_dropped
    assert basis.components.shape == (200, 5)
    depth = np.log(np.asarray(counts.sum(1)).ravel().clip(1))
    first = basis.project(counts)[:, 0]
    assert abs(np.corrcoef(first, depth)[0, 1]) < 0.5
    # what is left first are the two kinds of cells
    assert abs(np.corrcoef(first, np.arange(300) % 2)[0, 1]) > 0.7


@pytest.mark.parametrize("shape", [(31, 200), (200, 31)])
def test_too_few_cells_or_peaks_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 32 cells and peaks; there are"):
        PeakBasis.fit(peaks(*shape, depth_sd=0.5), 30)
