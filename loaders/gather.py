"""Compiled loops over the non-zeros of cells: each number is touched once, on its way to its final place.

A *run* is a stretch of neighbouring elements, as a row of a CSR matrix is on disk: where it begins, where it
goes to, how long it is. The kernels release the GIL and use one thread each: threads are the stream's.
They write without checking bounds, so that runs must lie within ``source`` and ``out``; callers make sure.
Sources are read-only arrays (`frozen`): one compiled form serves memory, mapped files and decoded chunks.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cfgen_scale.types import IntArray


def frozen(values: NDArray[Any]) -> NDArray[Any]:
    """A read-only view."""
    view = values.view(np.ndarray)
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True)
def copy_runs(
    source: NDArray[Any], begins: IntArray, lengths: IntArray, targets: IntArray, out: NDArray[Any]
) -> None:
    """Copy runs (m,) of ``source`` to the places ``targets`` (m,) of ``out``, cast to its dtype."""
    for i in range(len(begins)):
        begin, target = begins[i], targets[i]
        for j in range(lengths[i]):
            out[target + j] = source[begin + j]


@njit(nogil=True, cache=True)
def copy_indices(
    source: NDArray[Any],
    begins: IntArray,
    lengths: IntArray,
    targets: IntArray,
    out: NDArray[Any],
    limit: int,
) -> bool:
    """`copy_runs` of indices; returns whether all of them are in [0, limit).

    Whoever scatters by these indices relies on it: a corrupt one would be written to foreign memory.
    """
    # Both bounds in the type of the source: they stay in vector registers.
    least = largest = source.dtype.type(0)
    for i in range(len(begins)):
        begin, target = begins[i], targets[i]
        for j in range(lengths[i]):
            index = source[begin + j]
            least, largest = min(least, index), max(largest, index)
            out[target + j] = index
    return least >= 0 and largest < limit


@njit(nogil=True, cache=True)
def ascend_in_rows(indices: NDArray[Any], indptr: NDArray[Any]) -> bool:
    """Whether the indices of every row ascend without a repetition."""
    for i in range(len(indptr) - 1):
        falls = False
        for j in range(indptr[i] + 1, indptr[i + 1]):
            falls |= indices[j] <= indices[j - 1]
        if falls:
            return False
    return True


@njit(nogil=True, cache=True)
def select_in_place(
    indices: NDArray[Any], data: NDArray[Any], indptr: NDArray[Any], lookup: NDArray[np.int32]
) -> None:
    """Move the elements whose column has a ``lookup`` from 0 on, which becomes their column, to the front.

    ``indptr`` becomes that of what is kept; what lies behind ``indptr[-1]`` is of no more use.
    """
    # Unsigned places spare the test for indices that count from the end.
    n = np.uint64(0)
    begin = indptr[0]
    for i in range(len(indptr) - 1):
        end = indptr[i + 1]
        for j in range(begin, end):
            column = lookup[np.uint64(indices[j])]
            # Written always and stepped over where kept: there is no branch to mispredict.
            indices[n] = column
            data[n] = data[j]
            n += np.uint64(column >= 0)
        indptr[i + 1] = n
        begin = end
