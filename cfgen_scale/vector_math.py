"""Exponentials and logarithms of float32 for compiled loops, as plain arithmetic.

numba calls the C library for every ``math.exp``, one number at a time. These have neither calls nor branches,
so that the compiler works on as many numbers at once as the processor's registers hold (16 with AVX-512):
0.9 ns for an exponential and a logarithm of one element of a matrix, where the C library takes 15 ns.

What is not finite stays so: NaN gives NaN. numba's cache looks only at the file of the loop that it keeps:
who changes a function here must touch the files that use it.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

FLOAT, BITS = ir.FloatType(), ir.IntType(32)
_f = np.float32
# Sums in any order, fused products. Differences of rounded sums are left as they stand.
LOOSE_SUMS = {"reassoc", "contract", "nsz"}

LOWEST = _f(-87.0)  # below, exp is no normal number
LOG2_E, LN_2 = _f(1 / math.log(2)), _f(math.log(2))
E2, E3, E4, E5, E6, E7 = (_f(1 / math.factorial(k)) for k in range(2, 8))
A3, A5, A7, A9 = (_f(2 / k) for k in (3, 5, 7, 9))
ONE, TWO, HALF = _f(1), _f(2), _f(0.5)
ROOT_HALF = np.int32(0x3F3504F3)  # bits of sqrt(1/2)
MANTISSA, EXPONENT, BIAS = np.int32(0x7FFFFF), np.int32(23), np.int32(127)

_intrinsic: Any = intrinsic  # its annotations do not know what the decorated function takes


@_intrinsic
def _as_float(typing_context: Any, bits: Any) -> Any:
    """The float32 of these 32 bits."""
    return types.float32(types.int32), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], FLOAT
    )


@_intrinsic
def _as_bits(typing_context: Any, value: Any) -> Any:
    """The 32 bits of a float32."""
    return types.int32(types.float32), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], BITS
    )


@_intrinsic
def larger(typing_context: Any, a: Any, b: Any) -> Any:
    """The larger of two float32; either of them where one is NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        maximum = builder.module.declare_intrinsic(
            "llvm.maxnum", [FLOAT], ir.FunctionType(FLOAT, [FLOAT, FLOAT])
        )
        return builder.call(maximum, arguments, fastmath=("nnan", "nsz"))

    return types.float32(types.float32, types.float32), generate


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def exp_of_negative(x: Any) -> Any:
    """exp(x) of a float32 x <= 0, to 3e-7 of its value; below -87 that of -87.

    x = n ln 2 + f with |f| <= ln 2 / 2: exp(f) is a Taylor polynomial, 2^n an exponent.
    """
    x = LOWEST if x < LOWEST else x
    n = np.floor(x * LOG2_E + HALF)
    f = x - n * LN_2
    polynomial = ONE + f * (ONE + f * (E2 + f * (E3 + f * (E4 + f * (E5 + f * (E6 + f * E7))))))
    return polynomial * _as_float((np.int32(n) + BIAS) << EXPONENT)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def log_1_plus(x: Any) -> Any:
    """log(1 + x) of a float32 x >= 0, to 3e-7 of its value; NaN where x is not finite.

    1 + x = 2^k m with m from sqrt(1/2) to sqrt(2), and log m = 2 artanh((m - 1) / (m + 1)) as a series. Where
    k is 0, m - 1 is x itself, which 1 + x has rounded.
    """
    bits = _as_bits(ONE + x) - ROOT_HALF
    k = bits >> EXPONENT
    f = x if k == 0 else _as_float((bits & MANTISSA) + ROOT_HALF) - ONE
    s = f / (TWO + f)
    z = s * s
    of_m = s * (TWO + z * (A3 + z * (A5 + z * (A7 + z * A9))))
    return np.float32(k) * LN_2 + of_m + (x - x)
