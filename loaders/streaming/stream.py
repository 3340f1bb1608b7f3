"""Batches of cells in the order of streaming/order.py, read ahead in the background.

Reading is done by threads, which share memory with the consumer and let decompression run beside training;
what is read and in which order does not depend on them.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import batched
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cfgen_scale.types import CellBatch, IntArray
from loaders.preparation.prepared import Prepared
from loaders.streaming.balanced import Balance, BalancedOrder
from loaders.streaming.batches import read_batches
from loaders.streaming.granularity import Granularity, order_of
from loaders.streaming.order import CellOrder, sequential

READERS = 2
CELLS_AT_ONCE = 2_048  # read together, where batches are smaller
LABELS_AT_ONCE = 1 << 20


class CellStream:
    """This worker's shares of the global batches of one split, from ``cells_seen`` on.

    batch_cells  cells of a global batch, over all workers
    granularity  where the cells of a batch come from, and
    lanes        the most workers that can share it: see `order_of`
    balance      draw rare classes of a label more often (see balanced.py); None: every cell once an epoch
    cells_seen   where to begin: 0, or the ``cells_seen`` of the last batch that was used
    epochs       stop when the split has been seen this often, counted from the start of training; None: never
    dtype        of the counts; None: as they are stored, narrow where cells are packed (a GPU widens them)
    read_ahead   batches that may be ready or in the making while the consumer works; None: 2 of them, or
                 as many small ones as have 6,144 cells, of which a thread reads a third together
    threads      threads that read; no more than ``read_ahead`` have work

    Iterating again goes on behind the last batch given out. ``state`` is that position; ``wait_seconds`` is
    the time the consumer has waited for data so far.
    Raises ValueError at once for an empty split, a batch that cannot be shared, a label that the schema does
    not have, or no place to begin.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        split: str = "train",
        batch_cells: int,
        seed: int = 0,
        granularity: Granularity = "auto",
        lanes: int | None = None,
        balance: Balance | None = None,
        rank: int = 0,
        world: int = 1,
        cells_seen: int = 0,
        epochs: int | None = None,
        dtype: DTypeLike | None = None,
        read_ahead: int | None = None,
        threads: int = READERS,
    ) -> None:
        self.prepared = prepared
        self._rows = prepared.rows(split)
        if not len(self._rows):
            raise ValueError(f"the prepared atlas {prepared.path} has no {split} cells.")
        self.order: CellOrder = (
            order_of(prepared, self._rows, batch_cells, seed, granularity=granularity, lanes=lanes)
            if balance is None
            else BalancedOrder(
                _classes(prepared, self._rows, balance.label, granularity),
                batch_cells,
                seed,
                lanes,
                cap=balance.cap,
            )
        )
        self.order.check_world(rank, world)
        of_small_ones = CELLS_AT_ONCE * world // batch_cells
        if read_ahead is None:
            read_ahead = 3 * of_small_ones if of_small_ones > 1 else 2
        _require_read_ahead(read_ahead, threads)
        self._together = max(min(read_ahead // 3, of_small_ones), 1)
        self._rank, self._world = rank, world
        self._epochs = epochs
        self._dtype = dtype
        self.read_ahead, self._threads = read_ahead, threads
        self.seek(cells_seen)
        self.wait_seconds = 0.0

    def seek(self, cells_seen: int) -> None:
        """Let the next iteration begin there. Raises ValueError if no batch begins there."""
        self.order.after(cells_seen)
        self.state = cells_seen

    def __iter__(self) -> Iterator[CellBatch]:
        return self.handed_over(lambda batch, turn: batch, end=None)

    def epoch[T](self, finish: Callable[[CellBatch, int], T]) -> Iterator[T]:
        """As `handed_over`, to the end of the epoch in which the stream stands."""
        this_epoch = self.state // self.order.n_cells
        return self.handed_over(finish, end=(this_epoch + 1) * self.order.n_cells)

    def handed_over[T](self, finish: Callable[[CellBatch, int], T], *, end: int | None) -> Iterator[T]:
        """What ``finish(batch, turn)`` makes of each batch; it runs in the reading threads.

        ``turn`` is 0, 1, 2, ... in this iteration: while the consumer holds what came of one turn, up to
        ``read_ahead`` further ones are ready or in the making. ``end``: the cells_seen at which to stop.
        """

        def finished(turns: tuple[tuple[int, int], ...]) -> list[tuple[int, T] | Exception]:
            try:
                batches = self._batches([position for _, position in turns])
                return [(b.cells_seen, finish(b, turn)) for (turn, _), b in zip(turns, batches, strict=True)]
            except Exception as error:
                # Batches before the one that fails come first.
                alone = (finished((turn,)) for turn in turns) if len(turns) > 1 else [[error]]
                return [item for items in alone for item in items]

        turns = batched(enumerate(self._positions(end)), self._together)
        # Those that were read together with the one given out are ready: they count.
        in_the_making = self.read_ahead // self._together - (self._together > 1)
        with closing(_read_behind(finished, turns, in_the_making, self._threads)) as ready:
            while True:
                began = time.monotonic()
                together = next(ready, None)
                self.wait_seconds += time.monotonic() - began
                if together is None:
                    return
                for item in together:
                    if isinstance(item, Exception):
                        raise item
                    self.state, batch = item
                    yield batch

    def _positions(self, end: int | None) -> Iterator[int]:
        ends = [] if end is None else [end]
        if self._epochs is not None:
            ends.append(self._epochs * self.order.n_cells)
        position = self.state
        while all(position < last for last in ends):
            yield position
            position = self.order.after(position)

    def _batches(self, positions: list[int]) -> list[CellBatch]:
        plans = [self.order.batch(position, rank=self._rank, world=self._world) for position in positions]
        return read_batches(self.prepared, self._rows, plans, dtype=self._dtype)


def _classes(
    prepared: Prepared, rows: IntArray, label: str, granularity: Granularity
) -> NDArray[np.integer[Any]]:
    """Codes (n,) of one label, -1 = unlabelled, narrow: the labels of all cells are never held widened."""
    if granularity == "blocks":
        raise ValueError(
            f"class-balanced batches take cells from all over the atlas: granularity {granularity!r} cannot "
            f"hold their reads together. Set granularity='uniform', on an atlas prepared with repack."
        )
    k = prepared.schema.covariate_index(label)
    n_categories = len(prepared.schema.covariates[k].categories)
    narrow = np.dtype(np.int16 if n_categories <= np.iinfo(np.int16).max else np.int32)
    codes: NDArray[np.integer[Any]] = np.empty(len(rows), dtype=narrow)
    for begin in range(0, len(rows), LABELS_AT_ONCE):
        some = slice(begin, begin + LABELS_AT_ONCE)
        codes[some] = prepared.labels(rows[some])[:, k]
    return codes


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
    _require_read_ahead(read_ahead, READERS)
    rows = prepared.rows(split)
    if most is not None and most < len(rows):
        rows = rows[np.arange(most) * len(rows) // most]
    plans = sequential(len(rows), batch_cells, rank=rank, world=world)
    return _read_behind(lambda plan: read_batches(prepared, rows, [plan])[0], plans, read_ahead, READERS)


def _read_behind[P, T](
    read: Callable[[P], T], places: Iterator[P], read_ahead: int, threads: int
) -> Generator[T]:
    """``read`` of every place, in order, with up to ``read_ahead`` of them under way in threads.

    An exception of a reader is raised where its batch would have come. The threads end with the generator:
    when it is exhausted, closed, or no longer referred to.
    """
    pool = ThreadPoolExecutor(max_workers=min(threads, read_ahead), thread_name_prefix="cells")
    pending: deque[Future[T]] = deque()
    try:
        for place in places:
            pending.append(pool.submit(read, place))
            if len(pending) > read_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _require_read_ahead(read_ahead: int, threads: int) -> None:
    if read_ahead < 1:
        raise ValueError(f"read_ahead must be at least 1 batch, not {read_ahead}.")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}.")
