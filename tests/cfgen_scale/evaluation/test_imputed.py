"""Hiding counts, filling them in, and saying how well."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.evaluation.cells import EvaluationError
from cfgen_scale.evaluation.imputed import BASELINES, at_hidden, baselines, imputation_figures
from cfgen_scale.evaluation.masking import HiddenCounts, hidden_counts, mask_counts

RANDOM = np.random.default_rng(4)
COUNTS = csr_matrix(RANDOM.poisson(1.0, (400, 50)))


def test_the_asked_share_of_non_zeros_is_hidden_and_nothing_else_changed() -> None:
    masked = mask_counts(COUNTS, 0.1, seed=0)
    hidden = hidden_counts(masked, COUNTS)
    assert len(hidden) / COUNTS.nnz == pytest.approx(0.1, abs=0.01)
    assert masked.nnz + len(hidden) == COUNTS.nnz
    restored = masked.tolil()
    restored[hidden.rows, hidden.columns] = hidden.counts
    assert (csr_matrix(restored) != COUNTS).nnz == 0
    assert (mask_counts(COUNTS, 0.1, seed=0) != masked).nnz == 0
    assert (mask_counts(COUNTS, 0.1, seed=1) != masked).nnz > 0


def test_no_cell_loses_everything() -> None:
    single = csr_matrix(np.eye(300, dtype=int))
    assert (mask_counts(single, 0.9, seed=0) != single).nnz == 0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_shares_that_hide_nothing_or_all_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mask_counts(COUNTS, share, seed=0)


def test_counts_that_were_not_masked_are_refused() -> None:
    with pytest.raises(EvaluationError, match="no count is hidden"):
        hidden_counts(COUNTS, COUNTS)
    thinned = COUNTS.copy()
    thinned.data = np.maximum(thinned.data - 1, 0)
    with pytest.raises(EvaluationError, match="not the complete ones with some entries set to zero"):
        hidden_counts(thinned, COUNTS)


def test_figures_by_hand() -> None:
    hidden = HiddenCounts(np.arange(3), np.zeros(3, dtype=int), np.array([1.0, 2.0, 6.0]))
    found = imputation_figures(np.array([2.0, 4.0, 12.0]), hidden)
    assert found["l1"] == pytest.approx(3)
    assert found["pearson"] == pytest.approx(1)
    assert found["pearson_log1p"] < 1
    assert np.isnan(imputation_figures(np.zeros(3), hidden)["pearson"])


def test_values_come_from_the_batch_of_their_row() -> None:
    hidden = HiddenCounts(np.array([5, 0, 3]), np.array([1, 2, 0]), np.ones(3))
    whole = np.arange(18.0).reshape(6, 3)
    batches = ((slice(i, i + 2), whole[i : i + 2]) for i in (0, 2, 4))
    np.testing.assert_array_equal(at_hidden(batches, hidden), whole[hidden.rows, hidden.columns])


def test_neighbours_beat_the_mean_where_cells_are_of_kinds() -> None:
    kind = np.arange(400) % 2
    rate = np.where((np.arange(50) % 2)[None] == kind[:, None], 4.0, 0.5)
    complete = csr_matrix(RANDOM.poisson(rate))
    masked = mask_counts(complete, 0.1, seed=0)
    hidden = hidden_counts(masked, complete)
    values = baselines(masked, hidden, kept_share=0.9, n_components=5)
    errors = {name: imputation_figures(v, hidden)["l1"] for name, v in values.items()}
    assert list(errors) == list(BASELINES)
    zero, mean, near = errors.values()
    assert near < mean < zero
    np.testing.assert_array_equal(values["zero"], 0)
    totals, share = np.asarray(masked.sum(1)).ravel(), np.asarray(masked.sum(0)).ravel() / masked.sum()
    expected = share[hidden.columns] * totals[hidden.rows] / 0.9
    np.testing.assert_allclose(values["gene mean"], expected)
