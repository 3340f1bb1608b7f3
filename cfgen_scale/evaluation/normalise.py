"""Counts made comparable between cells, and the two moments of a gene."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

FloatArray = NDArray[np.float64]

LIBRARY_SIZE = 1e4


def log_normalise(counts: csr_matrix, library_size: float = LIBRARY_SIZE) -> csr_matrix:
    """log(1 + counts scaled to ``library_size`` per cell), CSR float64 (n, G); empty cells stay 0."""
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scale = library_size / np.where(totals == 0, 1.0, totals)
    values = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr)))
    return csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def mean_and_variance(matrix: Any) -> tuple[FloatArray, FloatArray]:
    """Mean and variance (ddof 1) of each column of a sparse matrix (n, G): two arrays (G,)."""
    n = matrix.shape[0]
    mean = np.asarray(matrix.mean(axis=0), dtype=np.float64).ravel()
    mean_square = np.asarray(matrix.multiply(matrix).mean(axis=0), dtype=np.float64).ravel()
    return mean, np.maximum(mean_square - mean**2, 0.0) * n / max(n - 1, 1)
