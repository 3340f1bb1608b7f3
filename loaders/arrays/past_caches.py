"""Writing to memory past the caches of the processor, for what is too large to stay in them.

The stores that x86 calls non-temporal and LLVM marks with ``!nontemporal``: the cache line is not read before
it is overwritten, and pushes nothing else out. Processors without them use ordinary stores.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

LINE = 64  # bytes of a cache line
FLOATS = 8  # stored at once


_intrinsic: Any = intrinsic  # its annotations do not know what the decorated function takes


@njit(nogil=True, cache=True)
def fill_rows(indptr: Any, indices: Any, data: Any, out: Any, row: Any, past_caches: bool) -> int:
    """The first row with an index that is out of range, which is not written any further; or -1.

    ``row`` (G,) is scratch memory of zeros, and left as such.
    """
    for i in range(out.shape[0]):
        begin, end = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        columns, counts = indices[begin:end], data[begin:end]
        for j in range(len(columns)):
            if np.uint64(columns[j]) >= np.uint64(len(row)):
                return i
            row[np.uint64(columns[j])] = counts[j]
        if past_caches:
            write_past_caches(row, out[i])
        else:
            out[i] = row
        for j in range(len(columns)):
            row[np.uint64(columns[j])] = 0
    return -1


@njit(nogil=True)
def write_past_caches(values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Copy ``values`` (n,) float32 to ``out`` (n,), both contiguous; it can then be read by any thread."""
    n = len(values)
    # The vectors must lie at multiples of their size: a row may begin anywhere.
    head = min(-(out.ctypes.data // 4) % FLOATS, n)
    last = n - (n - head) % FLOATS
    out[:head] = values[:head]
    for at in range(head, last, FLOATS):
        _store(out, at, values)
    out[last:] = values[last:]
    _fence()


@_intrinsic
def _store(typing_context: Any, out: Any, at: Any, values: Any) -> Any:
    """out[at : at + FLOATS] = values[at : at + FLOATS], by one store past the caches."""
    signature = types.void(out, at, values)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), FLOATS).as_pointer()
        target, source = (
            builder.bitcast(
                builder.gep(
                    context.make_array(signature.args[i])(context, builder, arguments[i]).data, [arguments[1]]
                ),
                vector,
            )
            for i in (0, 2)
        )
        loaded = builder.load(source, align=4)
        stored = builder.store(loaded, target, align=4 * FLOATS)
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        stored.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return signature, generate


@_intrinsic
def _fence(typing_context: Any) -> Any:
    """What was stored is seen by whoever is told of it afterwards: these stores keep no order among them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
