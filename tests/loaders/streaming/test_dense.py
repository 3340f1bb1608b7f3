from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cfgen_scale.types import CellBatch
from loaders.preparation.prepared import Prepared
from loaders.streaming.dense import LEAST_PAST_CACHES, DenseBatches, DenseRing, fill_dense
from loaders.streaming.stream import CellStream


def some_counts(
    n_cells: int = 30, n_genes: int = 200, *, seed: int = 0, data: Any = np.float32, indices: Any = np.int32
) -> csr_matrix:
    """Counts with these dtypes, some rows of them without a count."""
    values = np.random.default_rng(seed).poisson(0.3, (n_cells, n_genes))
    values[::7] = 0
    counts = csr_matrix(values)
    counts.data = counts.data.astype(data)
    counts.indices = counts.indices.astype(indices)
    return counts


def some_batch(*counts: csr_matrix) -> CellBatch:
    n = counts[0].shape[0]
    return CellBatch(np.arange(n), np.arange(n), n, n, counts, np.zeros((n, 1), dtype=np.int64))


@pytest.mark.parametrize("data", [np.uint8, np.uint16, np.int64, np.float32])
@pytest.mark.parametrize("indices", [np.uint16, np.int32, np.int64])
def test_dense_is_what_scipy_makes_whatever_was_there_before(data: Any, indices: Any) -> None:
    out = np.full((30, 200), np.nan, dtype=np.float32)
    fill_dense(some_counts(data=data, indices=indices), out)
    np.testing.assert_array_equal(out, some_counts().toarray())


def test_a_batch_that_is_written_past_the_caches() -> None:
    counts = some_counts(n_cells=130, n_genes=LEAST_PAST_CACHES // 4 // 128 - 1)
    out = np.full(counts.shape, np.nan, dtype=np.float32)
    assert out.nbytes > LEAST_PAST_CACHES
    fill_dense(counts, out)
    np.testing.assert_array_equal(out, counts.toarray())


def test_row_pointers_of_64_bits() -> None:
    counts = some_counts(indices=np.uint16)
    counts.indptr = counts.indptr.astype(np.int64)
    out = np.empty((30, 200), dtype=np.float32)
    fill_dense(counts, out)
    np.testing.assert_array_equal(out, some_counts().toarray())


@pytest.mark.parametrize("index", [200, -1])
def test_an_index_outside_the_genes_is_refused_not_written(index: int) -> None:
    counts = some_counts()
    counts.indices[counts.indptr[11]] = index
    out = np.full((32, 200), 7, dtype=np.float32)
    with pytest.raises(ValueError, match=r"row 11 .* outside 0 \.\. 199: the store is damaged"):
        fill_dense(counts, out[1:31])
    assert (out[[0, 31]] == 7).all()


def test_a_ring_uses_its_buffers_again() -> None:
    ring = DenseRing(2)
    batches = [some_batch(some_counts(seed=seed), some_counts(n_genes=50, seed=seed)) for seed in range(4)]
    filled = [ring.fill(batch, turn) for turn, batch in enumerate(batches)]
    for turn in (2, 3):
        for tensor, earlier, counts in zip(filled[turn], filled[turn - 2], batches[turn].counts, strict=True):
            assert tensor.data_ptr() == earlier.data_ptr()
            np.testing.assert_array_equal(tensor.numpy(), counts.toarray())


def test_a_shorter_batch_uses_part_of_a_buffer_and_a_longer_one_gets_its_own() -> None:
    ring = DenseRing(1)
    sizes = (20, 5, 20, 30)
    filled = [ring.fill(some_batch(some_counts(n)), 0)[0] for n in sizes]
    assert [len(tensor) for tensor in filled] == list(sizes)
    assert len({tensor.data_ptr() for tensor in filled[:3]}) == 1
    np.testing.assert_array_equal(filled[3].numpy(), some_counts(30).toarray())


@pytest.mark.parametrize("keep", [1, 3])
def test_batches_stay_whole_for_as_long_as_promised(prepared: Prepared, keep: int) -> None:
    expected = list(CellStream(prepared, batch_cells=32, epochs=2))
    stream = CellStream(prepared, batch_cells=32, epochs=2, read_ahead=3)
    pointers = set()
    held: list[torch.Tensor] = []
    for step, batch in enumerate(DenseBatches(stream, keep=keep)):
        assert stream.state == batch.cells_seen == expected[step].cells_seen
        assert batch.counts[0].dtype == torch.float32
        np.testing.assert_array_equal(batch.rows, expected[step].rows)
        np.testing.assert_array_equal(batch.labels, expected[step].labels)
        held = [*held, batch.counts[0]][-keep:]
        for back, counts in enumerate(reversed(held)):
            np.testing.assert_array_equal(counts.numpy(), expected[step - back].counts[0].toarray())
        pointers.add(batch.counts[0].data_ptr())
    assert step == len(expected) - 1
    assert len(pointers) == keep + 3


def test_iterating_again_goes_on(prepared: Prepared) -> None:
    expected = list(CellStream(prepared, batch_cells=64, epochs=1))
    batches = DenseBatches(CellStream(prepared, batch_cells=64, epochs=1))
    next(iter(batches))
    second = next(iter(batches))
    np.testing.assert_array_equal(second.counts[0].numpy(), expected[1].counts[0].toarray())


def test_keeping_nothing_is_refused(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1 batch, not 0"):
        DenseBatches(CellStream(prepared, batch_cells=64), keep=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_buffers_are_pinned_where_there_is_a_gpu() -> None:
    assert DenseRing(1).fill(some_batch(some_counts()), 0)[0].is_pinned()
