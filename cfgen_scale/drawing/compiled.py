"""The compiled part of drawing: rows of means, or of the decoder's products, to counts in CSR.

All of it but exponentials and maxima stands in this one file, as numba's cache wants it (vector_math.py).
The order of every sum is written out and multiplications are not fused with additions, so that means do not
depend on the width of the processor's vectors.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from ..vector_math import INFINITE, LANES, ONE, exp_of_negative, largest_of

VECTOR_MATH = "0d21256c07a2d986"  # digest of vector_math.py: compiled anew when it changes

NEGATIVE_BINOMIAL, POISSON, BERNOULLI = 0, 1, 2
LARGEST_INVERTED = 16.0  # mean; above, rejection is quicker than a step for each count
LARGEST_MEAN = 2.0**30
LARGEST_COUNT = 2.0**31 - 1  # of the 32 bits of a stored count: a larger one is cut off there
LEAST_PTRS = 10.0  # rate
TINY = 2.0**-60  # a share of the distribution that 53 random bits do not resolve
STIRLING = 16.0  # counts from here on have their log-factorial by Stirling's series

WEYL = np.uint32(0x9E3779B9)
ROUNDS_32 = tuple(np.uint32(odd) for odd in (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB))
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
UP_24 = np.float32(2.0**24)

# ---------------------------------------------------------------------- random bits


@njit(nogil=True, error_model="numpy")
def first_bits(feature: Any, low: Any, high: Any) -> Any:
    """The upper 32 bits of a feature's uniform draw, keyed by the cell's 64: three rounds of multiplications,
    which vector instructions of any processor have (the constants of Wellons' "triple32")."""
    x = np.uint32(np.uint32(feature) * WEYL + low)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(17))) * ROUNDS_32[0])
    x = np.uint32(x ^ high)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(11))) * ROUNDS_32[1])
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * ROUNDS_32[2])
    return np.uint32(x ^ (x >> np.uint32(14)))


@njit(nogil=True, error_model="numpy")
def number(state: Any, i: Any) -> Any:
    """64 bits: number ``i``, from 1, of the SplitMix64 that begins at ``state``."""
    x = state + np.uint64(i) * GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, error_model="numpy")
def _uniform(first: Any, bits: Any) -> Any:
    """[0, 1) by 53 bits: 32 that are known already, and 21 more."""
    return np.float64(np.int64((np.uint64(first) << np.uint64(21)) | (bits >> np.uint64(43)))) * 2.0**-53


@njit(nogil=True, error_model="numpy")
def _open_uniform(bits: Any) -> Any:
    """(0, 1), both ends left out."""
    return (np.float64(np.int64(bits >> np.uint64(12))) + 0.5) * 2.0**-52


# ---------------------------------------------------------------------- one count


@njit(nogil=True, error_model="numpy")
def _count(kind: Any, first: Any, bits: Any, mean: Any, theta: Any) -> Any:
    """The count of a mean (of Bernoulli draws: the probability), exact to the rounding of float64."""
    if kind != BERNOULLI and mean > LARGEST_INVERTED:
        return _by_rejection(kind, bits, mean, theta)
    u = _uniform(first, bits)
    if kind == BERNOULLI:
        return 1.0 if u < mean else 0.0
    # Bonferroni's inequalities: with two = E[x (x - 1)] / 2 and three = E[x (x - 1) (x - 2)] / 6,
    # mean - two <= P(x >= 1) <= mean - two + three and P(x >= 2) <= two; most need no logarithm.
    over_theta = mean / theta if kind == NEGATIVE_BINOMIAL else 0.0
    two = 0.5 * mean * (mean + over_theta)
    if two <= u < mean - two:
        return 1.0
    if u >= mean - two + two * (mean + 2.0 * over_theta) / 3.0:
        return 0.0
    if kind == POISSON:
        return _inverted(u, -mean, mean, 0.0)
    log_zero = -theta * math.log1p(mean / theta)
    p = mean / (mean + theta)
    return _inverted(u, log_zero, theta * p, p)


@njit(nogil=True, error_model="numpy")
def _inverted(u: Any, log_zero: Any, a: Any, b: Any) -> Any:
    """The count into whose share u falls, the largest counts next to u = 0. p(k) / p(k - 1) is
    (a + b (k - 1)) / k (Panjer 1981), at last b < 1."""
    if log_zero < -0.7:
        zero = math.exp(log_zero)
        left = 1.0 - zero
    else:
        left = -math.expm1(log_zero)
        zero = 1.0 - left
    if u >= left:
        return 0.0
    count, share = 1.0, zero * a
    left -= share
    while u < left and share > TINY:
        share *= (a + b * count) / (count + 1.0)
        count += 1.0
        left -= share
    return count


@njit(nogil=True, error_model="numpy")
def _by_rejection(kind: Any, state: Any, mean: Any, theta: Any) -> Any:
    """A Poisson draw, whose rate is Gamma(theta, mean / theta) if the count is negative binomial."""
    rate = mean
    if kind == NEGATIVE_BINOMIAL:
        rate, state = _gamma_rate(state, mean, theta)
    return min(_poisson(state, min(rate, LARGEST_COUNT)), LARGEST_COUNT)


@njit(nogil=True, error_model="numpy")
def _gamma_rate(state: Any, mean: Any, theta: Any) -> Any:
    """A Gamma(theta, mean / theta) draw (Marsaglia and Tsang 2000, doi:10.1145/358407.358414), and where the
    random bits go on. Below 1 the shape is raised by one, and the draw multiplied by U^(1 / theta)."""
    d = (theta if theta >= 1.0 else theta + 1.0) - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        radius = math.sqrt(-2.0 * math.log(_open_uniform(number(state, 1))))
        x = radius * math.cos(2.0 * math.pi * _open_uniform(number(state, 2)))
        log_u = math.log(_open_uniform(number(state, 3)))
        state += np.uint64(3) * GOLDEN
        v = 1.0 + c * x
        v = v * v * v
        if v > 0.0 and log_u < 0.5 * x * x + d - d * v + d * math.log(v):
            break
    log_rate = math.log(d * v) + math.log(mean / theta)
    if theta < 1.0:
        log_rate += math.log(_open_uniform(number(state, 1))) / theta
        state += GOLDEN
    return math.exp(log_rate), state


@njit(nogil=True, error_model="numpy")
def _poisson(state: Any, rate: Any) -> Any:
    """Transformed rejection with squeeze (Hoermann 1993, doi:10.1016/0167-6687(93)90997-4: PTRS)."""
    if rate < LEAST_PTRS:
        return _inverted(_open_uniform(number(state, 1)), -rate, rate, 0.0)
    b = 0.931 + 2.53 * math.sqrt(rate)
    a = -0.059 + 0.02483 * b
    log_alpha = math.log(1.1239 + 1.1328 / (b - 3.4))
    v_sure = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u = _open_uniform(number(state, 1)) - 0.5
        v = _open_uniform(number(state, 2))
        state += np.uint64(2) * GOLDEN
        width = 0.5 - abs(u)
        count = np.floor((2.0 * a / width + b) * u + rate + 0.43)
        if width >= 0.07 and v <= v_sure:
            return count
        if count < 0.0 or (width < 0.013 and v > width):
            continue
        if math.log(v) + log_alpha - math.log(a / (width * width) + b) <= _log_poisson(count, rate):
            return count


@njit(nogil=True, error_model="numpy")
def _log_poisson(count: Any, rate: Any) -> Any:
    """log p(count). Large terms that nearly cancel are taken together, or few digits would be left."""
    if count < STIRLING:
        return count * math.log(rate) - rate - math.lgamma(count + 1.0)
    x = (count - rate) / rate
    away = rate * ((1.0 + x) * math.log1p(x) - x)
    inverse = 1.0 / count
    square = inverse * inverse
    series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)))
    return -away - 0.5 * math.log(2.0 * math.pi * count) - series


# ---------------------------------------------------------------------- means of a row


@njit(nogil=True, error_model="numpy")
def shares(product: Any, bias: Any, out: Any) -> Any:
    """out = exp(x - max x) of x = product + bias (G,); returns its sum, by which it is softmax(x), or NaN if
    an x is not finite."""
    n = len(bias)
    wrong = 0
    for g in range(n):
        out[g] = product[g] + bias[g]
        wrong += not out[g] < INFINITE
    top = largest_of(out)
    if wrong or not top > -INFINITE:
        return np.nan
    for g in range(n):
        out[g] = exp_of_negative(out[g] - top)
    return _sum(out)


@njit(nogil=True, error_model="numpy")
def _sum(x: Any) -> Any:
    lanes = np.zeros(LANES, np.float32)
    whole = len(x) - len(x) % LANES
    for first in range(0, whole, LANES):
        for k in range(LANES):
            lanes[k] += x[np.uint64(first + k)]
    total = 0.0
    for k in range(LANES):
        total += np.float64(lanes[k])
    for g in range(whole, len(x)):
        total += np.float64(x[g])
    return total


@njit(nogil=True, error_model="numpy")
def probabilities(product: Any, bias: Any, out: Any) -> Any:
    """out = sigmoid(product + bias) (G,); returns the factor 1, or NaN if a sum is not finite."""
    wrong = 0
    for g in range(len(bias)):
        x = product[g] + bias[g]
        wrong += not abs(x) < INFINITE
        small = exp_of_negative(-abs(x))
        out[g] = (ONE if x > np.float32(0.0) else small) / (ONE + small)
    return np.float32(np.nan) if wrong else ONE


# ---------------------------------------------------------------------- rows


@njit(nogil=True, error_model="numpy")
def _mark(mean: Any, scale: Any, most: Any, low: Any, high: Any, marks: Any) -> Any:
    """marks[g] = 1 where the count may be above 0; returns how many means are not in 0 .. ``most``.

    P(x > 0) is at most the mean, so that a uniform draw, known to 24 bits rounded down, above it says 0."""
    wrong = 0
    for g in range(len(mean)):
        m = mean[g] * scale
        u = np.float32(np.int32(first_bits(g, low, high) >> np.uint32(8)))
        marks[g] = u <= m * UP_24
        wrong += not (m >= np.float32(0.0) and m <= most)
    return wrong


@njit(nogil=True, error_model="numpy")
def _draw_row(
    kind: Any, mean: Any, scale: Any, theta: Any, key: Any, marks: Any, indices: Any, data: Any
) -> Any:
    """Fill ``indices`` and ``data`` from their start with the counts above 0 of the means ``mean * scale``;
    returns how many there are, or -1 for means that cannot be."""
    low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    most = ONE if kind == BERNOULLI else np.float32(LARGEST_MEAN)
    if _mark(mean, scale, most, low, high, marks):
        return -1
    n_marked = 0
    for feature in range(len(mean)):
        indices[np.uint64(n_marked)] = feature
        n_marked += marks[feature]
    n = 0
    for j in range(n_marked):
        g = np.uint64(indices[j])
        bits = number(key, g + np.uint64(1))
        m = np.float64(mean[g] * scale)
        count = _count(kind, first_bits(g, low, high), bits, m, theta[g])
        indices[np.uint64(n)] = np.int32(g)
        data[np.uint64(n)] = np.int32(count)
        n += count > 0.0
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def draw_means(
    kind: Any, means: Any, theta: Any, levels: Any, keys: Any, indptr: Any, indices: Any, data: Any
) -> Any:
    """Counts of ``means`` (B, G) float32 into CSR; returns the first row whose means cannot be, or -1."""
    marks = np.empty(means.shape[1], np.uint8)
    begin = 0
    for i in range(len(means)):
        n = _draw_row(kind, means[i], ONE, theta[levels[i]], keys[i], marks, indices[begin:], data[begin:])
        if n < 0:
            return i
        begin += n
        indptr[i + 1] = begin
    return -1


@njit(nogil=True, cache=True, error_model="numpy")
def draw_products(
    kind: Any,
    products: Any,
    bias: Any,
    log_size_factor: Any,
    theta: Any,
    levels: Any,
    keys: Any,
    indptr: Any,
    indices: Any,
    data: Any,
) -> Any:
    """As `draw_means`, of the decoder's last product (B, at least G) float32 without its bias (G,)."""
    mean, marks = np.empty_like(bias), np.empty(len(bias), np.uint8)
    begin = 0
    for i in range(len(products)):
        if kind == BERNOULLI:
            scale = probabilities(products[i], bias, mean)
        else:
            scale = np.float32(math.exp(log_size_factor[i]) / shares(products[i], bias, mean))
        n = _draw_row(kind, mean, scale, theta[levels[i]], keys[i], marks, indices[begin:], data[begin:])
        if n < 0:
            return i
        begin += n
        indptr[i + 1] = begin
    return -1
