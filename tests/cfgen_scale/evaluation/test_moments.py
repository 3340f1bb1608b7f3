import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.moments import moments, trend_gap, zero_share

RANDOM = np.random.default_rng(7)
COUNTS = csr_matrix(RANDOM.negative_binomial(1.0, 0.4, (200, 50)).astype(float))


def test_a_set_has_no_distance_from_itself() -> None:
    of = moments(COUNTS, COUNTS)
    assert [of[name] for name in of if "correlation" in name] == pytest.approx([1] * 4)
    distances = [name for name in of if name.endswith(("gap", "gap_log_normalised", "error", "ks", "w1"))]
    assert len(distances) == 7
    assert [of[name] for name in distances] == pytest.approx([0] * 7, abs=1e-12)


def test_doubled_counts_are_seen_where_they_should_be() -> None:
    of = moments(2 * COUNTS, COUNTS)
    assert of["gene_mean_correlation"] == pytest.approx(1)
    assert of["cell_zero_share_ks"] == 0
    assert of["log_variance_error"] == pytest.approx(np.log10(4))
    assert of["library_size_median"] == 2 * np.median(np.asarray(COUNTS.sum(axis=1)))


def test_zeros_per_cell_by_hand() -> None:
    counts = csr_matrix(np.array([[0.0, 0, 0, 1], [1, 0, 2, 0], [0, 0, 0, 0]]))
    full = csr_matrix(np.ones((3, 4)))
    assert zero_share(counts).tolist() == [0.75, 0.5, 1.0]
    of = moments(counts, full)
    assert of["cell_zero_share_w1"] == pytest.approx(0.75)
    assert of["cell_zero_share_ks"] == 1
    # shares of cells without a count, per gene: 2/3, 1, 2/3, 2/3
    assert of["gene_zero_share_error"] == pytest.approx(0.75)


def test_correlation_with_genes_that_are_all_alike_is_not_defined() -> None:
    of = moments(COUNTS, csr_matrix(np.ones((20, 50))))
    assert np.isnan(of["gene_mean_correlation"])


def test_trend_gap_is_the_shift_of_log_variance() -> None:
    mean = np.geomspace(0.01, 100, 300)
    variance = mean + mean**2
    assert trend_gap(mean, variance, mean, 10 * variance) == pytest.approx(1)
    assert trend_gap(mean, variance, mean[::-1], variance[::-1]) == pytest.approx(0)


def test_trend_gap_of_genes_out_of_range_is_not_defined() -> None:
    mean = np.geomspace(0.01, 1, 50)
    assert np.isnan(trend_gap(mean, mean, 1000 * mean, mean))
