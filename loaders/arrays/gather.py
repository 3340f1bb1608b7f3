"""Compiled loops over the non-zeros of cells: each number is touched once, on its way to its final place.

A *run* is a stretch of neighbouring elements, as a row of a CSR matrix is on disk: where it begins, where it
goes to, how long it is. The kernels release the GIL and use one thread each: threads are the stream's. One
call copies what a batch takes from all chunks: threads that come back for the GIL after every chunk wait for
each other longer than they copy.

The kernels write without checking bounds, so that runs must lie within ``source`` and ``out``; callers make
sure. Sources are read-only arrays (`frozen`): one compiled form serves memory, mapped files, decoded chunks.
"""

from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray

from cfgen_scale.types import IntArray

_intrinsic: Any = intrinsic  # its annotations do not know what the decorated function takes


def frozen(values: NDArray[Any]) -> NDArray[Any]:
    """A read-only view."""
    view = values.view(np.ndarray)
    view.flags.writeable = False
    return view


def address_of(values: NDArray[Any]) -> int:
    """Where the elements of a contiguous array are; they stay there while the array lives."""
    assert values.flags.c_contiguous
    return int(values.__array_interface__["data"][0])


@njit(nogil=True, cache=True)
def copy_runs(
    source: NDArray[Any], begins: IntArray, lengths: IntArray, targets: IntArray, out: NDArray[Any]
) -> None:
    """Copy runs (m,) of ``source`` to the places ``targets`` (m,) of ``out``, cast to its dtype."""
    for i in range(len(begins)):
        run = _run(source, begins[i], lengths[i])
        place = _run(out, targets[i], lengths[i])
        for j in range(len(run)):
            place[j] = run[j]


@njit(nogil=True, cache=True)
def copy_runs_of_many(
    addresses: IntArray,
    like: NDArray[Any],
    of_source: IntArray,
    begins: IntArray,
    lengths: IntArray,
    targets: IntArray,
    out: NDArray[Any],
) -> None:
    """`copy_runs` of several sources of the dtype of ``like``: run i is of that at
    ``addresses[of_source[i]]``."""
    for i in range(len(begins)):
        run = _run_at(addresses[of_source[i]], like, begins[i], lengths[i])
        place = _run(out, targets[i], lengths[i])
        for j in range(len(run)):
            place[j] = run[j]


@njit(nogil=True, cache=True)
def copy_indices_of_many(
    addresses: IntArray,
    like: NDArray[Any],
    of_source: IntArray,
    begins: IntArray,
    lengths: IntArray,
    targets: IntArray,
    out: NDArray[Any],
    limit: int,
) -> int:
    """`copy_runs_of_many` of indices; returns -1, or a source that has an index outside [0, limit).

    Whoever scatters by these indices relies on it: a corrupt one would be written to foreign memory.
    """
    wrong = -1
    for i in range(len(begins)):
        run = _run_at(addresses[of_source[i]], like, begins[i], lengths[i])
        place = _run(out, targets[i], lengths[i])
        # Both bounds in the type of the source: they stay in vector registers.
        least = largest = like.dtype.type(0)
        for j in range(len(run)):
            index = run[j]
            least, largest = min(least, index), max(largest, index)
            place[j] = index
        if least < 0 or largest >= limit:
            wrong = of_source[i]
    return wrong


@njit(nogil=True, inline="always")
def _run_at(address: Any, like: Any, begin: Any, length: Any) -> Any:
    return carray(_pointer(address + begin * like.itemsize, like), length)


@_intrinsic
def _pointer(typing_context: Any, address: Any, like: Any) -> Any:
    """A pointer to elements of the dtype of ``like``."""
    signature = types.CPointer(like.dtype)(address, like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return signature, generate


@njit(nogil=True, inline="always")
def _run(values: Any, begin: Any, length: Any) -> Any:
    """A view. What is unsigned cannot count from the end, and what is a view of its own begins at 0: only
    then does the compiler copy many numbers at a time, which takes a third of the time."""
    first = np.uint64(begin)
    return values[first : first + np.uint64(length)]


@njit(nogil=True, cache=True)
def ascend_in_rows(indices: NDArray[Any], indptr: NDArray[Any]) -> bool:
    """Whether the indices of every row ascend without a repetition."""
    for i in range(len(indptr) - 1):
        falls = False
        row = _run(indices, indptr[i], indptr[i + 1] - indptr[i])
        for j in range(1, len(row)):
            falls |= row[j] <= row[j - 1]
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
