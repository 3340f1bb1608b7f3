import gc
import threading
import time
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cfgen_scale.types import CellBatch, IntArray
from loaders.preparation.prepared import Prepared
from loaders.streaming.balanced import Balance
from loaders.streaming.dense import DenseBatches
from loaders.streaming.granularity import Granularity
from loaders.streaming.stream import CellStream, in_order


def readers() -> int:
    return sum(thread.name.startswith("cells") for thread in threading.enumerate())


def assert_same(one: CellBatch, other: CellBatch) -> None:
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.positions, other.positions)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.counts[0].toarray(), other.counts[0].toarray())
    assert (one.global_cells, one.cells_seen) == (other.global_cells, other.cells_seen)


@pytest.mark.parametrize("granularity", ["uniform", "blocks"])
def test_batches_are_what_the_order_says_and_the_store_holds(
    prepared: Prepared, granularity: Granularity
) -> None:
    stream = CellStream(prepared, batch_cells=64, seed=2, granularity=granularity, epochs=2)
    batches = list(stream)
    rows = prepared.rows("train")
    position = 0
    for batch in batches:
        plan = stream.order.batch(position)
        np.testing.assert_array_equal(batch.rows, rows[plan.places])
        np.testing.assert_array_equal(batch.counts[0].toarray(), prepared.read(batch.rows)[0].toarray())
        np.testing.assert_array_equal(batch.labels, prepared.labels(batch.rows))
        position = batch.cells_seen
    assert stream.state == position == 2 * len(rows)
    seen = np.concatenate([batch.rows for batch in batches])
    np.testing.assert_array_equal(np.sort(seen), np.sort(np.tile(rows, 2)))


def test_workers_share_global_batches(prepared: Prepared) -> None:
    alone = list(CellStream(prepared, batch_cells=64, epochs=1))
    shares = [list(CellStream(prepared, batch_cells=64, epochs=1, rank=r, world=3)) for r in range(3)]
    assert {len(share) for share in shares} == {len(alone)}
    for step, whole in enumerate(alone):
        rows = np.empty(whole.global_cells, dtype=np.int64)
        for share in shares:
            rows[share[step].positions] = share[step].rows
        np.testing.assert_array_equal(rows, whole.rows)


def test_resuming_behind_any_batch_continues(prepared: Prepared) -> None:
    batches = list(CellStream(prepared, batch_cells=96, epochs=2))
    for step in (0, 3, len(batches) - 2):
        resumed = CellStream(prepared, batch_cells=96, epochs=2, cells_seen=batches[step].cells_seen)
        for one, other in zip(resumed, batches[step + 1 :], strict=True):
            assert_same(one, other)


def test_iterating_again_goes_on(prepared: Prepared) -> None:
    expected = list(CellStream(prepared, batch_cells=64, epochs=1))
    stream = CellStream(prepared, batch_cells=64, epochs=1, read_ahead=4)
    first = next(iter(stream))
    for one, other in zip([first, *stream], expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("read_ahead", [None, 1, 2, 7])
def test_an_error_of_a_reader_surfaces_where_its_batch_would_have_come(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, read_ahead: int | None
) -> None:
    poisoned = int(CellStream(prepared, batch_cells=64).order.batch(128).places[0])
    bad_row = int(prepared.rows("train")[poisoned])
    read = Prepared.read

    def failing(self: Prepared, rows: IntArray, **how: Any) -> tuple[csr_matrix, ...]:
        if bad_row in rows:
            raise OSError("the disk is gone")
        return read(self, rows, **how)

    monkeypatch.setattr(Prepared, "read", failing)
    batches = iter(CellStream(prepared, batch_cells=64, read_ahead=read_ahead))
    assert [next(batches).cells_seen for _ in range(2)] == [64, 128]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert readers() == 0


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("balance", [None, Balance("cell_type")])
def test_small_batches_that_are_read_together_are_those_read_alone(
    prepared: Prepared, world: int, balance: Balance | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"batch_cells": 32, "epochs": 2, "rank": world - 1, "world": world, "balance": balance}
    alone = list(CellStream(prepared, **how, read_ahead=1))
    reads: list[int] = []
    read = Prepared.read
    monkeypatch.setattr(
        Prepared, "read", lambda self, rows, **more: reads.append(len(rows)) or read(self, rows, **more)
    )
    stream = CellStream(prepared, **how)
    states = []
    for one, other in zip(stream, alone, strict=True):
        assert_same(one, other)
        assert one.counts[0].has_canonical_format
        states.append(stream.state)
    assert states == [batch.cells_seen for batch in alone]
    assert len(reads) < len(alone) / 4


def test_dense_batches_that_are_read_together_keep_their_buffers(prepared: Prepared) -> None:
    how = {"batch_cells": 32, "epochs": 3}
    for one, other in zip(
        DenseBatches(CellStream(prepared, **how)), CellStream(prepared, **how, read_ahead=1), strict=True
    ):
        time.sleep(0.001)  # while others are written
        np.testing.assert_array_equal(one.counts[0].numpy(), other.counts[0].toarray())


def test_threads_end_when_the_iterator_is_exhausted_closed_or_abandoned(prepared: Prepared) -> None:
    assert readers() == 0
    list(CellStream(prepared, batch_cells=64, epochs=1))
    assert readers() == 0
    batches = iter(CellStream(prepared, batch_cells=64))
    next(batches)
    assert readers() > 0
    del batches
    gc.collect()
    assert readers() == 0


def test_reading_runs_ahead_but_not_without_bound(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = Prepared.read

    def counting(self: Prepared, rows: IntArray, **how: Any) -> tuple[csr_matrix, ...]:
        asked.append(len(rows))
        return read(self, rows, **how)

    monkeypatch.setattr(Prepared, "read", counting)
    stream = CellStream(prepared, batch_cells=32, read_ahead=3)
    batches = iter(stream)
    next(batches)
    deadline = time.monotonic() + 10
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(asked) == 4  # the batch given out and three ahead
    assert stream.wait_seconds > 0


def test_a_worker_without_a_share_of_the_last_batch_gets_no_cells(prepared: Prepared) -> None:
    n = len(prepared.rows("train"))
    batch_cells = n - 1  # one cell is left for the last batch of the epoch
    shares = [
        list(CellStream(prepared, batch_cells=batch_cells, epochs=1, rank=rank, world=2)) for rank in range(2)
    ]
    assert [len(share[-1].rows) for share in shares] in ([0, 1], [1, 0])
    assert all(share[-1].global_cells == 1 and share[-1].cells_seen == n for share in shares)
    assert {share[-1].counts[0].shape[1] for share in shares} == {50}


def test_an_ordered_pass_reads_whole_batches_in_turn(prepared: Prepared) -> None:
    rows = prepared.rows("train")
    for rank in range(2):
        for step, batch in enumerate(in_order(prepared, "train", 100, rank=rank, world=2)):
            first = batch.cells_seen - len(batch.rows)
            assert first == (2 * step + rank) * 100
            np.testing.assert_array_equal(batch.rows, rows[first : batch.cells_seen])
    some = np.concatenate([batch.rows for batch in in_order(prepared, "train", 10, most=25)])
    assert len(set(some.tolist())) == 25
    assert some.max() > rows[-30]  # from all over the split, not its beginning


def test_streams_that_cannot_be_are_refused_at_once(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="no split 'none'"):
        CellStream(prepared, split="none", batch_cells=32)
    with pytest.raises(ValueError, match="40 workers cannot share the 32 lanes"):
        CellStream(prepared, batch_cells=32, world=40)
    CellStream(prepared, batch_cells=80, lanes=80, world=80)
    with pytest.raises(ValueError, match="is not where a batch begins"):
        CellStream(prepared, batch_cells=32, cells_seen=7)
    with pytest.raises(ValueError, match="read_ahead must be at least 1"):
        CellStream(prepared, batch_cells=32, read_ahead=0)
