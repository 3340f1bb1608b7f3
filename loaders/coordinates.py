"""Counts that come as (row, column, value) made into CSR, by counting: every coordinate is looked at twice.

Stores of coordinates hand them over tile by tile. Within a tile rows ascend and columns ascend in a row, so
that putting each number behind those its row already has leaves the columns of most rows sorted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.gather import ascend_in_rows, frozen
from loaders.layout import index_dtype

type Coordinates = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # rows, columns, values: (k,) each


def csr_of(
    parts: Sequence[Coordinates],
    *,
    first_row: int,
    place_of_row: NDArray[np.int32],
    place_of_column: NDArray[np.int32],
    shape: tuple[int, int],
    dtype: DTypeLike,
) -> csr_matrix | None:
    """The matrix of ``shape`` in canonical form, values added up where coordinates repeat.

    ``place_of_row`` (r,) says where row ``first_row + i`` goes, -1 leaves it out; every column must have a
    place in ``place_of_column``. Returns None if one has not.
    """
    lengths = np.zeros(shape[0], dtype=np.int64)
    for rows, columns, _ in parts:
        if not _count(frozen(rows), frozen(columns), first_row, place_of_row, place_of_column, lengths):
            return None
    ends = np.append(0, np.cumsum(lengths))
    indices = np.empty(ends[-1], dtype=index_dtype(int(ends[-1]), shape[1]))
    data = np.empty(ends[-1], dtype=dtype)
    cursors = ends[:-1].copy()
    for rows, columns, values in parts:
        where = (frozen(rows), frozen(columns), frozen(values))
        _place(*where, first_row, place_of_row, place_of_column, cursors, indices, data)
    counts = csr_matrix((data, indices, ends.astype(indices.dtype)), shape=shape)
    if ascend_in_rows(indices, ends):
        counts.has_canonical_format = True
    else:
        counts.sum_duplicates()
    return counts


@njit(nogil=True, cache=True)
def _count(
    rows: IntArray,
    columns: IntArray,
    first_row: int,
    place_of_row: NDArray[np.int32],
    place_of_column: NDArray[np.int32],
    lengths: IntArray,
) -> bool:
    """Add to ``lengths`` how many numbers each row gets; returns whether every column has a place."""
    known = True
    for i in range(len(rows)):
        row = place_of_row[rows[i] - first_row]
        if row >= 0:
            lengths[row] += 1
            column = columns[i]
            known &= column < len(place_of_column) and place_of_column[column] >= 0
    return known


@njit(nogil=True, cache=True)
def _place(
    rows: IntArray,
    columns: IntArray,
    values: NDArray[Any],
    first_row: int,
    place_of_row: NDArray[np.int32],
    place_of_column: NDArray[np.int32],
    cursors: IntArray,
    indices: NDArray[Any],
    data: NDArray[Any],
) -> None:
    """Put every number at the cursor of its row, which moves on."""
    for i in range(len(rows)):
        row = place_of_row[rows[i] - first_row]
        if row >= 0:
            at = cursors[row]
            indices[at] = place_of_column[columns[i]]
            data[at] = values[i]
            cursors[row] = at + 1
