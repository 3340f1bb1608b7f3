import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from loaders.arrays.reused_memory import (
    ARENA_BELOW,
    ARENA_BYTES,
    LEAST_BYTES,
    MOST_SPARE,
    ReusedMemory,
    rounded,
)

N = LEAST_BYTES


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_when_the_array_is_gone_and_not_before() -> None:
    memory = ReusedMemory()
    first = memory.empty(N, np.int32)
    place = address(first)
    second = memory.empty(N, np.int32)
    assert address(second) != place
    del first
    third = memory.empty(N - 5, np.int32)
    assert address(third) == place
    assert third.shape == (N - 5,)
    third[:] = 7
    assert third.flags.writeable


@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a[10:20],
        lambda a: a.view(np.uint8),
        lambda a: torch.from_numpy(a),
        lambda a: csr_matrix((a, np.zeros(len(a), np.int32), np.array([0, len(a)], np.int32)), shape=(1, 5)),
        memoryview,
    ],
)
def test_whatever_refers_to_the_array_keeps_its_memory(keep) -> None:  # type: ignore[no-untyped-def]
    memory = ReusedMemory()
    array = memory.empty(N, np.int32)
    place, kept = address(array), keep(array)
    del array
    gc.collect()
    assert address(memory.empty(N, np.int32)) != place
    del kept
    gc.collect()
    assert address(memory.empty(N, np.int32)) == place


def test_small_arrays_are_those_of_numpy_and_few_blocks_are_kept() -> None:
    memory = ReusedMemory()
    assert memory.empty(10, np.float32).base is None
    arrays = [memory.empty(ARENA_BELOW, np.uint8) for _ in range(MOST_SPARE + 5)]
    del arrays
    assert [len(spare) for spare in memory._spare.values()] == [MOST_SPARE]


def test_what_is_cut_from_an_arena_does_not_overlap() -> None:
    memory = ReusedMemory()
    arrays = [memory.empty(N + 1, np.uint8) for _ in range(ARENA_BYTES // N + 5)]
    places = np.sort([address(array) for array in arrays])
    assert np.diff(places).min() >= N + 1
    del arrays
    assert sum(len(spare) for spare in memory._spare.values()) >= len(places)


@pytest.mark.parametrize("n_bytes", [2**20, 2**20 + 1, 3 * 2**20 - 1, 10**9])
def test_blocks_are_an_eighth_larger_at_most(n_bytes: int) -> None:
    assert n_bytes <= rounded(n_bytes) <= 1.125 * n_bytes


def test_threads_never_share_an_array() -> None:
    memory = ReusedMemory()

    def filled(value: int) -> bool:
        array = memory.empty(N, np.int32)
        array[:] = value
        return bool((array == value).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(filled, range(200)))
