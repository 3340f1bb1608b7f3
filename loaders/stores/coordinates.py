"""Counts that come as (row, column, value) made into rows in narrow types, by counting: every coordinate is
looked at twice.

Stores of coordinates hand them over tile by tile. Within a tile rows ascend and columns ascend in a row, so
that putting each number behind those its row already has leaves the columns of most rows sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_matrix

from cfgen_scale.types import IntArray
from loaders.arrays.gather import ascend_in_rows, frozen
from loaders.layout import narrowest_unsigned

type Coordinates = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # rows, columns, values: (k,) each


@dataclass(frozen=True)
class NarrowRows:
    """Rows (r) of counts: ends (r + 1,) int64, indices ascending in every row, data; in the narrowest types
    that hold them, read-only. Values that are no counts keep their type."""

    ends: IntArray
    indices: NDArray[Any]
    data: NDArray[Any]

    @property
    def nbytes(self) -> int:
        return self.ends.nbytes + self.indices.nbytes + self.data.nbytes


def narrow_rows(
    parts: Sequence[Coordinates],
    *,
    first_row: int,
    place_of_row: NDArray[np.int32],
    place_of_column: NDArray[np.int32],
    shape: tuple[int, int],
    dtype: DTypeLike,
) -> NarrowRows | None:
    """The rows of a matrix of ``shape``, values of ``dtype`` added up where coordinates repeat.

    ``place_of_row`` (r,) says where row ``first_row + i`` goes, -1 leaves it out; every column must have a
    place in ``place_of_column``. Returns None if one has not.
    """
    lengths = np.zeros(shape[0], dtype=np.int64)
    for rows, columns, _ in parts:
        if len(columns) and columns.view(np.uint64).max() >= len(place_of_column):
            return None
        _count(frozen(rows), first_row, place_of_row, lengths)
    ends = np.append(0, np.cumsum(lengths))
    indices = np.empty(ends[-1], dtype=narrowest_unsigned(shape[1]))
    data = np.empty(ends[-1], dtype=_narrow([values for _, _, values in parts], dtype))
    cursors = ends[:-1].copy()
    for rows, columns, values in parts:
        where = (frozen(rows), frozen(columns), frozen(values))
        if not _place(*where, first_row, place_of_row, place_of_column, cursors, indices, data):
            return None
    if not ascend_in_rows(indices, ends):
        counts = csr_matrix((data.astype(dtype), indices.astype(np.int64), ends), shape=shape)
        counts.sum_duplicates()
        ends = counts.indptr.astype(np.int64)
        indices, data = (
            counts.indices.astype(indices.dtype),
            counts.data.astype(_narrow([counts.data], dtype)),
        )
    return NarrowRows(frozen(ends), frozen(indices), frozen(data))


def _narrow(values: Sequence[NDArray[Any]], dtype: DTypeLike) -> np.dtype[Any]:
    """The narrowest type of counts that holds ``values``; ``dtype`` if they are no counts."""
    largest = [int(_largest_count(frozen(some))) for some in values]
    return np.dtype(dtype) if min(largest, default=0) < 0 else narrowest_unsigned(max(largest, default=0))


@njit(nogil=True, cache=True)
def _largest_count(values: NDArray[Any]) -> np.int64:
    """The largest of ``values``; -1 if one of them is no whole number from 0 to 2^31 - 1."""
    largest = np.int32(0)
    are_counts = True
    for value in values:
        count = np.int32(value)
        are_counts &= (count == value) & (count >= 0)
        largest = max(largest, count)
    return np.int64(largest) if are_counts else np.int64(-1)


@njit(nogil=True, cache=True)
def _count(rows: IntArray, first_row: int, place_of_row: NDArray[np.int32], lengths: IntArray) -> None:
    """Add to ``lengths`` how many numbers each row gets."""
    begin = 0
    while begin < len(rows):
        end = _end_of_row(rows, begin)
        row = place_of_row[np.uint64(rows[begin] - first_row)]
        if row >= 0:
            lengths[row] += end - begin
        begin = end


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
) -> bool:
    """Put every number at the cursor of its row, which moves on; returns whether every column had a place."""
    least = 0
    begin = 0
    while begin < len(rows):
        end = _end_of_row(rows, begin)
        row = place_of_row[np.uint64(rows[begin] - first_row)]
        if row >= 0:
            # Views of their own, and unsigned places: see arrays/gather.py.
            first, n = np.uint64(cursors[row]), np.uint64(end - begin)
            from_columns = columns[np.uint64(begin) : np.uint64(end)]
            from_values = values[np.uint64(begin) : np.uint64(end)]
            to_indices, to_data = indices[first : first + n], data[first : first + n]
            for k in range(len(from_columns)):
                column = place_of_column[np.uint64(from_columns[k])]
                least = min(least, column)
                to_indices[k] = column
            for k in range(len(from_values)):
                to_data[k] = from_values[k]
            cursors[row] += end - begin
        begin = end
    return least >= 0


@njit(nogil=True)
def _end_of_row(rows: IntArray, begin: int) -> int:
    end = begin + 1
    while end < len(rows) and rows[np.uint64(end)] == rows[np.uint64(begin)]:
        end += 1
    return end
