from pathlib import Path

import numpy as np
import pytest

from loaders.latents import create_latents, finish_latents, open_latents, write_latents
from loaders.streaming.order import sequential

ROWS = np.arange(3, 1003, 2)


def values(n: int = 500, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)


def test_two_writers_fill_one_cache(tmp_path: Path) -> None:
    path = tmp_path / "latents.zarr"
    create_latents(path, ROWS, 5, key="abc", chunk_cells=64)
    for rank in (1, 0):
        for plan in sequential(500, 64, rank=rank, world=2):
            write_latents(path, int(plan.places[0]), values()[plan.places])
    assert open_latents(path, key="abc") is None
    finish_latents(path)
    found = open_latents(path, key="abc")
    assert found is not None
    np.testing.assert_array_equal(found.values, values())
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.rows, ROWS)


def test_latents_of_another_key_or_of_nothing_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "latents.zarr"
    assert open_latents(path, key="abc") is None
    create_latents(path, ROWS, 5, key="abc", chunk_cells=500)
    write_latents(path, 0, values())
    finish_latents(path)
    assert open_latents(path, key="another") is None
    create_latents(path, ROWS, 5, key="another")
    assert open_latents(path, key="abc") is None


def test_a_cache_with_a_chunk_missing_cannot_be_finished(tmp_path: Path) -> None:
    path = tmp_path / "latents.zarr"
    create_latents(path, ROWS, 5, key="abc", chunk_cells=64)
    for plan in sequential(500, 64):
        if plan.places[0] != 128:
            # zeros are stored as well as any other latent
            write_latents(path, int(plan.places[0]), np.zeros((len(plan.places), 5), dtype=np.float32))
    with pytest.raises(ValueError, match="7 of 8 chunks"):
        finish_latents(path)


def test_pieces_of_chunks_and_values_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latents.zarr"
    create_latents(path, ROWS, 5, key="abc", chunk_cells=64)
    with pytest.raises(ValueError, match="not one whole chunk of 64"):
        write_latents(path, 0, values(63))
    with pytest.raises(ValueError, match="not one whole chunk of 64"):
        write_latents(path, 10, values(64))
    with pytest.raises(ValueError, match="not all finite"):
        write_latents(path, 0, np.full((64, 5), np.nan, dtype=np.float32))
