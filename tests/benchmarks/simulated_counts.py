"""Compiled kernels that draw the counts of a simulated atlas.

Clusters of molecules arrive along the genes as a Poisson process whose rate is the profile of the cell's type
and donor; sizes of clusters follow the logarithmic series, so that counts are negative binomial (Quenouille
1949, Biometrics 5:162). Walking the process from left to right gives every row sorted. The random numbers
of a cell are a counter keyed by (seed, cell).
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

GENES, TYPES, DONORS = 20_000, 50, 40
MOST_GENES = 4_096  # the process stops behind this many genes of a cell, far above what occurs
LOG_LIBRARY_SD = 0.25
LOUDEST, LOUDEST_SHARE = 11_000, 0.077  # one gene with this share of all molecules, as MALAT1 has
CLUSTERS = 1_255.0  # clusters of molecules in a cell of median library
SERIES = 0.17  # parameter p of the logarithmic series
GUIDES = 32_768  # places on the way along the genes where a search begins
LEVELS = 4_096  # entries of the tables of gaps and sizes, small enough for the first cache


def gap_table() -> NDArray[np.float32]:
    """(LEVELS,) gaps of a Poisson process of rate 1, equally likely: exponential to so many levels."""
    return -np.log1p(-(np.arange(LEVELS) + 0.5) / LEVELS).astype(np.float32)


def cluster_sizes() -> NDArray[np.uint16]:
    """(LEVELS,) sizes of clusters, each as often as the logarithmic series has it."""
    k = np.arange(1, 65)
    cumulative = np.cumsum(-(SERIES**k) / (k * math.log1p(-SERIES)))
    return (np.searchsorted(cumulative, (np.arange(LEVELS) + 0.5) / LEVELS) + 1).astype(np.uint16)


@numba.njit(inline="always")
def _random(key: np.uint64, counter: np.uint64) -> np.uint64:
    """64 random bits at a place of a stream (SplitMix64: Steele, Lea, Flood 2014)."""
    x = key + counter * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(inline="always")
def _unit(bits: np.uint64) -> float:
    """In (0, 1), from the upper 48 bits."""
    return (np.int64(bits >> np.uint64(16)) + 0.5) * 2.0**-48


@numba.njit(parallel=True, nogil=True, cache=True)
def accumulate(popularity, of_donor, profiles, guides):
    """Fill cumulative profiles, from 0 to 1, and the gene at every GUIDES-th part of each."""
    for k in numba.prange(len(popularity)):
        total = 0.0
        for g in range(GENES):
            if g != LOUDEST:
                total += popularity[k, g] * of_donor[g]
        loudest = total * LOUDEST_SHARE / (1 - LOUDEST_SHARE)
        sum_, guided = 0.0, 0
        for g in range(GENES):
            sum_ += loudest if g == LOUDEST else popularity[k, g] * of_donor[g]
            profiles[k, g + 1] = sum_ / (total + loudest)
            while guided <= profiles[k, g + 1] * GUIDES and guided <= GUIDES:
                guides[k, guided] = g
                guided += 1
        profiles[k, GENES] = 1.0


@numba.njit(parallel=True, nogil=True, cache=True)
def draw(seed, first, profiles, guides, cumulative_types, gaps, sizes, types, lengths, counts, genes):
    """Draw the cells of a slab; every argument from ``types`` on is filled."""
    for i in numba.prange(len(types)):
        key = _random(_random(np.uint64(seed), np.uint64(1)), np.uint64(first + i))
        of_type = min(np.searchsorted(cumulative_types, _unit(_random(key, np.uint64(1)))), TYPES - 1)
        # A normal deviate (Box and Muller) for the size of the library.
        radius = math.sqrt(-2 * math.log(_unit(_random(key, np.uint64(2)))))
        normal = radius * math.cos(2 * math.pi * _unit(_random(key, np.uint64(3))))
        step = math.exp(-LOG_LIBRARY_SD * normal) / CLUSTERS
        profile, guide = profiles[of_type], guides[of_type]
        at, gene, last, n, counter = 0.0, 0, -1, 0, np.uint64(4)
        while n < MOST_GENES:
            bits = _random(key, counter)
            counter += np.uint64(1)
            at += gaps[bits >> np.uint64(52)] * step
            if at >= 1.0:
                break
            gene = max(gene, guide[int(at * GUIDES)])
            while profile[gene + 1] <= at:
                gene += 1
            size = sizes[bits & np.uint64(LEVELS - 1)]
            if gene == last:
                counts[i, n - 1] += size
            else:
                counts[i, n], genes[i, n] = size, gene
                last = gene
                n += 1
        types[i], lengths[i] = of_type, n


@numba.njit(parallel=True, nogil=True, cache=True)
def close_up(counts, genes, indptr, data, indices):
    for i in numba.prange(len(indptr) - 1):
        for j in range(indptr[i + 1] - indptr[i]):
            data[indptr[i] + j] = counts[i, j]
            indices[indptr[i] + j] = genes[i, j]
