"""Batches of cells in the order of loaders/order.py, read ahead in the background.

Reading is done by threads, which share memory with the consumer and let decompression run beside training;
what is read and in which order does not depend on them.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cfgen_scale.types import CellBatch, IntArray
from loaders.order import BatchPlan, Granularity, Order, sequential
from loaders.prepared import Prepared

READERS = 2


class CellStream:
    """This worker's shares of the global batches of one split, from ``cells_seen`` on.

    batch_cells  cells of a global batch, over all workers
    lanes        the most workers that can share it; None takes what `Order` does
    cells_seen   where to begin: 0, or the ``cells_seen`` of the last batch that was used
    epochs       stop when the split has been seen this often, counted from the start of training; None: never
    read_ahead   batches that may be ready or in the making while the consumer works

    Iterating again goes on behind the last batch given out. ``state`` is that position; ``wait_seconds`` is
    the time the consumer has waited for data so far.
    Raises ValueError at once for an empty split, a batch that cannot be shared, or no place to begin.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        split: str = "train",
        batch_cells: int,
        seed: int = 0,
        granularity: Granularity = "uniform",
        lanes: int | None = None,
        rank: int = 0,
        world: int = 1,
        cells_seen: int = 0,
        epochs: int | None = None,
        read_ahead: int = 2,
    ) -> None:
        self._prepared = prepared
        self._rows = prepared.rows(split)
        if not len(self._rows):
            raise ValueError(f"the prepared atlas {prepared.path} has no {split} cells.")
        self.order = Order(len(self._rows), batch_cells, seed, granularity, lanes)
        self.order.check_world(rank, world)
        self.order.after(cells_seen)
        _require_read_ahead(read_ahead)
        self._rank, self._world = rank, world
        self._end = None if epochs is None else epochs * len(self._rows)
        self._read_ahead = read_ahead
        self.state = cells_seen
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[CellBatch]:
        batches = _read_behind(self._batch, self._positions(), self._read_ahead)
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self.wait_seconds += time.monotonic() - began
            if batch is None:
                return
            self.state = batch.cells_seen
            yield batch

    def _positions(self) -> Iterator[int]:
        position = self.state
        while self._end is None or position < self._end:
            yield position
            position = self.order.after(position)

    def _batch(self, cells_seen: int) -> CellBatch:
        plan = self.order.batch(cells_seen, rank=self._rank, world=self._world)
        return read_batch(self._prepared, self._rows, plan)


def in_order(
    prepared: Prepared,
    split: str,
    batch_cells: int,
    *,
    rank: int = 0,
    world: int = 1,
    most: int | None = None,
    read_ahead: int = 2,
) -> Iterator[CellBatch]:
    """The cells of a split once, in order, whole batches to workers in turn: for passes that do not train.

    Batch k, of cells k * batch_cells onwards, belongs to worker k mod world; its first cell is number
    ``cells_seen - len(rows)``. ``most`` takes that many cells at even distances instead of all of them.
    """
    _require_read_ahead(read_ahead)
    rows = prepared.rows(split)
    if most is not None and most < len(rows):
        rows = rows[np.arange(most) * len(rows) // most]
    plans = sequential(len(rows), batch_cells, rank=rank, world=world)
    return _read_behind(lambda plan: read_batch(prepared, rows, plan), plans, read_ahead)


def read_batch(prepared: Prepared, split_rows: IntArray, plan: BatchPlan) -> CellBatch:
    """The cells that ``plan`` names, of the split whose rows are ``split_rows``."""
    rows = split_rows[plan.places]
    return CellBatch(
        rows=rows,
        positions=plan.positions,
        global_cells=plan.global_cells,
        cells_seen=plan.cells_seen_after,
        counts=prepared.read(rows),
        labels=prepared.labels(rows),
    )


def _read_behind[T](
    read: Callable[[T], CellBatch], places: Iterator[T], read_ahead: int
) -> Iterator[CellBatch]:
    """``read`` of every place, in order, with up to ``read_ahead`` of them under way in threads.

    An exception of a reader is raised where its batch would have come. The threads end with the generator:
    when it is exhausted, closed, or no longer referred to.
    """
    pool = ThreadPoolExecutor(max_workers=min(READERS, read_ahead), thread_name_prefix="cells")
    pending: deque[Future[CellBatch]] = deque()
    try:
        for place in places:
            pending.append(pool.submit(read, place))
            if len(pending) > read_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _require_read_ahead(read_ahead: int) -> None:
    if read_ahead < 1:
        raise ValueError(f"read_ahead must be at least 1 batch, not {read_ahead}.")
