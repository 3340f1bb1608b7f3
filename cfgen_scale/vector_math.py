"""Exponentials, logarithms and maxima of float32 for compiled loops, as plain arithmetic.

numba calls the C library for every ``math.exp``, one number at a time. These have neither calls nor branches,
so that the compiler works on as many numbers at once as the processor's registers hold. The order of every
sum is written out and multiplications are not fused with additions: results do not depend on the width of
the registers.

What is not finite stays so: NaN gives NaN. Each function says that it is allowed no fast mathematics: numba
would else compile it as its first caller in the process allows. And numba keeps a compiled loop for as long
as the file of the loop is what it was: the files that use these functions name the digest of this one, which
a test holds, so that no loop outlives what it calls.
"""

import math
from typing import Any

import numpy as np
from numba import njit

LANES = 64  # numbers looked at side by side
INFINITE = np.float32(np.inf)
LOWEST = np.float32(-87.0)  # exp of it is the least that float32 holds in full precision
PER_LN2, LN2 = np.float32(1 / math.log(2)), np.float32(math.log(2))
LN2_HIGH = np.float32(355 / 512)  # short enough that its multiples are exact
LN2_LOW = np.float32(math.log(2) - 355 / 512)
TAYLOR = tuple(np.float32(1 / math.factorial(k)) for k in range(8))
ARTANH = tuple(np.float32(2 / k) for k in (3, 5, 7, 9))
ONE, TWO, HALF = np.float32(1), np.float32(2), np.float32(0.5)
ROOT_HALF = np.int32(0x3F3504F3)  # bits of sqrt(1/2)
MANTISSA, EXPONENT, BIAS = np.int32(0x7FFFFF), np.int32(23), np.int32(127)


@njit(nogil=True, fastmath=False, error_model="numpy")
def exp_of_negative(x: Any) -> Any:
    """exp(x) of a float32 x <= 0, to 2e-7 of its value; below -87 that of -87, 1.6e-38.

    x = n ln 2 + rest with |rest| <= ln 2 / 2: exp(rest) is a Taylor polynomial, 2^n an exponent.
    """
    x = LOWEST if x < LOWEST else x
    n = np.floor(x * PER_LN2 + HALF)
    rest = (x - n * LN2_HIGH) - n * LN2_LOW
    y = TAYLOR[7]
    for k in range(6, -1, -1):
        y = y * rest + TAYLOR[k]
    return y * np.int32((np.int32(n) + BIAS) << EXPONENT).view(np.float32)


@njit(nogil=True, fastmath=False, error_model="numpy")
def log_1_plus(x: Any) -> Any:
    """log(1 + x) of a float32 x >= 0, to 4e-7 of its value; NaN where x is not finite.

    1 + x = 2^k m with m from sqrt(1/2) to sqrt(2), and log m = 2 artanh((m - 1) / (m + 1)) as a series. Where
    k is 0, m - 1 is x itself, which 1 + x has rounded.
    """
    bits = np.int32(np.float32(ONE + x).view(np.int32) - ROOT_HALF)
    k = np.int32(bits >> EXPONENT)
    f = x if k == 0 else np.int32((bits & MANTISSA) + ROOT_HALF).view(np.float32) - ONE
    s = f / (TWO + f)
    z = s * s
    of_m = s * (TWO + z * (ARTANH[0] + z * (ARTANH[1] + z * (ARTANH[2] + z * ARTANH[3]))))
    return np.float32(k) * LN2 + of_m + (x - x)


@njit(nogil=True, fastmath=False, error_model="numpy")
def largest_of(x: Any) -> Any:
    """The largest of x (n,) float32, NaNs left out; minus infinity if there is none."""
    lanes = np.full(LANES, -INFINITE, np.float32)
    whole = len(x) - len(x) % LANES
    for first in range(0, whole, LANES):
        for k in range(LANES):
            at = x[np.uint64(first + k)]
            lanes[k] = at if at > lanes[k] else lanes[k]
    for g in range(whole, len(x)):
        lanes[0] = x[g] if x[g] > lanes[0] else lanes[0]
    return lanes.max()
