import numpy as np
import torch
from scipy.sparse import csr_matrix

from cfgen_scale.counts import SparseCounts


def test_dense_and_totals_are_the_matrix():
    matrix = csr_matrix(np.random.default_rng(0).poisson(0.4, (7, 11)))
    counts = SparseCounts.from_csr(matrix)
    np.testing.assert_array_equal(counts.dense().numpy(), matrix.toarray())
    np.testing.assert_array_equal(counts.totals().numpy(), matrix.sum(1).A1)


def test_narrow_dtypes_and_stored_zeros():
    stored = csr_matrix((np.array([3, 0, 200], np.uint8), np.array([1, 2, 0], np.uint16), [0, 2, 3]), (2, 4))
    counts = SparseCounts.from_csr(stored)
    assert counts.values.tolist() == [3.0, 200.0]
    np.testing.assert_array_equal(counts.dense().numpy(), [[0, 3, 0, 0], [200, 0, 0, 0]])
    assert stored.nnz == 3, "the caller's matrix is left alone"


def test_a_batch_of_none_and_a_cell_of_none():
    assert SparseCounts.from_csr(csr_matrix((0, 5))).dense().shape == (0, 5)
    assert SparseCounts.from_csr(csr_matrix((2, 5))).totals().eq(torch.zeros(2)).all()
