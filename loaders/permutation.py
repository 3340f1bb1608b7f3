"""A shuffled order that is computed, not stored: any entry of a permutation of n places, in O(1).

`numpy.random.Generator.permutation` would do, but 50 million places cost it 5 s and 200 MB at the start of
each epoch on each worker, and NumPy does not promise that its next version draws the same. An alternating
Feistel network is a bijection of b-bit numbers whatever its round function; entries that land at n or above
go through it again ("cycle walking") until they land below, which keeps it a bijection of 0 .. n - 1
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.types import IntArray

UintArray = NDArray[np.uint64]

ROUNDS = 8
LEAST_BITS = 6  # on 3 bits the network favours some orders of 5 places; on 6, with more walking, none seen
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROUND_KEYS = np.arange(1, ROUNDS + 1, dtype=np.uint64) * GOLDEN


def key(seed: int, purpose: str, *address: int) -> np.uint64:
    """The 64-bit key of one permutation, a hash of its address. Negative numbers are refused by NumPy."""
    entropy = [seed, int.from_bytes(purpose.encode(), "little"), *address]
    return np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]


def subkey(base: np.uint64 | UintArray, address: IntArray) -> UintArray:
    """Keys (m,) of many permutations that share a ``base``, one for each ``address`` (m,)."""
    return _mix(base ^ _mix(address.astype(np.uint64) + GOLDEN))


def permute(index: IntArray, n: int | IntArray, keys: np.uint64 | UintArray) -> IntArray:
    """Entries ``index`` (m,) of the permutation of 0 .. n - 1 that ``keys`` names.

    ``n`` and ``keys`` are one for all or one for each entry. Every index must be below its n.
    """
    sizes = np.broadcast_to(np.asarray(n, dtype=np.int64), index.shape)
    all_keys = np.broadcast_to(np.asarray(keys, dtype=np.uint64), index.shape)
    values = _feistel(index.astype(np.uint64), _bits(sizes), all_keys).astype(np.int64)
    outside = np.flatnonzero(values >= sizes)
    while len(outside):
        walked = values[outside].astype(np.uint64)
        again = _feistel(walked, _bits(sizes[outside]), all_keys[outside]).astype(np.int64)
        values[outside] = again
        outside = outside[again >= sizes[outside]]
    return values


def _feistel(values: UintArray, bits: UintArray, keys: UintArray) -> UintArray:
    """A bijection of ``bits``-bit numbers: the two halves are changed in turn, each by the other."""
    right_bits = bits // np.uint64(2)
    left_mask = _ones(bits - right_bits)
    right_mask = _ones(right_bits)
    left, right = values >> right_bits, values & right_mask
    for r in range(ROUNDS):
        round_keys = keys + ROUND_KEYS[r]
        if r % 2:
            right = right ^ (_mix(left ^ round_keys) & right_mask)
        else:
            left = left ^ (_mix(right ^ round_keys) & left_mask)
    return (left << right_bits) | right


def _mix(values: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every input bit moves every output bit."""
    values = np.asarray(values, dtype=np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _bits(n: IntArray) -> UintArray:
    """Bits that n - 1 needs, at least `LEAST_BITS`."""
    return np.maximum(np.frexp((n - 1).astype(np.float64))[1], LEAST_BITS).astype(np.uint64)


def _ones(bits: UintArray) -> UintArray:
    return (np.uint64(1) << bits) - np.uint64(1)
