import numpy as np
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.normalise import log_normalise, mean_and_variance


def test_every_cell_is_scaled_to_ten_thousand_and_logged() -> None:
    counts = csr_matrix(np.array([[1.0, 3, 0], [0, 0, 8], [0, 0, 0]]))
    expected = np.log1p([[2500, 7500, 0], [0, 0, 1e4], [0, 0, 0]])
    np.testing.assert_allclose(log_normalise(counts).toarray(), expected)


def test_moments_count_the_zeros_that_are_not_stored() -> None:
    dense = np.random.default_rng(0).poisson(0.4, (50, 7)).astype(float)
    mean, variance = mean_and_variance(csr_matrix(dense))
    np.testing.assert_allclose(mean, dense.mean(0))
    np.testing.assert_allclose(variance, dense.var(0, ddof=1))
