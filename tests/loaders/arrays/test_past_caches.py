"""Writing past the caches: the bytes of an ordinary copy, wherever a row begins, seen by other threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loaders.arrays.past_caches import write_past_caches


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 1000, 1003])
@pytest.mark.parametrize("offset", range(9))
def test_a_row_of_any_length_from_any_place(length: int, offset: int) -> None:
    values = np.random.default_rng(length).random(length).astype(np.float32)
    out = np.full(length + 32, -1, dtype=np.float32)
    write_past_caches(values, out[offset : offset + length])
    np.testing.assert_array_equal(out[offset : offset + length], values)
    assert (out[:offset] == -1).all()
    assert (out[offset + length :] == -1).all()


def test_another_thread_sees_what_was_written() -> None:
    out = np.empty((64, 20_001), dtype=np.float32)

    def written(turn: int) -> int:
        for row in out:
            write_past_caches(np.full(out.shape[1], turn, dtype=np.float32), row)
        return turn

    with ThreadPoolExecutor(max_workers=1) as writer:
        for turn in range(50):
            assert writer.submit(written, turn).result() == turn
            assert (out == turn).all()
