"""Blosc chunks decoded many at a time, without coming back to the interpreter between them.

Threads that decode chunks of some 100 microseconds, and need the interpreter's lock after each, wait for one
another: a store of such chunks was read at 240,000 cells a second instead of 180,000. The decoder is c-blosc
as numcodecs brings it along: its C interface is called at its address. A build of numcodecs that hides it is
no error; chunks are then decoded one by one.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numcodecs.blosc
import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray

from cfgen_scale.types import IntArray
from loaders.arrays.gather import address_of

HEADER = 16  # bytes; from 4 on the decoded size and from 12 on the encoded one, little-endian

_intrinsic: Any = intrinsic  # its annotations do not know what the decorated function takes


def decompress_address() -> int | None:
    """Where ``int blosc_decompress_ctx(src, dest, destsize, numinternalthreads)`` is, if it can be seen."""
    function = getattr(ctypes.CDLL(numcodecs.blosc.__file__), "blosc_decompress_ctx", None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


DECOMPRESS = decompress_address()


def decode_blosc(stored: Sequence[bytes], decoded: Sequence[NDArray[np.uint8]]) -> int:
    """Decode each of ``stored`` into that of ``decoded``, all of one size; needs `DECOMPRESS`.

    Returns -1, or the number of the first that is no Blosc chunk of this size; those behind it are not
    decoded.
    """
    sources = [np.frombuffer(chunk, dtype=np.uint8) for chunk in stored]
    lengths = np.array([len(source) for source in sources], dtype=np.int64)
    assert DECOMPRESS is not None
    return int(_decode(DECOMPRESS, _addresses(sources), _addresses(decoded), lengths, len(decoded[0])))


def _addresses(arrays: Sequence[NDArray[Any]]) -> IntArray:
    return np.array([address_of(array) for array in arrays], dtype=np.int64)


@njit(nogil=True, cache=True)
def _decode(function: int, sources: IntArray, targets: IntArray, lengths: IntArray, size: int) -> int:
    for i in range(len(sources)):
        # The decoder believes the header, which must not send it past the end.
        if lengths[i] < HEADER:
            return i
        header = carray(_words(sources[i]), HEADER // 4)
        if header[1] != size or header[3] != lengths[i]:
            return i
        if _call(function, sources[i], targets[i], size) != size:
            return i
    return -1


@_intrinsic
def _words(typing_context: Any, address: Any) -> Any:
    """A pointer to unsigned numbers of 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint32)(address), generate


@_intrinsic
def _call(typing_context: Any, function: Any, source: Any, target: Any, size: Any) -> Any:
    """What ``function(source, target, size, 1)`` returns, on this thread alone."""
    signature = types.int32(function, source, target, size)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, word, number = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32)
        of_function = ir.FunctionType(number, [pointer, pointer, word, number]).as_pointer()
        called = builder.inttoptr(arguments[0], of_function)
        source, target = (builder.inttoptr(argument, pointer) for argument in arguments[1:3])
        return builder.call(called, [source, target, arguments[3], ir.Constant(number, 1)])

    return signature, generate
