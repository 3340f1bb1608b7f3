"""Drawing on a CPU: one compiled pass from means, or from the decoder's last product, to CSR.

Of 20,000 genes nearly all counts are 0, and to know that takes one comparison, u >= mu (P(x > 0) <= mu), made
for many genes at once by the processor's vector instructions with 24 bits of u. What remains, the count's
whole u or more random bits, is taken for the few genes that may not be 0.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from . import compiled
from .distributions import Distribution, cannot_be

ROOM = 2**22  # counts above 0 that there is room for at a time; memory that is not needed is not touched


class CsrParts:
    """Rows of a CSR matrix with G columns, drawn a few at a time."""

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self._lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._indices: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
        self._data: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
        self._room = np.empty((2, 0), np.int32)

    def draw(self, kernel: Callable[..., int], n_cells: int, distribution: Distribution) -> None:
        """Let ``kernel(indptr, indices, data)`` draw the next cells; it returns a row that cannot be, or -1.

        Raises ValueError for such a row.
        """
        if self._room.shape[1] < n_cells * self.n_features:
            self._room = np.empty((2, n_cells * self.n_features), np.int32)
        indptr = np.zeros(n_cells + 1, np.int64)
        indices, data = self._room
        row = kernel(indptr, indices, data)
        if row >= 0:
            raise cannot_be(row + sum(map(len, self._lengths)) - 1, distribution.kind)
        self.append(np.diff(indptr), indices[: indptr[-1]].copy(), data[: indptr[-1]].copy())

    def append(
        self, lengths: NDArray[np.integer], indices: NDArray[np.int32], data: NDArray[np.int32]
    ) -> None:
        """The next cells: how many counts above 0 each has, their features, ascending, and themselves."""
        self._lengths.append(lengths.astype(np.int64, copy=False))
        self._indices.append(indices)
        self._data.append(data)

    def matrix(self) -> csr_matrix:
        """All rows: int32, the columns of each ascending, no zero stored."""
        indptr = np.cumsum(np.concatenate(self._lengths))
        indices, data = np.concatenate(self._indices), np.concatenate(self._data)
        index_dtype = np.int32 if indptr[-1] < 2**31 else np.int64
        arrays = data, indices.astype(index_dtype, copy=False), indptr.astype(index_dtype)
        matrix = csr_matrix(arrays, shape=(len(indptr) - 1, self.n_features))
        matrix.has_canonical_format = True
        return matrix


def draw_counts(
    means: NDArray[np.float32], keys: NDArray[np.uint64], distribution: Distribution
) -> csr_matrix:
    """Counts (B, G) int32 of ``means`` (B, G), for cells of the keys (B,): 64 random bits each.

    The count of a cell and feature is a function of its mean, its theta, the cell's key and the place of the
    feature. It is drawn exactly, that is as float64 and 53 random bits can say it; counts above 2^31 - 1 are
    cut off there. Runs without the interpreter's lock, on one thread.

    Raises ValueError, naming the cell, for a mean that is not a number from 0 to 2^30 (a probability: 1).
    """
    n_cells, n_features = means.shape
    thetas, levels = distribution.of_cells(n_cells, n_features)
    means, parts = np.ascontiguousarray(means, np.float32), CsrParts(n_features)
    step = max(1, ROOM // max(n_features, 1))
    for first in range(0, n_cells, step):
        rows = slice(first, min(first + step, n_cells))

        def kernel(*csr: NDArray[np.int64], rows: slice = rows) -> int:
            row: int = compiled.draw_means(
                distribution.code, means[rows], thetas.values, levels[rows], keys[rows], *csr
            )
            return row

        parts.draw(kernel, rows.stop - rows.start, distribution)
    return parts.matrix()
